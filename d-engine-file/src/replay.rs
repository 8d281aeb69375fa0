//! Reads the segments of a log and decides what is the log, what is a torn tail, and what is damage. Never writes.
//!
//! Everything before a proven synced position must be whole, otherwise opening is refused. Proof is: the synced position
//! in `log_state` or in any valid batch header, and a following segment, which is made only after a sync of the one
//! before. What cannot be read behind the last proof is a write that a crash has torn: it was never acknowledged.

use std::sync::Arc;

use bytes::Bytes;
use d_engine_core::{Error, LogId, Result};

use crate::batch::{self, Batch, Flaw};
use crate::log_index::LogIndex;
use crate::log_state::LogState;
use crate::segment::{FIRST_BATCH, PAGE, Position, Seed, SegmentHeader, page_up};
use crate::vfs::VfsFile;
use crate::wal::WalDir;

/// What the segments say.
#[derive(Debug)]
pub(crate) struct Replay {
    /// The log up to the last proven position, behind the purge boundary.
    pub(crate) index: LogIndex,
    /// The segment that was written last; `None` if the log has none yet.
    pub(crate) last: Option<LastSegment>,
}

/// The end of the log.
#[derive(Debug)]
pub(crate) struct LastSegment {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn VfsFile>,
    /// Where what is proven to be durable ends.
    pub(crate) proven: u64,
    /// The batches behind it: whole, but the disk may never have got them.
    pub(crate) unproven: Vec<Batch>,
    /// Whether something that is no batch follows.
    pub(crate) torn: bool,
}

/// Reads the segments `sequences`, in order and without those before the first.
pub(crate) fn replay(wal: &WalDir, state: &LogState, sequences: &[u64], tail_bytes_max: usize) -> Result<Replay> {
    check_sequences(wal, state, sequences)?;
    let mut headers = Vec::with_capacity(sequences.len());
    for sequence in sequences {
        headers.push(open_segment(wal, state.uuid, *sequence)?);
    }
    let floor = headers.first().map_or(state.purged, |(header, _)| header.previous);
    let mut replay = Replay { index: LogIndex::new(floor, tail_bytes_max), last: None };
    for (at, (header, file)) in headers.iter().enumerate() {
        let scan = Scan { wal, header, seed: header.seed() };
        scan.check_continues(&replay.index)?;
        replay.index.push_segment(header.sequence, Arc::clone(file));
        match headers.get(at + 1) {
            Some((next, _)) => scan.completed_segment(&mut replay.index, file.as_ref(), next)?,
            None => replay.last = Some(scan.last_segment(&mut replay.index, file, state.synced)?),
        }
    }
    check_boundary(wal, state, &replay.index)?;
    replay.index.purge(state.purged);
    Ok(replay)
}

fn check_sequences(wal: &WalDir, state: &LogState, sequences: &[u64]) -> Result<()> {
    for (expected, found) in (state.first_segment..).zip(sequences) {
        if expected != *found {
            return Err(missing(wal, expected));
        }
    }
    match sequences.last() {
        Some(last) if *last < state.synced.segment => Err(missing(wal, state.synced.segment)),
        // Offset 0 of the first segment: it was about to be made.
        None if state.synced != Position::new(state.first_segment, 0) => Err(missing(wal, state.first_segment)),
        _ => Ok(()),
    }
}

fn missing(wal: &WalDir, sequence: u64) -> Error {
    Error::corrupt(format!("{}: the segment is missing; {}", wal.segment_path(sequence).display(), crate::RECOVERY))
}

fn check_boundary(wal: &WalDir, state: &LogState, index: &LogIndex) -> Result<()> {
    let purged = state.purged;
    let held = index.first_stored() <= purged.index + 1 && index.last_index() >= purged.index;
    let same = index.term(purged.index).is_none_or(|term| term == purged.term) || purged.index < index.first_stored();
    if held && same {
        return Ok(());
    }
    Err(Error::Corrupt {
        place: format!(
            "{}: the segments hold {}..={}, the log begins after {purged}; {}",
            wal.path().display(),
            index.first_stored(),
            index.last_index(),
            crate::RECOVERY
        ),
        indexes: Some(purged.index + 1..=index.first_stored().max(purged.index + 1)),
    })
}

