//! The database of the Raft log and the hard state: one RocksDB with a column family for each, one write-ahead log, one
//! sync for whoever waits. Nothing here knows what is stored.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use d_engine_core::{Error, Result};
use rocksdb::{ColumnFamily, ColumnFamilyDescriptor, DB, FlushOptions, WriteBatch};

use crate::directory::{Content, Directory};
use crate::error::{Failures, name_error};
use crate::log_file::{self, Evidence};
use crate::manifest::{self, Manifest};
use crate::options;

const ENTRIES: &str = "entries";
const META: &str = "meta";

/// Bytes in memory, roughly, that become a file. RocksDB itself would do so at twice as many, without a sync before.
const ROTATE: usize = options::WRITE_BUFFER / 2;
/// Bytes in memory that are worth a file of their own after a purge.
const WORTH_A_FILE: usize = 1 << 20;
/// What a step costs in memory beside its bytes.
const STEP: usize = 128;

/// An open database.
pub(crate) struct LogDatabase {
    // Before the directory: it must be closed while the directory is locked.
    db: DB,
    directory: Directory,
    /// RocksDB's own directory.
    own: PathBuf,
    failures: Failures,
    writer: Mutex<Unflushed>,
    /// Held during a sync, so that an error is seen by everyone whom it concerns: the system reports it once.
    syncing: Mutex<()>,
    /// The last sequence number that is known to be on the disk.
    durable: AtomicU64,
}

/// What is in memory and in the present file of the write-ahead log.
struct Unflushed {
    /// The last sequence number before that file.
    base: u64,
    bytes: usize,
    /// The last sequence number that a batch has said to be durable.
    witnessed: u64,
}

impl fmt::Debug for LogDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { directory, failures, durable, .. } = self;
        f.debug_struct("LogDatabase")
            .field("directory", directory)
            .field("failures", failures)
            .field("durable", durable)
            .finish_non_exhaustive()
    }
}

