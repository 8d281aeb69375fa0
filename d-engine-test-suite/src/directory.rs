//! Builders for stores that live in a directory: what they have in common is here, and a backend says only how it opens.

use std::fs;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use d_engine_core::{Error, KvStore, StateMachine, StorageEngine};
use tempfile::TempDir;

use crate::SimulatedDisk;
use crate::kv_store_test::KvStoreBuilder;
use crate::state_machine_test::StateMachineBuilder;
use crate::storage_engine_test::StorageEngineBuilder;

/// A backend whose stores live in directories, and what it cannot promise.
///
/// With [`OpenEngine`], [`OpenKvStore`] or [`OpenMachine`], as far as the backend has them, [`InDirectory`] is the builder of
/// the suites.
pub trait Backend: Send + Sync + 'static {
    /// As [`StorageEngineBuilder::known_failures`].
    const KNOWN_FAILURES: &'static [(&'static str, &'static str)] = &[];
    /// As [`StorageEngineBuilder::tells_torn_tail_from_damage`].
    const TELLS_TORN_TAIL_FROM_DAMAGE: bool = true;
    /// As [`StorageEngineBuilder::refuses_cleanly_when_full`].
    const REFUSES_CLEANLY_WHEN_FULL: bool = true;
    /// As [`KvStoreBuilder::survives_power_loss`].
    const SURVIVES_POWER_LOSS: bool = true;
}

/// A backend with a storage engine.
pub trait OpenEngine: Backend {
    /// The engine.
    type Engine: StorageEngine;

    /// Opens the engine in `dir`, which it makes if needed.
    ///
    /// # Errors
    /// Those of the engine.
    fn open(dir: &Path) -> Result<Self::Engine, Error>;

    /// As [`StorageEngineBuilder::simulated_disk`].
    fn simulated_disk() -> Option<Box<dyn SimulatedDisk<Self::Engine>>> {
        None
    }
}

/// A backend with a key-value store.
pub trait OpenKvStore: Backend {
    /// The store.
    type Store: KvStore;

    /// Opens the store in `dir`, which it makes if needed.
    ///
    /// # Errors
    /// Those of the store.
    fn open(dir: &Path) -> Result<Self::Store, Error>;

    /// As [`KvStoreBuilder::simulated_disk`].
    fn simulated_disk() -> Option<Box<dyn SimulatedDisk<Self::Store>>> {
        None
    }
}

/// A backend with a state machine of the built-in commands.
pub trait OpenMachine: Backend {
    /// The machine.
    type Machine: StateMachine;

    /// Opens the machine in `dir`, which it makes if needed.
    ///
    /// # Errors
    /// Those of the machine.
    fn open(dir: &Path) -> Result<Self::Machine, Error>;

    /// As [`StateMachineBuilder::simulated_disk`].
    fn simulated_disk() -> Option<Box<dyn SimulatedDisk<dyn StateMachine>>> {
        None
    }
}

/// The builder of a backend's stores, in a temporary directory of its own or one that the suite has chosen.
#[derive(Debug)]
pub struct InDirectory<B> {
    place: PathBuf,
    _own: Option<TempDir>,
    _backend: PhantomData<B>,
}

impl<B: Backend> InDirectory<B> {
    /// A builder in a temporary directory, which goes with it.
    ///
    /// # Panics
    /// If the system gives no temporary directory.
    #[allow(clippy::new_without_default, reason = "it makes a directory")]
    #[must_use]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("tests need a temporary directory");
        Self { place: dir.path().join("store"), _own: Some(dir), _backend: PhantomData }
    }

    fn below(dir: &Path) -> Self {
        Self { place: dir.join("store"), _own: None, _backend: PhantomData }
    }

    /// The store's own directory, which need not be there yet.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.place
    }

    fn empty(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl<B: OpenEngine> StorageEngineBuilder for InDirectory<B> {
    type Engine = B::Engine;

    async fn build(&self) -> Result<Arc<B::Engine>, Error> {
        Ok(Arc::new(B::open(&self.place)?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        self.empty()
    }

    fn at(dir: &Path) -> Option<Self> {
        Some(Self::below(dir))
    }

    fn known_failures(&self) -> &'static [(&'static str, &'static str)] {
        B::KNOWN_FAILURES
    }

    fn tells_torn_tail_from_damage(&self) -> bool {
        B::TELLS_TORN_TAIL_FROM_DAMAGE
    }

    fn refuses_cleanly_when_full(&self) -> bool {
        B::REFUSES_CLEANLY_WHEN_FULL
    }

    fn simulated_disk(&self) -> Option<Box<dyn SimulatedDisk<B::Engine>>> {
        B::simulated_disk()
    }
}

#[async_trait]
impl<B: OpenKvStore> KvStoreBuilder for InDirectory<B> {
    type Store = B::Store;

    async fn build(&self) -> Result<Arc<B::Store>, Error> {
        Ok(Arc::new(B::open(&self.place)?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        self.empty()
    }

    fn at(dir: &Path) -> Option<Self> {
        Some(Self::below(dir))
    }

    fn known_failures(&self) -> &'static [(&'static str, &'static str)] {
        B::KNOWN_FAILURES
    }

    fn tells_torn_tail_from_damage(&self) -> bool {
        B::TELLS_TORN_TAIL_FROM_DAMAGE
    }

    fn refuses_cleanly_when_full(&self) -> bool {
        B::REFUSES_CLEANLY_WHEN_FULL
    }

    fn simulated_disk(&self) -> Option<Box<dyn SimulatedDisk<B::Store>>> {
        B::simulated_disk()
    }

    fn survives_power_loss(&self) -> bool {
        B::SURVIVES_POWER_LOSS
    }
}

#[async_trait]
impl<B: OpenMachine> StateMachineBuilder for InDirectory<B> {
    async fn build(&self) -> Result<Arc<dyn StateMachine>, Error> {
        Ok(Arc::new(B::open(&self.place)?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        self.empty()
    }

    fn at(dir: &Path) -> Option<Self> {
        Some(Self::below(dir))
    }

    fn known_failures(&self) -> &'static [(&'static str, &'static str)] {
        B::KNOWN_FAILURES
    }

    fn tells_torn_tail_from_damage(&self) -> bool {
        B::TELLS_TORN_TAIL_FROM_DAMAGE
    }

    fn refuses_cleanly_when_full(&self) -> bool {
        B::REFUSES_CLEANLY_WHEN_FULL
    }

    fn simulated_disk(&self) -> Option<Box<dyn SimulatedDisk<dyn StateMachine>>> {
        B::simulated_disk()
    }

    fn survives_power_loss(&self) -> bool {
        B::SURVIVES_POWER_LOSS
    }
}
