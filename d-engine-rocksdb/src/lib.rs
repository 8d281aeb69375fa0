#![doc = include_str!("../README.md")]
//!
//! # How the directories are laid out
//!
//! ```text
//! <log>/LOCK                         held while the log is open
//! <log>/FORMAT                       what the directory holds, and the version of its format
//! <log>/rocksdb/                     RocksDB's files, with the column families `entries` and `meta`
//!
//! <data>/LOCK, FORMAT                as above
//! <data>/GENERATION                  the number of the generation that counts, and a checksum
//! <data>/generation-<number>/        RocksDB's files of that generation
//! ```

use std::path::Path;
use std::sync::Arc;

use d_engine_core::{Result, StorageEngine};

mod crc32c;
mod directory;
mod error;
mod generation;
mod kv_store;
mod log_database;
mod log_file;
mod log_format;
mod log_store;
mod manifest;
mod meta_store;
mod options;

pub use kv_store::RocksKvStore;
pub use log_store::RocksLogStore;
pub use meta_store::RocksMetaStore;

use log_database::LogDatabase;

/// The Raft log and the hard state of one data directory.
///
/// One directory, one open engine: the lock is held until the engine and the stores taken from it are dropped.
#[derive(Debug)]
pub struct RocksStorageEngine {
    log: Arc<RocksLogStore>,
    meta: Arc<RocksMetaStore>,
}

impl RocksStorageEngine {
    /// Opens the directory, or makes a new one. What it then shows is durable; a write that a crash interrupted before it
    /// was synced is cut.
    ///
    /// # Errors
    /// `Locked` if it is open already; `Corrupt` for damage, which is left as it is; `Unsupported` for another format or
    /// a directory of data; `Io` if the directory cannot be made, read or written.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let database = Arc::new(LogDatabase::open(dir.as_ref())?);
        Ok(Self {
            meta: Arc::new(RocksMetaStore::new(Arc::clone(&database))?),
            log: Arc::new(RocksLogStore::new(database)?),
        })
    }
}

impl StorageEngine for RocksStorageEngine {
    type LogStore = RocksLogStore;
    type MetaStore = RocksMetaStore;

    fn log_store(&self) -> Arc<RocksLogStore> {
        Arc::clone(&self.log)
    }

    fn meta_store(&self) -> Arc<RocksMetaStore> {
        Arc::clone(&self.meta)
    }
}
