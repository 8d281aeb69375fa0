//! File storage for d-engine: a segmented write-ahead log, slot files and a checkpointed map.
//!
//! ```text
//! <dir>/LOCK                     held while the directory is open
//! <dir>/hard_state               slot file: term, vote, identity
//! <dir>/log_state                slot file: log uuid, first segment, purge boundary, synced position
//! <dir>/wal/{seq:016x}.wal       segments, growing from 1 MiB to 64 MiB
//! <dir>/wal/next.tmp             the next segment, prepared ahead
//! <dir>/wal/{seq:016x}.old       a purged segment whose file is written again
//! ```
//!
//! * [`FileStorageEngine`]: the Raft log ([`FileLogStore`]) and the hard state ([`FileMetaStore`]).
//! * [`FileKvStore`]: a key-value store whose journal is the Raft log.
//!
//! The formats are described at the top of `segment.rs`, `batch.rs` and `seal.rs` and in `d_engine_core::slot`; every file
//! carries a version. Opening reads the seals of all segments but the last; what was damaged in a sealed one is found by
//! whoever reads it, and by [`FileLogStore::verify`]. Within the last 50 ms before a crash, damage to the last group cannot
//! be told from a torn write.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use d_engine_core::{Error, Result, StorageEngine};

mod active;
mod batch;
mod inspect;
mod keeper;
mod kv_store;
mod log_index;
mod log_state;
mod log_store;
mod meta_store;
mod pack;
mod reader;
mod recover;
mod replay;
mod seal;
mod segment;
mod shared;
mod slot_file;
mod tail;
mod verify;
pub mod vfs;
mod wal;

pub use inspect::{Inspection, SegmentPart, SegmentView, StateView, inspect};
pub use kv_store::FileKvStore;
pub use log_store::FileLogStore;
pub use meta_store::FileMetaStore;
pub use verify::LogCheck;

use log_state::LogState;
use segment::PAGE;
use slot_file::SlotFile;
use vfs::{OsDisk, Vfs, VfsLock};
use wal::WalDir;

/// What follows from a damaged directory. An older copy of it is no remedy: a node that has forgotten what it acknowledged
/// or whom it voted for makes the cluster lose writes.
const RECOVERY: &str = "the files are left as they are, and the cluster goes on without this node while a majority of its \
                        nodes runs; never put an older copy back: it may lack entries this node has acknowledged or votes \
                        it has given. Replacing a member comes with membership changes, which this version does not have";

const LOCK: &str = "LOCK";
const HARD_STATE: &str = "hard_state";
const LOG_STATE: &str = "log_state";
const WAL: &str = "wal";

/// Sizes of a file storage engine.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FileStorageOptions {
    /// Bytes of the first segment; each next one is twice as long. Rounded to pages of 4 KiB.
    pub segment_bytes_min: u64,
    /// Bytes of the longest segment, unless a single batch is longer; at most 1 GiB.
    pub segment_bytes_max: u64,
    /// Bytes of memory for the newest entries, which are read from there.
    pub tail_cache_bytes: usize,
    /// Whether batches are compressed when they are written. Those on disk are read either way.
    pub compression: Compression,
    /// Purged segments whose files are kept to be written again, which costs half of a new file's first use. The default
    /// holds what a log that grows to 256 MiB between snapshots gives back: no more than it takes up before each.
    pub spare_segments_max: usize,
}

/// How the data of batches is compressed; short batches never are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// With LZ4.
    Lz4,
}

impl Default for FileStorageOptions {
    fn default() -> Self {
        Self {
            segment_bytes_min: 1 << 20,
            segment_bytes_max: 64 << 20,
            tail_cache_bytes: 16 << 20,
            compression: Compression::None,
            spare_segments_max: 4,
        }
    }
}

impl FileStorageOptions {
    fn rounded(&self) -> Self {
        let bounded = |bytes: u64| bytes.clamp(2 * PAGE, batch::LENGTH_MAX).next_multiple_of(PAGE);
        let segment_bytes_min = bounded(self.segment_bytes_min);
        let segment_bytes_max = bounded(self.segment_bytes_max).max(segment_bytes_min);
        Self { segment_bytes_min, segment_bytes_max, ..self.clone() }
    }
}

/// The Raft log and the hard state of one data directory.
///
/// One directory, one open engine: the lock is held until the engine and the stores taken from it are dropped.
#[derive(Debug)]
pub struct FileStorageEngine {
    log: Arc<FileLogStore>,
    meta: Arc<FileMetaStore>,
}

