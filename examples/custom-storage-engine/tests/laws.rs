//! The laws of the test suite: the proof that the adaptor is one.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use custom_storage_engine::{SqliteKvStore, SqliteStorageEngine};
use d_engine_core::{Error, StateMachine};
use d_engine_kv::KvStateMachine;
use d_engine_test_suite::kv_store_test::KvStoreBuilder;
use d_engine_test_suite::state_machine_test::StateMachineBuilder;
use d_engine_test_suite::storage_engine_test::StorageEngineBuilder;
use tempfile::TempDir;

/// A place of its own for each test, or one that the suite has chosen.
struct Sqlite {
    place: PathBuf,
    _dir: Option<TempDir>,
}

impl Sqlite {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        Self { place: dir.path().join("store"), _dir: Some(dir) }
    }

    fn in_dir(dir: &Path) -> Option<Self> {
        Some(Self { place: dir.join("store"), _dir: None })
    }

    fn empty(&self) -> Result<(), Error> {
        match std::fs::remove_dir_all(&self.place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl StorageEngineBuilder for Sqlite {
    type Engine = SqliteStorageEngine;

    async fn build(&self) -> Result<Arc<SqliteStorageEngine>, Error> {
        Ok(Arc::new(SqliteStorageEngine::open(&self.place)?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        self.empty()
    }

    fn at(dir: &Path) -> Option<Self> {
        Self::in_dir(dir)
    }
}

#[async_trait]
impl KvStoreBuilder for Sqlite {
    type Store = SqliteKvStore;

    async fn build(&self) -> Result<Arc<SqliteKvStore>, Error> {
        Ok(Arc::new(SqliteKvStore::open(&self.place)?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        self.empty()
    }

    fn at(dir: &Path) -> Option<Self> {
        Self::in_dir(dir)
    }
}

/// The built-in machine over the store.
#[async_trait]
impl StateMachineBuilder for Sqlite {
    async fn build(&self) -> Result<Arc<dyn StateMachine>, Error> {
        Ok(Arc::new(KvStateMachine::new(SqliteKvStore::open(&self.place)?)?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        self.empty()
    }

    fn at(dir: &Path) -> Option<Self> {
        Self::in_dir(dir)
    }
}

d_engine_test_suite::storage_engine_tests!(Sqlite::new());
d_engine_test_suite::kv_store_tests!(Sqlite::new());
d_engine_test_suite::state_machine_tests!(Sqlite::new());
