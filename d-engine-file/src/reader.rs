//! Reading entries: from memory, or from disk with one read for neighbours.
//!
//! A plan is made at one moment, under the lock of the index; the files it names are read after that, without a lock.
//! Their bytes stay as they are: a file is written again only once nobody holds it any more.

use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use d_engine_core::{ENTRY_HEADER_LEN, Entry, Error, LogId, Result};

use crate::log_index::{LogIndex, Pack, Span, Stored};
use crate::pack;
use crate::vfs::VfsFile;
use crate::wal::WalDir;

/// Bytes that one read from disk asks for at most, unless a single entry is longer: while these are decoded, the disk
/// brings the next ones.
const READ_BYTES_MAX: u64 = 256 << 10;
/// Bytes between two entries that are read along rather than skipped by another read.
const READ_GAP_MAX: u64 = 16 << 10;

/// Where the entries of a range are: first some on disk, then some that memory has.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    on_disk: Vec<Run>,
    in_memory: Vec<Entry>,
}

/// Entries on disk that one read brings.
#[derive(Debug)]
struct Run {
    sequence: u64,
    file: Arc<dyn VfsFile>,
    /// Set if they lie in a compressed batch.
    pack: Option<Pack>,
    first: u64,
    spans: Vec<Span>,
    /// The runs of terms that cover them.
    terms: Vec<LogId>,
}

impl Plan {
    /// The plan for a range; it ends early once `max_bytes` are reached, but not before the first entry.
    pub(crate) fn new(index: &LogIndex, range: RangeInclusive<u64>, max_bytes: usize) -> Result<Self> {
        let purged = index.purged().index;
        if *range.start() <= purged {
            return Err(Error::Compacted { first: purged + 1 });
        }
        let (mut next, end) = (*range.start(), (*range.end()).min(index.last_index()));
        let disk_end = index.tail().first_index().map_or(end, |first| end.min(first - 1));
        let mut budget = Budget { left: max_bytes, first: true };
        let mut plan = Self::default();
        while next <= disk_end {
            let run = Run::new(index, next, disk_end, &mut budget)?;
            if run.spans.is_empty() {
                return Ok(plan);
            }
            next += run.spans.len() as u64;
            plan.on_disk.push(run);
        }
        let most = (end + 1).saturating_sub(next) as usize;
        let cached = index.tail().from(next).take(most).take_while(|entry| budget.takes(entry.encoded_len()));
        // At once: growing would copy what is there again and again.
        plan.in_memory.reserve_exact(most.min(max_bytes / ENTRY_HEADER_LEN + 1));
        plan.in_memory.extend(cached.cloned());
        Ok(plan)
    }

    pub(crate) fn read(self, wal: &WalDir) -> Result<Vec<Entry>> {
        if self.on_disk.is_empty() {
            return Ok(self.in_memory);
        }
        let on_disk: usize = self.on_disk.iter().map(|run| run.spans.len()).sum();
        let mut entries = Vec::with_capacity(on_disk + self.in_memory.len());
        self.announce();
        for run in &self.on_disk {
            run.read(wal, &mut entries)?;
        }
        entries.extend(self.in_memory);
        Ok(entries)
    }

    /// Tells the disk of all that several reads are going to ask for, once for each file. A single read is as good as
    /// its announcement.
    fn announce(&self) {
        if self.on_disk.len() < 2 {
            return;
        }
        for runs in self.on_disk.chunk_by(|one, next| one.sequence == next.sequence) {
            let places = runs.iter().flat_map(Run::place_on_disk);
            let (start, end) = places.fold((u64::MAX, 0), |(start, end), (from, to)| (start.min(from), end.max(to)));
            if let (Some(run), true) = (runs.first(), start < end) {
                run.file.will_read(start, end - start);
            }
        }
    }
}

/// Reads the entry at one place from disk, whatever memory has.
pub(crate) fn read_one(index: &LogIndex, wal: &WalDir, at: u64) -> Result<Option<Entry>> {
    let mut entries = Vec::with_capacity(1);
    Run::new(index, at, at, &mut Budget { left: 0, first: true })?.read(wal, &mut entries)?;
    Ok(entries.pop())
}

