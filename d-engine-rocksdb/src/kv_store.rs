//! The state machine's data in RocksDB: a directory for each generation of the content, and a file that says which one
//! counts.
//!
//! There is no write-ahead log: the Raft log is the state machine's. What is in memory becomes files in the order in which
//! it was written, so that a crash leaves the state after a prefix of the batches, and what came after it is applied again
//! from the Raft log.

use std::fs;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use d_engine_core::{Direction, Error, KeyRange, KvStore, KvView, Result, WriteBatch, WriteOp, checksum};
use rocksdb::{Cache, DB, DBRawIterator, FlushOptions, ReadOptions, Snapshot, WriteOptions};

use crate::directory::{Content, Directory, replace_file, sync_dir};
use crate::error::{Failures, unchanged};
use crate::generation::{self, Generation};
use crate::options::{self, bounded};

const GENERATION: &str = "GENERATION";
const FIRST: u64 = 1;
/// A file of the writes in memory may be this much larger than they are, in bytes.
const FLUSH_MARGIN: u64 = 4 << 20;

/// A key-value store on RocksDB, for data that may be larger than memory.
///
/// [`write`](KvStore::write) reaches memory, and files once 32 MiB have come together; [`flush`](KvStore::flush) writes
/// what is in memory to files and syncs them. [`replace_all`](KvStore::replace_all) writes sorted files into a new
/// directory, has RocksDB take them in as they are, and then names that directory the one that counts, in one durable
/// step; views of the old content keep it until they end. Dropping the store flushes it as well as it can.
#[derive(Debug)]
pub struct RocksKvStore {
    // Before the directory: it must be closed while the directory is locked.
    current: RwLock<Arc<Generation>>,
    cache: Cached,
    writer: Mutex<()>,
    /// Held during a flush, so that a failed one is seen by everyone whom it concerns.
    flushing: Mutex<()>,
    failures: Failures,
    directory: Directory,
}

struct Cached(Cache);

impl std::fmt::Debug for Cached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cached").field(&self.0.get_usage()).finish()
    }
}

impl RocksKvStore {
    /// Opens the store in `dir`, which is made if needed. What an interrupted `replace_all` left is removed.
    ///
    /// # Errors
    /// `Locked` if it is open already; `Corrupt` for damage, which is left as it is; `Unsupported` for another format or
    /// a log's directory; `Io` if the directory cannot be made, read or written.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let directory = Directory::open(dir, Content::Data)?;
        let cache = options::data_cache();
        let is_new = directory.is_new();
        let number = if is_new { first_generation(dir)? } else { read_pointer(dir)? };
        if !is_new {
            generation::remove_others(dir, number)?;
        }
        let generation = Generation::open(dir, number, is_new, &cache)?;
        if is_new {
            if !generation.is_empty() {
                return Err(unlabelled(dir));
            }
            write_pointer(dir, FIRST)?;
        }
        directory.label(Content::Data)?;
        Ok(Self {
            current: RwLock::new(Arc::new(generation)),
            cache: Cached(cache),
            writer: Mutex::new(()),
            flushing: Mutex::new(()),
            failures: Failures::of(dir),
            directory,
        })
    }

    // A poisoned lock is used on: what is under it is replaced whole.
    fn current(&self) -> Arc<Generation> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock_writer(&self) -> Result<MutexGuard<'_, ()>> {
        let writer =
            self.writer.lock().map_err(|_| Error::Poisoned { why: "a write to the store ended in a panic".into() })?;
        self.failures.check()?;
        Ok(writer)
    }

    /// Lets `f` look at the generation that counts.
    fn look<T>(&self, f: impl FnOnce(View<'_>) -> Result<T>) -> Result<T> {
        let generation = self.current();
        f(View { db: generation.db(), snapshot: None, failures: &self.failures })
    }
}