impl FileStorageEngine {
    /// Opens the directory, or makes a new one. What the stores show afterwards is durable.
    ///
    /// # Errors
    /// `Locked` if it is open already, `Corrupt` for damage before the end of the log, `Unsupported` for a newer format,
    /// `Io` if the directory cannot be made, read or written. Nothing in it is changed then.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir, &FileStorageOptions::default())
    }

    /// [`FileStorageEngine::open`] with sizes of one's own.
    ///
    /// # Errors
    /// As [`FileStorageEngine::open`].
    pub fn open_with(dir: impl AsRef<Path>, options: &FileStorageOptions) -> Result<Self> {
        Self::open_on(Arc::new(OsDisk), dir, options)
    }

    /// [`FileStorageEngine::open_with`] on a file system of one's own, for tests that break it.
    ///
    /// # Errors
    /// As [`FileStorageEngine::open`].
    pub fn open_on(disk: Arc<dyn Vfs>, dir: impl AsRef<Path>, options: &FileStorageOptions) -> Result<Self> {
        let paths = Paths { disk, dir: dir.as_ref().to_path_buf() };
        let lock = paths.lock()?;
        if paths.is_new()? {
            paths.create()?;
        }
        let (meta, _) = FileMetaStore::read(paths.disk.as_ref(), &paths.file(HARD_STATE))?;
        let wal = WalDir::new(Arc::clone(&paths.disk), &paths.dir);
        let options = options.rounded();
        let opened = recover::open_log(wal, &paths.file(LOG_STATE), &options)?;
        paths.disk.sync_dir(&paths.dir).map_err(|e| paths.error("syncing", e))?;
        Ok(Self {
            meta: Arc::new(FileMetaStore::new(meta, Arc::clone(&lock))?),
            log: Arc::new(FileLogStore::new(opened, &options, lock)?),
        })
    }
}

impl StorageEngine for FileStorageEngine {
    type LogStore = FileLogStore;
    type MetaStore = FileMetaStore;

    fn log_store(&self) -> Arc<FileLogStore> {
        Arc::clone(&self.log)
    }

    fn meta_store(&self) -> Arc<FileMetaStore> {
        Arc::clone(&self.meta)
    }
}

/// A data directory.
struct Paths {
    disk: Arc<dyn Vfs>,
    dir: PathBuf,
}

impl Paths {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn error(&self, doing: &str, error: std::io::Error) -> Error {
        io_error(
            format!(
                "{doing} the data directory {} (it must be a directory that this user may write)",
                self.dir.display()
            ),
            error,
        )
    }

    fn lock(&self) -> Result<Arc<dyn VfsLock>> {
        self.disk.create_dir_all(&self.dir).map_err(|e| self.error("making", e))?;
        match self.disk.try_lock(&self.file(LOCK)).map_err(|e| self.error("locking", e))? {
            Some(lock) => Ok(lock.into()),
            None => Err(Error::Locked { path: self.dir.display().to_string() }),
        }
    }

    /// Whether nothing was ever stored here. `log_state` is made last, so without it there is nothing, and whatever
    /// contradicts that is damage.
    fn is_new(&self) -> Result<bool> {
        let names = self.disk.list(&self.dir).map_err(|e| self.error("listing", e))?;
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        let damage =
            |missing: &str| Err(Error::corrupt(format!("{}: {missing} is missing; {RECOVERY}", self.dir.display())));
        if has(LOG_STATE) {
            return match [HARD_STATE, WAL].into_iter().find(|name| !has(name)) {
                Some(missing) => damage(missing),
                None => Ok(false),
            };
        }
        let used = has(HARD_STATE) && FileMetaStore::read(self.disk.as_ref(), &self.file(HARD_STATE))?.1.is_some();
        let segments =
            if has(WAL) { self.disk.list(&self.file(WAL)).map_err(|e| self.error("listing", e))? } else { vec![] };
        if used || segments.iter().any(|name| segment::sequence_of(name).is_some()) {
            return damage(LOG_STATE);
        }
        Ok(true)
    }

    fn create(&self) -> Result<()> {
        self.disk.create_dir_all(&self.file(WAL)).map_err(|e| self.error("making", e))?;
        FileMetaStore::create(self.disk.as_ref(), &self.file(HARD_STATE))?;
        let state = LogState::new(random_uuid());
        SlotFile::create(self.disk.as_ref(), &self.file(LOG_STATE), log_state::TAG, &state.encode()).map(|_| ())
    }
}

/// The error of an operation before which nothing was written: a full disk is one that can be repeated.
fn io_error(doing: String, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Error::NoSpace { doing },
        _ => Error::io(doing, error),
    }
}

/// Tells logs and segments apart; not a secret. The standard library seeds its hashers from the system's random source.
fn random_uuid() -> u128 {
    use std::hash::{BuildHasher, RandomState};
    let half = |salt: u8| u128::from(RandomState::new().hash_one(salt));
    (half(0) << 64) | half(1)
}
