//! One SQLite database in a directory of its own: locked, synced when it is said to be, checked when it is opened, and
//! refusing writes after a failure. Nothing here knows what is stored.
//!
//! * **A call is a transaction** in write-ahead mode with `synchronous = NORMAL`: a crash leaves whole transactions, in
//!   order, and a commit syncs nothing. SQLite finds the end of its write-ahead file by checksums, so damage there looks
//!   like a crash: nothing that was acknowledged may rest on it.
//! * **A flush is a checkpoint**: SQLite syncs its write-ahead file, copies it into the database, syncs that, and the
//!   write-ahead file is empty. What was flushed is in the database itself, where every row has a checksum and the state
//!   row counts the rows. SQLite's own, automatic checkpoints are off: it hides their errors.
//! * **A failed write or sync is the last.** After an `fsync` that failed the kernel may call pages clean that the disk
//!   never got, and a second one proves nothing; SQLite itself would go on. A reopen reads the write-ahead file and copies
//!   it into the database again, which makes those pages dirty again.
//! * **A full disk is none of that**: SQLite reports it before a transaction counts, and rolls back without writing.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use d_engine_core::{Error, Result};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

const LOCK: &str = "LOCK";
const FORMAT: &str = "FORMAT";
const DATABASE: &str = "store.db";
const VERSION: u32 = 1;

/// Bytes of the write-ahead file at which a write makes a checkpoint of its own.
const UNFLUSHED_BYTES_MAX: u64 = 64 << 20;

/// What follows from a damaged directory. An older copy is no remedy: it lacks what the node has acknowledged since.
const RECOVERY: &str = "the files are left as they are; never put an older copy back, replace the node instead";

/// What a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// The Raft log and the hard state.
    Log,
    /// The state machine's data.
    Data,
}

impl Content {
    fn format(self) -> String {
        let name = match self {
            Self::Log => "log",
            Self::Data => "data",
        };
        format!("d-engine SQLite example {name} {VERSION}\n")
    }

    /// The tables. The checksum of a row comes before its bytes, so that adding checksums up reads no long values.
    fn schema(self) -> &'static str {
        match self {
            Self::Log => {
                "CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
                 CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, sum INTEGER NOT NULL, bytes BLOB NOT NULL);"
            }
            Self::Data => {
                "CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
                 CREATE TABLE IF NOT EXISTS rows (id BLOB PRIMARY KEY, sum INTEGER NOT NULL, bytes BLOB NOT NULL)
                 WITHOUT ROWID;"
            }
        }
    }
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Database {
    connection: Mutex<Guarded>,
    path: PathBuf,
    // Dropped last: SQLite closes its files before.
    _lock: File,
}

/// The connection, and whether it may write.
#[derive(Debug)]
struct Guarded {
    connection: Connection,
    /// The first failed write or sync.
    failure: Option<String>,
}

impl Database {
    /// Opens or makes the directory, with `initial` as its state row. What the database shows then is durable.
    pub(crate) fn open(dir: &Path, content: Content, initial: &[u8]) -> Result<Self> {
        make(dir).map_err(|error| Error::io(format!("making the directory {}", dir.display()), error))?;
        let lock = lock(dir)?;
        let path = dir.join(DATABASE);
        let is_new = !is_used(dir, content)?;
        let connection = connect(&path, content, is_new.then_some(initial))
            .map_err(|error| name(&path, "opening the database", error))?;
        let database = Self { connection: Mutex::new(Guarded { connection, failure: None }), path, _lock: lock };
        database.flush()?;
        if !is_new {
            // The files had their names when the format was written, and nothing since gave them others.
            return Ok(database);
        }
        if database.has_content(initial)? {
            return Err(Error::corrupt(database.place(&format!("{FORMAT} is missing"))));
        }
        note_format(dir, content).map_err(|error| Error::io(format!("syncing what {} holds", dir.display()), error))?;
        Ok(database)
    }

    fn has_content(&self, initial: &[u8]) -> Result<bool> {
        self.read("looking for content", |connection| {
            let sql = "SELECT EXISTS (SELECT 1 FROM rows) OR NOT EXISTS (SELECT 1 FROM state WHERE bytes = ?)";
            Ok(connection.query_row(sql, [initial], |row| row.get(0))?)
        })
    }

    // A panic of another holder leaves at most an open transaction, which the next one finds and rolls back.
    fn guard(&self) -> MutexGuard<'_, Guarded> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads from one point in time: nobody writes meanwhile.
    pub(crate) fn read<T>(&self, doing: &str, read: impl FnOnce(&Connection) -> Result<T, Failure>) -> Result<T> {
        read(&self.guard().connection).map_err(|failure| self.name(doing, failure))
    }