fn open_segment(wal: &WalDir, uuid: u128, sequence: u64) -> Result<(SegmentHeader, Arc<dyn VfsFile>)> {
    let path = wal.segment_path(sequence);
    let doing = || format!("reading {}", path.display());
    let file = wal.disk.open(&path).map_err(|e| Error::io(format!("opening {}", path.display()), e))?;
    let length = file.len().map_err(|e| Error::io(doing(), e))?;
    let mut page = vec![0u8; length.min(PAGE) as usize];
    file.read_exact_at(&mut page, 0).map_err(|e| Error::io(doing(), e))?;
    let header = SegmentHeader::decode(&page, uuid, sequence).map_err(|error| match error {
        Error::Corrupt { place, indexes } => {
            Error::Corrupt { place: format!("{}: {place}; {}", path.display(), crate::RECOVERY), indexes }
        }
        Error::Unsupported { what } => Error::unsupported(format!("{}: {what}", path.display())),
        other => other,
    })?;
    if length < header.length {
        return Err(Error::corrupt(format!(
            "{}: the file has {length} bytes, its header says {}; {}",
            path.display(),
            header.length,
            crate::RECOVERY
        )));
    }
    Ok((header, file))
}

/// The reading of one segment.
struct Scan<'a> {
    wal: &'a WalDir,
    header: &'a SegmentHeader,
    seed: Seed,
}

