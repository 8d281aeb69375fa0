//! The Raft log in files: one positioned write per call, one data sync per group.
//!
//! Write calls hold the writer's lock, reads only look into the index and then read bytes that are never written again.
//! Locks are taken in the order writer, syncing, index.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use d_engine_core::{Entry, Error, LogId, LogStore, LogSummary, Result};

use crate::active::Active;
use crate::batch::{self, Change, Place};
use crate::keeper::Keeper;
use crate::log_index::{LogIndex, Segment};
use crate::pack::Packer;
use crate::reader::Plan;
use crate::recover::Opened;
use crate::segment::{FIRST_BATCH, PAGE, Position, SegmentHeader, new_salt, page_up};
use crate::shared::Shared;
use crate::verify::{self, LogCheck, SegmentFile};
use crate::vfs::VfsLock;
use crate::{Compression, FileStorageOptions};

/// A write buffer longer than this is given back after use.
pub(crate) const BUFFER_BYTES_MAX: usize = 8 << 20;

/// The Raft log of one data directory.
///
/// Written calls are readable at once and durable after [`flush`](LogStore::flush). Dropping the last handle flushes,
/// notes how far the log is durable, and joins the thread that prepares segments; nothing relies on that.
#[derive(Debug)]
pub struct FileLogStore {
    shared: Arc<Shared>,
    keeper: Keeper,
    writer: Mutex<Writer>,
    index: RwLock<LogIndex>,
    segment_bytes_max: u64,
    _lock: Arc<dyn VfsLock>,
}

#[derive(Debug)]
struct Writer {
    active: Active,
    /// No flush has begun since the last write: the next batch may share its page.
    group_open: bool,
    /// Reused by every write.
    buffer: Vec<u8>,
    /// Set if batches are to be compressed.
    packer: Option<Packer>,
}

impl Writer {
    /// Where the next batch goes: behind the last one, or on a new page if a flush came between, so that no page with
    /// acknowledged bytes is written again.
    fn next_start(&self) -> u64 {
        if self.group_open { self.active.end } else { page_up(self.active.end) }
    }
}

impl FileLogStore {
    pub(crate) fn new(opened: Opened, options: &FileStorageOptions, lock: Arc<dyn VfsLock>) -> Result<Self> {
        let Opened { shared, index, active, spares } = opened;
        let shared = Arc::new(shared);
        let keeper = Keeper::start(Arc::clone(&shared), spares, options.spare_segments_max)?;
        let packer = (options.compression == Compression::Lz4).then(Packer::default);
        let store = Self {
            shared,
            keeper,
            writer: Mutex::new(Writer { active, group_open: false, buffer: Vec::new(), packer }),
            index: RwLock::new(index),
            segment_bytes_max: options.segment_bytes_max,
            _lock: lock,
        };
        store.request_next(&store.lock_writer()?.active);
        Ok(store)
    }

