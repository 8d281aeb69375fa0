//! Reads what survived the last run and makes the driver from it.

use std::path::PathBuf;
use std::sync::Arc;

use d_engine_core::{Error, HardState, LogId, LogStore, LogSummary, MetaStore, StateMachine};
use d_engine_raft::{Boot, Driver, Restored, Resume};
use tokio::runtime::Handle;

use crate::clock::Clock;
use crate::snapshot_policy::Label;
use crate::snapshot_store::{Record, SnapshotStore};
use crate::{NodeConfig, StartupError};

/// A driver that is ready to run.
pub(crate) struct Prepared {
    pub(crate) driver: Driver,
    pub(crate) snapshots: Arc<SnapshotStore>,
    /// The last entry that the state machine has applied, and the configuration as of it.
    pub(crate) applied: Label,
}

/// What a node keeps its state in.
#[derive(Clone, Copy)]
pub(crate) struct Stores<'a> {
    pub(crate) log: &'a dyn LogStore,
    pub(crate) meta: &'a dyn MetaStore,
    pub(crate) machine: &'a dyn StateMachine,
    /// Log and hard state forget everything at each start.
    pub(crate) is_volatile: bool,
}

/// Starts the machine, goes on with an installation of a snapshot that was interrupted, and makes the driver. Blocks.
pub(crate) fn prepare(
    config: &NodeConfig,
    stores: Stores<'_>,
    clock: &dyn Clock,
    runtime: &Handle,
) -> Result<Prepared, StartupError> {
    let hard_state = stores.meta.load_hard_state().map_err(StartupError::storage("reading the hard state"))?;
    let snapshots = Arc::new(open_snapshots(config, stores.is_volatile, hard_state)?);
    stores.machine.start().map_err(StartupError::storage("starting the state machine"))?;
    let prepared = restore(stores, hard_state, &snapshots, runtime)
        .map_err(StartupError::storage("restoring the state from log and snapshots"))
        .and_then(|restored| {
            let applied = label(&restored);
            let driver = Driver::new(config.raft_config(), restored, boot()?, clock.now())?;
            Ok(Prepared { driver, snapshots, applied })
        });
    prepared.inspect_err(|_| {
        if let Err(error) = stores.machine.stop() {
            tracing::warn!(%error, "the state machine did not stop cleanly");
        }
    })
}

fn open_snapshots(
    config: &NodeConfig,
    is_volatile: bool,
    hard_state: Option<HardState>,
) -> Result<SnapshotStore, StartupError> {
    let kept = config.snapshot.kept;
    if is_volatile {
        let name = format!("d-engine-{}-{:016x}", std::process::id(), boot()?.seed);
        return Ok(SnapshotStore::temporary(std::env::temp_dir().join(name), kept));
    }
    let cluster = hard_state.and_then(|state| state.identity).map_or(0, |identity| identity.cluster);
    let dir: PathBuf = config.node.data_dir.join("snapshots");
    SnapshotStore::open(&dir, kept, cluster).map_err(StartupError::storage("reading the snapshots"))
}

/// What survived, once log and state machine are in step with the snapshots.
fn restore(
    stores: Stores<'_>,
    hard_state: Option<HardState>,
    snapshots: &SnapshotStore,
    runtime: &Handle,
) -> Result<Restored, Error> {
    let Stores { log, machine, .. } = stores;
    let summary = || runtime.block_on(log.summary());
    let mut restored =
        Restored { hard_state, log: summary()?, last_applied: machine.last_applied(), ..Restored::default() };
    if let Some((record, path)) = snapshots.marked() {
        let at = record.at();
        let step = restored.resume(at);
        tracing::info!(index = at.index, ?step, "the installation of a snapshot was interrupted");
        let is_installed = match step {
            Resume::Discard => false,
            Resume::Install => install_marked(machine, &record, path, runtime)?,
            Resume::Purge => true,
        };
        if is_installed {
            snapshots.installed(at);
            runtime.block_on(log.purge(at))?;
            snapshots.purged(at);
            restored.log = summary()?;
        } else {
            snapshots.discard(at, false);
        }
    }
    restored.last_applied = machine.last_applied();
    if restored.last_applied.index < restored.log.purged.index {
        // The machine's last writes before a crash are lost, and the log that would give them again is purged.
        reinstall(machine, restored.log.purged, snapshots, runtime)?;
        restored.last_applied = machine.last_applied();
    }
    restored.snapshot = snapshots.newest().map(|record| (record.at(), record.metadata.membership.clone()));
    Ok(restored)
}

