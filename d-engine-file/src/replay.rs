//! Reads the segments of a log and decides what is the log, what is a torn tail, and what is damage. Never writes.
//!
//! Of a segment that the one behind it seals only the first page is read. Everything else before a proven synced position must be
//! whole, otherwise opening is refused. Proof is: the synced position in `log_state` or in any valid batch header, and a
//! following segment, which is made only after a sync of the one before. What cannot be read behind the last proof is a write that a crash has torn: it was never acknowledged.

use std::sync::Arc;

use bytes::Bytes;
use d_engine_core::{Error, LogId, Result};

use crate::batch::{self, Batch, Flaw};
use crate::log_index::LogIndex;
use crate::log_state::LogState;
use crate::reader;
use crate::seal::Seal;
use crate::segment::{FIRST_BATCH, PAGE, Position, Seed, SegmentHeader, owner_of, page_up};
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
    /// Whether a batch header of this segment follows that belongs to no whole batch of the log.
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
    let mut previous_end = 0;
    for (at, (header, file)) in headers.iter().enumerate() {
        let scan = Scan { wal, header, seed: header.seed() };
        scan.check_continues(&replay.index)?;
        replay.index.push_segment(header.sequence, Arc::clone(file), previous_end);
        match headers.get(at + 1) {
            Some((next, file)) if next.seal_length > 0 => {
                let seal = Scan { wal, header: next, seed: next.seed() }.seal(file.as_ref(), header.sequence)?;
                scan.sealed_segment(&mut replay.index, seal, state.purged)?;
            }
            Some((next, _)) => scan.completed_segment(&mut replay.index, file.as_ref(), next)?,
            None => replay.last = Some(scan.last_segment(&mut replay.index, file, state.synced)?),
        }
        previous_end = headers.get(at + 1).map_or(0, |(next, _)| next.previous_end);
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
    let file = wal.disk.open(&path).map_err(|e| Error::io(format!("opening {}", path.display()), e))?;
    let header = read_header(wal, Some(uuid), sequence, file.as_ref())?;
    Ok((header, file))
}

/// Reads and verifies the first page of a segment, and that the file is as long as it says. Without the log's uuid the
/// one in the page has to do.
pub(crate) fn read_header(
    wal: &WalDir,
    uuid: Option<u128>,
    sequence: u64,
    file: &dyn VfsFile,
) -> Result<SegmentHeader> {
    let path = wal.segment_path(sequence);
    let doing = || format!("reading {}", path.display());
    let length = file.len().map_err(|e| Error::io(doing(), e))?;
    let mut page = vec![0u8; length.min(PAGE) as usize];
    file.read_exact_at(&mut page, 0).map_err(|e| Error::io(doing(), e))?;
    let uuid = uuid.or_else(|| owner_of(&page).map(|(uuid, _)| uuid)).unwrap_or_default();
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
    Ok(header)
}

/// The reading of one segment.
pub(crate) struct Scan<'a> {
    pub(crate) wal: &'a WalDir,
    pub(crate) header: &'a SegmentHeader,
    pub(crate) seed: Seed,
}

