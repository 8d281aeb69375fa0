//! What memory knows of the log: where each entry lies, runs of terms, memberships, and the newest entries themselves.
//!
//! Never does I/O. Eight bytes per entry, plus the tail of entries, which is bounded in bytes. A segment that is behind
//! the boundary leaves this index before its file is removed or written again; whoever got a file from here before that
//! holds it, and it is not written again while somebody does.

use std::collections::VecDeque;
use std::sync::Arc;

use d_engine_core::{Entry, EntryKind, LogId, LogSummary, Membership, Result};

use crate::batch::{Body, Change};
use crate::pack::Packed;
use crate::seal::Seal;
use crate::tail::{Cached, Tail};
use crate::vfs::VfsFile;

/// Where an entry's bytes lie: in their segment, or in the data of a compressed batch before compression.
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
    /// Where what counts in the file ends; 0 while the segment is the last one.
    pub(crate) end: u64,
    /// Index of its first entry, or of the next one if it has none.
    first: u64,
    spans: Vec<Span>,
    packs: Vec<Pack>,
}

impl Segment {
    /// Whether its file has at most `max` bytes, as one that is not longer than its kind has.
    pub(crate) fn is_short(&self, max: u64) -> bool {
        self.file.len().is_ok_and(|len| len <= max)
    }

    fn next(&self) -> u64 {
        self.first + self.spans.len() as u64
    }
}

/// A compressed batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pack {
    /// Index of its first entry.
    pub(crate) first: u64,
    pub(crate) entries: u32,
    /// Of its data in the segment.
    pub(crate) offset: u32,
    pub(crate) packed: Packed,
}

impl Pack {
    /// The one of `packs`, in order of their indexes, that holds the entry at `index`.
    pub(crate) fn of(packs: &[Self], index: u64) -> Option<&Self> {
        let pack = &packs[packs.partition_point(|pack| pack.first <= index).checked_sub(1)?];
        (index - pack.first < u64::from(pack.entries)).then_some(pack)
    }
}