    fn lock_writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let writer =
            self.writer.lock().map_err(|_| Error::Poisoned { why: "a write to the log ended in a panic".into() })?;
        self.shared.check()?;
        Ok(writer)
    }

    fn index(&self) -> RwLockReadGuard<'_, LogIndex> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, LogIndex> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the index. Entries that leave memory by it are freed elsewhere, not under the lock.
    fn update<T>(&self, change: impl FnOnce(&mut LogIndex) -> T) -> T {
        let (result, removed) = {
            let mut index = self.index_mut();
            (change(&mut index), index.take_removed())
        };
        self.keeper.discard(removed);
        result
    }

    /// Writes one batch and makes it readable.
    fn append(&self, writer: &mut Writer, change: Change) -> Result<()> {
        let length = change.encoded_len();
        if length > batch::LENGTH_MAX {
            return Err(Error::invalid(format!(
                "a batch of {length} bytes; the log takes at most {} in one call",
                batch::LENGTH_MAX
            )));
        }
        if writer.next_start() + length > writer.active.room(change.has_command()) {
            self.rotate(writer, length)?;
        }
        let Writer { active, buffer, packer, .. } = writer;
        let position = if writer.group_open { active.end } else { page_up(active.end) };
        let place = Place { position, previous_end: active.end, synced: self.shared.synced() };
        let body = change.encode(&active.seed, place, packer.as_mut(), buffer);
        // Zeros up to the end of the page: a whole page need not be read to be written.
        let end = position + buffer.len() as u64;
        buffer.resize((page_up(end).min(active.length) - position) as usize, 0);
        active.file.write_all_at(buffer, position).map_err(|error| {
            let path = self.shared.wal.segment_path(active.sequence);
            self.shared.poison(Error::io(format!("writing {} at offset {position}", path.display()), error))
        })?;
        active.end = end;
        writer.group_open = true;
        if buffer.capacity() > BUFFER_BYTES_MAX {
            *buffer = Vec::new();
        }
        self.update(|index| index.apply(change, body, true));
        self.pace(&writer.active, position, end);
        Ok(())
    }

    /// Lets the preparation of the next segment run ahead of the appends, so that it is done when this one is half full.
    fn pace(&self, active: &Active, from: u64, to: u64) {
        let sixteenth = (active.length / 16).max(PAGE);
        if from / sixteenth != to / sixteenth || from == active.start {
            let part = to as f64 / active.length as f64;
            self.keeper.allow((2.0 * part * self.next_length(active.length) as f64) as u64, to - from);
        }
    }

    fn next_length(&self, length: u64) -> u64 {
        (length * 2).min(self.segment_bytes_max).max(FIRST_BATCH + PAGE)
    }

    fn request_next(&self, active: &Active) {
        self.keeper.request(self.next_length(active.length));
    }

    /// Completes the segment and goes on in the next one, which has room for a batch of `length` bytes and begins with
    /// the seal of this one.
    fn rotate(&self, writer: &mut Writer, length: u64) -> Result<()> {
        let old = &writer.active;
        let (seal, previous) = {
            let index = self.index();
            let (last, term) = index.last();
            (index.seal(old.end, index.purged()).map(|seal| seal.encode()), LogId::new(term.unwrap_or(0), last))
        };
        let mut header = SegmentHeader {
            uuid: self.shared.uuid(),
            sequence: old.sequence + 1,
            previous,
            previous_end: old.end,
            length: 0,
            salt: new_salt(),
            seal_length: seal.as_ref().map_or(0, |seal| batch::seal_batch_len(seal)),
        };
        let needed = page_up(page_up(header.first_batch()) + length);
        let mut prepared = self.keeper.take(needed)?;
        // Shorter than a batch that is longer than the segments of a young log are.
        self.shared.wal.allocate_prepared(&mut prepared, needed)?;
        header.length = prepared.length;
        // From here on an error is no clean one any more.
        self.shared.sync(old.file.as_ref(), old.position())?;
        let place = Place { position: FIRST_BATCH, previous_end: FIRST_BATCH, synced: old.position() };
        writer.buffer.clear();
        if let Some(seal) = &seal {
            batch::encode_seal(seal, &header.seed(), place, &mut writer.buffer);
        }
        self.shared.wal.activate(&prepared, &header, &writer.buffer).map_err(|error| self.shared.poison(error))?;
        self.index_mut().push_segment(header.sequence, Arc::clone(&prepared.file), header.previous_end);
        self.begin(writer, Active::new(&header, prepared.file, header.first_batch()));
        self.keeper.rotated();
        Ok(())
    }

    /// Makes an activated segment the one that is written.
    fn begin(&self, writer: &mut Writer, active: Active) {
        self.shared.set_synced(active.position());
        writer.active = active;
        writer.group_open = false;
        self.request_next(&writer.active);
    }

    /// Drops the whole log, which then begins after `floor`: one write of the state file decides.
    fn restart(&self, writer: &mut Writer, floor: LogId) -> Result<()> {
        // A purge may be what frees a full disk: then the smallest segment has to do, as the keeper forgets the request
        // that it could not fulfil.
        let prepared = match self.keeper.take_short(FIRST_BATCH + PAGE) {
            Err(Error::NoSpace { .. }) => self.keeper.take_short(FIRST_BATCH + PAGE)?,
            taken => taken?,
        };
        let header = SegmentHeader {
            uuid: self.shared.uuid(),
            sequence: writer.active.sequence + 1,
            previous: floor,
            previous_end: 0,
            length: prepared.length,
            salt: new_salt(),
            seal_length: 0,
        };
        self.shared.save_state(|state| {
            state.first_segment = header.sequence;
            state.purged = floor;
            state.synced = Position::new(header.sequence, 0);
        })?;
        self.shared.wal.activate(&prepared, &header, &[]).map_err(|error| self.shared.poison(error))?;
        let file = Arc::clone(&prepared.file);
        self.begin(writer, Active::new(&header, prepared.file, FIRST_BATCH));
        self.shared.save_state(|_| {})?;
        let removed = self.update(|index| {
            let removed = index.restart(floor);
            index.push_segment(header.sequence, file, 0);
            removed
        });
        self.remove(removed)
    }

    /// Drops the front of the log.
    fn purge_front(&self, writer: &mut Writer, up_to: LogId) -> Result<()> {
        writer.group_open = false;
        self.shared.sync(writer.active.file.as_ref(), writer.active.position())?;
        let first_segment = self.index().first_live_sequence(up_to.index).unwrap_or(writer.active.sequence);
        self.shared.save_state(|state| {
            state.first_segment = first_segment;
            state.purged = up_to;
        })?;
        let removed = self.update(|index| index.purge(up_to));
        self.remove(removed)
    }

    /// Removes segments that the state file no longer counts, oldest first, or keeps their files to be written again.
    fn remove(&self, segments: Vec<Segment>) -> Result<()> {
        let mut removed = Vec::new();
        for mut segment in segments {
            // A reader that has the file would find another segment's bytes in it; none can get it any more.
            let unused = Arc::get_mut(&mut segment.file).is_some();
            let done = if unused && self.keeper.wants_spare() && segment.is_short(self.segment_bytes_max) {
                self.shared.wal.retire(segment.sequence, segment.file).map(|spare| self.keeper.add_spare(spare))
            } else {
                let done = self.shared.wal.remove(segment.sequence);
                removed.push(segment);
                done
            };
            done.map_err(|error| self.shared.poison(error))?;
        }
        self.keeper.close(removed);
        Ok(())
    }

    fn flush_now(&self) -> Result<()> {
        let (file, position) = {
            let mut writer = self.lock_writer()?;
            // What comes now begins a new page: this sync acknowledges the last one.
            writer.group_open = false;
            (Arc::clone(&writer.active.file), writer.active.position())
        };
        self.shared.sync(file.as_ref(), position)?;
        self.keeper.flushed();
        Ok(())
    }

    /// Entries from memory or disk; ends early once `max_bytes` are reached, but not before the first.
    fn read(&self, range: RangeInclusive<u64>, max_bytes: usize) -> Result<Vec<Entry>> {
        let plan = Plan::new(&self.index(), range, max_bytes)?;
        plan.read(&self.shared.wal)
    }

    /// Reads every byte that counts, and compares: batches, entries, and what the seals say of them. Writes may go on
    /// meanwhile; what they add is not looked at.
    ///
    /// # Errors
    /// `Corrupt` for damage, naming the first place; `Unsupported`; `Io`. Law: damage that opening does not look for is
    /// found here, and by whoever reads the entry.
    pub fn verify(&self) -> Result<LogCheck> {
        let (last, segments) = {
            let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            (writer.active.position(), self.index().segments().map(SegmentFile::of).collect::<Vec<_>>())
        };
        verify::verify(&self.shared.wal, self.shared.uuid(), &segments, last)
    }

    fn check_from(&self, from: u64) -> Result<u64> {
        let index = self.index();
        let purged = index.purged().index;
        if from <= purged {
            return Err(Error::Compacted { first: purged + 1 });
        }
        Ok(index.next_index())
    }

    /// Flushes, and notes it so that the next open has nothing to prove.
    fn close(&mut self) -> Result<()> {
        self.keeper.stop();
        let writer = self.lock_writer()?;
        self.shared.sync(writer.active.file.as_ref(), writer.active.position())?;
        self.shared.save_state(|_| {})
    }
}

