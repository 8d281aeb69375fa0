//! RocksDB's errors in words of the storage contract, and the memory of the first one that counts.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use d_engine_core::{Error, Result};
use rocksdb::ErrorKind;

/// What RocksDB says of a full disk.
const NO_SPACE: &str = "No space left on device";

/// What follows from what RocksDB said while `doing` was done.
pub(crate) fn name_error(doing: &str, error: &rocksdb::Error) -> Error {
    let said = error.as_ref();
    match error.kind() {
        ErrorKind::Corruption => Error::corrupt(format!("{doing}: {said}")),
        ErrorKind::IOError if said.contains(NO_SPACE) => {
            Error::io(doing, io::Error::new(io::ErrorKind::StorageFull, said.to_owned()))
        }
        // RocksDB looks only for files that its own records name.
        ErrorKind::IOError if said.contains("No such file or directory") => {
            Error::corrupt(format!("{doing}: a file is missing: {said}"))
        }
        ErrorKind::IOError => Error::io(doing, io::Error::other(said.to_owned())),
        ErrorKind::NotSupported => Error::unsupported(format!("{doing}: {said}")),
        _ => Error::backend(format!("{doing}: {said}")),
    }
}

/// The error of a call that has left everything as it was: a full disk is then no more than that.
pub(crate) fn unchanged(error: Error) -> Error {
    match error {
        Error::Io { doing, source } if source.kind() == io::ErrorKind::StorageFull => Error::NoSpace { doing },
        other => other,
    }
}

/// One open store's failures. After the first failed write or sync it is not known what the disk holds, and every later
/// write fails.
pub(crate) struct Failures {
    place: PathBuf,
    first: OnceLock<String>,
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failures").field("place", &self.place).field("first", &self.first).finish()
    }
}

impl Failures {
    pub(crate) fn of(place: &Path) -> Self {
        Self { place: place.to_path_buf(), first: OnceLock::new() }
    }

    /// An error if an earlier write or sync has failed.
    pub(crate) fn check(&self) -> Result<()> {
        match self.first.get() {
            None => Ok(()),
            Some(why) => Err(Error::Poisoned { why: why.clone() }),
        }
    }

    /// From now on every write fails.
    pub(crate) fn poison(&self, error: Error) -> Error {
        let _ = self.first.set(error.to_string());
        error
    }

    /// The result of a write or a sync; a failed one poisons.
    pub(crate) fn written<T>(&self, doing: &str, result: Result<T, rocksdb::Error>) -> Result<T> {
        self.read(doing, result).map_err(|error| self.poison(error))
    }

    /// The result of a read.
    pub(crate) fn read<T>(&self, doing: &str, result: Result<T, rocksdb::Error>) -> Result<T> {
        result.map_err(|error| name_error(&format!("{doing} in {}", self.place.display()), &error))
    }

    /// Damage that this crate noticed.
    pub(crate) fn damage(&self, what: &str) -> String {
        format!("{}: {what}", self.place.display())
    }
}
