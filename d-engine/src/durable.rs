//! Files and directories that are there after a power cut, names included.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use d_engine_core::{Error, Result};

/// Adds what was being done, and tells a full disk from everything else.
pub(crate) fn io_error(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let doing = format!("{doing} {}", path.display());
    move |source| match source.kind() {
        io::ErrorKind::StorageFull => Error::NoSpace { doing },
        _ => Error::io(doing, source),
    }
}

/// Only Unix can, and needs to, sync a directory.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("syncing", dir))
}

pub(crate) fn sync_file(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io_error("syncing", path))
}

/// The directory that holds `path`'s name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes a directory and those above it that are missing, each durably: the name of each is synced in the one above.
pub(crate) fn make_dir_all(dir: &Path) -> Result<()> {
    let mut missing = Vec::new();
    let mut above = dir;
    while !above.exists() {
        missing.push(above);
        above = parent(above);
    }
    for dir in missing.into_iter().rev() {
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io_error("making", dir)(error)),
            _ => sync_dir(parent(dir))?,
        }
    }
    Ok(())
}

/// Gives `from` the name `to`, which nothing else may have; durable on return. Both are in the same directory.
pub(crate) fn rename_new(from: &Path, to: &Path) -> Result<()> {
    if !rename_without_replacing(from, to).map_err(io_error("naming", to))? {
        // The system cannot do both in one step.
        if fs::symlink_metadata(to).is_ok() {
            return Err(io_error("naming", to)(io::ErrorKind::AlreadyExists.into()));
        }
        fs::rename(from, to).map_err(io_error("naming", to))?;
    }
    sync_dir(parent(to))
}

/// Whether the system can do it.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn rename_without_replacing(from: &Path, to: &Path) -> io::Result<bool> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn rename_without_replacing(_: &Path, _: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Lets two names change places in one step, not durable before the directory above is synced.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
pub(crate) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).map_err(io::Error::from)
}

/// Lets two names change places in one step: not on this system.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
pub(crate) fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_at_any_depth_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        make_dir_all(&deep).unwrap();
        make_dir_all(&deep).unwrap();
        assert!(deep.is_dir());
        fs::write(dir.path().join("file"), b"").unwrap();
        assert!(make_dir_all(&dir.path().join("file/d")).is_err());
    }

    #[test]
    fn a_new_name_takes_nobodys_place() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("1"), dir.path().join("2"));
        fs::write(&one, b"1").unwrap();
        rename_new(&one, &two).unwrap();
        fs::write(&one, b"other").unwrap();
        assert!(
            matches!(rename_new(&one, &two), Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists)
        );
        assert_eq!((fs::read(&one).unwrap(), fs::read(&two).unwrap()), (b"other".to_vec(), b"1".to_vec()));
    }
}
