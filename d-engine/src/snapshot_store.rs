//! The node's snapshots: a directory with one directory for each, and beside it the log that they allow to purge.
//!
//! A name is what makes a snapshot count, and every name is given by one rename once everything under it is durable:
//!
//! | name | what it is | after a crash |
//! |---|---|---|
//! | `building`, `receiving` | unfinished | removed |
//! | `installing` | received, verified, and on its way into the state machine: the mark of an installation | the start goes on with it |
//! | `INDEX-TERM` | a snapshot of this node's state; the newest ones are kept | found again |
//!
//! What is installed, sent or purged, and when, is the driver's decision.

mod files;
mod receiving;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use d_engine_core::{Error, LogId, Membership, Result, SnapshotChecksum, SnapshotMetadata};
use tokio::sync::oneshot;

use files::DATA;
pub(crate) use files::Record;
use receiving::Receiving;

use crate::durable::{io_error, make_dir_all, sync_dir};

const BUILDING: &str = "building";
const RECEIVING: &str = "receiving";
const INSTALLING: &str = "installing";
/// Was `INSTALLING`, and goes.
const DISCARDED: &str = "discarded";

pub(crate) struct SnapshotStore {
    dir: PathBuf,
    /// Of a node whose storage forgets everything: removed at the end.
    is_temporary: bool,
    kept_max: usize,
    shelf: Mutex<Shelf>,
    /// Beside the shelf, because a chunk is written under this lock.
    receiving: Mutex<Inbound>,
}

#[derive(Default)]
struct Shelf {
    /// Oldest first.
    kept: Vec<Arc<Record>>,
    marked: Option<Marked>,
}

/// A received snapshot that is marked as being installed.
struct Marked {
    record: Arc<Record>,
    /// The state machine has it.
    is_installed: bool,
    /// The log is purged up to it.
    is_purged: bool,
    /// The sender waits for what becomes of it.
    receipt: Option<oneshot::Sender<bool>>,
}

#[derive(Default)]
struct Inbound {
    current: Option<Receiving>,
    turns: u64,
}

/// What becomes of a received snapshot: whether this node holds its state then. Without an answer it stays open.
pub(crate) type Receipt = oneshot::Receiver<bool>;

