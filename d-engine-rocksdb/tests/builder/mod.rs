//! The builder of this backend for the test suite.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unreachable_pub, reason = "shared by the test files")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use d_engine_core::{Error, StateMachine};
use d_engine_kv::KvStateMachine;
use d_engine_rocksdb::{RocksKvStore, RocksStorageEngine};
use d_engine_test_suite::kv_store_test::KvStoreBuilder;
use d_engine_test_suite::state_machine_test::StateMachineBuilder;
use d_engine_test_suite::storage_engine_test::StorageEngineBuilder;
use tempfile::TempDir;

/// A place of its own for each test.
pub struct Rocks {
    place: PathBuf,
    _dir: Option<TempDir>,
}

impl Rocks {
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        Self { place: dir.path().join("store"), _dir: Some(dir) }
    }

    fn in_dir(dir: &Path) -> Option<Self> {
        Some(Self { place: dir.join("store"), _dir: None })
    }

    fn place(&self) -> &Path {
        &self.place
    }

    fn empty(place: &Path) -> Result<(), Error> {
        match std::fs::remove_dir_all(place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl StorageEngineBuilder for Rocks {
    type Engine = RocksStorageEngine;

    async fn build(&self) -> Result<Arc<RocksStorageEngine>, Error> {
        Ok(Arc::new(RocksStorageEngine::open(self.place())?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Self::empty(self.place())
    }

    fn at(dir: &Path) -> Option<Self> {
        Self::in_dir(dir)
    }

    fn tells_torn_tail_from_damage(&self) -> bool {
        false
    }
}

#[async_trait]
impl KvStoreBuilder for Rocks {
    type Store = RocksKvStore;

    async fn build(&self) -> Result<Arc<RocksKvStore>, Error> {
        Ok(Arc::new(RocksKvStore::open(self.place())?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Self::empty(self.place())
    }

    fn at(dir: &Path) -> Option<Self> {
        Self::in_dir(dir)
    }

    fn tells_torn_tail_from_damage(&self) -> bool {
        false
    }
}

/// The built-in machine over the RocksDB store.
#[async_trait]
impl StateMachineBuilder for Rocks {
    async fn build(&self) -> Result<Arc<dyn StateMachine>, Error> {
        Ok(Arc::new(KvStateMachine::new(RocksKvStore::open(self.place())?)?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Self::empty(self.place())
    }

    fn at(dir: &Path) -> Option<Self> {
        Self::in_dir(dir)
    }

    fn tells_torn_tail_from_damage(&self) -> bool {
        false
    }
}
