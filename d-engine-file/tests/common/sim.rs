//! A simulated disk: it knows what was synced, and makes every image that a power cut may leave.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use d_engine_file::vfs::{Vfs, VfsFile, VfsLock};

const SECTOR: usize = 512;
const PAGE: usize = 4096;

#[derive(Debug, Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    /// Writes since the last sync.
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
    /// The next syncs that fail, once; what was not durable looks clean afterwards.
    failing_syncs: u64,
    failing_writes: u64,
    full: bool,
}

/// A disk in memory.
#[derive(Debug, Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The power goes after so many more changes.
    pub fn burn_after(&self, operations: u64) {
        self.state().fuse = Some(operations);
    }

    pub fn is_dead(&self) -> bool {
        self.state().fuse == Some(0)
    }

    pub fn fail_next_syncs(&self, count: u64) {
        self.state().failing_syncs = count;
    }

    pub fn fail_next_writes(&self, count: u64) {
        self.state().failing_writes = count;
    }

    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// What a process finds that starts after another one was killed: everything, durable or not.
    pub fn after_kill(&self) -> SimDisk {
        let state = self.state();
        SimDisk(Arc::new(Mutex::new(State {
            inodes: state.inodes.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            changes: state.changes.clone(),
            ..State::default()
        })))
    }

    /// One of the disks that a power cut may leave: any subset of unsynced sectors, garbage in pages that were being
    /// written, any beginning of the name changes.
    pub fn after_power_cut(&self, rng: &mut fastrand::Rng) -> SimDisk {
        let state = self.state();
        // All, none, or a coin for each: the extremes are where the mistakes are.
        let odds = [0, 100, 50, 90, 10][rng.usize(..5)];
        let mut names = state.durable_names.clone();
        let survivors = match odds {
            0 => 0,
            100 => state.changes.len(),
            _ => rng.usize(..=state.changes.len()),
        };
        for change in &state.changes[..survivors] {
            change.apply(&mut names);
        }
        let inodes = state.inodes.iter().map(|inode| inode.torn(rng, odds)).collect();
        SimDisk(Arc::new(Mutex::new(State { inodes, names: names.clone(), durable_names: names, ..State::default() })))
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
    fn torn(&self, rng: &mut fastrand::Rng, odds: u8) -> Inode {
        let mut bytes = self.durable.clone();
        for (offset, data) in &self.pending {
            let mut at = *offset;
            let end = offset + data.len();
            while at < end {
                let stop = ((at / SECTOR + 1) * SECTOR).min(end);
                if rng.u8(..100) < odds {
                    if bytes.len() < stop {
                        bytes.resize(stop, 0);
                    }
                    bytes[at..stop].copy_from_slice(&data[at - offset..stop - offset]);
                }
                at = stop;
            }
            // The page that was being written when the power went may hold anything.
            if rng.u8(..100) < 10 && (1..100).contains(&odds) {
                let page = (offset + rng.usize(..data.len().max(1))) / PAGE * PAGE;
                if bytes.len() < page + PAGE {
                    bytes.resize(page + PAGE, 0);
                }
                bytes[page..page + PAGE].fill_with(|| rng.u8(..));
            }
        }
        Inode { durable: bytes.clone(), current: bytes, pending: Vec::new() }
    }
}

impl State {
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            Some(0) => Err(io::Error::other("the power is out")),
            Some(left) => {
                *left -= 1;
                if *left == 0 { Err(io::Error::other("the power went out")) } else { Ok(()) }
            }
            None => Ok(()),
        }
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn inode(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such file"))
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl VfsFile for SimFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.state();
        let bytes = &state.inodes[self.inode].current;
        let start = offset as usize;
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
        if state.failing_writes > 0 {
            state.failing_writes -= 1;
            return Err(io::Error::other("injected write error"));
        }
        let full = state.full;
        let inode = &mut state.inodes[self.inode];
        let start = offset as usize;
        if full && start + data.len() > inode.current.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if inode.current.len() < start + data.len() {
            inode.current.resize(start + data.len(), 0);
        }
        inode.current[start..start + data.len()].copy_from_slice(data);
        inode.pending.push((start, data.to_vec()));
        spent
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.spend()?;
        if state.failing_syncs > 0 {
            state.failing_syncs -= 1;
            // The pages look clean now, and a later sync has nothing to do.
            state.inodes[self.inode].pending.clear();
            return Err(io::Error::other("injected sync error"));
        }
        // What is written from here on is not part of this sync.
        let pending = std::mem::take(&mut state.inodes[self.inode].pending);
        drop(state);
        std::thread::yield_now();
        let durable = &mut self.disk.state().inodes[self.inode].durable;
        for (offset, data) in pending {
            if durable.len() < offset + data.len() {
                durable.resize(offset + data.len(), 0);
            }
            durable[offset..offset + data.len()].copy_from_slice(&data);
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
        let inode = self.state().inode(path)?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let mut state = self.state();
        state.spend()?;
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.change(NameChange::Link(path.to_path_buf(), inode));
        drop(state);
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.spend()?;
        let inode = state.inode(from)?;
        state.change(NameChange::Link(to.to_path_buf(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.spend()?;
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
