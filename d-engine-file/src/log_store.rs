//! The Raft log in files: one positioned write per call, one data sync per group.
//!
//! Write calls hold the writer's lock, reads only look into the index and then read bytes that are never written again.
//! Locks are taken in the order writer, syncing, index.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{Entry, Error, LogId, LogStore, LogSummary, Membership, Result};

use crate::FileStorageOptions;
use crate::batch::{self, Change, Place};
use crate::keeper::Keeper;
use crate::log_index::{Location, LogIndex};
use crate::recover::Active;
use crate::segment::{FIRST_BATCH, PAGE, Position, SegmentHeader, page_up};
use crate::shared::Shared;
use crate::vfs::VfsLock;

/// Bytes that one read from disk asks for at most, unless a single entry is longer.
const READ_BYTES_MAX: u64 = 4 << 20;
/// Bytes between two entries that are read along rather than skipped by another read.
const READ_GAP_MAX: u64 = 16 << 10;
/// A write buffer longer than this is given back after use.
const BUFFER_BYTES_MAX: usize = 8 << 20;

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
}

impl Writer {
    /// Where the next batch goes: behind the last one, or on a new page if a flush came between, so that no page with
    /// acknowledged bytes is written again.
    fn next_start(&self) -> u64 {
        if self.group_open { self.active.end } else { page_up(self.active.end) }
    }
}

