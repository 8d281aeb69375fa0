//! The key-value store of the in-memory backend: one [`SharedMap`].

use std::sync::Arc;

use bytes::Bytes;
use d_engine_core::{Direction, Error, KeyRange, KvStore, KvView, Result, WriteBatch};

use crate::{OrderedMap, SharedMap};

/// A volatile key-value store. Clones are handles of the same store.
///
/// Reads block a writer only for their own time in memory; views hold no lock at all.
#[derive(Debug, Clone, Default)]
pub struct MemKvStore {
    map: Arc<SharedMap>,
}

impl MemKvStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl KvStore for MemKvStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.map.get(key)
    }

    fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.map.read(|map| map.scan(range, limit, direction))
    }

    fn write(&self, mut batch: WriteBatch) -> Result<(), Error> {
        self.map.write(|map| map.apply(&mut batch))
    }

    fn replace_all(&self, sorted: &mut dyn Iterator<Item = Result<(Bytes, Bytes), Error>>) -> Result<(), Error> {
        // The old map is freed behind the locks: a large one takes a while.
        drop(self.map.replace(OrderedMap::from_sorted(sorted)?, || ()));
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    fn never_waits(&self) -> bool {
        true
    }

    fn with_view(&self, f: &mut dyn FnMut(&dyn KvView) -> Result<(), Error>) -> Result<bool, Error> {
        f(&self.map.view()?)?;
        Ok(true)
    }

    fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, Error> {
        // Not in a view: as long as there is one, a writer has to copy what it changes.
        self.map.read(|map| map.get_many(keys))
    }

    fn is_volatile(&self) -> bool {
        true
    }
}
