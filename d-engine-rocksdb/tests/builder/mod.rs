//! The builder of this backend for the test suite.

#![allow(unreachable_pub, reason = "shared by the test files")]

use std::path::Path;

use d_engine_core::Error;
use d_engine_kv::KvStateMachine;
use d_engine_rocksdb::{RocksKvStore, RocksStorageEngine};
use d_engine_test_suite::directory::{Backend, InDirectory, OpenEngine, OpenKvStore, OpenMachine};

/// A place of its own for each test.
pub type Rocks = InDirectory<OnRocks>;

/// RocksDB.
pub struct OnRocks;

impl Backend for OnRocks {}

impl OpenEngine for OnRocks {
    type Engine = RocksStorageEngine;

    fn open(dir: &Path) -> Result<RocksStorageEngine, Error> {
        RocksStorageEngine::open(dir)
    }
}

impl OpenKvStore for OnRocks {
    type Store = RocksKvStore;

    fn open(dir: &Path) -> Result<RocksKvStore, Error> {
        RocksKvStore::open(dir)
    }
}

/// The built-in machine over the RocksDB store.
impl OpenMachine for OnRocks {
    type Machine = KvStateMachine;

    fn open(dir: &Path) -> Result<KvStateMachine, Error> {
        KvStateMachine::new(RocksKvStore::open(dir)?)
    }
}
