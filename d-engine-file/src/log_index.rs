//! What memory knows of the log: where each entry lies, runs of terms, memberships, and the newest entries themselves.
//!
//! Never does I/O. Eight bytes per entry, plus the tail of entries, which is bounded in bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use d_engine_core::{Entry, EntryKind, LogId};

use crate::batch::Change;
use crate::vfs::VfsFile;

/// Where an entry's bytes lie in their segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// A segment and the entries that live in it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) sequence: u64,
    pub(crate) file: Arc<dyn VfsFile>,
    /// Index of its first entry, or of the next one if it has none.
    first: u64,
    spans: Vec<Span>,
}

impl Segment {
    fn next(&self) -> u64 {
        self.first + self.spans.len() as u64
    }
}

/// The bytes of one entry on disk.
#[derive(Debug, Clone)]
pub(crate) struct Location {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) sequence: u64,
    pub(crate) file: Arc<dyn VfsFile>,
    pub(crate) span: Span,
}

/// The index of the log. The segments hold contiguous indexes, some of the first possibly at or below the boundary.
#[derive(Debug)]
pub(crate) struct LogIndex {
    /// The purge boundary; while the log is being read, the id before its first segment.
    floor: LogId,
    segments: VecDeque<Segment>,
    runs: Vec<LogId>,
    memberships: Vec<Entry>,
    tail: Tail,
}

impl LogIndex {
    pub(crate) fn new(floor: LogId, tail_bytes_max: usize) -> Self {
        Self {
            floor,
            segments: VecDeque::new(),
            runs: Vec::new(),
            memberships: Vec::new(),
            tail: Tail { entries: VecDeque::new(), bytes: 0, bytes_max: tail_bytes_max },
        }
    }

    pub(crate) fn purged(&self) -> LogId {
        self.floor
    }

    pub(crate) fn next_index(&self) -> u64 {
        self.segments.back().map_or(self.floor.index + 1, Segment::next)
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.next_index() - 1
    }

    /// The last entry, or the boundary; the term is `None` where the entry went with a purged segment.
    pub(crate) fn last(&self) -> (u64, Option<u64>) {
        let index = self.last_index();
        (index, self.term(index))
    }