impl Drop for FileLogStore {
    fn drop(&mut self) {
        // Without it the next open reads and rewrites a little more.
        let _ = self.close();
    }
}

fn check_contiguous(first: u64, entries: &[Entry]) -> Result<()> {
    for (expected, entry) in (first..).zip(entries) {
        if entry.index != expected {
            return Err(Error::NotContiguous { expected, found: entry.index });
        }
    }
    Ok(())
}

#[async_trait]
impl LogStore for FileLogStore {
    async fn persist_entries(&self, entries: Vec<Entry>) -> Result<(), Error> {
        let mut writer = self.lock_writer()?;
        check_contiguous(self.index().next_index(), &entries)?;
        if entries.is_empty() {
            return Ok(());
        }
        self.append(&mut writer, Change { truncate_from: None, entries })
    }

    async fn entry(&self, index: u64) -> Result<Option<Entry>, Error> {
        Ok(self.read(index..=index, usize::MAX)?.pop())
    }

    async fn get_entries(&self, range: RangeInclusive<u64>) -> Result<Vec<Entry>, Error> {
        self.read(range, usize::MAX)
    }

    async fn purge(&self, up_to: LogId) -> Result<(), Error> {
        let mut writer = self.lock_writer()?;
        let (purged, last, term) = {
            let index = self.index();
            (index.purged(), index.last_index(), index.term(up_to.index))
        };
        if up_to.index <= purged.index {
            return Ok(());
        }
        if up_to.index == u64::MAX {
            return Err(Error::invalid("the log cannot begin after the highest index"));
        }
        // With nothing left to keep, a fresh segment frees the space of the one that is being written as well.
        if up_to.index < last && term == Some(up_to.term) {
            self.purge_front(&mut writer, up_to)
        } else {
            self.restart(&mut writer, up_to)
        }
    }

