//! A state machine, as the crash laws see it.

use std::path::Path;
use std::sync::Arc;

use d_engine_core::{Entry, EntryKind, Error, LogId, Membership, SnapshotMetadata, StateMachine};
use tempfile::TempDir;

use super::StateMachineBuilder;
use crate::crash::Opens;
use crate::process::files_below;
use crate::subject::{Style, Subject, Unreadable};

/// The machine of a builder.
pub(crate) struct Machine<B>(pub(crate) B);

/// The state after some commands: command `n` was applied at index `n`.
#[derive(Clone, PartialEq)]
pub(crate) struct Applied {
    last: LogId,
    len: usize,
    /// Which commands, where the machine has keys.
    commands: Vec<u64>,
}

/// A call to a machine.
#[derive(Debug, Clone)]
pub(crate) enum MachineCall {
    /// Indexes to apply, of one term.
    Apply(Vec<u64>, u64),
    Flush,
    Reset,
    /// Takes a snapshot, resets the machine and installs the snapshot.
    Reinstall,
}

impl<B: StateMachineBuilder> Machine<B> {
    fn entries(&self, indexes: &[u64], term: u64) -> Vec<Entry> {
        indexes.iter().map(|n| Entry::new(*n, term, EntryKind::Command, self.0.command(*n))).collect()
    }

    async fn reinstall(&self, machine: &dyn StateMachine) -> Result<(), Error> {
        let dir = TempDir::new()?;
        let label = machine.last_applied();
        let checksum = match machine.generate_snapshot_data(dir.path().to_owned(), label).await {
            // Not every machine makes snapshots.
            Err(Error::Unsupported { .. }) => return machine.flush(),
            made => made?,
        };
        let Some(path) = files_below(dir.path())?.pop() else { return machine.flush() };
        let size = std::fs::metadata(&path)?.len();
        machine.reset().await?;
        let metadata = SnapshotMetadata::new(label, Membership::default(), checksum, size);
        machine.apply_snapshot_from_file(&metadata, path).await
    }
}

/// Indexes after `last`, some of them skipped.
fn indexes(last: u64, count: u64, random: &mut fastrand::Rng) -> Vec<u64> {
    let mut index = last;
    let next = |_| {
        index += 1 + u64::from(random.u8(..6) == 0);
        index
    };
    (0..count).map(next).collect()
}

impl<B: StateMachineBuilder> Subject for Machine<B> {
    type Store = Arc<dyn StateMachine>;
    type Call = MachineCall;
    type State = Applied;

    const NAME: &'static str = "state machine";

    fn at(dir: &Path) -> Option<Self> {
        B::at(dir).map(Self)
    }

    async fn open(&self) -> Result<Self::Store, Error> {
        let machine = self.0.build().await?;
        machine.start()?;
        Ok(machine)
    }

    fn is_volatile(&self, _: &Self::Store) -> bool {
        self.0.is_volatile()
    }

    fn survives_power_loss(&self, _: &Self::Store) -> bool {
        self.0.survives_power_loss()
    }

    fn tells_torn_tail_from_damage(&self) -> bool {
        self.0.tells_torn_tail_from_damage()
    }

    fn simulated_disk(&self) -> Option<Box<dyn Opens<Self::Store>>> {
        Some(Box::new(self.0.simulated_disk()?))
    }

    fn refuses_cleanly_when_full(&self) -> bool {
        self.0.refuses_cleanly_when_full()
    }

    // The contract asks it of the log alone: from the log a state machine is rebuilt.
    fn refused_after(&self, _: &MachineCall, _: &Applied, _: &mut fastrand::Rng) -> Vec<MachineCall> {
        Vec::new()
    }

    fn empty(&self) -> Applied {
        Applied { last: LogId::default(), len: 0, commands: Vec::new() }
    }

    async fn read(&self, store: &Self::Store) -> Result<Applied, Unreadable> {
        let (last, len) = (store.last_applied(), store.len());
        let mut commands = Vec::new();
        for n in 1..=last.index + 8 {
            let Some(key) = self.0.key(n) else { break };
            if store.get(&key)?.is_some() {
                commands.push(n);
            }
        }
        Ok(Applied { last, len, commands })
    }

    fn call(&self, state: &Applied, style: Style, random: &mut fastrand::Rng, _number: u64) -> MachineCall {
        let term = state.last.term.max(1) + u64::from(random.u8(..8) == 0);
        let most = match style {
            Style::Flush => return MachineCall::Flush,
            Style::Unflushed => 2,
            Style::Growing => 1000,
            Style::Mixed => random.u64(1..6),
        };
        match random.u8(..100) {
            72..77 if style == Style::Mixed => MachineCall::Reinstall,
            77..79 if style == Style::Mixed => MachineCall::Reset,
            79.. if style == Style::Mixed => MachineCall::Flush,
            _ => MachineCall::Apply(indexes(state.last.index, most, random), term),
        }
    }

    fn flush(&self) -> MachineCall {
        MachineCall::Flush
    }

    fn is_durable(&self, call: &MachineCall) -> bool {
        !matches!(call, MachineCall::Apply(..))
    }

    fn effects(&self, state: &Applied, call: &MachineCall) -> Vec<Applied> {
        match call {
            MachineCall::Apply(indexes, term) => {
                let keyed = self.0.key(1).is_some();
                let mut state = state.clone();
                let after = |n: &u64| {
                    state.last = LogId::new(*term, *n);
                    state.len += 1;
                    if keyed {
                        state.commands.push(*n);
                    }
                    state.clone()
                };
                indexes.iter().map(after).collect()
            }
            MachineCall::Flush => vec![state.clone()],
            MachineCall::Reset => vec![self.empty()],
            MachineCall::Reinstall => vec![self.empty(), state.clone()],
        }
    }

    async fn run(&self, store: &Self::Store, call: MachineCall) -> Result<(), Error> {
        match call {
            MachineCall::Apply(indexes, term) => store.apply(self.entries(&indexes, term)).await.map(drop),
            MachineCall::Flush => store.flush(),
            MachineCall::Reset => store.reset().await,
            MachineCall::Reinstall => self.reinstall(&**store).await,
        }
    }

    fn describe(&self, state: &Applied) -> String {
        let Applied { last, len, commands } = state;
        let ends: Vec<u64> = commands.iter().rev().take(8).rev().copied().collect();
        let sum = d_engine_core::checksum(&[&commands.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>()]);
        format!("last_applied {last}, {len} items, keys of the commands …{ends:?}, checksum {sum:08x}")
    }
}
