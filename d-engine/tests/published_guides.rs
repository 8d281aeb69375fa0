//! The snippets of the published guides, completed with imports, constructors and the bodies behind the dots.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(clippy::new_ret_no_self, reason = "the guides print constructors with different arguments")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use d_engine::{Error, NodeConfig};
use tokio::sync::watch;

/// Guide "Implementing Custom Storage Engines".
mod storage_engine {
    use super::*;
    use std::ops::RangeInclusive;

    use async_trait::async_trait;
    use d_engine::file::{FileLogStore, FileMetaStore, FileStorageEngine};
    use d_engine::storage::{LogStore, MetaStore, StorageEngine};
    use d_engine::{Entry, HardState, LogId};

    pub(crate) struct CustomLogStore {
        inner: Arc<FileLogStore>,
    }

    pub(crate) struct CustomMetaStore {
        inner: Arc<FileMetaStore>,
    }

    #[async_trait]
    impl LogStore for CustomLogStore {
        async fn persist_entries(&self, entries: Vec<Entry>) -> Result<(), Error> {
            self.inner.persist_entries(entries).await
        }
        async fn entry(&self, index: u64) -> Result<Option<Entry>, Error> {
            self.inner.entry(index).await
        }
        async fn get_entries(&self, range: RangeInclusive<u64>) -> Result<Vec<Entry>, Error> {
            self.inner.get_entries(range).await
        }
        async fn purge(&self, up_to: LogId) -> Result<(), Error> {
            self.inner.purge(up_to).await
        }
        async fn truncate(&self, from_index: u64) -> Result<(), Error> {
            self.inner.truncate(from_index).await
        }
        async fn flush(&self) -> Result<(), Error> {
            self.inner.flush().await
        }
        async fn reset(&self) -> Result<(), Error> {
            self.inner.reset().await
        }
        fn last_index(&self) -> u64 {
            self.inner.last_index()
        }
        fn purged(&self) -> LogId {
            self.inner.purged()
        }
    }

    impl MetaStore for CustomMetaStore {
        fn save_hard_state(&self, state: &HardState) -> Result<(), Error> {
            self.inner.save_hard_state(state)
        }
        fn load_hard_state(&self) -> Result<Option<HardState>, Error> {
            self.inner.load_hard_state()
        }
    }

    // Combine log and metadata stores
    pub(crate) struct CustomStorageEngine {
        log_store: Arc<CustomLogStore>,
        meta_store: Arc<CustomMetaStore>,
    }

    impl StorageEngine for CustomStorageEngine {
        type LogStore = CustomLogStore;
        type MetaStore = CustomMetaStore;
        fn log_store(&self) -> Arc<Self::LogStore> {
            self.log_store.clone()
        }
        fn meta_store(&self) -> Arc<Self::MetaStore> {
            self.meta_store.clone()
        }
    }

    impl CustomStorageEngine {
        pub(crate) async fn new(path: impl AsRef<Path>) -> Result<Self, Error> {
            let engine = FileStorageEngine::open(path)?;
            Ok(Self {
                log_store: Arc::new(CustomLogStore { inner: engine.log_store() }),
                meta_store: Arc::new(CustomMetaStore { inner: engine.meta_store() }),
            })
        }
    }

    mod testing {
        use super::*;
        use d_engine::storage_engine_test::{StorageEngineBuilder, StorageEngineTestSuite, create_test_entry};
        use tempfile::TempDir;

        struct CustomStorageEngineBuilder {
            temp_dir: TempDir,
        }

        impl CustomStorageEngineBuilder {
            fn new() -> Self {
                Self { temp_dir: TempDir::new().unwrap() }
            }
        }

        #[async_trait]
        impl StorageEngineBuilder for CustomStorageEngineBuilder {
            type Engine = CustomStorageEngine;
            async fn build(&self) -> Result<Arc<Self::Engine>, Error> {
                let path = self.temp_dir.path().join("storage");
                let engine = CustomStorageEngine::new(path).await?;
                Ok(Arc::new(engine))
            }
            async fn cleanup(&self) -> Result<(), Error> {
                let _ = std::fs::remove_dir_all(self.temp_dir.path().join("storage"));
                Ok(())
            }
        }

