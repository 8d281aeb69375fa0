//! Looks at a directory without changing it, damage included: what opening would refuse is described here.
//!
//! Everything goes through [`ReadOnlyDisk`], which has no way to write. A directory that a node has open is not looked
//! at: what is being written would look like damage.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use d_engine_core::{Error, HardState, LogId, LogSummary, Result};

use crate::batch::Batch;
use crate::log_index::LogIndex;
use crate::log_state::{self, LogState};
use crate::meta_store::FileMetaStore;
use crate::replay::{Replay, Scan, check_follows, read_header, replay};
use crate::seal::Seal;
use crate::segment::{Position, SegmentHeader, sequence_of};
use crate::slot_file::SlotFile;
use crate::verify;
use crate::vfs::{ReadOnlyDisk, VfsFile};
use crate::wal::WalDir;
use crate::{HARD_STATE, LOCK, LOG_STATE, Paths, RECOVERY, WAL};

/// What a directory of a [`FileStorageEngine`](crate::FileStorageEngine) holds.
#[derive(Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// The hard state; `None` if none was ever saved, or if it cannot be read, which then is among the damage.
    pub hard_state: Option<HardState>,
    /// What the state file of the log says; `None` if it cannot be read, which then is among the damage.
    pub state: Option<StateView>,
    /// The segments, in order.
    pub segments: Vec<SegmentView>,
    /// The log as opening would show it; `None` if it would refuse.
    pub log: Option<LogSummary>,
    /// Everything that is damaged, missing or of another format, each with its place and, where known, its entries. Empty:
    /// every byte that counts was read and is sound.
    pub damage: Vec<Error>,
}

/// What the state file of a log says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateView {
    /// Tells this log from others.
    pub uuid: u128,
    /// Sequence of the first segment that counts.
    pub first_segment: u64,
    /// The purge boundary.
    pub purged: LogId,
    /// Everything before it was durable when this was written: a segment and an offset in it.
    pub synced: (u64, u64),
}

/// What one segment holds, seen by itself: entries that a later segment removes or replaces are counted.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SegmentView {
    /// The number in its name.
    pub sequence: u64,
    /// Its file.
    pub path: PathBuf,
    /// Length of the file in bytes; 0 if it cannot be opened.
    pub bytes: u64,
    /// What it is to the log.
    pub part: SegmentPart,
    /// Index of the first entry that can follow in it; `None` if its header cannot be read.
    pub base: Option<u64>,
    /// The entries that were found, up to the first damage; `None` if there are none.
    pub entries: Option<RangeInclusive<u64>>,
    /// The runs of terms of these entries: the id of the first of each.
    pub runs: Vec<LogId>,
    /// The offset at which what counts in it ends; `None` if it is damaged or was not read.
    pub end: Option<u64>,
    /// The offset up to which it is proven to be durable; `None` like the end.
    pub synced: Option<u64>,
    /// Whether a write follows that a crash has interrupted; opening cuts it.
    pub torn: bool,
}

/// What a segment is to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentPart {
    /// Purged; opening removes it.
    Purged,
    /// Complete: another one follows.
    Sealed,
    /// The one that is written.
    Active,
}

/// Looks at a directory, reads all of it, and changes nothing.
///
/// # Errors
/// `Locked` if it is open, `Invalid` if it is no directory of a file storage engine, `Io` if it cannot be read. Damage is
/// no error: it is a part of the answer.
pub fn inspect(dir: impl AsRef<Path>) -> Result<Inspection> {
    let paths = Paths { disk: Arc::new(ReadOnlyDisk), dir: dir.as_ref().to_path_buf() };
    let names = paths.disk.list(&paths.dir).map_err(|error| paths.reading(error))?;
    if ![HARD_STATE, LOG_STATE, WAL].iter().any(|known| names.iter().any(|name| name == known)) {
        let dir = paths.dir.display();
        return Err(Error::invalid(format!(
            "{dir} holds no log of the file engine: it has no {LOG_STATE} and no {WAL}"
        )));
    }
    let _lock = match paths.disk.try_lock(&paths.file(LOCK)).map_err(|error| paths.reading(error))? {
        Some(lock) => lock,
        None => return Err(Error::Locked { path: paths.dir.display().to_string() }),
    };
    let mut found = Inspection { hard_state: None, state: None, segments: Vec::new(), log: None, damage: Vec::new() };
    if let Err(error) = paths.is_new() {
        found.damage.push(error);
    }
    found.read_hard_state(&paths, &names);
    let state = found.read_log_state(&paths, &names);
    if names.iter().any(|name| name == WAL) {
        let wal = WalDir::new(Arc::clone(&paths.disk), &paths.dir);
        let listed = paths.disk.list(wal.path()).map_err(|error| paths.reading(error))?;
        let mut sequences: Vec<u64> = listed.iter().filter_map(|name| sequence_of(name)).collect();
        sequences.sort_unstable();
        found.read_segments(&wal, state.as_ref(), &sequences);
        if let Some(state) = state.filter(|_| found.note_gaps(&wal)) {
            found.read_log(&wal, &state, &sequences);
        }
    }
    Ok(found)
}

