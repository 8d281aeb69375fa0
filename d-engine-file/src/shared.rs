//! What the log's callers and its background thread share: the state file, the synced position, the first failure.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use d_engine_core::{Error, Result};

use crate::log_state::LogState;
use crate::segment::Position;
use crate::slot_file::SlotFile;
use crate::vfs::VfsFile;
use crate::wal::WalDir;

/// Locks where a panic of another holder leaves nothing half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) wal: WalDir,
    state: Mutex<(LogState, SlotFile)>,
    /// Held during a sync, so that an error is seen by everyone whom it concerns: the system reports it once.
    syncing: Mutex<()>,
    /// Everything before it is durable.
    synced: Mutex<Position>,
    failure: OnceLock<String>,
}

impl Shared {
    pub(crate) fn new(wal: WalDir, state: LogState, file: SlotFile, synced: Position) -> Self {
        Self {
            wal,
            state: Mutex::new((state, file)),
            syncing: Mutex::new(()),
            synced: Mutex::new(synced),
            failure: OnceLock::new(),
        }
    }

    /// An error if an earlier write or sync has failed.
    pub(crate) fn check(&self) -> Result<()> {
        match self.failure.get() {
            None => Ok(()),
            Some(why) => Err(Error::Poisoned { why: why.clone() }),
        }
    }

    /// From now on every write fails: what is on disk is not known any more.
    pub(crate) fn poison(&self, error: Error) -> Error {
        let _ = self.failure.set(error.to_string());
        error
    }

    pub(crate) fn synced(&self) -> Position {
        *lock(&self.synced)
    }

    /// Makes `file`, the segment of `target`, durable up to there; one sync for all who wait for it.
    pub(crate) fn sync(&self, file: &dyn VfsFile, target: Position) -> Result<()> {
        let _one_at_a_time = lock(&self.syncing);
        self.check()?;
        if self.synced() >= target {
            return Ok(());
        }
        file.sync_data().map_err(|error| {
            let path = self.wal.segment_path(target.segment);
            self.poison(Error::io(format!("syncing {} up to offset {}", path.display(), target.offset), error))
        })?;
        self.set_synced(target);
        Ok(())
    }

    /// Never goes back: a sync of an older segment may end after a newer one was made.
    pub(crate) fn set_synced(&self, position: Position) {
        let mut synced = lock(&self.synced);
        *synced = synced.max(position);
    }

    /// Changes the state file, durably; always with the synced position of this moment, which never goes back.
    pub(crate) fn save_state(&self, change: impl FnOnce(&mut LogState)) -> Result<()> {
        let mut guard = lock(&self.state);
        self.check()?;
        let mut state = guard.0;
        state.synced = state.synced.max(self.synced());
        change(&mut state);
        if state == guard.0 {
            return Ok(());
        }
        guard.1.save(&state.encode()).map_err(|error| self.poison(error))?;
        guard.0 = state;
        Ok(())
    }

    pub(crate) fn uuid(&self) -> u128 {
        lock(&self.state).0.uuid
    }
}