impl Scan<'_> {
    fn corrupt(&self, offset: u64, why: &str, first: u64, last: u64) -> Error {
        Error::Corrupt {
            place: format!(
                "{} offset {offset}: {why}; {}",
                self.wal.segment_path(self.header.sequence).display(),
                crate::RECOVERY
            ),
            indexes: Some(first..=last.max(first)),
        }
    }

    fn check_continues(&self, index: &LogIndex) -> Result<()> {
        let LogId { term, index: previous } = self.header.previous;
        let (last, last_term) = index.last();
        if last == previous && last_term.is_none_or(|last_term| last_term == term) {
            return Ok(());
        }
        let why = format!("it follows entry {}, but the segments before it end with {last}", self.header.previous);
        Err(self.corrupt(0, &why, last + 1, previous))
    }

    fn load(&self, file: &dyn VfsFile, end: u64) -> Result<Bytes> {
        let doing = || format!("reading {}", self.wal.segment_path(self.header.sequence).display());
        let mut bytes = vec![0u8; end as usize];
        file.read_exact_at(&mut bytes, 0).map_err(|e| Error::io(doing(), e))?;
        Ok(bytes.into())
    }

    /// Reads a segment that another follows: it was durable up to where that one says.
    fn completed_segment(&self, index: &mut LogIndex, file: &dyn VfsFile, next: &SegmentHeader) -> Result<()> {
        let end = next.previous_end;
        if end < FIRST_BATCH || end > self.header.length {
            let why = format!("the next segment says that this one ends at {end}");
            return Err(self.corrupt(end, &why, index.next_index(), next.previous.index));
        }
        let bytes = self.load(file, end)?;
        let mut at = FIRST_BATCH;
        while at < end {
            let batch = match self.next_batch(&bytes, at)? {
                Ok(batch) => batch,
                Err(why) => return Err(self.corrupt(at, &why, index.next_index(), next.previous.index)),
            };
            at = batch.end;
            self.apply(index, batch)?;
        }
        Ok(())
    }

    /// Reads the segment that was written last, up to the first thing that is not a batch.
    fn last_segment(&self, index: &mut LogIndex, file: &Arc<dyn VfsFile>, synced: Position) -> Result<LastSegment> {
        let bytes = self.load(file.as_ref(), self.header.length)?;
        let mut proof = FIRST_BATCH;
        let mut prove = |position: Position| {
            if position.segment == self.header.sequence {
                proof = proof.max(position.offset);
            }
        };
        prove(synced);
        let mut batches = Vec::new();
        let mut end = FIRST_BATCH;
        let why = loop {
            match self.next_batch(&bytes, end)? {
                Ok(batch) => {
                    prove(batch.header.place.synced);
                    end = batch.end;
                    batches.push(batch);
                }
                Err(why) => break why,
            }
        };
        let mut torn = false;
        let mut last_seen = 0;
        for header in self.headers_behind(&bytes, end, &mut torn) {
            prove(header.place.synced);
            last_seen = last_seen.max(header.first_index);
        }
        let (proven, unproven): (Vec<_>, Vec<_>) = batches.into_iter().partition(|batch| batch.end <= proof);
        let proven_end = proven.last().map_or(FIRST_BATCH, |batch| batch.end);
        for batch in proven {
            self.apply(index, batch)?;
        }
        if proof > end {
            return Err(self.corrupt(end, &why, index.next_index(), last_seen));
        }
        if proven_end != proof {
            let why = format!("the log was durable up to {proof}, where no batch ends");
            return Err(self.corrupt(proof, &why, index.next_index(), last_seen));
        }
        Ok(LastSegment { header: *self.header, file: Arc::clone(file), proven: proof, unproven, torn })
    }

    /// The batch that follows what ends at `end`: right there, or on the next page if a sync came between. The inner
    /// error says why there is none.
    fn next_batch(&self, bytes: &Bytes, end: u64) -> Result<Result<Batch, String>> {
        let mut why = String::from("the segment is full");
        for offset in [end, page_up(end)] {
            match batch::read(bytes, offset, &self.seed) {
                Ok(batch) if batch.header.place.previous_end == end => return Ok(Ok(batch)),
                Ok(_) => why = format!("a batch at {offset} follows another one that is not there"),
                Err(Flaw::Bad(what)) => why = what,
                Err(Flaw::Unsupported(error)) => {
                    let path = self.wal.segment_path(self.header.sequence);
                    return Err(Error::unsupported(format!(
                        "{} offset {offset}: {error}: use the build that wrote it, or a newer one",
                        path.display()
                    )));
                }
            }
            if offset == page_up(end) {
                break;
            }
        }
        Ok(Err(why))
    }

    /// Every valid batch header at or behind `end`; `torn` becomes true if there is anything but zeros.
    fn headers_behind(&self, bytes: &Bytes, end: u64, torn: &mut bool) -> Vec<batch::Header> {
        const ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];
        let mut headers = Vec::new();
        let mut at = end as usize;
        while at < bytes.len() {
            let page_end = (page_up(at as u64 + 1) as usize).min(bytes.len());
            let page = &bytes[at..page_end];
            if *page != ZEROS[..page.len()] {
                *torn = true;
                headers.extend(
                    (at..page_end).step_by(8).filter_map(|offset| batch::header_at(bytes, offset as u64, &self.seed)),
                );
            }
            at = page_end;
        }
        headers
    }

    fn apply(&self, index: &mut LogIndex, batch: Batch) -> Result<()> {
        let offset = batch.header.place.position;
        check_follows(index, &batch.change).map_err(|why| {
            let next = index.next_index();
            self.corrupt(offset, &why, next, next)
        })?;
        let data_start = offset + batch.change.data_start();
        index.apply(batch.change, data_start, false);
        Ok(())
    }
}

/// Whether a change that was read fits the log so far; says why not.
pub(crate) fn check_follows(index: &LogIndex, change: &batch::Change) -> Result<(), String> {
    let next = index.next_index();
    let expected = match change.truncate_from {
        Some(0) => return Err("a record removes entry 0".into()),
        Some(from) if from > next => return Err(format!("a record removes the log from {from}, which ends at {next}")),
        Some(from) => from,
        None => next,
    };
    match change.entries.first() {
        Some(entry) if entry.index != expected => {
            Err(format!("entry {} follows where {expected} belongs", entry.index))
        }
        _ => Ok(()),
    }
}