impl Paths {
    fn reading(&self, error: std::io::Error) -> Error {
        Error::io(format!("reading the directory {}", self.dir.display()), error)
    }
}

impl Inspection {
    /// Takes note of damage, unless it is known already.
    fn note(&mut self, error: Error) {
        let text = error.to_string();
        if self.damage.iter().all(|known| known.to_string() != text) {
            self.damage.push(error);
        }
    }

    fn read_hard_state(&mut self, paths: &Paths, names: &[String]) {
        if names.iter().all(|name| name != HARD_STATE) {
            return;
        }
        match FileMetaStore::read(paths.disk.as_ref(), &paths.file(HARD_STATE)) {
            Ok((_, state)) => self.hard_state = state,
            Err(error) => self.note(error),
        }
    }

    fn read_log_state(&mut self, paths: &Paths, names: &[String]) -> Option<LogState> {
        if names.iter().all(|name| name != LOG_STATE) {
            return None;
        }
        let read = SlotFile::open(paths.disk.as_ref(), &paths.file(LOG_STATE), log_state::TAG)
            .and_then(|(file, payload)| LogState::decode(&payload).map_err(|error| file.name(error)));
        match read {
            Ok(state) => {
                let LogState { uuid, first_segment, purged, synced } = state;
                self.state = Some(StateView { uuid, first_segment, purged, synced: (synced.segment, synced.offset) });
                Some(state)
            }
            Err(error) => {
                self.note(error);
                None
            }
        }
    }

    /// Reads each segment by itself, so that one that is damaged hides no other. Purged ones are not read: they may be
    /// anything.
    fn read_segments(&mut self, wal: &WalDir, state: Option<&LogState>, sequences: &[u64]) {
        let first = state.map_or(0, |state| state.first_segment);
        let synced = state.map_or(Position::default(), |state| state.synced);
        let mut opened: Vec<Opened> = Vec::new();
        for sequence in sequences {
            let segment = self.open_segment(wal, state.map(|state| state.uuid), *sequence, *sequence >= first);
            opened.push(segment);
        }
        // What the segment before adds up to, if all of it was read.
        let mut expected: Option<Seal> = None;
        for (at, Opened { view, content }) in opened.iter().enumerate() {
            let mut view = view.clone();
            let next = opened.get(at + 1);
            view.part = match next {
                _ if view.sequence < first => SegmentPart::Purged,
                Some(_) => SegmentPart::Sealed,
                None => SegmentPart::Active,
            };
            let sealed = expected.take();
            if let Some((header, file)) = content {
                let next = next.and_then(|next| next.content.as_ref()).map(|(header, _)| header);
                let next = next.filter(|next| next.sequence == view.sequence + 1);
                let scan = Scan { wal, header, seed: header.seed() };
                let read = check_seal_in(&scan, file, sealed)
                    .and_then(|()| read_segment(&scan, file, next, synced, &mut view));
                match read {
                    Ok(seal) => expected = seal,
                    Err(error) => self.note(error),
                }
            }
            self.segments.push(view);
        }
    }

    fn open_segment(&mut self, wal: &WalDir, uuid: Option<u128>, sequence: u64, counts: bool) -> Opened {
        let path = wal.segment_path(sequence);
        let mut view = SegmentView {
            sequence,
            path: path.clone(),
            bytes: 0,
            part: SegmentPart::Sealed,
            base: None,
            entries: None,
            runs: Vec::new(),
            end: None,
            synced: None,
            torn: false,
        };
        let read = wal.disk.open(&path).map_err(|error| Error::io(format!("opening {}", path.display()), error));
        let read = read.and_then(|file| {
            view.bytes = file.len().unwrap_or(0);
            if counts {
                read_header(wal, uuid, sequence, file.as_ref()).map(|header| Some((header, file)))
            } else {
                Ok(None)
            }
        });
        let content = read.unwrap_or_else(|error| {
            self.note(error);
            None
        });
        view.base = content.as_ref().map(|(header, _)| header.previous.index + 1);
        Opened { view, content }
    }