impl SnapshotStore {
    /// Reads what is in `dir`, which need not exist; unfinished builds and transfers are removed. Snapshots of another
    /// cluster than `cluster` (0: none yet) are left alone and do not count.
    ///
    /// # Errors
    /// The directory cannot be read, or the snapshot that was being installed is damaged.
    pub(crate) fn open(dir: &Path, kept_max: usize, cluster: u128) -> Result<Self> {
        let mut shelf = Shelf::default();
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            entries => entries
                .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>())
                .map_err(io_error("listing", dir))?,
        };
        for path in entries {
            match path.file_name().and_then(|name| name.to_str()) {
                Some(BUILDING | RECEIVING | DISCARDED) => files::remove(&path)?,
                Some(INSTALLING) => shelf.marked = Some(Marked::new(files::load(&path)?)),
                Some(name) => shelf.kept.extend(load_named(&path, name, cluster)),
                None => {}
            }
        }
        shelf.kept.sort_by_key(|record| record.at().index);
        Ok(Self {
            dir: dir.to_path_buf(),
            is_temporary: false,
            kept_max,
            shelf: Mutex::new(shelf),
            receiving: Mutex::default(),
        })
    }

    /// An empty store that goes with the node.
    pub(crate) fn temporary(dir: PathBuf, kept_max: usize) -> Self {
        let (shelf, receiving) = (Mutex::default(), Mutex::default());
        Self { dir, is_temporary: true, kept_max, shelf, receiving }
    }

    // Poisoned locks are used on: what is under them is consistent wherever their holders could panic.
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receiving(&self) -> MutexGuard<'_, Inbound> {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest snapshot of this node's state.
    pub(crate) fn newest(&self) -> Option<Arc<Record>> {
        self.shelf().kept.last().cloned()
    }

    /// The newest snapshot and its file, which stays readable although the snapshot is removed meanwhile.
    pub(crate) fn open_newest(&self) -> Result<Option<(Arc<Record>, File)>> {
        let shelf = self.shelf();
        let Some(record) = shelf.kept.last().cloned() else { return Ok(None) };
        let path = self.dir_of(record.at()).join(DATA);
        let file = File::open(&path).map_err(io_error("opening", &path))?;
        Ok(Some((record, file)))
    }

    /// Where the newest snapshot's file is.
    pub(crate) fn newest_path(&self) -> Option<(Arc<Record>, PathBuf)> {
        let record = self.newest()?;
        let path = self.dir_of(record.at()).join(DATA);
        Some((record, path))
    }

    fn dir_of(&self, at: LogId) -> PathBuf {
        self.dir.join(format!("{:020}-{}", at.index, at.term))
    }

    /// An empty directory for the state machine to write a snapshot into.
    pub(crate) fn begin_build(&self) -> Result<PathBuf> {
        make_dir_all(&self.dir)?;
        let dir = self.dir.join(BUILDING);
        files::remove(&dir)?;
        fs::create_dir_all(&dir).map_err(io_error("making", &dir))?;
        Ok(dir)
    }

    /// Verifies what the state machine has written and keeps it: the log may be purged up to `at` afterwards.
    pub(crate) fn keep_built(&self, at: LogId, membership: Membership, checksum: SnapshotChecksum) -> Result<()> {
        if checksum.is_zero() {
            return Err(Error::invalid("the state machine gave a snapshot without a checksum"));
        }
        let dir = self.dir.join(BUILDING);
        let (digest, size) = files::digest(&files::settle_data(&dir)?)?;
        let record = Record { metadata: SnapshotMetadata::new(at, membership, checksum, size), digest };
        files::save(&dir, &record)?;
        let old = self.keep(&mut self.shelf(), &dir, Arc::new(record))?;
        self.remove_old(old);
        Ok(())
    }

    /// Gives up what was being built.
    pub(crate) fn abandon_build(&self) {
        if let Err(error) = files::remove(&self.dir.join(BUILDING)) {
            tracing::warn!(%error, "an unfinished snapshot stays until the next one is built");
        }
    }

    /// Names a snapshot. Gives those that are not kept any more; they are removed without the lock, since that may take long.
    fn keep(&self, shelf: &mut Shelf, dir: &Path, record: Arc<Record>) -> Result<Vec<Arc<Record>>> {
        let named = self.dir_of(record.at());
        files::remove(&named)?;
        fs::rename(dir, &named).map_err(io_error("naming", dir))?;
        sync_dir(&self.dir)?;
        shelf.kept.retain(|other| other.at() != record.at());
        shelf.kept.push(record);
        shelf.kept.sort_by_key(|record| record.at().index);
        let surplus = shelf.kept.len().saturating_sub(self.kept_max.max(1));
        Ok(shelf.kept.drain(..surplus).collect())
    }

    fn remove_old(&self, old: Vec<Arc<Record>>) {
        for record in old {
            if let Err(error) = files::remove(&self.dir_of(record.at())) {
                tracing::warn!(%error, "an old snapshot stays on disk");
            }
        }
    }

    /// A sender offers a snapshot; gives the sender's turn and the place where it is to begin.
    ///
    /// # Errors
    /// Another one is being installed, or there is no place for it.
    pub(crate) fn begin_receiving(&self, record: Record) -> Result<(u64, u64)> {
        if let Some(at) = self.settle_marked().map(|marked| marked.at()) {
            return Err(Error::invalid(format!("the snapshot of {at} is being installed")));
        }
        make_dir_all(&self.dir)?;
        let mut inbound = self.receiving();
        inbound.turns += 1;
        let turn = inbound.turns;
        match &mut inbound.current {
            Some(current) if current.record.is_same_file(&record) => current.turn = turn,
            current => *current = Some(Receiving::begin(&self.dir.join(RECEIVING), record, turn)?),
        }
        let written = inbound.current.as_ref().map_or(0, |current| current.written);
        Ok((turn, written))
    }

    /// Takes a chunk of the snapshot that is received.
    pub(crate) fn receive(&self, turn: u64, offset: u64, chunk: &[u8]) -> Result<()> {
        let mut inbound = self.receiving();
        let Some(current) = &mut inbound.current else { return Err(Error::invalid("no snapshot is being received")) };
        let written = current.write(turn, offset, chunk);
        if matches!(&written, Err(error) if !matches!(error, Error::Invalid { .. })) {
            // Part of the chunk may be in the file, and what a failed sync has lost no later one brings back: begin anew.
            inbound.current = None;
        }
        written
    }

    /// How much of the snapshot that is received has arrived, and how long it is.
    pub(crate) fn received(&self) -> Option<(u64, u64)> {
        // Where a chunk is just being written, the next question finds the answer.
        let inbound = self.receiving.try_lock().ok()?;
        inbound.current.as_ref().map(|current| (current.written, current.record.metadata.size))
    }

    /// The last chunk has arrived: verifies the file and marks it as being installed, durably.
    pub(crate) fn mark_received(&self, turn: u64) -> Result<(Arc<Record>, Receipt)> {
        let mut inbound = self.receiving();
        let Some(current) = inbound.current.take_if(|current| current.turn == turn) else {
            return Err(Error::invalid("another sender has taken over the transfer of this snapshot"));
        };
        let record = Arc::new(current.verify()?);
        let mut shelf = self.shelf();
        if shelf.marked.is_some() {
            return Err(Error::invalid("another snapshot is being installed"));
        }
        // Left by a removal that failed; nothing stands for it any more.
        self.remove_installing()?;
        fs::rename(self.dir.join(RECEIVING), self.dir.join(INSTALLING)).map_err(io_error("marking", &self.dir))?;
        sync_dir(&self.dir)?;
        let (receipt, outcome) = oneshot::channel();
        let marked = Marked { receipt: Some(receipt), ..Marked::of(Arc::clone(&record)) };
        shelf.marked = Some(marked);
        Ok((record, outcome))
    }

    /// The snapshot that is marked as being installed, and its file.
    pub(crate) fn marked(&self) -> Option<(Arc<Record>, PathBuf)> {
        let record = Arc::clone(&self.shelf().marked.as_ref()?.record);
        Some((record, self.dir.join(INSTALLING).join(DATA)))
    }

    /// Removes a received snapshot. `has_state`: this node holds its state all the same.
    pub(crate) fn discard(&self, at: LogId, has_state: bool) {
        let mut shelf = self.shelf();
        let Some(marked) = shelf.marked.take_if(|marked| marked.record.at() == at) else { return };
        if let Err(error) = self.remove_installing() {
            tracing::warn!(%error, "a snapshot that is not needed stays on disk");
        }
        marked.answer(has_state);
    }

    /// Takes the mark away in one step, durably, before anything under it goes: half a marked snapshot must never be found.
    fn remove_installing(&self) -> Result<()> {
        let (marked, discarded) = (self.dir.join(INSTALLING), self.dir.join(DISCARDED));
        if !marked.exists() {
            return Ok(());
        }
        files::remove(&discarded)?;
        fs::rename(&marked, &discarded).map_err(io_error("discarding", &marked))?;
        sync_dir(&self.dir)?;
        files::remove(&discarded)
    }

    /// The state machine holds the marked snapshot, durably.
    pub(crate) fn installed(&self, at: LogId) {
        let mut shelf = self.shelf();
        if let Some(marked) = shelf.marked.as_mut().filter(|marked| marked.record.at() == at) {
            marked.is_installed = true;
            if let Some(receipt) = marked.receipt.take() {
                // A sender that has gone asks again.
                let _ = receipt.send(true);
            }
        }
    }

    /// The node has ended: whoever waits for what becomes of a snapshot is told nothing.
    pub(crate) fn forget_receipt(&self) {
        if let Some(marked) = &mut self.shelf().marked {
            marked.receipt = None;
        }
    }

    /// The log is purged up to `up_to`, durably: where that was an installation's last step but one, its mark goes.
    pub(crate) fn purged(&self, up_to: LogId) {
        if let Some(marked) = &mut self.shelf().marked {
            marked.is_purged |= marked.is_installed && marked.record.at().index <= up_to.index;
        }
        self.settle_marked();
    }

    /// Clears the mark if everything it stands for is done. Returns the snapshot that is still marked.
    fn settle_marked(&self) -> Option<Arc<Record>> {
        let mut shelf = self.shelf();
        if let Some(marked) = shelf.marked.take_if(|marked| marked.is_installed && marked.is_purged) {
            let record = Arc::clone(&marked.record);
            match self.keep(&mut shelf, &self.dir.join(INSTALLING), record) {
                Ok(old) => {
                    drop(shelf);
                    self.remove_old(old);
                    return None;
                }
                Err(error) => {
                    // The next start, or the next offer, does it again.
                    tracing::warn!(%error, "the mark of an installed snapshot stays");
                    shelf.marked = Some(marked);
                }
            }
        }
        shelf.marked.as_ref().map(|marked| Arc::clone(&marked.record))
    }
}

