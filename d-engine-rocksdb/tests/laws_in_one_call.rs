//! The laws in the form of one call each, in one place: here no process is started meanwhile.

mod builder;

use std::sync::Arc;

use async_trait::async_trait;
use builder::Rocks;
use d_engine_core::Error;
use d_engine_rocksdb::RocksStorageEngine;
use d_engine_test_suite::kv_store_test::KvStoreTestSuite;
use d_engine_test_suite::state_machine_test::StateMachineTestSuite;
use d_engine_test_suite::storage_engine_test::{StorageEngineBuilder, StorageEngineTestSuite};

/// The guides' builders leave `cleanup` empty: the laws must hold in one place that nobody empties.
struct Uncleaned(Rocks);

#[async_trait]
impl StorageEngineBuilder for Uncleaned {
    type Engine = RocksStorageEngine;

    async fn build(&self) -> Result<Arc<RocksStorageEngine>, Error> {
        StorageEngineBuilder::build(&self.0).await
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[tokio::test]
async fn all_storage_engine_laws_in_one_place() -> Result<(), Error> {
    StorageEngineTestSuite::run_all_tests(Uncleaned(Rocks::new())).await
}

#[tokio::test]
async fn all_kv_store_laws_in_one_call() -> Result<(), Error> {
    KvStoreTestSuite::run_all_tests(Rocks::new()).await
}

#[tokio::test]
async fn all_state_machine_laws_in_one_call() -> Result<(), Error> {
    StateMachineTestSuite::run_all_tests(Rocks::new()).await
}
