//! What the tests of this crate share.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(unreachable_pub, reason = "shared by the test files")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use d_engine_core::{Entry, EntryKind, Error, LogId, LogStore, Result, StorageEngine};
use d_engine_file::{FileLogStore, FileStorageEngine, FileStorageOptions};

/// A directory in memory where there is one: for tests whose syncs need not reach a device.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Runs a future of this crate: they never wait for anything.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a call of the file store waited"),
    }
}

/// An entry whose bytes tell its id.
pub fn entry(index: u64, term: u64) -> Entry {
    Entry::new(index, term, EntryKind::Command, format!("entry {index} of term {term}"))
}

/// An entry of `len` bytes of data that tell its id.
pub fn long_entry(index: u64, term: u64, len: usize) -> Entry {
    let data: Vec<u8> = (0..len).map(|i| (i as u64 ^ index ^ (term << 4)) as u8).collect();
    Entry::new(index, term, EntryKind::Command, data)
}

pub fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
    range.map(|index| entry(index, term)).collect()
}

pub fn small() -> FileStorageOptions {
    let mut options = FileStorageOptions::default();
    options.segment_bytes_min = 16 << 10;
    options.segment_bytes_max = 64 << 10;
    options.tail_cache_bytes = 1 << 10;
    options
}

/// The shortest segments there are, so that a short history fills many and uses their files again.
pub fn tiny() -> FileStorageOptions {
    let mut options = FileStorageOptions::default();
    options.segment_bytes_min = 8 << 10;
    options.segment_bytes_max = 16 << 10;
    options.tail_cache_bytes = 1 << 10;
    options
}

/// Opens a log that nothing else has open. A program that another test of this process starts holds the lock file for a
/// moment, until its own code runs.
pub fn open(dir: &Path) -> Arc<FileLogStore> {
    for _ in 0..500 {
        match try_open(dir) {
            Err(Error::Locked { .. }) => std::thread::sleep(std::time::Duration::from_millis(10)),
            opened => return opened.unwrap(),
        }
    }
    panic!("{} stays locked", dir.display());
}

pub fn try_open(dir: &Path) -> Result<Arc<FileLogStore>> {
    Ok(FileStorageEngine::open_with(dir, &small())?.log_store())
}

/// Boundary and entries.
pub type Content = (LogId, Vec<Entry>);

/// All that the log shows.
pub fn content(log: &FileLogStore) -> Content {
    let purged = log.purged();
    let entries = now(log.get_entries(purged.index + 1..=u64::MAX)).unwrap();
    assert_eq!(purged.index + entries.len() as u64, log.last_index());
    (purged, entries)
}

/// The segment files, in order.
pub fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir.join("wal")).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    paths.sort();
    paths
}

/// Every file below `dir` with its bytes.
pub fn image(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for dir in [dir.to_path_buf(), dir.join("wal")] {
        for found in std::fs::read_dir(dir).unwrap() {
            let path = found.unwrap().path();
            if path.is_file() {
                files.push((path.clone(), std::fs::read(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

/// Makes the directory look as it does after a kill: nothing that closing does has happened.
pub fn copy_of_open(dir: &Path) -> tempfile::TempDir {
    let copy = scratch();
    std::fs::create_dir(copy.path().join("wal")).unwrap();
    for (path, bytes) in image(dir) {
        let to = copy.path().join(path.strip_prefix(dir).unwrap());
        std::fs::write(to, bytes).unwrap();
    }
    copy
}

/// The reference: a log in a vector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub purged: LogId,
    pub entries: Vec<Entry>,
}

/// A write call.
#[derive(Debug, Clone)]
pub enum Call {
    Persist(Vec<Entry>),
    Truncate(u64),
    Replace(u64, Vec<Entry>),
    Purge(LogId),
    Reset,
}

impl Call {
    pub fn run(self, log: &FileLogStore) -> Result<()> {
        match self {
            Call::Persist(entries) => now(log.persist_entries(entries)),
            Call::Truncate(from) => now(log.truncate(from)),
            Call::Replace(from, entries) => now(log.replace_from(from, entries)),
            Call::Purge(up_to) => now(log.purge(up_to)),
            Call::Reset => now(log.reset()),
        }
    }

    /// Whether the call is durable on return, and with it everything before.
    pub fn is_durable(&self) -> bool {
        matches!(self, Call::Purge(_) | Call::Reset)
    }
}

impl Model {
    pub fn last(&self) -> LogId {
        self.entries.last().map_or(self.purged, Entry::id)
    }

    pub fn content(&self) -> Content {
        (self.purged, self.entries.clone())
    }

    fn keep_below(&mut self, from: u64) {
        self.entries.retain(|entry| entry.index < from);
    }

    pub fn apply(&mut self, call: &Call) {
        match call {
            Call::Persist(entries) => self.entries.extend(entries.iter().cloned()),
            Call::Truncate(from) => self.keep_below(*from),
            Call::Replace(from, entries) => {
                self.keep_below(*from);
                self.entries.extend(entries.iter().cloned());
            }
            Call::Purge(up_to) if up_to.index <= self.purged.index => {}
            Call::Purge(up_to) => {
                let holds = self.entries.iter().any(|entry| entry.id() == *up_to);
                self.entries.retain(|entry| holds && entry.index > up_to.index);
                self.purged = *up_to;
            }
            Call::Reset => *self = Self::default(),
        }
    }

    /// A legal call, at random.
    pub fn random_call(&self, rng: &mut fastrand::Rng) -> Call {
        let last = self.last();
        let first = self.purged.index + 1;
        let fresh = |rng: &mut fastrand::Rng, from: u64, term: u64| -> Vec<Entry> {
            let long = rng.u8(..12) == 0;
            let count = rng.u64(1..6);
            (from..from + count)
                .map(|index| long_entry(index, term, rng.usize(..if long { 30_000 } else { 300 })))
                .collect()
        };
        let term = last.term.max(1) + u64::from(rng.u8(..8) == 0);
        let somewhere = rng.u64(first..=last.index + 1);
        match rng.u8(..100) {
            0..70 => Call::Persist(fresh(rng, last.index + 1, term)),
            70..78 => Call::Truncate(somewhere),
            78..88 => Call::Replace(somewhere, fresh(rng, somewhere, term + 1)),
            88..95 => match self.entries.get(rng.usize(..self.entries.len().max(1))) {
                Some(entry) => Call::Purge(entry.id()),
                None => Call::Purge(LogId::new(term, last.index + 2)),
            },
            95..97 => Call::Purge(LogId::new(term + 1, somewhere + rng.u64(..3))),
            97..98 => Call::Reset,
            _ => Call::Persist(fresh(rng, last.index + 1, term)),
        }
    }
}

/// Says beside the results what was left out.
#[allow(clippy::print_stderr, reason = "a test says what it did not check")]
pub fn note(what: &str) {
    eprintln!("{what}");
}
