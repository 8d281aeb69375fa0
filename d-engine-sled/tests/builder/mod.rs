//! The builder of this backend for the test suite.

#![allow(unreachable_pub, reason = "shared by the test files")]

use std::path::Path;

use d_engine_core::Error;
use d_engine_kv::KvStateMachine;
use d_engine_sled::{SledKvStore, SledStorageEngine};
use d_engine_test_suite::directory::{Backend, InDirectory, OpenEngine, OpenKvStore, OpenMachine};

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
pub type Sled = InDirectory<OnSled>;

/// sled.
pub struct OnSled;

impl Backend for OnSled {
    const KNOWN_FAILURES: &'static [(&'static str, &'static str)] = KNOWN_FAILURES;
    const TELLS_TORN_TAIL_FROM_DAMAGE: bool = false;
    const REFUSES_CLEANLY_WHEN_FULL: bool = false;
    const SURVIVES_POWER_LOSS: bool = false;
}

impl OpenEngine for OnSled {
    type Engine = SledStorageEngine;

    fn open(dir: &Path) -> Result<SledStorageEngine, Error> {
        SledStorageEngine::open(dir)
    }
}

impl OpenKvStore for OnSled {
    type Store = SledKvStore;

    fn open(dir: &Path) -> Result<SledKvStore, Error> {
        SledKvStore::open(dir)
    }
}

/// The built-in machine over the sled store.
impl OpenMachine for OnSled {
    type Machine = KvStateMachine;

    fn open(dir: &Path) -> Result<KvStateMachine, Error> {
        KvStateMachine::new(SledKvStore::open(dir)?)
    }
}