    /// Runs a transaction: all of it is there on return, or nothing. `committed` runs before anybody reads it. What
    /// breaks the contract and a full disk change nothing; every other failure is the last thing this handle does.
    pub(crate) fn write<T>(
        &self,
        doing: &str,
        write: impl FnOnce(&Connection) -> Result<T, Failure>,
        committed: impl FnOnce(&T),
    ) -> Result<()> {
        let mut guard = self.guard();
        guard.check()?;
        match transaction(&mut guard.connection, write) {
            Ok(value) => committed(&value),
            Err(failure) => {
                // Rolled back, or what the connection shows is not what is there.
                let clean = failure.is_clean() && guard.connection.is_autocommit();
                let error = self.name(doing, failure);
                return Err(if clean { error } else { guard.poison(error) });
            }
        }
        let unflushed = fs::metadata(self.path.with_extension("db-wal")).map_or(0, |found| found.len());
        if unflushed <= UNFLUSHED_BYTES_MAX {
            return Ok(());
        }
        match self.checkpoint(&mut guard) {
            // Nobody was promised a flush. The next one says it again.
            Err(Error::NoSpace { .. }) => Ok(()),
            done => done,
        }
    }

    /// Makes every write that has returned durable.
    pub(crate) fn flush(&self) -> Result<()> {
        let mut guard = self.guard();
        guard.check()?;
        self.checkpoint(&mut guard)
    }

    fn checkpoint(&self, guard: &mut Guarded) -> Result<()> {
        let Err(failure) = checkpoint(&guard.connection).map_err(Failure::Sqlite) else { return Ok(()) };
        // On a full disk the write-ahead file is synced and keeps everything: a repetition goes on from there.
        let clean = failure.is_clean();
        let error = self.name("syncing", failure);
        Err(if clean { error } else { guard.poison(error) })
    }

    /// Damage that a store noticed.
    pub(crate) fn place(&self, what: &str) -> String {
        format!("{}: {what}; {RECOVERY}", self.path.display())
    }

    /// An error of the contract for what failed, with the place.
    fn name(&self, doing: &str, failure: Failure) -> Error {
        match failure {
            Failure::Contract(Error::Corrupt { place, indexes }) => {
                Error::Corrupt { place: self.place(&place), indexes }
            }
            Failure::Contract(error) | Failure::Caller(error) => error,
            Failure::Sqlite(error) => name(&self.path, doing, error),
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Nobody is left to be told. Closing the connection would do the same, and hide its failure as well.
        let _ = self.flush();
    }
}

impl Guarded {
    fn check(&self) -> Result<()> {
        match &self.failure {
            None => Ok(()),
            Some(why) => Err(Error::Poisoned { why: why.clone() }),
        }
    }

    /// From now on every write fails: what is on disk is not known any more.
    fn poison(&mut self, error: Error) -> Error {
        self.failure.get_or_insert_with(|| error.to_string());
        error
    }
}

/// Why reading or a transaction was given up.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The caller's fault, or damage that this crate noticed.
    Contract(Error),
    /// The caller's own error, which is given back as it is.
    Caller(Error),
    /// SQLite failed.
    Sqlite(rusqlite::Error),
}

impl Failure {
    /// Whether a transaction that it ends has left everything as it was, by SQLite's own account.
    fn is_clean(&self) -> bool {
        match self {
            Self::Contract(_) | Self::Caller(_) => true,
            Self::Sqlite(error) => error.sqlite_error_code() == Some(ErrorCode::DiskFull),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Contract(error)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn transaction<T>(
    connection: &mut Connection,
    write: impl FnOnce(&Connection) -> Result<T, Failure>,
) -> Result<T, Failure> {
    if !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    // Dropping it without a commit rolls back.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let value = write(&transaction)?;
    transaction.commit()?;
    Ok(value)
}

/// Syncs the write-ahead file, copies it into the database, and syncs that.
fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    let left: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if left == 0 {
        return Ok(());
    }
    let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
    Err(rusqlite::Error::SqliteFailure(busy, Some("another connection keeps the checkpoint from its end".into())))
}

/// Connects to the database; makes it, if there is an initial state.
fn connect(path: &Path, content: Content, initial: Option<&[u8]>) -> rusqlite::Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, initial.is_some());
    let connection = Connection::open_with_flags(path, flags)?;
    // No other program shares the database: the lock is kept, and no shared memory is used.
    connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA cell_size_check = ON;")?;
    if initial.is_some() && content == Content::Log {
        // Purged space goes back to the file system. Can be chosen only before there are tables.
        connection.execute_batch("PRAGMA auto_vacuum = FULL;")?;
    }
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = NORMAL;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA fullfsync = ON;
         PRAGMA checkpoint_fullfsync = ON;",
    )?;
    if let Some(initial) = initial {
        connection.execute_batch(content.schema())?;
        connection.execute("INSERT OR IGNORE INTO state (id, bytes) VALUES (0, ?)", [initial])?;
    }
    Ok(connection)
}

