//! A state machine on one of the stores, and the entries that it applies.

use std::fmt;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use d_engine_core::{Entry, EntryKind, KvCommand, StateMachine};
use d_engine_file::FileKvStore;
use d_engine_kv::KvStateMachine;
use d_engine_mem::MemKvStore;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) const CHUNK: usize = 1_000;
pub(crate) const SMALL: &[u8] = &[b'v'; 32];
pub(crate) const LARGE: &[u8] = &[b'v'; 256];
pub(crate) const STORES: [Store; 2] = [Store::Mem, Store::File];

#[derive(Debug, Clone, Copy)]
pub(crate) enum Store {
    Mem,
    File,
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mem => "mem",
            Self::File => "file",
        })
    }
}

/// A directory that goes with its value.
pub(crate) fn dir() -> TempDir {
    let parent = std::env::var_os("D_ENGINE_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(parent).unwrap()
}

/// A machine and the next entry's index.
pub(crate) struct Replica {
    pub(crate) machine: KvStateMachine,
    pub(crate) runtime: Runtime,
    index: u64,
    random: u64,
    // Behind the machine, which has files in it.
    _dir: Option<TempDir>,
}

impl Replica {
    /// An empty machine.
    pub(crate) fn new(store: Store) -> Self {
        let (machine, dir) = match store {
            Store::Mem => (KvStateMachine::new(MemKvStore::new()).unwrap(), None),
            Store::File => {
                let dir = dir();
                (KvStateMachine::new(FileKvStore::open(dir.path()).unwrap()).unwrap(), Some(dir))
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { machine, runtime, index: 0, random: 1, _dir: dir }
    }

    /// A machine that holds so many keys with this value.
    pub(crate) fn with_keys(store: Store, keys: u64, value: &'static [u8]) -> Self {
        let mut replica = Self::new(store);
        for first in (0..keys).step_by(CHUNK) {
            let chunk = (first..keys.min(first + CHUNK as u64)).map(|n| replica.entry(&put(n, value))).collect();
            replica.apply(chunk);
        }
        replica
    }

    pub(crate) fn entry(&mut self, command: &KvCommand) -> Entry {
        self.index += 1;
        Entry::new(self.index, 1, EntryKind::Command, command.encode())
    }

    pub(crate) fn apply(&self, chunk: Vec<Entry>) {
        black_box(self.runtime.block_on(self.machine.apply(chunk)).unwrap());
    }

    pub(crate) fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    /// So many puts to random keys.
    pub(crate) fn some_puts(&mut self, puts: usize, keys: u64, value: &'static [u8]) -> Vec<Entry> {
        (0..puts)
            .map(|_| {
                let key = self.random(keys);
                self.entry(&put(key, value))
            })
            .collect()
    }

    /// A chunk of puts to random keys.
    pub(crate) fn puts(&mut self, keys: u64, value: &'static [u8]) -> Vec<Entry> {
        self.some_puts(CHUNK, keys, value)
    }

    /// Times `apply` alone. The chunks are made before and freed behind it: in a node the tail of the log holds their bytes.
    pub(crate) fn timed(&mut self, chunks: u64, mut chunk: impl FnMut(&mut Self) -> Vec<Entry>) -> Duration {
        let mut total = Duration::ZERO;
        for _ in 0..chunks {
            let chunk = chunk(self);
            let tail = chunk.clone();
            let began = Instant::now();
            self.apply(chunk);
            total += began.elapsed();
            drop(tail);
        }
        total
    }
}

pub(crate) fn key(n: u64) -> Bytes {
    Bytes::from(format!("key-{n:09}"))
}

pub(crate) fn put(n: u64, value: &'static [u8]) -> KvCommand {
    KvCommand::Put { key: key(n), value: Bytes::from_static(value) }
}
