//! The key-value store of the file backend: the whole map in memory, and a checkpoint file of it.
//!
//! There is no journal of its own: the Raft log is the state machine's, and what came after the last checkpoint is
//! applied again from it. A checkpoint is always written whole, into a temporary file that takes the old one's name
//! once it is synced, so that a crash at any moment leaves the old one or the new one. Nothing here knows what the
//! records mean.
//!
//! ```text
//! <dir>/LOCK            held while the store is open
//! <dir>/checkpoint      the records in the portable snapshot's format (its log id and revision are unused here)
//! <dir>/checkpoint.tmp  the next one while it is being written; removed by open
//! ```

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use d_engine_core::snapshot::{SnapshotHeader, SnapshotReader, SnapshotWriter, Steady, SyncData};
use d_engine_core::{Direction, Error, KeyRange, KvStore, KvView, Result, WriteBatch, compact_pair};
use d_engine_mem::{OrderedMap, SharedMap};

use crate::io_error;
use crate::vfs::{OsDisk, Vfs, VfsFile, VfsLock};

const LOCK: &str = "LOCK";
const CHECKPOINT: &str = "checkpoint";
const TEMPORARY: &str = "checkpoint.tmp";

/// A key-value store that lives in memory and is checkpointed to a file by [`flush`](KvStore::flush).
///
/// Reads and writes cost no I/O; `flush` and `replace_all` write the whole state, while reads, writes and views go on
/// beside them. Data larger than memory wants another backend. Dropping the store flushes it as well as it can.
///
/// Clone-able through `Arc` only: one directory, one store.
#[derive(Debug)]
pub struct FileKvStore {
    /// After a panic within a write it holds half a batch and gives nothing out: it is never written to the file. The Raft
    /// log has what is missing there.
    map: SharedMap,
    /// How many writes have changed the map since it was opened; counted within them.
    writes: AtomicU64,
    checkpoint: Mutex<Checkpoint>,
    _lock: Box<dyn VfsLock>,
}

/// The file. Whoever holds its mutex is the only one who writes it; the map is not locked meanwhile.
#[derive(Debug)]
struct Checkpoint {
    disk: Arc<dyn Vfs>,
    dir: PathBuf,
    /// [`FileKvStore::writes`] as of the file.
    holds: u64,
    /// Why it is not known which of two checkpoints a crash would leave.
    poisoned: Option<String>,
}

