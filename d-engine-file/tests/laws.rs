//! The laws of the test suite, on the file backend.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use d_engine_core::{Error, StateMachine};
use d_engine_file::{FileKvStore, FileStorageEngine};
use d_engine_kv::KvStateMachine;
use d_engine_test_suite::kv_store_test::{KvStoreBuilder, KvStoreTestSuite};
use d_engine_test_suite::state_machine_test::{StateMachineBuilder, StateMachineTestSuite};
use d_engine_test_suite::storage_engine_test::{StorageEngineBuilder, StorageEngineTestSuite};
use tempfile::TempDir;

/// A place of its own for each test.
struct File {
    dir: TempDir,
}

impl File {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    fn place(&self) -> std::path::PathBuf {
        self.dir.path().join("store")
    }

    fn empty(place: &Path) -> Result<(), Error> {
        match std::fs::remove_dir_all(place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl StorageEngineBuilder for File {
    type Engine = FileStorageEngine;

    async fn build(&self) -> Result<Arc<FileStorageEngine>, Error> {
        Ok(Arc::new(FileStorageEngine::open(self.place())?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Self::empty(&self.place())
    }
}

#[async_trait]
impl KvStoreBuilder for File {
    type Store = FileKvStore;

    async fn build(&self) -> Result<Arc<FileKvStore>, Error> {
        Ok(Arc::new(FileKvStore::open(self.place())?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Self::empty(&self.place())
    }
}

/// The built-in machine over the file store.
#[async_trait]
impl StateMachineBuilder for File {
    async fn build(&self) -> Result<Arc<dyn StateMachine>, Error> {
        Ok(Arc::new(KvStateMachine::new(FileKvStore::open(self.place())?)?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Self::empty(&self.place())
    }
}

d_engine_test_suite::storage_engine_tests!(File::new());
d_engine_test_suite::kv_store_tests!(File::new());
d_engine_test_suite::state_machine_tests!(File::new());

/// The guides' builders leave `cleanup` empty: the laws must hold in one place that nobody empties.
struct Uncleaned(File);

#[async_trait]
impl StorageEngineBuilder for Uncleaned {
    type Engine = FileStorageEngine;

    async fn build(&self) -> Result<Arc<FileStorageEngine>, Error> {
        StorageEngineBuilder::build(&self.0).await
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[tokio::test]
async fn all_storage_engine_laws_in_one_place() -> Result<(), Error> {
    StorageEngineTestSuite::run_all_tests(Uncleaned(File::new())).await
}

#[tokio::test]
async fn all_kv_store_laws_in_one_call() -> Result<(), Error> {
    KvStoreTestSuite::run_all_tests(File::new()).await
}

#[tokio::test]
async fn all_state_machine_laws_in_one_call() -> Result<(), Error> {
    StateMachineTestSuite::run_all_tests(File::new()).await
}