impl Marked {
    fn new(record: Record) -> Self {
        Self::of(Arc::new(record))
    }

    fn of(record: Arc<Record>) -> Self {
        Self { record, is_installed: false, is_purged: false, receipt: None }
    }

    fn answer(self, has_state: bool) {
        if let Some(receipt) = self.receipt {
            // A sender that has gone asks again.
            let _ = receipt.send(has_state);
        }
    }
}

/// A kept snapshot; `None`, and a word about it, for what cannot be one of this node's.
fn load_named(path: &Path, name: &str, cluster: u128) -> Option<Arc<Record>> {
    name.split_once('-')?;
    match files::load(path) {
        Ok(record) if cluster != 0 && record.metadata.cluster == cluster => Some(Arc::new(record)),
        Ok(record) => {
            let theirs = format!("{:032x}", record.metadata.cluster);
            tracing::warn!(path = %path.display(), cluster = theirs, "a snapshot of another cluster does not count");
            None
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a damaged snapshot does not count");
            None
        }
    }
}

impl Drop for SnapshotStore {
    fn drop(&mut self) {
        if self.is_temporary
            && let Err(error) = files::remove(&self.dir)
        {
            tracing::warn!(%error, "the snapshots of a volatile node stay on disk");
        }
    }
}

#[cfg(test)]
mod tests;
