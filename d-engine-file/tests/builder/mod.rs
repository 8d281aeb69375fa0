//! The builder of this backend for the test suite.

#![allow(unreachable_pub, reason = "shared by the test files")]

use std::path::Path;
use std::sync::Arc;

use d_engine_core::{Error, StateMachine};
use d_engine_file::vfs::sim::SimDisk;
use d_engine_file::{FileKvStore, FileStorageEngine};
use d_engine_kv::KvStateMachine;
use d_engine_test_suite::SimulatedDisk;
use d_engine_test_suite::directory::{Backend, InDirectory, OpenEngine, OpenKvStore, OpenMachine};

/// A place of its own for each test.
pub type File = InDirectory<OnFiles>;

/// Files of its own.
pub struct OnFiles;

impl Backend for OnFiles {}

impl OpenEngine for OnFiles {
    type Engine = FileStorageEngine;

    fn open(dir: &Path) -> Result<FileStorageEngine, Error> {
        FileStorageEngine::open(dir)
    }

    fn simulated_disk() -> Option<Box<dyn SimulatedDisk<FileStorageEngine>>> {
        Some(Box::new(Simulated(SimDisk::new())))
    }
}

impl OpenKvStore for OnFiles {
    type Store = FileKvStore;

    fn open(dir: &Path) -> Result<FileKvStore, Error> {
        FileKvStore::open(dir)
    }

    fn simulated_disk() -> Option<Box<dyn SimulatedDisk<FileKvStore>>> {
        Some(Box::new(Simulated(SimDisk::new())))
    }
}

/// The built-in machine over the file store.
impl OpenMachine for OnFiles {
    type Machine = KvStateMachine;

    fn open(dir: &Path) -> Result<KvStateMachine, Error> {
        KvStateMachine::new(FileKvStore::open(dir)?)
    }

    fn simulated_disk() -> Option<Box<dyn SimulatedDisk<dyn StateMachine>>> {
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