    /// The term at `index`.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index > self.last_index() {
            return None;
        }
        match self.runs.partition_point(|run| run.index <= index).checked_sub(1) {
            Some(run) => Some(self.runs[run].term),
            None => (index == self.floor.index).then_some(self.floor.term),
        }
    }

    pub(crate) fn runs(&self) -> &[LogId] {
        &self.runs
    }

    pub(crate) fn memberships(&self) -> &[Entry] {
        &self.memberships
    }

    /// The first index that the segments hold, dead entries included.
    pub(crate) fn first_stored(&self) -> u64 {
        self.segments.front().map_or(self.next_index(), |segment| segment.first)
    }

    /// Begins a segment behind all others.
    pub(crate) fn push_segment(&mut self, sequence: u64, file: Arc<dyn VfsFile>) {
        let first = self.next_index();
        self.segments.push_back(Segment { sequence, file, first, spans: Vec::new() });
    }

    /// Carries out a change whose entries' bytes begin at `data_start` in the last segment. Keeps the entries if
    /// `keep`.
    pub(crate) fn apply(&mut self, change: Change, data_start: u64, keep: bool) {
        if let Some(from) = change.truncate_from {
            self.truncate(from);
        }
        let Some(segment) = self.segments.back_mut() else {
            debug_assert!(change.entries.is_empty(), "entries go into a segment");
            return;
        };
        let mut offset = data_start;
        segment.spans.reserve(change.entries.len());
        for entry in change.entries {
            debug_assert_eq!(entry.index, segment.next(), "entries continue the log");
            let len = entry.encoded_len();
            segment.spans.push(Span { offset: offset as u32, len: len as u32 });
            offset += len as u64;
            if self.runs.last().is_none_or(|run| run.term != entry.term) {
                self.runs.push(entry.id());
            }
            if entry.kind == EntryKind::Membership {
                // A copy of its own: the entry may be a slice of a whole segment.
                self.memberships.push(Entry::new(entry.index, entry.term, entry.kind, &entry.data));
            }
            if keep {
                self.tail.push(entry);
            }
        }
    }

    fn truncate(&mut self, from: u64) {
        for segment in self.segments.iter_mut().rev() {
            if segment.first >= from {
                segment.spans.clear();
                segment.first = from;
            } else {
                segment.spans.truncate((from - segment.first) as usize);
                break;
            }
        }
        self.runs.truncate(self.runs.partition_point(|run| run.index < from));
        self.memberships.truncate(self.memberships.partition_point(|entry| entry.index < from));
        self.tail.truncate(from);
    }

    /// How many segments at the front hold nothing behind `boundary`. The last one is never among them.
    pub(crate) fn dead_segments(&self, boundary: u64) -> usize {
        let followers = self.segments.iter().skip(1);
        followers.take_while(|segment| segment.first <= boundary.saturating_add(1)).count()
    }

    /// The sequence of the first segment that holds something behind `boundary`.
    pub(crate) fn first_live_sequence(&self, boundary: u64) -> Option<u64> {
        self.segments.get(self.dead_segments(boundary)).map(|segment| segment.sequence)
    }

    /// Moves the boundary up and forgets the segments before it; returns their sequences, oldest first.
    pub(crate) fn purge(&mut self, up_to: LogId) -> Vec<u64> {
        let dead = self.dead_segments(up_to.index);
        let removed = self.segments.drain(..dead).map(|segment| segment.sequence).collect();
        let next = up_to.index + 1;
        let covering = self.runs.partition_point(|run| run.index <= next);
        self.runs.drain(..covering.saturating_sub(1));
        if next >= self.next_index() {
            self.runs.clear();
        } else if let Some(run) = self.runs.first_mut() {
            run.index = run.index.max(next);
        }
        self.memberships.drain(..self.memberships.partition_point(|entry| entry.index <= up_to.index));
        self.tail.purge(up_to.index);
        self.floor = up_to;
        removed
    }

    /// Forgets everything; the log begins after `floor`. Returns the sequences of its segments, oldest first.
    pub(crate) fn restart(&mut self, floor: LogId) -> Vec<u64> {
        let removed = self.segments.iter().map(|segment| segment.sequence).collect();
        *self = Self::new(floor, self.tail.bytes_max);
        removed
    }

    /// Whether memory has the entry at `index`; then it has all behind it.
    pub(crate) fn is_cached(&self, index: u64) -> bool {
        self.tail.get(index).is_some()
    }

    /// The entries from `index` on, if memory has it.
    pub(crate) fn cached(&self, index: u64) -> impl Iterator<Item = &Entry> {
        let first = self.tail.entries.front().map_or(u64::MAX, |entry| entry.index);
        let skipped = index.checked_sub(first).and_then(|n| usize::try_from(n).ok());
        self.tail.entries.iter().skip(skipped.unwrap_or(usize::MAX))
    }

    /// Where the entry at `index` lies on disk.
    pub(crate) fn locate(&self, index: u64) -> Option<Location> {
        let segment = self.segments.partition_point(|segment| segment.first <= index).checked_sub(1)?;
        // Empty segments share their first index with the one behind them; the one that holds entries comes last.
        let segment = &self.segments[segment];
        let span = *segment.spans.get((index - segment.first) as usize)?;
        let term = self.term(index)?;
        Some(Location { index, term, sequence: segment.sequence, file: Arc::clone(&segment.file), span })
    }
}

/// The newest entries, bounded in bytes.
#[derive(Debug)]
struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    fn push(&mut self, entry: Entry) {
        if self.entries.back().is_some_and(|last| last.index + 1 != entry.index) {
            self.entries.clear();
            self.bytes = 0;
        }
        self.bytes += entry.encoded_len();
        self.entries.push_back(entry);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.encoded_len();
        }
    }

    fn get(&self, index: u64) -> Option<&Entry> {
        let first = self.entries.front()?.index;
        self.entries.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    fn truncate(&mut self, from: u64) {
        while let Some(last) = self.entries.pop_back_if(|entry| entry.index >= from) {
            self.bytes -= last.encoded_len();
        }
    }

    fn purge(&mut self, up_to: u64) {
        while let Some(first) = self.entries.pop_front_if(|entry| entry.index <= up_to) {
            self.bytes -= first.encoded_len();
        }
    }
}