        #[tokio::test]
        async fn test_custom_storage_engine() -> Result<(), Error> {
            let builder = CustomStorageEngineBuilder::new();
            StorageEngineTestSuite::run_all_tests(builder).await
        }

        #[tokio::test]
        #[ignore = "timed; for a quiet machine"]
        async fn test_performance() -> Result<(), Error> {
            let builder = CustomStorageEngineBuilder::new();
            let engine = builder.build().await?;
            let log_store = engine.log_store();
            // Performance test: persist 10,000 entries
            let start = std::time::Instant::now();
            let entries = (1..=10000).map(|i| create_test_entry(i, i)).collect();
            log_store.persist_entries(entries).await?;
            let duration = start.elapsed();
            assert!(duration.as_millis() < 1000, "Should persist 10k entries in <1s");
            Ok(())
        }
    }
}

/// Guide "Implementing Custom State Machines".
mod state_machine {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use async_trait::async_trait;
    use d_engine::{Entry, KvCommand as AppCommand, LogId, Result, SnapshotChecksum, SnapshotMetadata, StateMachine};

    /// What the application keeps.
    pub(crate) trait ApplicationStorage: Send + Sync {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;
        fn execute(&self, command: AppCommand) -> Result<(), Error>;
        fn count(&self) -> usize;
        fn dump(&self) -> Vec<u8>;
        fn replace(&self, dump: &[u8]) -> Result<(), Error>;
    }

    #[derive(Default)]
    struct InMemory {
        map: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    }

