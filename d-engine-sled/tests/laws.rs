//! The laws of the test suite, on the sled backend.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use d_engine_core::{Error, StateMachine};
use d_engine_kv::KvStateMachine;
use d_engine_sled::{SledKvStore, SledStorageEngine};
use d_engine_test_suite::kv_store_test::{KvStoreBuilder, KvStoreTestSuite};
use d_engine_test_suite::state_machine_test::{StateMachineBuilder, StateMachineTestSuite};
use d_engine_test_suite::storage_engine_test::{StorageEngineBuilder, StorageEngineTestSuite};
use tempfile::TempDir;

/// A place of its own for each test.
struct Sled {
    place: PathBuf,
    _dir: Option<TempDir>,
}

impl Sled {
    fn new() -> Self {
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
impl StorageEngineBuilder for Sled {
    type Engine = SledStorageEngine;

    async fn build(&self) -> Result<Arc<SledStorageEngine>, Error> {
        Ok(Arc::new(SledStorageEngine::open(self.place())?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Self::empty(self.place())
    }

    fn at(dir: &Path) -> Option<Self> {
        Self::in_dir(dir)
    }
}

#[async_trait]
impl KvStoreBuilder for Sled {
    type Store = SledKvStore;

    async fn build(&self) -> Result<Arc<SledKvStore>, Error> {
        Ok(Arc::new(SledKvStore::open(self.place())?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Self::empty(self.place())
    }

    fn at(dir: &Path) -> Option<Self> {
        Self::in_dir(dir)
    }
}

/// The built-in machine over the sled store.
#[async_trait]
impl StateMachineBuilder for Sled {
    async fn build(&self) -> Result<Arc<dyn StateMachine>, Error> {
        Ok(Arc::new(KvStateMachine::new(SledKvStore::open(self.place())?)?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Self::empty(self.place())
    }

    fn at(dir: &Path) -> Option<Self> {
        Self::in_dir(dir)
    }
}

d_engine_test_suite::storage_engine_tests!(Sled::new());
d_engine_test_suite::kv_store_tests!(Sled::new());
d_engine_test_suite::state_machine_tests!(Sled::new());

/// The guides' builders leave `cleanup` empty: the laws must hold in one place that nobody empties.
struct Uncleaned(Sled);

#[async_trait]
impl StorageEngineBuilder for Uncleaned {
    type Engine = SledStorageEngine;

    async fn build(&self) -> Result<Arc<SledStorageEngine>, Error> {
        StorageEngineBuilder::build(&self.0).await
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[tokio::test]
async fn all_storage_engine_laws_in_one_place() -> Result<(), Error> {
    StorageEngineTestSuite::run_all_tests(Uncleaned(Sled::new())).await
}

#[tokio::test]
async fn all_kv_store_laws_in_one_call() -> Result<(), Error> {
    KvStoreTestSuite::run_all_tests(Sled::new()).await
}

#[tokio::test]
async fn all_state_machine_laws_in_one_call() -> Result<(), Error> {
    StateMachineTestSuite::run_all_tests(Sled::new()).await
}
