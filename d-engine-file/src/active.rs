//! The segment that is being written.

use std::sync::Arc;

use crate::segment::{Position, Seed, SegmentHeader, page_up};
use crate::vfs::VfsFile;

/// Bytes at the end of a segment that commands leave free, so that on a full disk a new leader's no-op or a change of
/// members still finds room; a sixteenth in a short segment.
const RESERVE_BYTES_MAX: u64 = 256 << 10;

#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) sequence: u64,
    pub(crate) file: Arc<dyn VfsFile>,
    /// Length of the file.
    pub(crate) length: u64,
    /// Where its first group begins.
    pub(crate) start: u64,
    /// Where the last batch ends.
    pub(crate) end: u64,
    pub(crate) seed: Seed,
}

impl Active {
    pub(crate) fn new(header: &SegmentHeader, file: Arc<dyn VfsFile>, end: u64) -> Self {
        let start = page_up(header.first_batch());
        Self { sequence: header.sequence, file, length: header.length, start, end, seed: header.seed() }
    }

    pub(crate) fn position(&self) -> Position {
        Position::new(self.sequence, self.end)
    }

    /// Where a batch with or without commands has to end at the latest.
    pub(crate) fn room(&self, commands: bool) -> u64 {
        let reserve = if commands { RESERVE_BYTES_MAX.min(self.length / 16) } else { 0 };
        self.length - reserve
    }
}
