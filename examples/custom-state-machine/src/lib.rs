//! A bank as a state machine: transfers between accounts, and a total that never changes.
//!
//! The state is a map in memory. The log is its journal, so applying writes nothing: [`flush`](StateMachine::flush) writes the
//! whole state into one file, and after a restart the engine applies again what came later.

mod command;
mod file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{ApplyResult, Entry, EntryKind, Error, LogId, SnapshotChecksum, SnapshotMetadata, StateMachine};

pub use command::{Moved, Query, Transfer};

/// The account that holds all money at the beginning.
pub const VAULT: &str = "vault";
/// All money there is.
pub const TOTAL: u64 = 1_000_000;

/// The accounts, and how much of the log they include.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    accounts: BTreeMap<String, u64>,
    applied: LogId,
}

impl State {
    fn new() -> Self {
        Self { accounts: BTreeMap::from([(VAULT.to_owned(), TOTAL)]), applied: LogId::default() }
    }

    /// What a transfer does depends on the state and the command alone, so every replica does the same. What is wrong with a
    /// command is its answer, not an error.
    fn transfer(&mut self, transfer: &Transfer) -> Moved {
        let Transfer { from, to, amount } = transfer;
        let Some(has) = self.accounts.get(from).copied() else { return Moved::NoSuchAccount };
        if has < *amount {
            return Moved::TooLittle { has };
        }
        self.accounts.insert(from.clone(), has - amount);
        let to = self.accounts.entry(to.clone()).or_default();
        // No sum can be more than the total.
        *to += amount;
        Moved::Done
    }

    fn total(&self) -> u64 {
        self.accounts.values().sum()
    }
}

/// The state machine.
pub struct Bank {
    dir: PathBuf,
    state: Mutex<State>,
    runs: AtomicBool,
}

impl Bank {
    /// Opens the bank in `dir`, as the last flush left it; what was applied later, the engine applies again.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(dir)?;
        let state = file::load(dir)?.unwrap_or_else(State::new);
        Ok(Self { dir: dir.to_owned(), state: Mutex::new(state), runs: AtomicBool::new(false) })
    }

    // A poisoned lock is used on: a chunk is put in as a whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl StateMachine for Bank {
    fn start(&self) -> Result<(), Error> {
        self.runs.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn stop(&self) -> Result<(), Error> {
        self.runs.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.runs.load(Ordering::Relaxed)
    }

    /// The balance of an account, in decimal digits.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let Ok(account) = std::str::from_utf8(key) else { return Ok(None) };
        Ok(self.state().accounts.get(account).map(|balance| balance.to_string().into_bytes()))
    }

    async fn apply_chunk(&self, chunk: Vec<Entry>) -> Result<(), Error> {
        self.apply(chunk).await.map(|_| ())
    }

    async fn apply(&self, chunk: Vec<Entry>) -> Result<Vec<ApplyResult>, Error> {
        if !chunk.is_sorted_by(|one, next| one.index < next.index) {
            return Err(Error::invalid("the indexes of a chunk do not increase"));
        }
        // Everything that can fail comes first: a chunk has all of its effects or none.
        let decode = |entry: &Entry| match entry.kind {
            EntryKind::Command => Transfer::decode(&entry.data),
            kind => Err(Error::invalid(format!("entry {} is a {kind:?}, not a command", entry.id()))),
        };
        let transfers = chunk.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        let mut state = self.state();
        let mut results = Vec::with_capacity(chunk.len());
        for (entry, transfer) in chunk.iter().zip(&transfers) {
            let mut response = Bytes::new();
            // After a restart, entries come again that the file includes.
            if entry.index > state.applied.index {
                response = state.transfer(transfer).encode();
                state.applied = entry.id();
            }
            results.push(ApplyResult::new(entry.index, response));
        }
        assert_eq!(state.total(), TOTAL, "a transfer moves money and makes none");
        Ok(results)
    }

    /// Accounts beside the vault.
    fn len(&self) -> usize {
        self.state().accounts.len() - 1
    }

    fn last_applied(&self) -> LogId {
        self.state().applied
    }

    /// Bytes that are no transfer are refused before they get into the log, where they would stop every replica.
    fn check_command(&self, command: &[u8]) -> Result<(), Error> {
        Transfer::decode(command).map(|_| ())
    }

    fn read_at(&self, query: Bytes) -> Result<(Bytes, LogId), Error> {
        let state = self.state();
        let answer = match Query::decode(&query)? {
            Query::Balance(account) => state.accounts.get(&account).copied().unwrap_or(0),
            Query::Total => state.total(),
        };
        Ok((Query::answer(answer), state.applied))
    }

    fn snapshot_metadata(&self) -> Option<SnapshotMetadata> {
        None
    }

    async fn generate_snapshot_data(&self, dir: PathBuf, last_included: LogId) -> Result<SnapshotChecksum, Error> {
        let state = self.state().clone();
        if state.applied != last_included {
            let found = state.applied;
            return Err(Error::invalid(format!("a snapshot of {last_included} is wanted of the state after {found}")));
        }
        file::write_snapshot(&dir, &state)
    }

    async fn apply_snapshot_from_file(&self, metadata: &SnapshotMetadata, path: PathBuf) -> Result<(), Error> {
        let new = file::read_snapshot(&path, metadata)?;
        let mut state = self.state();
        file::save(&self.dir, &new)?;
        *state = new;
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        // Under the lock, so that two flushes do not write one file.
        file::save(&self.dir, &self.state())
    }

    async fn reset(&self) -> Result<(), Error> {
        let mut state = self.state();
        let new = State::new();
        file::save(&self.dir, &new)?;
        *state = new;
        Ok(())
    }
}
