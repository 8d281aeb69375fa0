//! A disk in memory without any faults: a file system for one directory.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use d_engine_file::vfs::{Vfs, VfsFile, VfsLock};

/// The bytes of each file.
#[derive(Debug, Default)]
pub(crate) struct MemDisk(Mutex<BTreeMap<PathBuf, Arc<MemFile>>>);

#[derive(Debug, Default)]
struct MemFile(Mutex<Vec<u8>>);

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemDisk {
    pub(crate) fn with(files: &BTreeMap<PathBuf, Vec<u8>>) -> Arc<Self> {
        let file = |(path, bytes): (&PathBuf, &Vec<u8>)| (path.clone(), Arc::new(MemFile(Mutex::new(bytes.clone()))));
        Arc::new(Self(Mutex::new(files.iter().map(file).collect())))
    }

    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        held(&self.0).iter().map(|(path, file)| (path.clone(), held(&file.0).clone())).collect()
    }
}

impl VfsFile for MemFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = held(&self.0);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = start.checked_add(buffer.len()).and_then(|end| bytes.get(start..end));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = held(&self.0);
        let start = offset as usize;
        let len = bytes.len().max(start + data.len());
        bytes.resize(len, 0);
        bytes[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(held(&self.0).len() as u64)
    }
}

#[derive(Debug)]
struct NoLock;

impl VfsLock for NoLock {}

impl Vfs for MemDisk {
    fn create_dir_all(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        Ok(held(&self.0).get(path).cloned().ok_or(io::ErrorKind::NotFound)?)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let file = Arc::new(MemFile::default());
        held(&self.0).insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = held(&self.0);
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        held(&self.0).remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let files = held(&self.0);
        let mut names: Vec<String> = files
            .keys()
            .filter_map(|file| file.strip_prefix(path).ok()?.components().next())
            .map(|name| name.as_os_str().to_string_lossy().into_owned())
            .collect();
        names.dedup();
        Ok(names)
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn try_lock(&self, _path: &Path) -> io::Result<Option<Box<dyn VfsLock>>> {
        Ok(Some(Box::new(NoLock)))
    }
}