    async fn truncate(&self, from_index: u64) -> Result<(), Error> {
        let mut writer = self.lock_writer()?;
        if from_index >= self.check_from(from_index)? {
            return Ok(());
        }
        self.append(&mut writer, Change { truncate_from: Some(from_index), entries: Vec::new() })
    }

    async fn flush(&self) -> Result<(), Error> {
        self.flush_now()
    }

    async fn reset(&self) -> Result<(), Error> {
        let mut writer = self.lock_writer()?;
        self.restart(&mut writer, LogId::default())
    }

    fn last_index(&self) -> u64 {
        self.index().last_index()
    }

    fn purged(&self) -> LogId {
        self.index().purged()
    }

    /// One batch, hence one step: neither a reader nor a crash sees the log without its replaced end.
    async fn replace_from(&self, from: u64, entries: Vec<Entry>) -> Result<(), Error> {
        let mut writer = self.lock_writer()?;
        let next = self.check_from(from)?;
        if from > next {
            return Err(Error::NotContiguous { expected: next, found: from });
        }
        check_contiguous(from, &entries)?;
        let truncate_from = (from < next).then_some(from);
        if truncate_from.is_none() && entries.is_empty() {
            return Ok(());
        }
        self.append(&mut writer, Change { truncate_from, entries })
    }

    async fn read_limited(&self, range: RangeInclusive<u64>, max_bytes: usize) -> Result<Vec<Entry>, Error> {
        self.read(range, max_bytes)
    }

    /// From memory: no entry is read again.
    async fn summary(&self) -> Result<LogSummary, Error> {
        self.index().summary()
    }
}
