//! A simulated disk: it knows what was synced, and makes every image that a crash may leave.
//!
//! For tests of whatever does its I/O through [`Vfs`]. All state is in memory, all chance comes from the seeds given, and
//! clones are handles of the same disk.
//!
//! * [`SimDisk::burn_after`] lets the power go after some operations; the images come from
//!   [`SimDisk::after_power_cut`] (any part of what was not synced) and [`SimDisk::after_kill`] (all of it).
//! * [`SimDisk::fail`] makes operations fail. After a failed sync the pages look clean and are not durable, as those of
//!   the operating system are, and a later sync has nothing to do.
//! * [`SimDisk::set_full`] and [`SimDisk::set_capacity`] fill it up.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Vfs, VfsFile, VfsLock};

const SECTOR: usize = 512;
const PAGE: usize = 4096;

/// What a disk may be asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// [`VfsFile::read_exact_at`].
    Read,
    /// [`VfsFile::write_all_at`].
    Write,
    /// [`VfsFile::sync_data`].
    Sync,
    /// [`Vfs::open`] and [`Vfs::create`].
    Open,
    /// [`Vfs::rename`].
    Rename,
    /// [`Vfs::remove`].
    Remove,
    /// [`Vfs::sync_dir`].
    SyncDir,
}

/// Operations that are going to fail.
#[derive(Debug, Clone, Copy)]
struct Fault {
    operation: Operation,
    skipped: u64,
    count: u64,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    /// Writes since the last sync, in order.
    pending: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Link(PathBuf, usize),
    Unlink(PathBuf),
}

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Since the last sync of a directory; the journal keeps their order.
    changes: Vec<NameChange>,
    locked: Vec<PathBuf>,
    /// Operations that change something, until the power goes.
    fuse: Option<u64>,
    operations: u64,
    bytes_read: u64,
    faults: Vec<Fault>,
    full: bool,
    capacity: Option<u64>,
}

/// A disk in memory.
#[derive(Debug, Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    /// An empty disk that works.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power goes during the `operations`th change from now on: that one and all behind it fail.
    pub fn burn_after(&self, operations: u64) {
        self.state().fuse = Some(operations);
    }

    /// Whether the power has gone.
    pub fn is_dead(&self) -> bool {
        self.state().fuse == Some(0)
    }

    /// How many operations that change something were asked for.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// How many bytes were read.
    pub fn bytes_read(&self) -> u64 {
        self.state().bytes_read
    }

    /// After the next `skipped` operations of this kind, `count` fail with an input/output error.
    pub fn fail(&self, operation: Operation, skipped: u64, count: u64) {
        self.state().faults.push(Fault { operation, skipped, count });
    }

    /// While full, no file gets longer and none is made.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// The most bytes that all named files together may have.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Bytes of all named files together.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// The names of all files.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.state().names.keys().filter(|path| path.file_name().is_some_and(|name| name != ".")).cloned().collect()
    }

    /// Changes the bytes of a file, durably and unseen: what ages or is damaged on a shelf.
    ///
    /// # Errors
    /// There is no such file.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.inode(path)?;
        let inode = &mut state.inodes[inode];
        change(&mut inode.current);
        inode.durable.clone_from(&inode.current);
        Ok(())
    }

    /// What a process finds that starts after another one was killed: everything, durable or not. Another disk; this one
    /// stays as it is.
    pub fn after_kill(&self) -> SimDisk {
        let state = self.state();
        SimDisk(Arc::new(Mutex::new(State {
            inodes: state.inodes.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            changes: state.changes.clone(),
            capacity: state.capacity,
            ..State::default()
        })))
    }

    /// One of the disks that a power cut may leave, chosen by the seed: any subset of unsynced writes, torn at sectors or
    /// pages and in any order, garbage in pages that were being written, any beginning of the name changes. Another disk;
    /// this one stays as it is.
    pub fn after_power_cut(&self, seed: u64) -> SimDisk {
        let rng = &mut fastrand::Rng::with_seed(seed);
        let state = self.state();
        // All, none, or a coin for each: the extremes are where the mistakes are.
        let odds = [0, 100, 50, 90, 10][rng.usize(..5)];
        let unit = [SECTOR, PAGE][rng.usize(..2)];
        let mut names = state.durable_names.clone();
        let survivors = match odds {
            0 => 0,
            100 => state.changes.len(),
            _ => rng.usize(..=state.changes.len()),
        };
        for change in &state.changes[..survivors] {
            change.apply(&mut names);
        }
        // Files without a name are gone: nobody will ever open them.
        let mut inodes = vec![Inode::default(); state.inodes.len()];
        for inode in names.values() {
            inodes[*inode] = state.inodes[*inode].torn(rng, odds, unit);
        }
        let capacity = state.capacity;
        let durable_names = names.clone();
        SimDisk(Arc::new(Mutex::new(State { inodes, names, durable_names, capacity, ..State::default() })))
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Link(path, inode) => {
                names.retain(|_, held| held != inode);
                names.insert(path.clone(), *inode);
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
        }
    }
}