/// Installs the snapshot that is marked; false: the machine refuses the file, and its old state stays.
fn install_marked(machine: &dyn StateMachine, record: &Record, path: PathBuf, runtime: &Handle) -> Result<bool, Error> {
    match runtime.block_on(machine.apply_snapshot_from_file(&record.metadata, path)) {
        Ok(()) => Ok(true),
        Err(error @ (Error::Corrupt { .. } | Error::Invalid { .. } | Error::Unsupported { .. })) => {
            tracing::error!(%error, "a received snapshot is not installed; the old state stays");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Installs the newest snapshot, if it reaches the purge boundary; otherwise the start will be refused.
fn reinstall(
    machine: &dyn StateMachine,
    purged: LogId,
    snapshots: &SnapshotStore,
    runtime: &Handle,
) -> Result<(), Error> {
    if let Some((record, path)) = snapshots.newest_path().filter(|(record, _)| record.at().index >= purged.index) {
        tracing::info!(index = record.at().index, "the state machine is behind the log and starts from a snapshot");
        runtime.block_on(machine.apply_snapshot_from_file(&record.metadata, path))?;
    }
    Ok(())
}

/// The last applied entry with the configuration as of it.
fn label(restored: &Restored) -> Label {
    let at = restored.last_applied;
    let LogSummary { memberships, .. } = &restored.log;
    let in_log = memberships.iter().rev().find(|(index, _)| *index <= at.index).map(|(_, membership)| membership);
    let in_snapshot = restored.snapshot.as_ref().map(|(_, membership)| membership);
    Label { at, membership: in_log.or(in_snapshot).cloned().map(Arc::new) }
}

/// Random numbers of this start, from the operating system.
pub(crate) fn boot() -> Result<Boot, StartupError> {
    let random = || {
        getrandom::u64()
            .map_err(|error| StartupError::system("asking the system for random numbers")(std::io::Error::other(error)))
    };
    let wide = || Ok::<_, StartupError>(u128::from(random()?) << 64 | u128::from(random()?));
    Ok(Boot { seed: random()?, incarnation: wide()?, cluster: wide()? })
}

#[cfg(test)]
#[cfg(feature = "file")]
mod tests {
    use super::*;

    use std::path::Path;

    use d_engine_core::{ClusterSettings, Entry, EntryKind, Identity, KvCommand, Member, MemberKind, Membership};
    use d_engine_core::{SnapshotChecksum, StorageEngine as _};
    use d_engine_file::{FileKvStore, FileStorageEngine};
    use d_engine_kv::KvStateMachine;
    use d_engine_mem::MemKvStore;
    use d_engine_raft::Role;

    use crate::clock::BootClock;

    const CLUSTER: u128 = 7;
    const AT: LogId = LogId { term: 3, index: 9 };

    fn membership() -> Membership {
        let member = |node| Member::new(node, u128::from(node) * 10, format!("n{node}:1"), MemberKind::Voter);
        Membership::new(CLUSTER, vec![member(1), member(2)], ClusterSettings::new(500, 500, 1))
    }

    fn put(index: u64, term: u64) -> Entry {
        let command = KvCommand::Put { key: "k".into(), value: format!("{index}").into() };
        Entry::new(index, term, EntryKind::Command, command.encode())
    }

    /// A follower whose log ends with entries that a newer leader replaced, in the terms before the snapshot's.
    fn follower(runtime: &Handle, dir: &Path, hard_state_term: u64) {
        let engine = FileStorageEngine::open(dir.join("log")).unwrap();
        let identity = Identity::unformed(1, 10).form(CLUSTER);
        engine.meta_store().save_hard_state(&HardState::new(hard_state_term, None, Some(identity))).unwrap();
        let mut entries = vec![Entry::new(1, 1, EntryKind::Membership, membership().encode())];
        entries.extend((2..=12).map(|index| put(index, 2)));
        runtime.block_on(engine.log_store().persist_entries(entries)).unwrap();
        runtime.block_on(engine.log_store().flush()).unwrap();
    }

    /// The snapshot of a leader, received, verified and marked; then the node was killed.
    fn receive(runtime: &Handle, dir: &Path) {
        let source = KvStateMachine::new(MemKvStore::new()).unwrap();
        runtime.block_on(source.apply((2..=9).map(|index| put(index, 3)).collect())).unwrap();
        let made = tempfile::tempdir().unwrap();
        let sum = runtime.block_on(source.generate_snapshot_data(made.path().to_path_buf(), AT)).unwrap();
        let bytes = std::fs::read(made.path().join("snapshot.bin")).unwrap();
        let metadata = d_engine_core::SnapshotMetadata::new(AT, membership(), sum, bytes.len() as u64);
        let digest = SnapshotChecksum::new(sum.as_ref().try_into().unwrap());
        let store = SnapshotStore::open(&dir.join("snapshots"), 1, CLUSTER).unwrap();
        let (turn, _) = store.begin_receiving(Record { metadata, digest }).unwrap();
        store.receive(turn, 0, &bytes).unwrap();
        store.mark_received(turn).unwrap();
    }

    fn machine(dir: &Path) -> KvStateMachine {
        KvStateMachine::new(FileKvStore::open(dir.join("kv")).unwrap()).unwrap()
    }

    /// Starts as after a kill, once `meanwhile` is done; gives the applied index, the purge boundary and what is marked.
    fn start(runtime: &Handle, dir: &Path) -> (u64, LogId, bool) {
        let engine = FileStorageEngine::open(dir.join("log")).unwrap();
        let (log, meta, machine) = (engine.log_store(), engine.meta_store(), machine(dir));
        let stores = Stores { log: &*log, meta: &*meta, machine: &machine, is_volatile: false };
        let config = NodeConfig::new(1, dir);
        let prepared = prepare(&config, stores, &BootClock, runtime).unwrap();
        let status = prepared.driver.status(BootClock.now());
        assert_eq!((status.role, &status.membership), (Role::Follower, &membership()));
        (machine.last_applied().index, log.purged(), prepared.snapshots.marked().is_some())
    }

    #[test]
    fn a_start_goes_on_with_an_installation_at_the_first_step_that_was_not_done() {
        let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let runtime = tokio.handle();
        for steps_done in 0..=2 {
            let dir = tempfile::tempdir().unwrap();
            follower(runtime, dir.path(), 3);
            receive(runtime, dir.path());
            if steps_done >= 1 {
                let store = SnapshotStore::open(&dir.path().join("snapshots"), 1, CLUSTER).unwrap();
                let (record, path) = store.marked().unwrap();
                runtime.block_on(machine(dir.path()).apply_snapshot_from_file(&record.metadata, path)).unwrap();
            }
            if steps_done >= 2 {
                let engine = FileStorageEngine::open(dir.path().join("log")).unwrap();
                runtime.block_on(engine.log_store().purge(AT)).unwrap();
            }
            assert_eq!(start(runtime, dir.path()), (9, AT, false), "{steps_done} steps were done");
            assert_eq!(start(runtime, dir.path()), (9, AT, false), "and again");
        }
    }

    #[test]
    fn a_snapshot_of_a_term_that_was_not_remembered_is_dropped() {
        let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        follower(tokio.handle(), dir.path(), 2);
        receive(tokio.handle(), dir.path());
        assert_eq!(start(tokio.handle(), dir.path()), (0, LogId::default(), false));
    }
}