impl LogDatabase {
    /// Opens or makes the directory. What it shows then is durable: RocksDB writes what it finds in its write-ahead log to
    /// files before it is open.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let directory = Directory::open(path, Content::Log)?;
        let own = path.join("rocksdb");
        if let Some(manifest) = Manifest::check(&own)? {
            log_file::check_beginning(&own, manifest.last_sequence)?;
            manifest.cut()?;
        }
        log_file::cut_torn_tail(&own)?;
        let is_new = directory.is_new();
        let families = [
            ColumnFamilyDescriptor::new(ENTRIES, options::entries()),
            ColumnFamilyDescriptor::new(META, options::log(is_new)),
        ];
        let db = DB::open_cf_descriptors(&options::log(is_new), &own, families)
            .map_err(|error| name_open_error(&own, &error))?;
        directory.label(Content::Log)?;
        manifest::note_synced(&own);
        let base = db.latest_sequence_number();
        Ok(Self {
            db,
            directory,
            failures: Failures::of(path),
            own,
            writer: Mutex::new(Unflushed { base, bytes: 0, witnessed: base }),
            syncing: Mutex::new(()),
            durable: AtomicU64::new(base),
        })
    }

    pub(crate) fn db(&self) -> &DB {
        &self.db
    }

    /// The column family of the log's entries.
    pub(crate) fn entries(&self) -> Result<&ColumnFamily> {
        self.family(ENTRIES)
    }

    /// The column family of small records.
    pub(crate) fn meta(&self) -> Result<&ColumnFamily> {
        self.family(META)
    }

    fn family(&self, name: &str) -> Result<&ColumnFamily> {
        self.db.cf_handle(name).ok_or_else(|| Error::corrupt(self.failures.damage("a column family is missing")))
    }

    pub(crate) fn failures(&self) -> &Failures {
        &self.failures
    }

    /// The right to write, one at a time.
    pub(crate) fn writer(&self) -> Result<Writer<'_>> {
        let unflushed = self
            .writer
            .lock()
            .map_err(|_| Error::Poisoned { why: "a write to the database of the log ended in a panic".into() })?;
        self.failures.check()?;
        let mut writer = Writer::new(self, unflushed);
        if writer.unflushed.bytes >= ROTATE {
            writer.rotate()?;
        }
        Ok(writer)
    }

    /// Makes every write that has returned durable; one sync for all who wait.
    pub(crate) fn flush(&self) -> Result<()> {
        self.sync()?;
        if let Ok(unflushed) = self.writer.lock() {
            Writer::new(self, unflushed).bear_witness();
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let _syncing = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        self.failures.check()?;
        let written = self.db.latest_sequence_number();
        self.failures.written("syncing the write-ahead log", self.db.flush_wal(true))?;
        self.durable.fetch_max(written, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for LogDatabase {
    fn drop(&mut self) {
        // Nobody is left to be told; what was synced is found again from the write-ahead log.
        if let Ok(mut writer) = self.writer() {
            let _ = writer.flush(true);
            manifest::note_synced(&self.own);
        }
    }
}

fn name_open_error(own: &Path, error: &rocksdb::Error) -> Error {
    let doing = format!("opening {}", own.display());
    // Without the permission to make a database, RocksDB says that it finds none.
    if error.as_ref().contains("does not exist") {
        return Error::corrupt(format!("{doing}: {}", error.as_ref()));
    }
    name_error(&doing, error)
}

/// The right to write. Whoever holds it knows that nobody else changes anything.
pub(crate) struct Writer<'a> {
    database: &'a LogDatabase,
    unflushed: MutexGuard<'a, Unflushed>,
    /// What the batch that is being made says to be durable.
    says: u64,
}

impl<'a> Writer<'a> {
    fn new(database: &'a LogDatabase, unflushed: MutexGuard<'a, Unflushed>) -> Self {
        let says = unflushed.witnessed;
        Self { database, unflushed, says }
    }

    /// A batch that says what is durable before it.
    pub(crate) fn batch(&mut self) -> WriteBatch {
        self.says = self.database.durable.load(Ordering::Relaxed);
        let mut batch = WriteBatch::default();
        batch.put_log_data(Evidence { base: self.unflushed.base, durable: self.says }.encode());
        batch
    }

    /// `NoSpace`, with nothing changed, if there is no space for so many bytes.
    pub(crate) fn check_space(&self, doing: &str, bytes: usize) -> Result<()> {
        self.database.directory.check_space(doing, bytes)
    }

    /// Writes a batch, all or nothing; durable after the next sync.
    pub(crate) fn write(&mut self, doing: &str, batch: WriteBatch) -> Result<()> {
        self.unflushed.bytes += batch.size_in_bytes() + batch.len() * STEP;
        self.database.failures.written(doing, self.database.db.write(batch))?;
        self.unflushed.witnessed = self.unflushed.witnessed.max(self.says);
        Ok(())
    }

    /// Makes every write that has returned durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.database.sync()?;
        self.bear_witness();
        Ok(())
    }

    /// Writes, unsynced, a batch without steps, unless one has said already how much is durable. It stands only in the
    /// write-ahead log: so damage to what has just been synced is known as such also if nothing is written any more.
    ///
    /// What was synced is durable without it, so a full disk is no failure; any other is found by the next write.
    fn bear_witness(&mut self) {
        let is_known = self.unflushed.witnessed >= self.database.durable.load(Ordering::Relaxed);
        if is_known || self.check_space("noting what is durable", 0).is_err() {
            return;
        }
        let batch = self.batch();
        let _ = self.write("noting what is durable", batch);
    }

    /// Begins to turn what is in memory into files, after which the present file of the write-ahead log is not needed any
    /// more. It is synced before the next one begins: else a loss of power could take its end and leave the next one.
    pub(crate) fn rotate(&mut self) -> Result<()> {
        self.database.sync()?;
        self.flush(false)?;
        manifest::note_synced(&self.database.own);
        // A record in the next file proves that all of this one was synced.
        let base = self.database.db.latest_sequence_number();
        *self.unflushed = Unflushed { base, bytes: 0, witnessed: 0 };
        self.bear_witness();
        Ok(())
    }

    /// The same, if it gives back space worth the while.
    pub(crate) fn rotate_if_large(mut self) -> Result<()> {
        if self.unflushed.bytes >= WORTH_A_FILE { self.rotate() } else { Ok(()) }
    }

    fn flush(&mut self, wait: bool) -> Result<()> {
        let database = self.database;
        let mut options = FlushOptions::default();
        options.set_wait(wait);
        let families = [database.entries()?, database.meta()?];
        let flushed = database.db.flush_cfs_opt(&[&families[0], &families[1]], &options);
        database.failures.written("writing the log in memory to files", flushed)
    }
}