impl Scan<'_> {
    pub(crate) fn corrupt(&self, offset: u64, why: &str, first: u64, last: u64) -> Error {
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

    /// The seal that this segment holds, of the one before it, which is `sealed`.
    pub(crate) fn seal(&self, file: &dyn VfsFile, sealed: u64) -> Result<Seal> {
        let (first, last) = (self.header.previous.index, self.header.previous.index);
        let corrupt = |why: &str| self.corrupt(FIRST_BATCH, why, first, last);
        let bytes = self.load(file, self.header.first_batch())?;
        let batch = self.next_batch(&bytes, FIRST_BATCH)?.map_err(|(_, why)| corrupt(&why))?;
        let payload = batch.seal.ok_or_else(|| corrupt("a batch stands where a seal belongs"))?;
        let seal = match Seal::decode(&payload) {
            Err(Error::Corrupt { place, .. }) => return Err(corrupt(&place)),
            decoded => decoded?,
        };
        let next = seal.first + seal.spans.len() as u64;
        if batch.end != bytes.len() as u64
            || (seal.sequence, seal.end, next) != (sealed, self.header.previous_end, self.header.previous.index + 1)
        {
            return Err(corrupt("the seal is not the one of the segment before"));
        }
        Ok(seal)
    }

    /// Takes a segment as its seal describes it; reads its membership entries behind the boundary `purged`.
    fn sealed_segment(&self, index: &mut LogIndex, seal: Seal, purged: LogId) -> Result<()> {
        if seal.first > index.next_index() || seal.end > self.header.length {
            let why = format!("its seal adds entries from {} on up to byte {}", seal.first, seal.end);
            return Err(self.corrupt(0, &why, index.next_index(), seal.first));
        }
        let memberships = seal.memberships.clone();
        index.apply_seal(seal);
        for at in memberships.into_iter().filter(|at| *at > purged.index) {
            if let Some(entry) = reader::read_one(index, self.wal, at)? {
                index.push_membership(&entry);
            }
        }
        Ok(())
    }

    /// Reads a segment that another follows without a seal: it was durable up to where that one says.
    pub(crate) fn completed_segment(
        &self,
        index: &mut LogIndex,
        file: &dyn VfsFile,
        next: &SegmentHeader,
    ) -> Result<()> {
        let end = next.previous_end;
        if end < FIRST_BATCH || end > self.header.length {
            let why = format!("the next segment says that this one ends at {end}");
            return Err(self.corrupt(end, &why, index.next_index(), next.previous.index));
        }
        self.all_batches(index, file, end, next.previous.index, &mut |_| Ok(()))
    }

    /// Reads the batches up to `end`, which are all durable; `last` is the last index that they may hold.
    pub(crate) fn all_batches(
        &self,
        index: &mut LogIndex,
        file: &dyn VfsFile,
        end: u64,
        last: u64,
        seen: &mut dyn FnMut(&Batch) -> Result<()>,
    ) -> Result<()> {
        let bytes = self.load(file, end)?;
        let mut at = FIRST_BATCH;
        while at < end {
            let batch = match self.next_batch(&bytes, at)? {
                Ok(batch) => batch,
                Err((place, why)) => return Err(self.corrupt(place, &why, index.next_index(), last)),
            };
            at = batch.end;
            seen(&batch)?;
            self.apply(index, batch)?;
        }
        Ok(())
    }

    /// Reads the segment that was written last, up to the first thing that is not a batch.
    pub(crate) fn last_segment(
        &self,
        index: &mut LogIndex,
        file: &Arc<dyn VfsFile>,
        synced: Position,
    ) -> Result<LastSegment> {
        let bytes = self.load(file.as_ref(), self.header.length)?;
        let mut proof = self.header.first_batch();
        let mut prove = |position: Position| {
            if position.segment == self.header.sequence {
                proof = proof.max(position.offset);
            }
        };
        prove(synced);
        let mut batches = Vec::new();
        let mut end = FIRST_BATCH;
        let (place, why) = loop {
            match self.next_batch(&bytes, end)? {
                Ok(batch) => {
                    prove(batch.header.place.synced);
                    end = batch.end;
                    batches.push(batch);
                }
                Err(flaw) => break flaw,
            }
        };
        let mut torn = false;
        let mut last_seen = 0;
        for header in self.headers_behind(&bytes, end) {
            torn = true;
            prove(header.place.synced);
            last_seen = last_seen.max(header.first_index);
        }
        let (proven, unproven): (Vec<_>, Vec<_>) = batches.into_iter().partition(|batch| batch.end <= proof);
        let proven_end = proven.last().map_or(FIRST_BATCH, |batch| batch.end);
        for batch in proven {
            self.apply(index, batch)?;
        }
        if proof > end {
            return Err(self.corrupt(place, &why, index.next_index(), last_seen));
        }
        if proven_end != proof {
            let why = format!("the log was durable up to {proof}, where no batch ends");
            return Err(self.corrupt(proof, &why, index.next_index(), last_seen));
        }
        Ok(LastSegment { header: *self.header, file: Arc::clone(file), proven: proof, unproven, torn })
    }

    /// The batch that follows what ends at `end`: right there, or on the next page if a sync came between. The inner
    /// error says where and why there is none.
    fn next_batch(&self, bytes: &Bytes, end: u64) -> Result<Result<Batch, (u64, String)>> {
        let mut why = (end, String::from("the segment is full"));
        for offset in [end, page_up(end)] {
            match batch::read(bytes, offset, &self.seed) {
                Ok(batch) if batch.header.place.previous_end == end => return Ok(Ok(batch)),
                Ok(_) => why = (end, format!("a batch at {offset} follows another one that is not there")),
                // Of the two places, the one where a batch was begun.
                Err(Flaw::Bad(what)) if offset == end || batch::header_at(bytes, offset, &self.seed).is_some() => {
                    why = (offset, what);
                }
                Err(Flaw::Bad(_)) => {}
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

    /// Every valid batch header at or behind `end`. The rest is zeros, what a torn write has left, and what the file held
    /// before it became this segment.
    fn headers_behind<'b>(&'b self, bytes: &'b Bytes, end: u64) -> impl Iterator<Item = batch::Header> + 'b {
        (end as usize..bytes.len().saturating_sub(batch::HEADER_LEN - 1))
            .step_by(8)
            .filter(|at| bytes[*at..at + batch::MAGIC.len()] == batch::MAGIC)
            .filter_map(|at| batch::header_at(bytes, at as u64, &self.seed))
    }

    fn apply(&self, index: &mut LogIndex, batch: Batch) -> Result<()> {
        let offset = batch.header.place.position;
        check_follows(index, &batch.change).map_err(|why| {
            let next = index.next_index();
            self.corrupt(offset, &why, next, next)
        })?;
        index.apply(batch.change, batch.body, false);
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
