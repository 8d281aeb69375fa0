//! The key-value store of the in-memory backend: one [`OrderedMap`] behind a lock.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use d_engine_core::{Direction, Error, KeyRange, KvStore, KvView, Result, WriteBatch};

use crate::OrderedMap;

/// A volatile key-value store. Clones are handles of the same store.
///
/// Reads block a writer only for their own time in memory; views hold no lock at all.
#[derive(Debug, Clone, Default)]
pub struct MemKvStore {
    map: Arc<RwLock<OrderedMap>>,
}

impl MemKvStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    // A poisoned lock is used on: the only code that runs under the write lock is the map's own.
    fn read(&self) -> RwLockReadGuard<'_, OrderedMap> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> RwLockWriteGuard<'_, OrderedMap> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KvStore for MemKvStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.read().get(key).cloned())
    }

    fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>, Error> {
        Ok(self.read().scan(range, limit, direction))
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        self.lock().apply(batch);
        Ok(())
    }

    fn replace_all(&self, sorted: &mut dyn Iterator<Item = Result<(Bytes, Bytes), Error>>) -> Result<(), Error> {
        let new = OrderedMap::from_sorted(sorted)?;
        let old = std::mem::replace(&mut *self.lock(), new);
        // Freed without the lock: a large map takes a while.
        drop(old);
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    fn with_view(&self, f: &mut dyn FnMut(&dyn KvView) -> Result<(), Error>) -> Result<bool, Error> {
        let view = self.read().clone();
        f(&view)?;
        Ok(true)
    }

    fn is_volatile(&self) -> bool {
        true
    }
}