impl Inode {
    fn torn(&self, rng: &mut fastrand::Rng, odds: u8, unit: usize) -> Inode {
        let mut bytes = self.durable.clone();
        for (offset, data) in &self.pending {
            let mut at = *offset;
            let end = offset + data.len();
            while at < end {
                let stop = ((at / unit + 1) * unit).min(end);
                if rng.u8(..100) < odds {
                    put(&mut bytes, at, &data[at - offset..stop - offset]);
                }
                at = stop;
            }
            // The page that was being written when the power went may hold anything.
            if rng.u8(..100) < 10 && (1..100).contains(&odds) {
                let page = (offset + rng.usize(..data.len().max(1))) / PAGE * PAGE;
                let garbage: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(PAGE).collect();
                put(&mut bytes, page, &garbage);
            }
        }
        Inode { durable: bytes.clone(), current: bytes, pending: Vec::new() }
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

impl State {
    fn spend(&mut self) -> io::Result<()> {
        self.operations += 1;
        match &mut self.fuse {
            Some(0) => Err(io::Error::other("the power is out")),
            Some(left) => {
                *left -= 1;
                if *left == 0 { Err(io::Error::other("the power went out")) } else { Ok(()) }
            }
            None => Ok(()),
        }
    }

    /// An error if this operation is one of those that are to fail.
    fn strike(&mut self, operation: Operation) -> io::Result<()> {
        let due = self.faults.iter_mut().find(|fault| fault.operation == operation);
        match due {
            None => return Ok(()),
            Some(Fault { skipped, .. }) if *skipped > 0 => {
                *skipped -= 1;
                return Ok(());
            }
            Some(fault) => fault.count = fault.count.saturating_sub(1),
        }
        self.faults.retain(|fault| fault.count > 0);
        Err(io::Error::other(format!("injected error of a {operation:?}")))
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn inode(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such file"))
    }

    fn used(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[*inode].current.len() as u64).sum()
    }

    fn has_room(&self, more: usize) -> bool {
        more == 0 || (!self.full && self.capacity.is_none_or(|capacity| self.used() + more as u64 <= capacity))
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl VfsFile for SimFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.strike(Operation::Read)?;
        state.bytes_read += buffer.len() as u64;
        let start = offset as usize;
        let bytes = &state.inodes[self.inode].current;
        let found = bytes.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.fuse == Some(0) {
            return state.spend();
        }
        // The write during which the power goes may still reach the disk in part.
        let spent = state.spend();
        state.strike(Operation::Write)?;
        let start = offset as usize;
        let more = (start + data.len()).saturating_sub(state.inodes[self.inode].current.len());
        if !state.has_room(more) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = &mut state.inodes[self.inode];
        put(&mut inode.current, start, data);
        inode.pending.push((start, data.to_vec()));
        spent
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.spend()?;
        if let Err(error) = state.strike(Operation::Sync) {
            // The pages look clean now, and a later sync has nothing to do.
            state.inodes[self.inode].pending.clear();
            return Err(error);
        }
        // What is written from here on is not part of this sync.
        let pending = std::mem::take(&mut state.inodes[self.inode].pending);
        drop(state);
        std::thread::yield_now();
        let durable = &mut self.disk.state().inodes[self.inode].durable;
        for (offset, data) in pending {
            put(durable, offset, &data);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().inodes[self.inode].current.len() as u64)
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl VfsLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state().locked.retain(|path| *path != self.path);
    }
}

impl Vfs for SimDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let marker = path.join(".");
        let mut state = self.state();
        if !state.names.contains_key(&marker) {
            state.spend()?;
            let inode = state.inodes.len();
            state.inodes.push(Inode::default());
            state.names.insert(marker.clone(), inode);
            state.durable_names.insert(marker, inode);
        }
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let mut state = self.state();
        state.strike(Operation::Open)?;
        let inode = state.inode(path)?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let mut state = self.state();
        state.spend()?;
        state.strike(Operation::Open)?;
        if state.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.change(NameChange::Link(path.to_path_buf(), inode));
        drop(state);
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.spend()?;
        state.strike(Operation::Rename)?;
        let inode = state.inode(from)?;
        state.change(NameChange::Link(to.to_path_buf(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.spend()?;
        state.strike(Operation::Remove)?;
        state.inode(path)?;
        state.change(NameChange::Unlink(path.to_path_buf()));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let below = |name: &PathBuf| {
            let rest = name.strip_prefix(path).ok()?;
            Some(rest.components().next()?.as_os_str().to_string_lossy().into_owned())
        };
        Ok(state.names.keys().filter_map(below).filter(|name| name != ".").collect())
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        // One journal for all directories, as file systems have.
        let mut state = self.state();
        state.spend()?;
        state.strike(Operation::SyncDir)?;
        state.durable_names = state.names.clone();
        state.changes.clear();
        Ok(())
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn VfsLock>>> {
        let mut state = self.state();
        if state.locked.iter().any(|locked| locked == path) {
            return Ok(None);
        }
        state.locked.push(path.to_path_buf());
        Ok(Some(Box::new(SimLock { disk: self.clone(), path: path.to_path_buf() })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(disk: &SimDisk, path: &str) -> Arc<dyn VfsFile> {
        let file = disk.create(Path::new(path)).unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        file
    }

    fn read(disk: &SimDisk, path: &str) -> Vec<u8> {
        let file = disk.open(Path::new(path)).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn what_is_synced_survives_every_power_cut_and_the_rest_any_of_them() {
        let disk = SimDisk::new();
        let f = file(&disk, "f");
        f.write_all_at(&[1; 8192], 0).unwrap();
        f.sync_data().unwrap();
        f.write_all_at(&[2; 8192], 8192).unwrap();
        let images: Vec<Vec<u8>> = (0..200).map(|seed| read(&disk.after_power_cut(seed), "f")).collect();
        assert!(images.iter().all(|bytes| bytes[..8192] == [1; 8192]));
        assert!(images.iter().any(|bytes| bytes.len() == 8192), "all of it lost");
        assert!(images.iter().any(|bytes| bytes[8192..] == [2; 8192]), "none of it lost");
        let torn = |bytes: &[u8]| bytes[8192..].contains(&2) && bytes[8192..].iter().any(|byte| *byte != 2);
        assert!(images.iter().any(|bytes| torn(bytes)), "a part of it lost");
        assert_eq!(read(&disk.after_kill(), "f")[8192..], [2; 8192]);
    }

    #[test]
    fn a_failed_sync_leaves_pages_that_look_clean_and_are_not_durable() {
        let disk = SimDisk::new();
        let f = file(&disk, "f");
        f.write_all_at(b"lost", 0).unwrap();
        disk.fail(Operation::Sync, 0, 1);
        f.sync_data().unwrap_err();
        f.sync_data().unwrap();
        assert_eq!(read(&disk, "f"), b"lost");
        assert!((0..50).all(|seed| read(&disk.after_power_cut(seed), "f").is_empty()));
    }

    #[test]
    fn a_name_may_be_lost_until_its_directory_is_synced() {
        let disk = SimDisk::new();
        file(&disk, "old");
        disk.rename(Path::new("old"), Path::new("new")).unwrap();
        let named = |name: &str| {
            let has = |seed| disk.after_power_cut(seed).paths() == [PathBuf::from(name)];
            (0..50).filter(|seed| has(*seed)).count()
        };
        assert!(named("old") > 0 && named("new") > 0 && named("old") + named("new") == 50);
        disk.sync_dir(Path::new("")).unwrap();
        assert_eq!(named("new"), 50);
    }

    #[test]
    fn faults_come_when_they_are_due_and_a_full_disk_takes_no_more() {
        let disk = SimDisk::new();
        let f = file(&disk, "f");
        disk.fail(Operation::Write, 1, 1);
        let outcomes: Vec<bool> = (0..3).map(|_| f.write_all_at(b"x", 0).is_ok()).collect();
        assert_eq!(outcomes, [true, false, true]);
        disk.set_capacity(Some(3));
        f.write_all_at(b"yyy", 0).unwrap();
        assert_eq!(f.write_all_at(b"zzzz", 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!((read(&disk, "f"), disk.used()), (b"yyy".to_vec(), 3));
        disk.burn_after(2);
        f.sync_data().unwrap();
        assert!(!disk.is_dead());
        assert!(f.sync_data().is_err() && disk.is_dead());
    }
}