    impl ApplicationStorage for InMemory {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
            Ok(self.map.lock().unwrap().get(key).cloned())
        }
        fn execute(&self, command: AppCommand) -> Result<(), Error> {
            match command {
                AppCommand::Put { key, value } => {
                    self.map.lock().unwrap().insert(key.to_vec(), value.to_vec());
                }
                AppCommand::Delete { key } => {
                    self.map.lock().unwrap().remove(&key[..]);
                }
                other => return Err(Error::unsupported(format!("{other:?}"))),
            }
            Ok(())
        }
        fn count(&self) -> usize {
            self.map.lock().unwrap().len()
        }
        fn dump(&self) -> Vec<u8> {
            let mut out = Vec::new();
            for (key, value) in self.map.lock().unwrap().iter() {
                for bytes in [key, value] {
                    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
                    out.extend_from_slice(bytes);
                }
            }
            out
        }
        fn replace(&self, mut dump: &[u8]) -> Result<(), Error> {
            let mut next = || -> Option<Vec<u8>> {
                let (len, rest) = dump.split_first_chunk::<8>()?;
                let (bytes, rest) = rest.split_at_checked(u64::from_le_bytes(*len) as usize)?;
                dump = rest;
                Some(bytes.to_vec())
            };
            let mut map = BTreeMap::new();
            while let Some(key) = next() {
                map.insert(key, next().ok_or_else(|| Error::corrupt("snapshot: a key without a value"))?);
            }
            *self.map.lock().unwrap() = map;
            Ok(())
        }
    }

    pub(crate) struct CustomStateMachine {
        // Your storage backend
        backend: Arc<dyn ApplicationStorage>,
        last_applied: AtomicU64,
        last_applied_term: AtomicU64,
        snapshot_meta: Mutex<Option<SnapshotMetadata>>,
    }

    fn checksum(data: &[u8]) -> SnapshotChecksum {
        let mut sum = [1; 32];
        sum[..4].copy_from_slice(&d_engine_core::checksum(&[data]).to_le_bytes());
        SnapshotChecksum::new(sum)
    }

    #[async_trait]
    impl StateMachine for CustomStateMachine {
        fn start(&self) -> Result<(), Error> {
            // Initialize your state machine
            Ok(())
        }
        fn stop(&self) -> Result<(), Error> {
            // Cleanup resources
            Ok(())
        }
        fn is_running(&self) -> bool {
            // Return running status
            true
        }
        fn get(&self, key_buffer: &[u8]) -> Result<Option<Vec<u8>>, Error> {
            // Retrieve value by key
            self.backend.get(key_buffer)
        }
        fn entry_term(&self, _entry_id: u64) -> Option<u64> {
            // Return term for specific entry
            Some(1)
        }
        async fn apply_chunk(&self, chunk: Vec<Entry>) -> Result<()> {
            // Deserialize and process entries
            for entry in chunk {
                let cmd: AppCommand = AppCommand::decode(&entry.data)?;
                self.backend.execute(cmd)?;
                self.last_applied_term.store(entry.term, Ordering::Release);
                self.last_applied.store(entry.index, Ordering::Release);
            }
            Ok(())
        }
        fn len(&self) -> usize {
            // Return number of entries
            self.backend.count()
        }
        // Implement all required methods...
        fn last_applied(&self) -> LogId {
            LogId::new(self.last_applied_term.load(Ordering::Acquire), self.last_applied.load(Ordering::Acquire))
        }
        fn snapshot_metadata(&self) -> Option<SnapshotMetadata> {
            self.snapshot_meta.lock().unwrap().clone()
        }
        async fn generate_snapshot_data(&self, dir: PathBuf, last_included: LogId) -> Result<SnapshotChecksum, Error> {
            if last_included != self.last_applied() {
                return Err(Error::invalid(format!("the state is that after {}", self.last_applied())));
            }
            let data = self.backend.dump();
            std::fs::write(dir.join("snapshot"), &data)?;
            Ok(checksum(&data))
        }
        async fn apply_snapshot_from_file(&self, metadata: &SnapshotMetadata, path: PathBuf) -> Result<(), Error> {
            let data = std::fs::read(path)?;
            if checksum(&data) != metadata.checksum {
                return Err(Error::corrupt("snapshot: the checksum differs"));
            }
            self.backend.replace(&data)
        }
        fn flush(&self) -> Result<(), Error> {
            Ok(())
        }
        async fn reset(&self) -> Result<(), Error> {
            self.backend.replace(&[])
        }
    }

    impl CustomStateMachine {
        pub(crate) async fn new(path: PathBuf) -> Result<Self, Error> {
            std::fs::create_dir_all(path)?;
            Ok(Self {
                backend: Arc::new(InMemory::default()),
                last_applied: AtomicU64::new(0),
                last_applied_term: AtomicU64::new(0),
                snapshot_meta: Mutex::new(None),
            })
        }
    }

    mod testing {
        use super::*;
        use d_engine::storage_engine_test::create_test_entry;
        use d_engine::{Error, StateMachine};
        use tempfile::TempDir;

        struct TestStateMachineBuilder {
            temp_dir: TempDir,
        }

        impl TestStateMachineBuilder {
            fn new() -> Self {
                Self { temp_dir: TempDir::new().unwrap() }
            }

            async fn build(&self) -> Result<Arc<CustomStateMachine>, Error> {
                let path = self.temp_dir.path().join("sm_test");
                let sm = CustomStateMachine::new(path).await?;
                Ok(Arc::new(sm))
            }
        }

        #[tokio::test]
        async fn test_custom_state_machine() -> Result<(), Error> {
            let builder = TestStateMachineBuilder::new();
            let sm = builder.build().await?;
            // Test basic functionality
            sm.start()?;
            assert!(sm.is_running());
            // Test apply_chunk with sample entries
            let entries = vec![create_test_entry(1, 1)];
            sm.apply_chunk(entries).await?;
            assert_eq!(sm.len(), 1);
            // Test snapshot operations
            let temp_dir = TempDir::new()?;
            let checksum = sm.generate_snapshot_data(temp_dir.path().to_path_buf(), LogId::new(1, 1)).await?;
            assert!(!checksum.is_zero());
            sm.stop()?;
            Ok(())
        }

        /// Of the page on storage engines.
        #[tokio::test]
        #[ignore = "timed; for a quiet machine"]
        async fn test_performance_of_the_first_page() -> Result<(), Error> {
            let builder = TestStateMachineBuilder::new();
            let sm = builder.build().await?;
            sm.start()?;
            // Performance test: apply 10,000 entries
            let start = std::time::Instant::now();
            let entries = (1..=10000).map(|i| create_test_entry(i, i)).collect();
            sm.apply_chunk(entries).await?;
            let duration = start.elapsed();
            assert!(duration.as_millis() < 1000, "Should apply 10k entries in <1s");
            Ok(())
        }

        // The guide's path is d_engine_core::state_machine_test, but core cannot know a crate that depends on it.
        use d_engine::state_machine_test::{StateMachineBuilder, StateMachineTestSuite};

        struct MyStateMachine;

        impl MyStateMachine {
            async fn new() -> Result<CustomStateMachine, Error> {
                CustomStateMachine::new(std::env::temp_dir()).await
            }
        }

        #[tokio::test]
        #[ignore = "timed; for a quiet machine"] // Run with: cargo test -- --ignored
        async fn test_performance() -> Result<(), Error> {
            struct MyStateMachineBuilder {/* ... */}
            #[async_trait]
            impl StateMachineBuilder for MyStateMachineBuilder {
                async fn build(&self) -> Result<Arc<dyn StateMachine>, Error> {
                    // Create your state machine
                    Ok(Arc::new(MyStateMachine::new().await?))
                }
                async fn cleanup(&self) -> Result<(), Error> {
                    Ok(())
                }
            }
            let builder = MyStateMachineBuilder {};
            // Runs smoke test (100 entries < 1s) and scalability test (O(N) complexity)
            StateMachineTestSuite::run_performance_tests(builder).await?;
            Ok(())
        }
    }
}

