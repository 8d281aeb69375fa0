//! One sled database in a directory of its own: locked, synced beyond what sled does, and refusing writes after a
//! failure. Nothing here knows what is stored.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use d_engine_core::{Error, Result};
use sled::{Db, Tree};

const LOCK: &str = "LOCK";
const FORMAT: &str = "FORMAT";
const SLED: &str = "sled";
const VERSION: u32 = 1;

/// How long the last handle waits for sled's own threads to let go of the files.
const RELEASE_MAX: Duration = Duration::from_secs(10);

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
        format!("d-engine-sled {name} {VERSION}\n")
    }

    /// Bytes of memory for pages. A log is read at its end, data anywhere.
    fn cache_bytes(self) -> u64 {
        match self {
            Self::Log => 32 << 20,
            Self::Data => 256 << 20,
        }
    }
}

/// An open directory.
pub(crate) struct Database {
    /// `None` only while this is dropped.
    db: Option<Db>,
    dir: PathBuf,
    /// The file that sled writes, through a descriptor of our own: it sees every write error itself.
    file: File,
    /// Files of large values that are durable. Held during a sync, so that an error is seen by everyone whom it
    /// concerns: the system reports it once.
    syncing: Mutex<BTreeSet<OsString>>,
    failure: OnceLock<String>,
    _lock: File,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("dir", &self.dir).field("failure", &self.failure).finish_non_exhaustive()
    }
}

impl Database {
    /// Opens or makes the directory; what sled shows then is synced.
    pub(crate) fn open(dir: &Path, content: Content) -> Result<Self> {
        fs::create_dir_all(dir).map_err(|error| Error::io(format!("making the directory {}", dir.display()), error))?;
        let lock = lock(dir)?;
        let is_new = !is_used(dir, content)?;
        let db = open_sled(dir, content)?;
        let path = dir.join(SLED).join("db");
        let file = File::open(&path).map_err(|error| Error::io(format!("opening {}", path.display()), error))?;
        let database = Self {
            db: Some(db),
            dir: dir.to_path_buf(),
            file,
            syncing: Mutex::default(),
            failure: OnceLock::new(),
            _lock: lock,
        };
        database.flush()?;
        database.sync_everything(is_new.then_some(content))?;
        Ok(database)
    }

    /// The tree of that name, made if needed.
    pub(crate) fn tree(&self, name: &str) -> Result<Tree> {
        self.db()?.open_tree(name).map_err(|error| self.error(&format!("opening the tree {name}"), error))
    }

    pub(crate) fn drop_tree(&self, name: &str) -> Result<()> {
        self.db()?
            .drop_tree(name)
            .map(drop)
            .map_err(|error| self.poison(self.error(&format!("removing the tree {name}"), error)))
    }

    /// The names of all trees that are text; sled's own is called otherwise.
    pub(crate) fn tree_names(&self) -> Result<Vec<String>> {
        Ok(self.db()?.tree_names().iter().filter_map(|name| String::from_utf8(name.to_vec()).ok()).collect())
    }

    fn db(&self) -> Result<&Db> {
        self.db.as_ref().ok_or_else(|| Error::invalid("the store is being closed"))
    }

    /// An error if an earlier write or sync has failed.
    pub(crate) fn check(&self) -> Result<()> {
        match self.failure.get() {
            None => Ok(()),
            Some(why) => Err(Error::Poisoned { why: why.clone() }),
        }
    }

    /// From now on every write fails: what is on disk is not known any more.
    pub(crate) fn poison(&self, error: Error) -> Error {
        let _ = self.failure.set(error.to_string());
        error
    }

    /// The result of a write to sled; a failed one poisons.
    pub(crate) fn written<T>(&self, doing: &str, result: sled::Result<T>) -> Result<T> {
        result.map_err(|error| self.poison(self.error(doing, error)))
    }

    /// What sled said, with what was being done and where.
    pub(crate) fn error(&self, doing: &str, error: sled::Error) -> Error {
        name_error(&format!("{doing} in {}", self.dir.display()), error)
    }

    /// Damage that this crate noticed.
    pub(crate) fn place(&self, what: &str) -> String {
        format!("{}: {what}", self.dir.display())
    }

