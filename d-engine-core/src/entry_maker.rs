//! Entries whose bytes lie together.

use std::fmt;

use bytes::BytesMut;

use crate::{ENTRY_HEADER_LEN, Entry, EntryKind};

/// Bytes of a block.
const BLOCK_LEN: usize = 32 << 10;
/// Longer entries have an allocation of their own: they would leave much of a block unused, and keep much of it.
const LONG: usize = BLOCK_LEN / 8;

/// Makes entries, with one allocation for a block of short ones instead of two for each; whoever keeps one of them keeps
/// its block, 32 KiB.
///
/// For whoever makes many that are kept and given up together, as a leader does. Entries are the same as those of
/// [`Entry::new`].
#[derive(Default)]
pub struct EntryMaker {
    /// What is left of the block.
    block: BytesMut,
}

impl EntryMaker {
    /// Makes and encodes an entry.
    pub fn make(&mut self, index: u64, term: u64, kind: EntryKind, data: &[u8]) -> Entry {
        let len = ENTRY_HEADER_LEN + data.len();
        if len > LONG {
            return Entry::new(index, term, kind, data);
        }
        if self.block.capacity() < len {
            self.block = BytesMut::with_capacity(BLOCK_LEN);
        }
        Entry::put(&mut self.block, index, term, kind, data);
        Entry::of_bytes(index, term, kind, self.block.split().freeze())
    }
}

/// The same entries come of it, in other blocks.
impl Clone for EntryMaker {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for EntryMaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryMaker").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_blocks_are_those_that_are_made_alone() {
        let mut maker = EntryMaker::default();
        let lens = [0, 1, 300, LONG - ENTRY_HEADER_LEN, LONG, BLOCK_LEN];
        let made: Vec<_> = (1..=500)
            .map(|index| {
                let data = vec![index as u8; lens[index as usize % lens.len()]];
                (maker.make(index, 7, EntryKind::Command, &data), Entry::new(index, 7, EntryKind::Command, data))
            })
            .collect();
        for (together, alone) in made {
            assert_eq!(together, alone);
            assert_eq!(together.encoded(), alone.encoded());
        }
    }
}
