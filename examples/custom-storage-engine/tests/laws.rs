//! The laws of the test suite: the proof that the adaptor is one.

use std::path::Path;

use custom_storage_engine::{SqliteKvStore, SqliteStorageEngine};
use d_engine_core::Error;
use d_engine_kv::KvStateMachine;
use d_engine_test_suite::directory::{Backend, InDirectory, OpenEngine, OpenKvStore, OpenMachine};

/// A place of its own for each test.
type Sqlite = InDirectory<OnSqlite>;

/// SQLite.
struct OnSqlite;

impl Backend for OnSqlite {}

impl OpenEngine for OnSqlite {
    type Engine = SqliteStorageEngine;

    fn open(dir: &Path) -> Result<SqliteStorageEngine, Error> {
        SqliteStorageEngine::open(dir)
    }
}

impl OpenKvStore for OnSqlite {
    type Store = SqliteKvStore;

    fn open(dir: &Path) -> Result<SqliteKvStore, Error> {
        SqliteKvStore::open(dir)
    }
}

/// The built-in machine over the store.
impl OpenMachine for OnSqlite {
    type Machine = KvStateMachine;

    fn open(dir: &Path) -> Result<KvStateMachine, Error> {
        KvStateMachine::new(SqliteKvStore::open(dir)?)
    }
}

d_engine_test_suite::storage_engine_tests!(Sqlite::new());
d_engine_test_suite::kv_store_tests!(Sqlite::new());
d_engine_test_suite::state_machine_tests!(Sqlite::new());
