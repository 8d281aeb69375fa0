//! Reads a whole log again and finds the damage that opening does not look for. Never writes.

use std::sync::Arc;

use d_engine_core::{LogId, Result};

use crate::log_index::{LogIndex, Segment};
use crate::replay::{Scan, read_header};
use crate::seal::Seal;
use crate::segment::{FIRST_BATCH, Position};
use crate::vfs::VfsFile;
use crate::wal::WalDir;

/// What a verification has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LogCheck {
    /// Segments.
    pub segments: u64,
    /// Write calls found in them.
    pub batches: u64,
    /// Entries found in them, those that were removed or replaced later included.
    pub entries: u64,
    /// Bytes up to where the segments end.
    pub bytes: u64,
}

/// A segment's file, held so that it is not written again meanwhile.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    sequence: u64,
    file: Arc<dyn VfsFile>,
    end: u64,
}

impl SegmentFile {
    pub(crate) fn of(segment: &Segment) -> Self {
        Self { sequence: segment.sequence, file: Arc::clone(&segment.file), end: segment.end }
    }
}

/// Verifies these segments, the last of which ends at `last`.
pub(crate) fn verify(wal: &WalDir, uuid: u128, segments: &[SegmentFile], last: Position) -> Result<LogCheck> {
    let mut check = LogCheck::default();
    // What the segment before adds up to.
    let mut expected: Option<Seal> = None;
    for SegmentFile { sequence, file, end } in segments {
        let end = if *sequence == last.segment { last.offset } else { *end };
        let header = read_header(wal, Some(uuid), *sequence, file.as_ref())?;
        let scan = Scan { wal, header: &header, seed: header.seed() };
        let mut index = LogIndex::new(header.previous, 0);
        index.push_segment(*sequence, Arc::clone(file), 0);
        scan.all_batches(&mut index, file.as_ref(), end, header.previous.index, &mut |batch| {
            check.batches += u64::from(batch.seal.is_none());
            check.entries += batch.change.entries.len() as u64;
            let (Some(found), Some(expected)) = (&batch.seal, expected.take()) else { return Ok(()) };
            check_seal(&scan, &Seal::decode(found)?, expected)
        })?;
        check.segments += 1;
        check.bytes += end;
        expected = index.seal(end, LogId::default());
    }
    Ok(check)
}

/// Compares the seal that the segment of `scan` holds with what the batches of the one before add up to.
pub(crate) fn check_seal(scan: &Scan<'_>, found: &Seal, mut expected: Seal) -> Result<()> {
    expected.clip_like(found);
    if *found == expected {
        return Ok(());
    }
    let why = format!("the seal of segment {} is not what its batches add up to", found.sequence);
    Err(scan.corrupt(FIRST_BATCH, &why, found.first, scan.header.previous.index))
}