    /// Whether the log is complete, as far as the numbers of its segments tell; names what is missing.
    fn note_gaps(&mut self, wal: &WalDir) -> bool {
        let counted: Vec<&SegmentView> =
            self.segments.iter().filter(|segment| segment.part != SegmentPart::Purged).collect();
        let mut missing = Vec::new();
        for pair in counted.windows(2).filter(|pair| pair[0].sequence + 1 < pair[1].sequence) {
            let last = pair[0].entries.as_ref().map(|entries| *entries.end());
            let indexes = last.zip(pair[1].base).map(|(last, base)| last + 1..=base.saturating_sub(1));
            let sequence = pair[0].sequence + 1;
            let place = format!("{}: the segment is missing; {RECOVERY}", wal.segment_path(sequence).display());
            missing.push(Error::Corrupt { place, indexes });
        }
        let none = missing.is_empty();
        missing.into_iter().for_each(|error| self.note(error));
        none
    }

    /// What opening would say, which also compares the segments with each other.
    fn read_log(&mut self, wal: &WalDir, state: &LogState, sequences: &[u64]) {
        let counted = &sequences[sequences.partition_point(|sequence| *sequence < state.first_segment)..];
        match replay(wal, state, counted, 0).and_then(summary) {
            Ok(summary) => self.log = Some(summary),
            Err(error) => self.note(error),
        }
    }
}

/// A segment whose first page was read, unless it is damaged or does not count.
struct Opened {
    view: SegmentView,
    content: Option<(SegmentHeader, Arc<dyn VfsFile>)>,
}

/// Compares the seal that a segment holds with what the segment before was read to be.
fn check_seal_in(scan: &Scan<'_>, file: &Arc<dyn VfsFile>, expected: Option<Seal>) -> Result<()> {
    match expected {
        Some(expected) if scan.header.seal_length > 0 => {
            let found = scan.seal(file.as_ref(), expected.sequence)?;
            verify::check_seal(scan, &found, expected)
        }
        _ => Ok(()),
    }
}

/// Reads one segment by itself: up to where the next one says that it ends, or as far as it goes. What it adds up to, if
/// that is certain.
fn read_segment(
    scan: &Scan<'_>,
    file: &Arc<dyn VfsFile>,
    next: Option<&SegmentHeader>,
    synced: Position,
    view: &mut SegmentView,
) -> Result<Option<Seal>> {
    let mut index = LogIndex::new(scan.header.previous, 0);
    index.push_segment(scan.header.sequence, Arc::clone(file), 0);
    let read = match next {
        Some(next) => scan.completed_segment(&mut index, file.as_ref(), next).map(|()| {
            view.end = Some(next.previous_end);
            view.synced = view.end;
        }),
        None => scan.last_segment(&mut index, file, synced).and_then(|last| {
            view.torn = last.torn && view.part == SegmentPart::Active;
            view.synced = Some(last.proven);
            view.end = Some(last.unproven.last().map_or(last.proven, |batch| batch.end));
            apply(&mut index, last.unproven)
        }),
    };
    let seal = index.seal(view.end.unwrap_or(0), LogId::default());
    if let Some(seal) = seal.as_ref().filter(|seal| !seal.spans.is_empty()) {
        view.entries = Some(seal.first..=seal.first + seal.spans.len() as u64 - 1);
        view.runs.clone_from(&seal.runs);
    }
    read.map(|()| seal.filter(|_| next.is_some()))
}

/// Adds the batches that opening would make durable.
fn apply(index: &mut LogIndex, unproven: Vec<Batch>) -> Result<()> {
    for batch in unproven {
        check_follows(index, &batch.change).map_err(Error::corrupt)?;
        index.apply(batch.change, batch.body, false);
    }
    Ok(())
}

/// The log as opening would show it.
fn summary(replay: Replay) -> Result<LogSummary> {
    let Replay { mut index, last } = replay;
    apply(&mut index, last.map(|last| last.unproven).unwrap_or_default())?;
    index.summary()
}
