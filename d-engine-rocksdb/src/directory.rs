//! The directory of one store: made, locked, labelled, and watched for space. Nothing here knows RocksDB.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use d_engine_core::{Error, Result};

const LOCK: &str = "LOCK";
const FORMAT: &str = "FORMAT";
const VERSION: u32 = 1;

/// Space that a write leaves free, in bytes: RocksDB writes what is in memory to files at a time of its own choosing, and
/// a purge, which gives space back, writes a little first.
const RESERVE: u64 = 40 << 20;

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
        format!("d-engine-rocksdb {name} {VERSION}\n")
    }
}

/// A locked directory.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// It has never been used: there is nothing in it that counts.
    is_new: bool,
    _lock: File,
}

impl Directory {
    /// Makes the directory if needed and locks it.
    pub(crate) fn open(path: &Path, content: Content) -> Result<Self> {
        make(path).map_err(|error| Error::io(format!("making the directory {}", path.display()), error))?;
        let lock = lock(path)?;
        let is_new = !is_used(path, content)?;
        Ok(Self { path: path.to_path_buf(), is_new, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Notes durably what the directory is for, once everything in it can be used.
    pub(crate) fn label(&self, content: Content) -> Result<()> {
        if self.is_new {
            replace_file(&self.path, FORMAT, content.format().as_bytes())?;
        }
        sync_dir(&self.path)?;
        sync_dir(parent_of(&self.path))
    }

    /// `NoSpace` if a write of so many bytes would leave less than what RocksDB itself may need. Nothing has been written
    /// then, whereas RocksDB, refused by the disk in the middle of a write, takes no more until it is opened again.
    pub(crate) fn check_space(&self, doing: &str, bytes: usize) -> Result<()> {
        self.check_free(doing, RESERVE + bytes as u64)
    }

    pub(crate) fn check_free(&self, doing: &str, bytes: u64) -> Result<()> {
        let found = rustix::fs::statvfs(&self.path).map_err(|error| {
            Error::io(format!("asking for the space left in {}", self.path.display()), error.into())
        })?;
        if found.f_bavail.saturating_mul(found.f_frsize) >= bytes {
            return Ok(());
        }
        Err(Error::NoSpace { doing: format!("{doing} in {}", self.path.display()) })
    }
}

/// Makes a directory and those above it; the names of all are durable on return.
fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    make(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !path.is_dir() => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
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

/// Whether the directory has been opened before; its content must then be what is asked for.
fn is_used(dir: &Path, content: Content) -> Result<bool> {
    let path = dir.join(FORMAT);
    let found = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        found => found.map_err(|error| Error::io(format!("reading {}", path.display()), error))?,
    };
    let expected = content.format();
    if found == expected.as_bytes() {
        return Ok(true);
    }
    Err(Error::unsupported(format!(
        "{} says \"{}\"; this build opens \"{}\" here",
        path.display(),
        String::from_utf8_lossy(&found).trim(),
        expected.trim()
    )))
}

/// Gives a file of the directory new content, in one step for a crash. Durable once the directory is synced.
pub(crate) fn replace_file(dir: &Path, name: &str, content: &[u8]) -> Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    File::create(&temporary)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, dir.join(name)))
        .map_err(|error| Error::io(format!("writing {}", dir.join(name).display()), error))
}

pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|file| file.sync_all())
        .map_err(|error| Error::io(format!("syncing the directory {}", dir.display()), error))
}
