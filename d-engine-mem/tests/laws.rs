//! The laws of the test suite, on the in-memory backend.

use std::sync::Arc;

use async_trait::async_trait;
use d_engine_core::{Error, StateMachine};
use d_engine_kv::KvStateMachine;
use d_engine_mem::{MemKvStore, MemStorageEngine};
use d_engine_test_suite::kv_store_test::{KvStoreBuilder, KvStoreTestSuite};
use d_engine_test_suite::state_machine_test::{StateMachineBuilder, StateMachineTestSuite};
use d_engine_test_suite::storage_engine_test::{StorageEngineBuilder, StorageEngineTestSuite};

struct Mem;

#[async_trait]
impl StorageEngineBuilder for Mem {
    type Engine = MemStorageEngine;

    async fn build(&self) -> Result<Arc<MemStorageEngine>, Error> {
        Ok(Arc::new(MemStorageEngine::new()))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait]
impl KvStoreBuilder for Mem {
    type Store = MemKvStore;

    async fn build(&self) -> Result<Arc<MemKvStore>, Error> {
        Ok(Arc::new(MemKvStore::new()))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// The built-in machine over the in-memory store.
#[async_trait]
impl StateMachineBuilder for Mem {
    async fn build(&self) -> Result<Arc<dyn StateMachine>, Error> {
        Ok(Arc::new(KvStateMachine::new(MemKvStore::new())?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Ok(())
    }

    fn is_volatile(&self) -> bool {
        true
    }
}

d_engine_test_suite::storage_engine_tests!(Mem);
d_engine_test_suite::kv_store_tests!(Mem);
d_engine_test_suite::state_machine_tests!(Mem);

#[tokio::test]
async fn all_storage_engine_laws_in_one_call() -> Result<(), Error> {
    StorageEngineTestSuite::run_all_tests(Mem).await
}

#[tokio::test]
async fn all_kv_store_laws_in_one_call() -> Result<(), Error> {
    KvStoreTestSuite::run_all_tests(Mem).await
}

#[tokio::test]
async fn all_state_machine_laws_in_one_call() -> Result<(), Error> {
    StateMachineTestSuite::run_all_tests(Mem).await
}