impl Run {
    /// From `first` on as far as one read goes, at most to `last`; empty if the budget is spent.
    fn new(index: &LogIndex, first: u64, last: u64, budget: &mut Budget) -> Result<Self> {
        let Stored { sequence, file, packs, spans } = index.locate(first).ok_or_else(|| Error::Corrupt {
            place: "the index of the log has no place for an entry".into(),
            indexes: Some(first..=first),
        })?;
        let pack = Pack::of(packs, first).copied();
        let most = usize::try_from(last - first + 1).unwrap_or(usize::MAX).min(spans.len());
        let most = match pack {
            Some(pack) => most.min((pack.first + u64::from(pack.entries) - first) as usize),
            None => most.min(unpacked(packs, first, &spans[..most])),
        };
        let taken = spans[..most].iter().take_while(|span| budget.takes(span.len as usize)).count();
        let terms = index.runs_of(first, first + taken as u64).to_vec();
        Ok(Self { sequence, file: Arc::clone(file), pack, first, spans: spans[..taken].to_vec(), terms })
    }

    /// From where to where its bytes are in the file.
    fn place_on_disk(&self) -> Option<(u64, u64)> {
        if let Some(pack) = self.pack {
            let start = u64::from(pack.offset);
            return Some((start, start + u64::from(pack.packed.stored_len)));
        }
        let (first, last) = (self.spans.first()?, self.spans.last()?);
        Some((u64::from(first.offset), u64::from(last.offset) + u64::from(last.len)))
    }

    fn read(&self, wal: &WalDir, entries: &mut Vec<Entry>) -> Result<()> {
        let (Some(first), Some(last)) = (self.spans.first(), self.spans.last()) else {
            return Ok(());
        };
        let (start, bytes) = match self.pack {
            None => (first.offset, self.load(wal, first.offset, last.offset - first.offset + last.len)?),
            Some(pack) => {
                let stored = self.load(wal, pack.offset, pack.packed.stored_len)?;
                (0, pack::unpack(&stored, pack.packed, None).map_err(|why| self.corrupt(wal, 0, &why))?)
            }
        };
        let mut terms = self.terms.iter().peekable();
        let mut term = None;
        for (at, span) in self.spans.iter().enumerate() {
            let index = self.first + at as u64;
            while let Some(run) = terms.next_if(|run| run.index <= index) {
                term = Some(run.term);
            }
            let offset = (span.offset - start) as usize;
            let end = offset + span.len as usize;
            if end > bytes.len() {
                return Err(self.corrupt(wal, at, "its batch is too short"));
            }
            let entry =
                Entry::decode(bytes.slice(offset..end)).map_err(|error| self.corrupt(wal, at, &error.to_string()))?;
            if entry.index != index || Some(entry.term) != term {
                let why = format!("entry {} stands in the place of {index}", entry.id());
                return Err(self.corrupt(wal, at, &why));
            }
            entries.push(entry);
        }
        Ok(())
    }

    fn load(&self, wal: &WalDir, offset: u32, len: u32) -> Result<Bytes> {
        let mut bytes = vec![0u8; len as usize];
        match self.file.read_exact_at(&mut bytes, u64::from(offset)) {
            Ok(()) => Ok(bytes.into()),
            // It was longer when the log was opened.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(self.corrupt(wal, 0, "the file ends before")),
            Err(error) => Err(Error::io(format!("reading entry {} at {}", self.first, self.place(wal, 0)), error)),
        }
    }

    fn place(&self, wal: &WalDir, at: usize) -> String {
        let offset = self.pack.map_or(self.spans[at].offset, |pack| pack.offset);
        format!("{} offset {offset}", wal.segment_path(self.sequence).display())
    }

    fn corrupt(&self, wal: &WalDir, at: usize, why: &str) -> Error {
        let index = self.first + at as u64;
        Error::Corrupt {
            place: format!("{}: {why}; {}", self.place(wal, at), crate::RECOVERY),
            indexes: Some(index..=index),
        }
    }
}

/// How many of `spans` one read brings along; the first is of the entry at `first`. It ends before a compressed batch.
fn unpacked(packs: &[Pack], first: u64, spans: &[Span]) -> usize {
    let next_pack = packs.get(packs.partition_point(|pack| pack.first <= first));
    let most = next_pack.map_or(spans.len(), |pack| spans.len().min((pack.first - first) as usize));
    let joined = |pair: &[Span]| {
        let end = u64::from(pair[0].offset) + u64::from(pair[0].len);
        let (offset, len) = (u64::from(pair[1].offset), u64::from(pair[1].len));
        offset >= end && offset - end <= READ_GAP_MAX && offset + len - u64::from(spans[0].offset) <= READ_BYTES_MAX
    };
    1 + spans[..most].windows(2).take_while(|pair| joined(pair)).count()
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