/// Makes a directory and those above it. The names of all that it made are durable on return: a store whose name is lost
/// with the power is lost whole.
fn make(dir: &Path) -> io::Result<()> {
    for dir in missing(dir).into_iter().rev() {
        match fs::create_dir(dir) {
            // Somebody else was faster.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !dir.is_dir() => return Err(error),
            _ => {}
        }
        File::open(parent_of(dir))?.sync_all()?;
    }
    Ok(())
}

/// The directory and those above it that are not there, the lowest first.
fn missing(dir: &Path) -> Vec<&Path> {
    dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.is_dir()).collect()
}

fn parent_of(dir: &Path) -> &Path {
    match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => dir,
    }
}

fn lock(dir: &Path) -> Result<File> {
    let doing = |error| Error::io(format!("locking {}", dir.display()), error);
    let file = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK)).map_err(doing)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: dir.display().to_string() }),
        Err(TryLockError::Error(error)) => Err(doing(error)),
    }
}

/// Whether the directory has been opened before. Its content must then be what is asked for, and the database be there:
/// SQLite would make a new one.
fn is_used(dir: &Path, content: Content) -> Result<bool> {
    let path = dir.join(FORMAT);
    let found = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        found => found.map_err(|error| Error::io(format!("reading {}", path.display()), error))?,
    };
    let expected = content.format();
    if found != expected.as_bytes() {
        let (found, expected) = (String::from_utf8_lossy(&found), expected.trim());
        return Err(Error::unsupported(format!(
            "{} says \"{}\"; this build opens \"{expected}\" here",
            path.display(),
            found.trim()
        )));
    }
    // An empty file is a new database to SQLite.
    let database = dir.join(DATABASE);
    match fs::metadata(&database) {
        Ok(found) if found.len() > 0 => Ok(true),
        Ok(_) => Err(Error::corrupt(format!("{}: the file is empty; {RECOVERY}", database.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::corrupt(format!("{}: the file is missing; {RECOVERY}", database.display())))
        }
        Err(error) => Err(Error::io(format!("looking at {}", database.display()), error)),
    }
}

/// Notes what a new directory is for, durably, with the names of all its files, and its own once more: an earlier open may
/// have made the directory and been killed before it synced the name.
fn note_format(dir: &Path, content: Content) -> io::Result<()> {
    let temporary = dir.join("FORMAT.tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(content.format().as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(FORMAT))?;
    File::open(dir)?.sync_all()?;
    File::open(parent_of(dir))?.sync_all()
}

/// What SQLite said, as an error of the contract.
fn name(path: &Path, doing: &str, error: rusqlite::Error) -> Error {
    let what = format!("{doing}: {error}");
    let corrupt = || Error::corrupt(format!("{}: {what}; {RECOVERY}", path.display()));
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::NoSpace { doing: format!("{doing} in {}", path.display()) },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Locked { path: path.display().to_string() },
        Some(
            ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly,
        ) => Error::io(format!("{doing} in {}", path.display()), io::Error::other(error)),
        // The statements are fixed: where one does not fit the tables, or a row is missing, doubled or of another type,
        // the tables are not what this crate made.
        Some(
            ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::Unknown
            | ErrorCode::ConstraintViolation
            | ErrorCode::TypeMismatch,
        )
        | None => corrupt(),
        Some(_) => Error::backend(what),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn every_directory_that_is_made_is_named_in_one_that_is_synced() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("a/b/c");
        assert_eq!(missing(&dir), [&dir, &place.path().join("a/b"), &place.path().join("a")]);
        let synced: Vec<_> = missing(&dir).into_iter().map(parent_of).collect();
        assert_eq!(synced, [&place.path().join("a/b"), &place.path().join("a"), place.path()]);
        make(&dir).unwrap();
        assert!(missing(&dir).is_empty());
        make(&dir).unwrap();
        assert_eq!(
            missing(Path::new("no such place/below")),
            [Path::new("no such place/below"), Path::new("no such place")]
        );
        assert_eq!(parent_of(Path::new("no such place")), Path::new("."));
        fs::write(place.path().join("file"), "").unwrap();
        make(&place.path().join("file/below")).unwrap_err();
    }
}
