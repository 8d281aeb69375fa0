//! Experimental storage for d-engine on [sled](https://docs.rs/sled) 0.34: the Raft log, the hard state and the
//! key-value data.
//!
//! ```text
//! <dir>/LOCK      held while the directory is open
//! <dir>/FORMAT    what the directory holds, and the version of its format; written once it can be used
//! <dir>/sled/     sled's own files
//! ```
//!
//! * [`SledStorageEngine`]: the Raft log ([`SledLogStore`]) and the hard state ([`SledMetaStore`]).
//! * [`SledKvStore`]: a key-value store for the state machine.
//!
//! ```
//! use d_engine_kv::KvStateMachine;
//! use d_engine_sled::{SledKvStore, SledStorageEngine};
//! # fn main() -> Result<(), d_engine_core::Error> {
//! # let place = tempfile::tempdir()?;
//! # let data = place.path();
//!
//! let engine = SledStorageEngine::open(data.join("log"))?;
//! let machine = KvStateMachine::new(SledKvStore::open(data.join("data"))?)?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is known to be weak
//!
//! * **It does not promise to survive a loss of power**, and
//!   [`survives_power_loss`](d_engine_core::StorageEngine::survives_power_loss) says so: a node on this log votes in a
//!   cluster of several nodes only with `allow_unsafe_voters`. sled's `flush` is `sync_file_range` on Linux, which writes
//!   neither the length of the file nor the device's cache. This crate syncs sled's files after each flush, which makes
//!   a flushed write durable at that moment. But sled moves live pages and then overwrites the place they came from, in
//!   between with nothing but `sync_file_range`; a loss of power there can take pages that had been durable.
//! * **Damage can look like a shorter log.** sled takes a damaged place for the end of its own log. What it still shows
//!   is checked (every entry has a checksum, a hole is `Corrupt`), but that newer entries or the hard state are gone
//!   cannot be seen. Some damage makes sled panic when it opens; that is caught and reported as `Corrupt`.
//! * **A write that fails can cost the store.** After an input/output error in one of sled's own writes the next open may
//!   find damage. A full disk, too, is an error until the store is reopened.
//! * **It writes much more than it is given**, keeps removed data for a while, and writes large values into files of
//!   their own.
//! * Version 0.34 gets no fixes any more, and the next one is not finished.
//!
//! A process that is killed loses nothing that was flushed. For production there is `d-engine-file`.

use std::path::Path;
use std::sync::Arc;

use d_engine_core::{Result, StorageEngine};

mod database;
mod kv_store;
mod log_store;
mod meta_store;

pub use kv_store::SledKvStore;
pub use log_store::SledLogStore;
pub use meta_store::SledMetaStore;

use database::{Content, Database};

/// The Raft log and the hard state of one data directory.
///
/// One directory, one open engine: the lock is held until the engine and the stores taken from it are dropped.
#[derive(Debug)]
pub struct SledStorageEngine {
    log: Arc<SledLogStore>,
    meta: Arc<SledMetaStore>,
}

impl SledStorageEngine {
    /// Opens the directory, or makes a new one.
    ///
    /// # Errors
    /// `Locked` if it is open already, `Corrupt` for damage that sled or the log notices, `Unsupported` for another
    /// format, `Io` if the directory cannot be made, read or written.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let database = Arc::new(Database::open(dir.as_ref(), Content::Log)?);
        Ok(Self {
            meta: Arc::new(SledMetaStore::new(Arc::clone(&database))?),
            log: Arc::new(SledLogStore::new(database)?),
        })
    }
}

impl StorageEngine for SledStorageEngine {
    type LogStore = SledLogStore;
    type MetaStore = SledMetaStore;

    fn log_store(&self) -> Arc<SledLogStore> {
        Arc::clone(&self.log)
    }

    fn meta_store(&self) -> Arc<SledMetaStore> {
        Arc::clone(&self.meta)
    }

    /// False: see the documentation of this crate.
    fn survives_power_loss(&self) -> bool {
        false
    }
}