impl KvStore for RocksKvStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.look(|view| view.get(key))
    }

    fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.look(|view| view.scan(range, limit, direction))
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        let doing = "writing";
        let _writer = self.lock_writer()?;
        let mut steps = rocksdb::WriteBatch::default();
        for op in &batch.ops {
            match op {
                WriteOp::Put(key, value) => steps.put(key, value),
                WriteOp::Delete(key) => steps.delete(key),
            }
        }
        self.directory.check_space(doing, steps.size_in_bytes())?;
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.failures.written(doing, self.current().db().write_opt(steps, &options))
    }

    fn replace_all(&self, sorted: &mut dyn Iterator<Item = Result<(Bytes, Bytes), Error>>) -> Result<(), Error> {
        let _writer = self.lock_writer()?;
        let old = self.current();
        let dir = self.directory.path();
        let next = Generation::build(&self.directory, old.number() + 1, sorted, &self.cache.0).map_err(unchanged)?;
        if let Err(error) = write_pointer(dir, next.number()) {
            // Which of the two counts after a crash is not known.
            return Err(self.failures.poison(error));
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        old.retire();
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        let _flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        self.failures.check()?;
        let generation = self.current();
        let doing = "writing what is in memory to files";
        let size = generation.db().property_int_value(rocksdb::properties::CUR_SIZE_ALL_MEM_TABLES);
        let size = self.failures.read("asking for the size of what is in memory", size)?.unwrap_or_default();
        self.directory.check_free(doing, size + FLUSH_MARGIN)?;
        self.failures.written(doing, generation.db().flush_opt(&FlushOptions::default()))?;
        generation.note_synced();
        Ok(())
    }

    fn with_view(&self, f: &mut dyn FnMut(&dyn KvView) -> Result<(), Error>) -> Result<bool, Error> {
        let generation = self.current();
        let snapshot = generation.db().snapshot();
        f(&View { db: generation.db(), snapshot: Some(&snapshot), failures: &self.failures })?;
        Ok(true)
    }
}

impl Drop for RocksKvStore {
    fn drop(&mut self) {
        // Nobody is left to be told. What is missing then, the Raft log has.
        let _ = self.flush();
    }
}

/// The generation that an open without a label begins, or goes on beginning: before the label there is no other one.
fn first_generation(dir: &Path) -> Result<u64> {
    let is_labelless = match read_pointer(dir) {
        Ok(number) => number == FIRST,
        Err(_) => !dir.join(GENERATION).exists(),
    };
    if is_labelless && !generation::has_others(dir, FIRST)? { Ok(FIRST) } else { Err(unlabelled(dir)) }
}

fn unlabelled(dir: &Path) -> Error {
    Error::corrupt(format!("{} holds data, and its file FORMAT is missing; nothing in it was changed", dir.display()))
}

/// The number of the generation that counts.
fn read_pointer(dir: &Path) -> Result<u64> {
    let path = dir.join(GENERATION);
    let found = fs::read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::corrupt(format!("{} is missing", path.display())),
        _ => Error::io(format!("reading {}", path.display()), error),
    })?;
    let number = found.get(..16).and_then(|digits| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
    match number.filter(|number| pointer(*number).as_bytes() == found) {
        Some(number) => Ok(number),
        None => Err(Error::corrupt(format!("{}: its checksum does not match", path.display()))),
    }
}

/// Names the generation that counts, durably and in one step.
fn write_pointer(dir: &Path, number: u64) -> Result<()> {
    replace_file(dir, GENERATION, pointer(number).as_bytes())?;
    sync_dir(dir)
}

fn pointer(number: u64) -> String {
    let number = format!("{number:016x}");
    let sum = checksum(&[number.as_bytes()]);
    format!("{number} {sum:08x}\n")
}

/// A generation, as it is or as it was when the snapshot was taken.
struct View<'a> {
    db: &'a DB,
    snapshot: Option<&'a Snapshot<'a>>,
    failures: &'a Failures,
}

impl View<'_> {
    fn at(&self, mut options: ReadOptions) -> ReadOptions {
        if let Some(snapshot) = self.snapshot {
            options.set_snapshot(snapshot);
        }
        options
    }

    fn collect(&self, mut found: DBRawIterator<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>> {
        let mut out = Vec::new();
        while out.len() < limit
            && let Some((key, value)) = found.item()
        {
            out.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            match direction {
                Direction::Forward => found.next(),
                Direction::Backward => found.prev(),
            }
        }
        // An iterator that meets damage ends as if there were no more.
        self.failures.read("reading a range", found.status())?;
        Ok(out)
    }
}

impl KvView for View<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let found = self.db.get_pinned_opt(key, &self.at(ReadOptions::default()));
        Ok(self.failures.read("reading a key", found)?.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>, Error> {
        if range.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        // RocksDB's bounds include the first and exclude the last; a key's next one is the key and a zero.
        let after = |key: &[u8]| [key, &[0]].concat();
        let from = match range.start {
            Bound::Included(key) => Some(key.to_vec()),
            Bound::Excluded(key) => Some(after(key)),
            Bound::Unbounded => None,
        };
        let before = match range.end {
            Bound::Included(key) => Some(after(key)),
            Bound::Excluded(key) => Some(key.to_vec()),
            Bound::Unbounded => None,
        };
        let mut found = self.db.raw_iterator_opt(self.at(bounded(from, before)));
        match direction {
            Direction::Forward => found.seek_to_first(),
            Direction::Backward => found.seek_to_last(),
        }
        self.collect(found, limit, direction)
    }
}