/// Both guides, "Register with NodeBuilder".
mod registration {
    use super::*;
    use d_engine::ClientError;
    use d_engine::NodeBuilder;

    struct CustomStorageEngine;

    impl CustomStorageEngine {
        async fn new() -> Result<storage_engine::CustomStorageEngine, Error> {
            storage_engine::CustomStorageEngine::new(tempfile::tempdir()?.keep()).await
        }
    }

    struct CustomStateMachine;

    impl CustomStateMachine {
        async fn new() -> Result<state_machine::CustomStateMachine, Error> {
            state_machine::CustomStateMachine::new(tempfile::tempdir()?.keep()).await
        }
    }

    fn given() -> (NodeConfig, watch::Receiver<()>) {
        (NodeConfig::for_dir("unused"), watch::channel(()).1)
    }

    #[tokio::test]
    #[allow(unused_must_use, reason = "the guides print the calls so")]
    async fn the_snippets_compile_as_printed() -> Result<(), Error> {
        let (config, shutdown_rx) = given();
        let storage_engine = Arc::new(CustomStorageEngine::new().await?);
        NodeBuilder::new(config, shutdown_rx)
            .storage_engine(storage_engine) // Required component
            .build();

        let (config, shutdown_rx) = given();
        let custom_sm = Arc::new(CustomStateMachine::new().await?);
        NodeBuilder::new(config, shutdown_rx)
            .state_machine(custom_sm) // Required component
            .build();
        Ok(())
    }

    #[tokio::test]
    async fn each_alone_names_the_missing_part() -> Result<(), Error> {
        let (config, shutdown_rx) = given();
        let storage_engine = Arc::new(CustomStorageEngine::new().await?);
        let text = NodeBuilder::new(config, shutdown_rx).storage_engine(storage_engine).build().err().unwrap();
        assert!(text.to_string().contains("no state machine"), "{text}");

        let start_as_printed = async {
            let (config, shutdown_rx) = given();
            let custom_sm = Arc::new(CustomStateMachine::new().await?);
            NodeBuilder::new(config, shutdown_rx)
                .state_machine(custom_sm) // Required component
                .start()
                .await?;
            Ok::<(), Error>(())
        };
        let text = start_as_printed.await.unwrap_err();
        assert!(text.to_string().contains("no storage engine"), "{text}");
        Ok(())
    }

    #[tokio::test]
    async fn joined_they_start_a_node() -> Result<(), Box<dyn std::error::Error>> {
        let (config, shutdown_rx) = given();
        let storage_engine = Arc::new(CustomStorageEngine::new().await?);
        let custom_sm = Arc::new(CustomStateMachine::new().await?);
        let node = NodeBuilder::new(config, shutdown_rx)
            .storage_engine(storage_engine) // Required component
            .state_machine(custom_sm) // Required component
            .start()
            .await?;
        let command = d_engine::KvCommand::Put { key: "key".into(), value: "value".into() };
        node.propose(command.encode()).await?;
        assert_eq!(node.read_key("key").await?.as_deref(), Some(&b"value"[..]));
        // The typed calls are for the built-in machine; nothing is proposed to another.
        let last = node.status().last;
        let error = node.put("key", "other").await.unwrap_err();
        assert!(matches!(error, ClientError::Rejected { .. }), "{error}");
        assert_eq!(node.status().last, last);
        node.shutdown().await?;
        Ok(())
    }
}