impl FileLogStore {
    pub(crate) fn new(
        shared: Shared,
        index: LogIndex,
        active: Active,
        options: &FileStorageOptions,
        lock: Arc<dyn VfsLock>,
    ) -> Result<Self> {
        let shared = Arc::new(shared);
        let keeper = Keeper::start(Arc::clone(&shared))?;
        let store = Self {
            shared,
            keeper,
            writer: Mutex::new(Writer { active, group_open: false, buffer: Vec::new() }),
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

    /// Writes one batch and makes it readable.
    fn append(&self, writer: &mut Writer, change: Change) -> Result<()> {
        let length = change.encoded_len();
        if length > batch::LENGTH_MAX {
            return Err(Error::invalid(format!(
                "a batch of {length} bytes; the log takes at most {} in one call",
                batch::LENGTH_MAX
            )));
        }
        if writer.next_start() + length > writer.active.length {
            self.rotate(writer, length)?;
        }
        let Writer { active, buffer, .. } = writer;
        let position = if writer.group_open { active.end } else { page_up(active.end) };
        let place = Place { position, previous_end: active.end, synced: self.shared.synced() };
        change.encode(&active.seed, place, buffer);
        // Zeros up to the end of the page: they are there already, and a whole page need not be read to be written.
        let end = position + length;
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
        let data_start = position + change.data_start();
        self.index_mut().apply(change, data_start, true);
        self.pace(&writer.active, position, end);
        Ok(())
    }

    /// Lets the preparation of the next segment run ahead of the appends, so that it is done when this one is half full.
    fn pace(&self, active: &Active, from: u64, to: u64) {
        let sixteenth = (active.length / 16).max(PAGE);
        if from / sixteenth != to / sixteenth || from == FIRST_BATCH {
            let part = to as f64 / active.length as f64;
            self.keeper.allow((2.0 * part * self.next_length(active.length) as f64) as u64);
        }
    }

    fn next_length(&self, length: u64) -> u64 {
        (length * 2).min(self.segment_bytes_max).max(FIRST_BATCH + PAGE)
    }

    fn request_next(&self, active: &Active) {
        self.keeper.request(self.next_length(active.length));
    }

    /// Completes the segment and goes on in the next one, which has room for a batch of `length` bytes.
    fn rotate(&self, writer: &mut Writer, length: u64) -> Result<()> {
        let needed = page_up(FIRST_BATCH + length);
        let mut prepared = self.keeper.take(needed)?;
        self.shared.wal.extend_prepared(&mut prepared, needed)?;
        // From here on an error is no clean one any more.
        let old = &writer.active;
        self.shared.sync(old.file.as_ref(), old.position())?;
        let (last, term) = self.index().last();
        let header = SegmentHeader {
            uuid: self.shared.uuid(),
            sequence: old.sequence + 1,
            previous: LogId::new(term.unwrap_or(0), last),
            previous_end: old.end,
            length: prepared.length,
        };
        self.shared.wal.activate(&prepared, &header).map_err(|error| self.shared.poison(error))?;
        self.begin(writer, Active::new(&header, prepared.file, FIRST_BATCH));
        self.index_mut().push_segment(header.sequence, Arc::clone(&writer.active.file));
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
        // A purge may be what frees a full disk: then the smallest segment has to do.
        let prepared = match self.keeper.take(FIRST_BATCH + PAGE) {
            Err(Error::NoSpace { .. }) => self.keeper.take(FIRST_BATCH + PAGE)?,
            taken => taken?,
        };
        let header = SegmentHeader {
            uuid: self.shared.uuid(),
            sequence: writer.active.sequence + 1,
            previous: floor,
            previous_end: 0,
            length: prepared.length,
        };
        self.shared.save_state(|state| {
            state.first_segment = header.sequence;
            state.purged = floor;
            state.synced = Position::new(header.sequence, 0);
        })?;
        self.shared.wal.activate(&prepared, &header).map_err(|error| self.shared.poison(error))?;
        self.begin(writer, Active::new(&header, prepared.file, FIRST_BATCH));
        self.shared.save_state(|_| {})?;
        let removed = {
            let mut index = self.index_mut();
            let removed = index.restart(floor);
            index.push_segment(header.sequence, Arc::clone(&writer.active.file));
            removed
        };
        self.remove(&removed)
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
        let removed = self.index_mut().purge(up_to);
        self.remove(&removed)
    }

    /// Removes segments that the state file no longer counts, oldest first.
    fn remove(&self, sequences: &[u64]) -> Result<()> {
        for sequence in sequences {
            self.shared.wal.remove(*sequence).map_err(|error| self.shared.poison(error))?;
        }
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
        let (on_disk, in_memory) = self.plan(range, max_bytes)?;
        if on_disk.is_empty() {
            return Ok(in_memory);
        }
        let mut entries = Vec::with_capacity(on_disk.len() + in_memory.len());
        let mut rest = on_disk.as_slice();
        while !rest.is_empty() {
            let (run, behind) = rest.split_at(run_len(rest));
            self.read_run(run, &mut entries)?;
            rest = behind;
        }
        entries.extend(in_memory);
        Ok(entries)
    }

    /// Where the entries of the range are, at one moment: first some on disk, then some that memory has.
    fn plan(&self, range: RangeInclusive<u64>, max_bytes: usize) -> Result<(Vec<Location>, Vec<Entry>)> {
        let index = self.index();
        let purged = index.purged().index;
        if *range.start() <= purged {
            return Err(Error::Compacted { first: purged + 1 });
        }
        let (mut next, end) = (*range.start(), (*range.end()).min(index.last_index()));
        let mut budget = Budget { left: max_bytes, first: true };
        let mut on_disk = Vec::new();
        while next <= end && !index.is_cached(next) {
            let location = index.locate(next).ok_or_else(|| Error::Corrupt {
                place: "the index of the log has no place for an entry".into(),
                indexes: Some(next..=next),
            })?;
            if !budget.takes(location.span.len as usize) {
                return Ok((on_disk, Vec::new()));
            }
            on_disk.push(location);
            next += 1;
        }
        let cached = index.cached(next).take((end + 1).saturating_sub(next) as usize);
        Ok((on_disk, cached.take_while(|entry| budget.takes(entry.encoded_len())).cloned().collect()))
    }

    /// Reads neighbouring entries with one read.
    fn read_run(&self, run: &[Location], entries: &mut Vec<Entry>) -> Result<()> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(());
        };
        let start = first.span.offset;
        let mut bytes = vec![0u8; (last.span.offset - start + last.span.len) as usize];
        let place = |location: &Location| {
            let path = self.shared.wal.segment_path(location.sequence);
            format!("{} offset {}", path.display(), location.span.offset)
        };
        first
            .file
            .read_exact_at(&mut bytes, u64::from(start))
            .map_err(|error| Error::io(format!("reading entry {} at {}", first.index, place(first)), error))?;
        let bytes = Bytes::from(bytes);
        for location in run {
            let at = (location.span.offset - start) as usize;
            let corrupt = |why: String| Error::Corrupt {
                place: format!("{}: {why}; {}", place(location), crate::RECOVERY),
                indexes: Some(location.index..=location.index),
            };
            let entry =
                Entry::decode(bytes.slice(at..at + location.span.len as usize)).map_err(|e| corrupt(e.to_string()))?;
            if entry.index != location.index || entry.term != location.term {
                return Err(corrupt(format!("entry {} stands in the place of {}", entry.id(), location.index)));
            }
            entries.push(entry);
        }
        Ok(())
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

/// The bytes that a read may still return. The first entry is taken whatever its size.
struct Budget {
    left: usize,
    first: bool,
}

impl Budget {
    fn takes(&mut self, len: usize) -> bool {
        if len > self.left && !self.first {
            return false;
        }
        self.left = self.left.saturating_sub(len);
        self.first = false;
        true
    }
}

/// How many locations from the first on one read brings along.
fn run_len(locations: &[Location]) -> usize {
    let joined = |pair: &[Location]| {
        let (first, last, next) = (&locations[0], &pair[0], &pair[1]);
        let end = u64::from(last.span.offset) + u64::from(last.span.len);
        let (offset, len) = (u64::from(next.span.offset), u64::from(next.span.len));
        next.sequence == last.sequence
            && offset >= end
            && offset - end <= READ_GAP_MAX
            && offset + len - u64::from(first.span.offset) <= READ_BYTES_MAX
    };
    1 + locations.windows(2).take_while(|pair| joined(pair)).count()
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
        let index = self.index();
        let mut summary = LogSummary::new(index.purged());
        let (last, term) = index.last();
        summary.last = LogId::new(term.unwrap_or(0), last);
        summary.runs = index.runs().to_vec();
        for entry in index.memberships() {
            summary.memberships.push((entry.index, Membership::decode(&entry.data)?));
        }
        Ok(summary)
    }
}