impl FileKvStore {
    /// Opens the store in `dir`, which is made if needed, and loads its checkpoint. What it then shows is durable.
    ///
    /// # Errors
    /// `Locked` if another store has the directory open; `Corrupt` for a damaged checkpoint, which is left as it is;
    /// `Unsupported` for one of a newer version; `Io`.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_on(Arc::new(OsDisk), dir)
    }

    /// [`open`](FileKvStore::open) on another file system, for tests with a simulated disk.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_on(disk: Arc<dyn Vfs>, dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref().to_path_buf();
        disk.create_dir_all(&dir).map_err(|e| Error::io(format!("making the directory {}", dir.display()), e))?;
        let lock = disk
            .try_lock(&dir.join(LOCK))
            .map_err(|e| Error::io(format!("locking {}", dir.display()), e))?
            .ok_or_else(|| Error::Locked { path: dir.display().to_string() })?;
        let names = disk.list(&dir).map_err(|e| Error::io(format!("listing {}", dir.display()), e))?;
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        if has(TEMPORARY) {
            let path = dir.join(TEMPORARY);
            disk.remove(&path).map_err(|e| Error::io(format!("removing the unfinished {}", path.display()), e))?;
        }
        let map = if has(CHECKPOINT) { load(&*disk, &dir.join(CHECKPOINT))? } else { OrderedMap::new() };
        // The file was synced before it got its name; a crash may have come before the name was durable.
        disk.sync_dir(&dir).map_err(|e| Error::io(format!("syncing the directory {}", dir.display()), e))?;
        Ok(Self {
            map: SharedMap::new(map),
            writes: AtomicU64::new(0),
            checkpoint: Mutex::new(Checkpoint { disk, dir, holds: 0, poisoned: None }),
            _lock: lock,
        })
    }

    // A poisoned lock is used on: every field is set after the step that it describes.
    fn checkpoint(&self) -> MutexGuard<'_, Checkpoint> {
        self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KvStore for FileKvStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.map.get(key)
    }

    fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.map.read(|map| map.scan(range, limit, direction))
    }

    fn write(&self, mut batch: WriteBatch) -> Result<(), Error> {
        self.map.write(|map| {
            map.apply(&mut batch);
            self.writes.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn replace_all(&self, sorted: &mut dyn Iterator<Item = Result<(Bytes, Bytes), Error>>) -> Result<(), Error> {
        let new = OrderedMap::from_sorted(sorted)?;
        let mut checkpoint = self.checkpoint();
        self.map.read(|_| ())?;
        checkpoint.write(&new)?;
        // The file has the new content already: what a write beside this call has broken meanwhile goes with the old one.
        let old = self.map.replace(new, || checkpoint.holds = 1 + self.writes.fetch_add(1, Ordering::Relaxed));
        drop(checkpoint);
        // Freed without the locks: a large map takes a while.
        drop(old);
        Ok(())
    }

    /// Writes a checkpoint if anything was written since the last one.
    fn flush(&self) -> Result<(), Error> {
        let mut checkpoint = self.checkpoint();
        let (view, writes) = self.map.read(|map| (map.clone(), self.writes.load(Ordering::Relaxed)))?;
        if checkpoint.holds != writes {
            checkpoint.write(&view)?;
            checkpoint.holds = writes;
        }
        Ok(())
    }

    fn never_waits(&self) -> bool {
        true
    }

    fn with_view(&self, f: &mut dyn FnMut(&dyn KvView) -> Result<(), Error>) -> Result<bool, Error> {
        f(&self.map.view()?)?;
        Ok(true)
    }

    fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, Error> {
        // Not in a view: as long as there is one, a writer has to copy what it changes.
        self.map.read(|map| map.get_many(keys))
    }
}

impl Drop for FileKvStore {
    fn drop(&mut self) {
        // Nobody is left to be told. What is missing then, the Raft log has.
        let _ = self.flush();
    }
}

impl Checkpoint {
    /// Replaces the file by one with the content of `map`, durably. After an error the old one is there, unless the
    /// last steps failed: then it may be either, and no more writes are accepted.
    fn write(&mut self, map: &OrderedMap) -> Result<()> {
        if let Some(why) = &self.poisoned {
            return Err(Error::Poisoned { why: why.clone() });
        }
        let (temporary, path) = (self.dir.join(TEMPORARY), self.dir.join(CHECKPOINT));
        if let Err(error) = self.write_temporary(map, &temporary) {
            // Best effort: open removes it too. The next attempt writes a new file, so no failed sync is retried.
            let _ = self.disk.remove(&temporary);
            return Err(error);
        }
        self.disk
            .rename(&temporary, &path)
            .and_then(|()| self.disk.sync_dir(&self.dir))
            .map_err(|source| Error::io(format!("putting the new checkpoint in place as {}", path.display()), source))
            .inspect_err(|error| self.poisoned = Some(error.to_string()))
    }

    fn write_temporary(&self, map: &OrderedMap, path: &Path) -> Result<()> {
        let doing = || format!("writing the checkpoint {}", path.display());
        let file = self.disk.create(path).map_err(|source| io_error(doing(), source))?;
        let output = Steady::new(Sequential { file: &*file, position: 0 });
        let mut writer = SnapshotWriter::new(output, SnapshotHeader::default()).map_err(|e| name_write(doing(), e))?;
        for (key, value) in map.range(KeyRange::ALL) {
            writer.push(key, value).map_err(|e| name_write(doing(), e))?;
        }
        writer.finish().map_err(|e| name_write(doing(), e))?;
        file.sync_data().map_err(|source| io_error(format!("syncing the checkpoint {}", path.display()), source))
    }
}

fn load(disk: &dyn Vfs, path: &Path) -> Result<OrderedMap> {
    let reading = |source| Error::io(format!("reading the checkpoint {}", path.display()), source);
    let file = disk.open(path).map_err(reading)?;
    let input = Input { len: file.len().map_err(reading)?, input: Sequential { file: &*file, position: 0 } };
    let records = SnapshotReader::new(input).map_err(|error| name_damage(path, error))?;
    // Not what keeps the whole block of each in memory.
    let own = |(key, value): (Bytes, Bytes)| compact_pair(&key, &value);
    OrderedMap::from_sorted(records.map(|record| record.map(own))).map_err(|error| name_damage(path, error))
}

/// The old checkpoint is untouched until the new one takes its name, so a full disk is clean.
fn name_write(doing: String, error: Error) -> Error {
    match error {
        Error::Io { source, .. } => io_error(doing, source),
        other => other,
    }
}

fn name_damage(path: &Path, error: Error) -> Error {
    let path = path.display();
    match error {
        Error::Corrupt { place, indexes } => {
            let advice = "move the file away, and the node builds its state anew from its log";
            Error::Corrupt { place: format!("{path}: {place}; {advice}"), indexes }
        }
        Error::Unsupported { what } => Error::unsupported(format!("{path}: {what}")),
        Error::Io { source, .. } => Error::io(format!("reading the checkpoint {path}"), source),
        other => other,
    }
}

/// A file from its beginning.
struct Sequential<'a> {
    file: &'a dyn VfsFile,
    position: u64,
}

impl SyncData for Sequential<'_> {
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl Write for Sequential<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.position)?;
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file of known length, read from its beginning.
struct Input<'a> {
    input: Sequential<'a>,
    len: u64,
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.len.saturating_sub(self.input.position);
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        self.input.file.read_exact_at(&mut buffer[..n], self.input.position)?;
        self.input.position += n as u64;
        Ok(n)
    }
}
