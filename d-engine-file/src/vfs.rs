//! The few file operations that this crate needs, behind one trait.
//!
//! [`OsDisk`] is the operating system. Tests substitute the simulated disk of `vfs::sim` (feature `simulated-disk`), which
//! loses unsynced pages, tears writes or fails them. Nothing here knows what the files hold.

use std::fmt::Debug;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

#[cfg(any(test, feature = "simulated-disk"))]
pub mod sim;

/// One open file. Positioned reads and writes only, from any thread.
pub trait VfsFile: Debug + Send + Sync {
    /// Fills `buffer` from `offset`; a file that ends before is an `UnexpectedEof`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Says that these bytes are read soon, so that the disk may fetch them all at once. Advice only.
    fn will_read(&self, _offset: u64, _len: u64) {}

    /// Writes all of `data` at `offset`. Durable only after [`VfsFile::sync_data`].
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the file `len` bytes long where it is shorter, with space on the disk for what it gains, which reads as zeros.
    /// Durable only after [`VfsFile::sync_data`]. Much cheaper than writing these zeros; but the first write to each part
    /// of them costs the journal of the file system something.
    fn allocate(&self, len: u64) -> io::Result<()> {
        fill_with_zeros(self, self.len()?, len)
    }

    /// Makes written data, and the length if it changed, durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;

    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Bytes of zeros that are written and synced in one step.
pub(crate) const ZEROS_STEP: u64 = 1 << 20;

/// Writes zeros from `from` to `to`, durably and steadily: the syncs of others wait for whatever is not on the disk yet.
pub(crate) fn fill_with_zeros(file: &(impl VfsFile + ?Sized), from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; to.saturating_sub(from).min(ZEROS_STEP) as usize];
    let mut at = from;
    while at < to {
        let step = &zeros[..(to - at).min(ZEROS_STEP) as usize];
        file.write_all_at(step, at)?;
        file.sync_data()?;
        at += step.len() as u64;
    }
    Ok(())
}

/// A lock on a directory; dropping it releases it.
pub trait VfsLock: Debug + Send + Sync {}

/// A file system.
pub trait Vfs: Debug + Send + Sync {
    /// Makes the directory and its missing parents; the entries of those it made are durable on return.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>>;

    /// Makes a new, empty file, in place of one that is there.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>>;

    /// Gives a file another name, replacing what has it. Durable after [`Vfs::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Locks `path`, made if needed, against every other process and handle; `None` if it is locked.
    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn VfsLock>>>;
}

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsDisk;

impl Vfs for OsDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || path.is_dir() {
            return Ok(());
        }
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        self.create_dir_all(parent)?;
        match std::fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !path.is_dir() => return Err(error),
            _ => {}
        }
        self.sync_dir(parent)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        Ok(Arc::new(OsFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Arc::new(OsFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn VfsLock>>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(OsLock { _file: file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// The operating system's file system, of which nothing can be changed: every call that would is refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOnlyDisk;

fn refused<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the directory is only looked at"))
}

impl Vfs for ReadOnlyDisk {
    fn create_dir_all(&self, _path: &Path) -> io::Result<()> {
        refused()
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        Ok(Arc::new(ReadOnlyFile(OsFile(File::open(path)?))))
    }

    fn create(&self, _path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        refused()
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        refused()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        OsDisk.list(path)
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        refused()
    }

    /// Shared with others who only look; a lock file that is not there is not made, and nobody holds it.
    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn VfsLock>>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Box::new(NoLock))),
            file => file?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(Box::new(OsLock { _file: file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[derive(Debug)]
struct ReadOnlyFile(OsFile);

impl VfsFile for ReadOnlyFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, _data: &[u8], _offset: u64) -> io::Result<()> {
        refused()
    }

    fn sync_data(&self) -> io::Result<()> {
        refused()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

#[derive(Debug)]
struct NoLock;

impl VfsLock for NoLock {}

#[derive(Debug)]
struct OsFile(File);

impl VfsFile for OsFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn will_read(&self, offset: u64, len: u64) {
        let len = std::num::NonZeroU64::new(len);
        let _ = rustix::fs::fadvise(&self.0, offset, len, rustix::fs::Advice::WillNeed);
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn allocate(&self, len: u64) -> io::Result<()> {
        let from = self.len()?;
        if from >= len {
            return Ok(());
        }
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        match rustix::io::retry_on_intr(|| fallocate(&self.0, FallocateFlags::empty(), from, len - from)) {
            // Not every file system can, or may.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => fill_with_zeros(self, from, len),
            done => Ok(done?),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[derive(Debug)]
struct OsLock {
    _file: File,
}

impl VfsLock for OsLock {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocated_space_reads_as_zeros_and_nothing_gets_shorter() {
        let dir = tempfile::tempdir().unwrap();
        for disk in [&OsDisk as &dyn Vfs, &sim::SimDisk::new()] {
            let file = disk.create(&dir.path().join("f")).unwrap();
            file.write_all_at(b"x", 0).unwrap();
            for (asked, expected) in [(3 << 20, 3 << 20), (4096, 3 << 20)] {
                file.allocate(asked).unwrap();
                assert_eq!(file.len().unwrap(), expected);
            }
            let mut bytes = vec![1; 3 << 20];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes[0] == b'x' && bytes[1..].iter().all(|byte| *byte == 0));
        }
    }
}
