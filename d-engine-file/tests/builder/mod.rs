//! The builder of this backend for the test suite.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unreachable_pub, reason = "shared by the test files")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use d_engine_core::{Error, StateMachine};
use d_engine_file::vfs::sim::SimDisk;
use d_engine_file::{FileKvStore, FileStorageEngine};
use d_engine_kv::KvStateMachine;
use d_engine_test_suite::SimulatedDisk;
use d_engine_test_suite::kv_store_test::KvStoreBuilder;
use d_engine_test_suite::state_machine_test::StateMachineBuilder;
use d_engine_test_suite::storage_engine_test::StorageEngineBuilder;
use tempfile::TempDir;

/// A place of its own for each test.
pub struct File {
    place: PathBuf,
    _dir: Option<TempDir>,
}

impl File {
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
impl StorageEngineBuilder for File {
    type Engine = FileStorageEngine;

    async fn build(&self) -> Result<Arc<FileStorageEngine>, Error> {
        Ok(Arc::new(FileStorageEngine::open(self.place())?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Self::empty(self.place())
    }

    fn at(dir: &Path) -> Option<Self> {
        Self::in_dir(dir)
    }

    fn simulated_disk(&self) -> Option<Box<dyn SimulatedDisk<FileStorageEngine>>> {
        Some(Box::new(Simulated(SimDisk::new())))
    }
}

#[async_trait]
impl KvStoreBuilder for File {
    type Store = FileKvStore;

    async fn build(&self) -> Result<Arc<FileKvStore>, Error> {
        Ok(Arc::new(FileKvStore::open(self.place())?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Self::empty(self.place())
    }

    fn at(dir: &Path) -> Option<Self> {
        Self::in_dir(dir)
    }

    fn simulated_disk(&self) -> Option<Box<dyn SimulatedDisk<FileKvStore>>> {
        Some(Box::new(Simulated(SimDisk::new())))
    }
}

/// The built-in machine over the file store.
#[async_trait]
impl StateMachineBuilder for File {
    async fn build(&self) -> Result<Arc<dyn StateMachine>, Error> {
        Ok(Arc::new(KvStateMachine::new(FileKvStore::open(self.place())?)?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Self::empty(self.place())
    }

    fn at(dir: &Path) -> Option<Self> {
        Self::in_dir(dir)
    }

    fn simulated_disk(&self) -> Option<Box<dyn SimulatedDisk<dyn StateMachine>>> {
        Some(Box::new(Simulated(SimDisk::new())))
    }
}

/// What the stores stand on while the suite cuts the power in memory.
struct Simulated(SimDisk);

/// Everything but how a store is opened is the disk's own.
macro_rules! simulated {
    ($store:ty, $disk:ident => $open:expr) => {
        impl SimulatedDisk<$store> for Simulated {
            fn open(&self) -> Result<Arc<$store>, Error> {
                let $disk = Arc::new(self.0.clone());
                Ok(Arc::new($open))
            }

            fn burn_after(&self, operations: u64) {
                self.0.burn_after(operations);
            }

            fn is_dead(&self) -> bool {
                self.0.is_dead()
            }

            fn after_power_cut(&self, seed: u64) -> Box<dyn SimulatedDisk<$store>> {
                Box::new(Self(self.0.after_power_cut(seed)))
            }
        }
    };
}

// Short segments: a history fills several and uses their files again.
simulated!(FileStorageEngine, disk => FileStorageEngine::open_on(disk, "data", &crate::common::tiny())?);
simulated!(FileKvStore, disk => FileKvStore::open_on(disk, "data")?);
simulated!(dyn StateMachine, disk => KvStateMachine::new(FileKvStore::open_on(disk, "data")?)?);
