//! The laws in the form of one call each, in one place: here no process is started meanwhile.

mod builder;

use std::sync::Arc;

use async_trait::async_trait;
use builder::Sled;
use d_engine_core::Error;
use d_engine_sled::SledStorageEngine;
use d_engine_test_suite::kv_store_test::KvStoreTestSuite;
use d_engine_test_suite::state_machine_test::StateMachineTestSuite;
use d_engine_test_suite::storage_engine_test::{StorageEngineBuilder, StorageEngineTestSuite};

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
