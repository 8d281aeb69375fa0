//! The storage engine of the in-memory backend: a log and a hard state that live as long as their handles.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use d_engine_core::{Error, HardState, MetaStore, Result, StorageEngine};

use crate::MemLogStore;

/// A volatile log and hard state. Clones are handles of the same store: a node restarted within one process on a clone
/// finds what the first one left, as tests want.
#[derive(Debug, Clone, Default)]
pub struct MemStorageEngine {
    log_store: Arc<MemLogStore>,
    meta_store: Arc<MemMetaStore>,
}

impl MemStorageEngine {
    /// An empty engine.
    pub fn new() -> Self {
        Self::default()
    }
}

impl StorageEngine for MemStorageEngine {
    type LogStore = MemLogStore;
    type MetaStore = MemMetaStore;

    fn log_store(&self) -> Arc<MemLogStore> {
        self.log_store.clone()
    }

    fn meta_store(&self) -> Arc<MemMetaStore> {
        self.meta_store.clone()
    }

    fn is_volatile(&self) -> bool {
        true
    }

    fn never_waits(&self) -> bool {
        true
    }
}

/// A hard state in memory.
#[derive(Debug, Default)]
pub struct MemMetaStore {
    state: Mutex<Option<HardState>>,
}

impl MemMetaStore {
    // A poisoned lock is used on: the value under it is replaced whole.
    fn state(&self) -> MutexGuard<'_, Option<HardState>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MetaStore for MemMetaStore {
    fn save_hard_state(&self, state: &HardState) -> Result<(), Error> {
        *self.state() = Some(*state);
        Ok(())
    }

    fn load_hard_state(&self) -> Result<Option<HardState>, Error> {
        Ok(*self.state())
    }
}
