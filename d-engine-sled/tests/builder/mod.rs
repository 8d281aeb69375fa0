//! The builder of this backend for the test suite.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unreachable_pub, reason = "shared by the test files")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use d_engine_core::{Error, StateMachine};
use d_engine_kv::KvStateMachine;
use d_engine_sled::{SledKvStore, SledStorageEngine};
use d_engine_test_suite::kv_store_test::KvStoreBuilder;
use d_engine_test_suite::state_machine_test::StateMachineBuilder;
use d_engine_test_suite::storage_engine_test::StorageEngineBuilder;
use tempfile::TempDir;

/// What sled 0.34 cannot do; the crate's documentation says the same.
const KNOWN_FAILURES: &[(&str, &str)] = &[
    ("a_failed_write_or_sync_poisons", FAILED_WRITE),
    ("a_failed_save_of_the_vote_poisons", FAILED_WRITE),
    ("a_failed_write_or_sync_is_an_error", FAILED_WRITE),
    ("purge_shrinks_disk_use", "sled keeps removed data for a while: after a purge of 24 MiB its files had grown"),
    ("damage_is_corrupt_and_never_a_hole", DAMAGE),
    ("unreadable_hard_state_is_an_error", DAMAGE),
    ("damage_is_corrupt_and_never_an_empty_store", DAMAGE),
    ("damage_is_corrupt_and_never_another_state", DAMAGE),
];
const FAILED_WRITE: &str = "after a write that failed (EIO by strace), sled finds damage when it opens";
const DAMAGE: &str = "sled takes a damaged place for the end of its own log";

/// A place of its own for each test.
pub struct Sled {
    place: PathBuf,
    _dir: Option<TempDir>,
}

impl Sled {
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

    fn known_failures(&self) -> &'static [(&'static str, &'static str)] {
        KNOWN_FAILURES
    }

    fn tells_torn_tail_from_damage(&self) -> bool {
        false
    }

    fn refuses_cleanly_when_full(&self) -> bool {
        false
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

    fn known_failures(&self) -> &'static [(&'static str, &'static str)] {
        KNOWN_FAILURES
    }

    fn tells_torn_tail_from_damage(&self) -> bool {
        false
    }

    fn refuses_cleanly_when_full(&self) -> bool {
        false
    }

    fn survives_power_loss(&self) -> bool {
        false
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

    fn known_failures(&self) -> &'static [(&'static str, &'static str)] {
        KNOWN_FAILURES
    }

    fn tells_torn_tail_from_damage(&self) -> bool {
        false
    }

    fn refuses_cleanly_when_full(&self) -> bool {
        false
    }

    fn survives_power_loss(&self) -> bool {
        false
    }
}