    /// Makes every write that has returned durable; one sync for all who wait.
    pub(crate) fn flush(&self) -> Result<()> {
        let mut synced = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        let db = self.db()?;
        let doing = "syncing the store";
        let sync = |path: &Path, error| Error::io(format!("{doing}: {}", path.display()), error);
        // Large values first: sled's log refers to their files.
        sync_blobs(&self.dir.join(SLED).join("blobs"), &mut synced).map_err(|(path, e)| self.poison(sync(&path, e)))?;
        self.written(doing, db.flush())?;
        self.file.sync_data().map_err(|error| self.poison(sync(&self.dir, error)))
    }

    /// Syncs what sled leaves to chance when it opens, the directories included, and notes what a new one is for.
    fn sync_everything(&self, new: Option<Content>) -> Result<()> {
        let sled = self.dir.join(SLED);
        let doing = |error| Error::io(format!("syncing what {} holds", self.dir.display()), error);
        for entry in fs::read_dir(&sled).map_err(doing)? {
            let path = entry.map_err(doing)?.path();
            File::open(path).and_then(|file| file.sync_all()).map_err(doing)?;
        }
        File::open(&sled).and_then(|dir| dir.sync_all()).map_err(doing)?;
        if let Some(content) = new {
            let temporary = self.dir.join("FORMAT.tmp");
            File::create(&temporary)
                .and_then(|mut file| file.write_all(content.format().as_bytes()).and_then(|()| file.sync_all()))
                .and_then(|()| fs::rename(&temporary, self.dir.join(FORMAT)))
                .map_err(doing)?;
        }
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(doing)?;
        match self.dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => File::open(parent).and_then(|dir| dir.sync_all()).map_err(doing),
            None => Ok(()),
        }
    }

    /// Waits until sled's threads have closed its file: they may outlive the last handle for a moment, and an open right
    /// after would find it locked.
    fn await_release(&self) {
        let path = self.dir.join(SLED).join("db");
        let until = Instant::now() + RELEASE_MAX;
        while let Ok(file) = File::open(&path) {
            match file.try_lock() {
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                _ => return,
            }
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.flush();
        let db = self.db.take();
        // sled panics if its last sync fails.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
        self.await_release();
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

/// Whether the directory has been opened before. Its content must then be what is asked for, and its files be there:
/// sled would make new ones.
fn is_used(dir: &Path, content: Content) -> Result<bool> {
    let path = dir.join(FORMAT);
    let found = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        found => found.map_err(|error| Error::io(format!("reading {}", path.display()), error))?,
    };
    if found != content.format() {
        let (found, expected) = (found.trim(), content.format());
        return Err(Error::unsupported(format!(
            "{} says \"{found}\"; this build opens \"{}\" here",
            path.display(),
            expected.trim()
        )));
    }
    match ["db", "conf"].into_iter().find(|name| !dir.join(SLED).join(name).exists()) {
        Some(missing) => Err(Error::corrupt(format!("{}: {SLED}/{missing} is missing", dir.display()))),
        None => Ok(true),
    }
}

fn open_sled(dir: &Path, content: Content) -> Result<Db> {
    let config = sled::Config::new().path(dir.join(SLED)).cache_capacity(content.cache_bytes());
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(error))) if error.to_string().contains("could not acquire lock") => {
            Err(Error::Locked { path: dir.display().to_string() })
        }
        Ok(Err(error)) => Err(name_error(&format!("opening {}", dir.display()), error)),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("nothing");
            Err(Error::corrupt(format!("{}: sled panicked while opening it and said: {said}", dir.display())))
        }
    }
}

fn name_error(doing: &str, error: sled::Error) -> Error {
    match error {
        sled::Error::Io(error) => Error::io(doing, error),
        sled::Error::Corruption { at, .. } => {
            let at = at.map_or(String::new(), |at| format!(" at {at:?}"));
            Error::corrupt(format!("{doing}: sled found damage{at}"))
        }
        sled::Error::Unsupported(what) => Error::unsupported(format!("{doing}: {what}")),
        other => Error::backend(other),
    }
}

/// Syncs the files of large values that were not yet, and their directory.
fn sync_blobs(dir: &Path, synced: &mut BTreeSet<OsString>) -> Result<(), (PathBuf, io::Error)> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        move |error| (path.clone(), error)
    };
    let mut present = BTreeSet::new();
    let mut added = false;
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let name = entry.map_err(at(dir))?.file_name();
        if !synced.contains(&name) {
            let path = dir.join(&name);
            match File::open(&path).and_then(|file| file.sync_all()) {
                Ok(()) => added = true,
                // sled has removed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err((path, error)),
            }
        }
        present.insert(name);
    }
    *synced = present;
    if added { File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir)) } else { Ok(()) }
}
