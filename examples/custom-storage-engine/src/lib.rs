//! A storage adaptor as anyone can write it: the Raft log, the hard state and the key-value data in SQLite.
//!
//! ```text
//! <dir>/LOCK       held while the directory is open
//! <dir>/FORMAT     what the directory holds, and the version of its format; written once it can be used
//! <dir>/store.db   the SQLite database
//! ```
//!
//! * [`SqliteStorageEngine`]: the log ([`SqliteLogStore`]) and the hard state ([`SqliteMetaStore`]).
//! * [`SqliteKvStore`]: a key-value store for the built-in state machine.
//!
//! How durability, damage and failures are handled is said in `database.rs`; the README walks through all of it.
//!
//! # Limits
//!
//! * One connection: a read waits while a write or a flush runs. There are no views, so a snapshot of the machine keeps
//!   the old values of keys that are written meanwhile.
//! * Opening reads the whole database, to notice damage that would hide rows.
//! * Indexes of the log end at 2^63 - 1: SQLite's integers have a sign.
//! * On a full disk a purge, too, may be refused: SQLite needs space to give space back.

mod database;
mod kv_store;
mod log_store;
mod meta_store;
mod state;

use std::path::Path;
use std::sync::Arc;

use d_engine_core::{Result, StorageEngine};

pub use kv_store::SqliteKvStore;
pub use log_store::SqliteLogStore;
pub use meta_store::SqliteMetaStore;

use database::{Content, Database};
use state::State;

/// The Raft log and the hard state of one directory.
///
/// One directory, one open engine: the lock is held until the engine and the stores taken from it are dropped.
#[derive(Debug)]
pub struct SqliteStorageEngine {
    log: Arc<SqliteLogStore>,
    meta: Arc<SqliteMetaStore>,
}

impl SqliteStorageEngine {
    /// Opens the directory, or makes a new one. What the stores show afterwards is durable.
    ///
    /// # Errors
    /// `Locked` if it is open already, `Corrupt` for damage and missing files, `Unsupported` for another format, `Io` if
    /// the directory cannot be made, read or written.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let database = Arc::new(Database::open(dir.as_ref(), Content::Log, &State::default().encode())?);
        Ok(Self {
            log: Arc::new(SqliteLogStore::new(Arc::clone(&database))?),
            meta: Arc::new(SqliteMetaStore::new(database)),
        })
    }
}

impl StorageEngine for SqliteStorageEngine {
    type LogStore = SqliteLogStore;
    type MetaStore = SqliteMetaStore;

    fn log_store(&self) -> Arc<SqliteLogStore> {
        Arc::clone(&self.log)
    }

    fn meta_store(&self) -> Arc<SqliteMetaStore> {
        Arc::clone(&self.meta)
    }
}
