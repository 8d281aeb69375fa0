//! The state machine's data in sled: one tree per generation of the content, and the number of the one that counts.

use std::fmt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use d_engine_core::{Direction, Error, KeyRange, KvStore, Result, WriteBatch, WriteOp};
use sled::{Batch, IVec, Tree};

use crate::database::{Content, Database};

const META: &str = "meta";
const GENERATION: &str = "generation";
const DATA: &str = "data-";

/// A key-value store on sled. It has no views: sled has none.
///
/// [`replace_all`](KvStore::replace_all) fills a new tree, and one durable write makes it the one that counts; a tree
/// that does not count is removed when the store is opened.
pub struct SledKvStore {
    // Trees before the database: its last handle closes sled. Held exclusively while a batch is applied, so that scans
    // see whole batches.
    current: RwLock<Generation>,
    meta: Tree,
    writer: Mutex<()>,
    database: Database,
}

struct Generation {
    number: u64,
    data: Tree,
}

impl fmt::Debug for SledKvStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledKvStore").field("database", &self.database).finish_non_exhaustive()
    }
}

impl SledKvStore {
    /// Opens the store in `dir`, which is made if needed.
    ///
    /// # Errors
    /// `Locked` if it is open already, `Corrupt` for damage that sled notices, `Unsupported` for another format, `Io` if
    /// the directory cannot be made, read or written.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let database = Database::open(dir.as_ref(), Content::Data)?;
        let meta = database.tree(META)?;
        let number = match meta.get(GENERATION).map_err(|error| database.error("reading the generation", error))? {
            None => 0,
            Some(bytes) => u64::from_be_bytes(
                (*bytes)
                    .try_into()
                    .map_err(|_| Error::corrupt(database.place("the number of the generation is not 8 bytes long")))?,
            ),
        };
        let name = tree_name(number);
        let names = database.tree_names()?;
        if number > 0 && !names.contains(&name) {
            return Err(Error::corrupt(database.place(&format!("the tree {name} is missing"))));
        }
        for garbage in names.iter().filter(|other| other.starts_with(DATA) && **other != name) {
            database.drop_tree(garbage)?;
        }
        let current = RwLock::new(Generation { number, data: database.tree(&name)? });
        Ok(Self { current, meta, writer: Mutex::new(()), database })
    }

    // A poisoned lock is used on: what is under it is replaced whole.
    fn current(&self) -> RwLockReadGuard<'_, Generation> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn current_mut(&self) -> RwLockWriteGuard<'_, Generation> {
        self.current.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_writer(&self) -> Result<MutexGuard<'_, ()>> {
        let writer =
            self.writer.lock().map_err(|_| Error::Poisoned { why: "a write to the store ended in a panic".into() })?;
        self.database.check()?;
        Ok(writer)
    }

    fn read(&self, tree: &Tree, key: &[u8]) -> Result<Option<Bytes>> {
        let found = tree.get(key).map_err(|error| self.database.error("reading a key", error))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn fill(&self, data: &Tree, sorted: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>) -> Result<()> {
        for pair in sorted {
            let (key, value) = pair?;
            self.database.written("writing the new content", data.insert(&key[..], &value[..]))?;
        }
        Ok(())
    }

    fn collect(&self, items: impl Iterator<Item = sled::Result<(IVec, IVec)>>) -> Result<Vec<(Bytes, Bytes)>> {
        let mut out = Vec::new();
        for item in items {
            let (key, value) = item.map_err(|error| self.database.error("reading a range", error))?;
            out.push((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)));
        }
        Ok(out)
    }
}

impl KvStore for SledKvStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.read(&self.current().data, key)
    }

    fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>, Error> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let current = self.current();
        let items = current.data.range::<&[u8], _>((range.start, range.end));
        match direction {
            Direction::Forward => self.collect(items.take(limit)),
            Direction::Backward => self.collect(items.rev().take(limit)),
        }
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        let _writer = self.lock_writer()?;
        let mut steps = Batch::default();
        for op in &batch.ops {
            match op {
                WriteOp::Put(key, value) => steps.insert(&key[..], &value[..]),
                WriteOp::Delete(key) => steps.remove(&key[..]),
            }
        }
        let current = self.current_mut();
        self.database.written("writing", current.data.apply_batch(steps))
    }

    fn replace_all(&self, sorted: &mut dyn Iterator<Item = Result<(Bytes, Bytes), Error>>) -> Result<(), Error> {
        let _writer = self.lock_writer()?;
        let old = self.current().number;
        let next = tree_name(old + 1);
        let data = self.database.tree(&next)?;
        if let Err(error) = self.fill(&data, sorted) {
            drop(data);
            // What stays is removed by the next open; the caller's error is the one that counts.
            let _ = self.database.drop_tree(&next);
            return Err(error);
        }
        self.database.flush()?;
        self.database.written("switching the content", self.meta.insert(GENERATION, &(old + 1).to_be_bytes()))?;
        self.database.flush()?;
        *self.current_mut() = Generation { number: old + 1, data };
        // Done already; a failure has poisoned the store, and the next open removes the tree.
        let _ = self.database.drop_tree(&tree_name(old));
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        self.database.flush()
    }

    /// At one point in time, though there are no views.
    fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, Error> {
        let current = self.current();
        keys.iter().map(|key| self.read(&current.data, key)).collect()
    }
}

fn tree_name(number: u64) -> String {
    format!("{DATA}{number:016x}")
}