/// Where entries that follow each other in one segment lie.
#[derive(Debug)]
pub(crate) struct Stored<'a> {
    pub(crate) sequence: u64,
    pub(crate) file: &'a Arc<dyn VfsFile>,
    pub(crate) packs: &'a [Pack],
    /// Of the entry asked for, and all behind it in its segment.
    pub(crate) spans: &'a [Span],
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
            tail: Tail::new(tail_bytes_max),
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

    /// The shape of the log.
    ///
    /// # Errors
    /// `Corrupt` or `Unsupported` for a membership that cannot be read.
    pub(crate) fn summary(&self) -> Result<LogSummary> {
        let mut summary = LogSummary::new(self.floor);
        let (last, term) = self.last();
        summary.last = LogId::new(term.unwrap_or(0), last);
        summary.runs.clone_from(&self.runs);
        for entry in &self.memberships {
            summary.memberships.push((entry.index, Membership::decode(&entry.data)?));
        }
        Ok(summary)
    }

    /// The first index that the segments hold, dead entries included.
    pub(crate) fn first_stored(&self) -> u64 {
        self.segments.front().map_or(self.next_index(), |segment| segment.first)
    }

    /// Begins a segment behind all others; the last one so far ends at `previous_end`.
    pub(crate) fn push_segment(&mut self, sequence: u64, file: Arc<dyn VfsFile>, previous_end: u64) {
        let first = self.next_index();
        if let Some(last) = self.segments.back_mut() {
            last.end = previous_end;
            last.spans.shrink_to_fit();
            last.packs.shrink_to_fit();
        }
        self.segments.push_back(Segment { sequence, file, end: 0, first, spans: Vec::new(), packs: Vec::new() });
    }

    pub(crate) fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter()
    }

    /// What the last segment adds up to, which ends at `end`. Of entries before the boundary `purged`, only the places.
    pub(crate) fn seal(&self, end: u64, purged: LogId) -> Option<Seal> {
        let segment = self.segments.back()?;
        let first = segment.first;
        let mut runs: Vec<LogId> = Vec::new();
        if !segment.spans.is_empty() {
            // The boundary may lie in here: whoever reads the seal compares its term.
            runs.extend((purged.index >= first).then_some(purged));
            for run in self.runs_of(first, u64::MAX) {
                if runs.last().is_none_or(|last| last.term != run.term) {
                    runs.push(LogId::new(run.term, run.index.max(first)));
                }
            }
        }
        let members = &self.memberships[self.memberships.partition_point(|entry| entry.index < first)..];
        Some(Seal {
            sequence: segment.sequence,
            end,
            first,
            runs,
            memberships: members.iter().map(|entry| entry.index).collect(),
            packs: segment.packs.clone(),
            spans: segment.spans.clone(),
        })
    }

    /// Carries out what the last segment adds up to, which is empty so far; its membership entries come by
    /// [`LogIndex::push_membership`].
    pub(crate) fn apply_seal(&mut self, seal: Seal) {
        self.truncate(seal.first);
        let Some(segment) = self.segments.back_mut() else { return };
        debug_assert_eq!((segment.first, segment.spans.len()), (seal.first, 0), "a seal is all that its segment does");
        segment.spans = seal.spans;
        segment.packs = seal.packs;
        for run in seal.runs {
            if self.runs.last().is_none_or(|last| last.term != run.term) {
                self.runs.push(run);
            }
        }
    }

    pub(crate) fn push_membership(&mut self, entry: &Entry) {
        self.memberships.push(copy(entry));
    }

    /// Carries out a change whose data lies at `body` in the last segment. Keeps the entries if `keep`.
    pub(crate) fn apply(&mut self, change: Change, body: Body, keep: bool) {
        if let Some(from) = change.truncate_from {
            self.truncate(from);
        }
        let Some(segment) = self.segments.back_mut() else {
            debug_assert!(change.entries.is_empty(), "entries go into a segment");
            return;
        };
        let mut offset = body.offset;
        if let (Some(packed), Some(first)) = (body.packed, change.entries.first()) {
            let entries = change.entries.len() as u32;
            segment.packs.push(Pack { first: first.index, entries, offset: offset as u32, packed });
            offset = 0;
        }
        reserve(&mut segment.spans, change.entries.len());
        for entry in &change.entries {
            debug_assert_eq!(entry.index, segment.first + segment.spans.len() as u64, "entries continue the log");
            let len = entry.encoded_len();
            segment.spans.push(Span { offset: offset as u32, len: len as u32 });
            offset += len as u64;
            if self.runs.last().is_none_or(|run| run.term != entry.term) {
                self.runs.push(entry.id());
            }
            if entry.kind == EntryKind::Membership {
                self.memberships.push(copy(entry));
            }
        }
        if keep {
            self.tail.push(change.entries);
        }
    }

    fn truncate(&mut self, from: u64) {
        for segment in self.segments.iter_mut().rev() {
            segment.packs.truncate(segment.packs.partition_point(|pack| pack.first < from));
            if segment.first >= from {
                segment.spans.clear();
                segment.first = from;
            } else {
                segment.spans.truncate((from - segment.first) as usize);
                if let Some(pack) = segment.packs.last_mut() {
                    // It may hold more than what is left of it.
                    pack.entries = pack.entries.min((from - pack.first).try_into().unwrap_or(u32::MAX));
                }
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

    /// Moves the boundary up and forgets the segments before it; returns them, oldest first.
    pub(crate) fn purge(&mut self, up_to: LogId) -> Vec<Segment> {
        let dead = self.dead_segments(up_to.index);
        let removed = self.segments.drain(..dead).collect();
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

    /// Forgets everything; the log begins after `floor`. Returns its segments, oldest first.
    pub(crate) fn restart(&mut self, floor: LogId) -> Vec<Segment> {
        let fresh = Self { tail: self.tail.emptied(), ..Self::new(floor, 0) };
        std::mem::replace(self, fresh).segments.into()
    }

    /// The entries that memory has.
    pub(crate) fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Entries that memory had and that are to be freed where it delays nobody.
    pub(crate) fn take_removed(&mut self) -> Vec<Cached> {
        self.tail.take_removed()
    }

    /// Where the entry at `index` lies on disk, and those behind it.
    pub(crate) fn locate(&self, index: u64) -> Option<Stored<'_>> {
        let segment = self.segments.partition_point(|segment| segment.first <= index).checked_sub(1)?;
        // Empty segments share their first index with the one behind them; the one that holds entries comes last.
        let Segment { sequence, file, first, spans, packs, .. } = &self.segments[segment];
        let spans = spans.get((index - first) as usize..).filter(|spans| !spans.is_empty())?;
        Some(Stored { sequence: *sequence, file, packs, spans })
    }

    /// The runs of terms from the one of `first` to the one of `last`.
    pub(crate) fn runs_of(&self, first: u64, last: u64) -> &[LogId] {
        let begin = self.runs.partition_point(|run| run.index <= first).saturating_sub(1);
        &self.runs[begin..self.runs.partition_point(|run| run.index <= last).max(begin)]
    }
}

/// The entry with bytes of its own: it may be a slice of a whole segment.
fn copy(entry: &Entry) -> Entry {
    Entry::new(entry.index, entry.term, entry.kind, &entry.data)
}

/// Makes room as a vector does by itself, but an eighth at a time instead of doubling: a log's index is long.
fn reserve(spans: &mut Vec<Span>, more: usize) {
    if spans.capacity() - spans.len() < more {
        spans.reserve_exact(more.max(spans.len() / 8).max(64));
    }
}
