//! The last changes, as many as fit a number of bytes.
//!
//! They stay in the blocks that they come in, one per chunk: whoever reads takes a handle of a block and looks at it without
//! holding up the next chunk, and nothing is cloned for him.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::overlay::Change;

/// Changes in order, each with a number that never comes again.
#[derive(Debug)]
pub(crate) struct History {
    /// A revision is never in two of them, and none is empty.
    blocks: VecDeque<Block>,
    /// The number of the first change that is kept, or of the next one to come.
    first: u64,
    /// The number of the next change to come.
    end: u64,
    /// All changes of this revision and later ones are kept.
    first_revision: u64,
    /// The store's revision.
    revision: u64,
    bytes: usize,
    bytes_max: usize,
    /// Readers that stand before this number have missed changes that never were here.
    reset_at: u64,
}

/// The changes of one chunk. In the first block some have gone.
#[derive(Debug)]
struct Block {
    /// The number of the first of them.
    first: u64,
    changes: Arc<Vec<Change>>,
}

/// Some changes, held for a reader.
#[derive(Debug)]
pub(crate) struct Part {
    from: usize,
    changes: Arc<Vec<Change>>,
}

impl Part {
    /// They themselves, in order.
    pub(crate) fn changes(&self) -> &[Change] {
        &self.changes[self.from..]
    }
}

impl History {
    /// Nothing is kept yet of a state at `revision`.
    pub(crate) fn new(revision: u64, bytes_max: usize) -> Self {
        let first_revision = revision + 1;
        let blocks = VecDeque::new();
        Self { blocks, first: 0, end: 0, first_revision, revision, bytes: 0, bytes_max, reset_at: 0 }
    }

    pub(crate) const fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) const fn first_revision(&self) -> u64 {
        self.first_revision
    }

    /// The number of the first change that is kept.
    pub(crate) const fn first(&self) -> u64 {
        self.first
    }

    /// Whether a reader at `number` has missed changes because the state was replaced.
    pub(crate) const fn was_reset_behind(&self, number: u64) -> bool {
        number < self.reset_at
    }

    /// The number of the next change to come.
    pub(crate) const fn end(&self) -> u64 {
        self.end
    }

    /// The number of the first change of `revision` or a later one.
    pub(crate) fn find(&self, revision: u64) -> u64 {
        let is_before = |change: &Change| change.revision < revision;
        let block = self.blocks.partition_point(|block| block.changes.last().is_some_and(is_before));
        let Some(block) = self.blocks.get(block) else { return self.end };
        self.first.max(block.first + block.changes.partition_point(is_before) as u64)
    }

    /// Changes from `number` on, which is not before the first one, to the end of a revision; `None` at the end.
    pub(crate) fn read(&self, number: u64) -> Option<Part> {
        if number >= self.end {
            return None;
        }
        let block = self.blocks.partition_point(|block| block.first <= number).checked_sub(1)?;
        let Block { first, changes } = &self.blocks[block];
        let from = usize::try_from(number - first).ok()?;
        Some(Part { from, changes: Arc::clone(changes) })
    }

    /// Adds what a chunk has changed, and drops the oldest beyond the bytes that may be kept.
    pub(crate) fn extend(&mut self, changes: Vec<Change>) {
        let Some(last) = changes.last() else { return };
        self.revision = last.revision;
        self.bytes += changes.iter().map(size_of).sum::<usize>();
        let first = self.end;
        self.end += changes.len() as u64;
        self.blocks.push_back(Block { first, changes: Arc::new(changes) });
        while self.drop_from_first_block() {}
    }

    /// Drops from the first block what is too much; whether there may be more in the next one.
    fn drop_from_first_block(&mut self) -> bool {
        let Some(block) = self.blocks.front_mut() else { return false };
        let from = (self.first - block.first) as usize;
        let mut to = from;
        // A revision goes whole.
        while let Some(change) = block.changes.get(to)
            && (self.bytes > self.bytes_max || change.revision < self.first_revision)
        {
            self.bytes -= size_of(change);
            self.first_revision = change.revision + 1;
            to += 1;
        }
        self.first = block.first + to as u64;
        // What is freed was last looked at long ago. Reading all of it first brings it back at once instead of one by one.
        for change in &block.changes[from..to] {
            std::hint::black_box((change.key.first(), change.prev.as_ref().and_then(|prev| prev.first())));
        }
        if to == block.changes.len() {
            self.blocks.pop_front();
            return true;
        }
        // The block stays, and what the changes hold goes; while it is read, all of it goes together later.
        if let Some(changes) = Arc::get_mut(&mut block.changes) {
            for change in &mut changes[from..to] {
                (change.key, change.record, change.prev) = (Bytes::new(), None, None);
            }
        }
        false
    }

    /// The state was replaced by one at `revision`; changes on the way there are not known. Nothing happens if it is the
    /// revision that the history has come to.
    pub(crate) fn reset(&mut self, revision: u64) {
        if revision == self.revision {
            return;
        }
        // One number is left out, so that those who stand at the end have missed something too.
        self.first = self.end + 1;
        self.end = self.first;
        self.reset_at = self.first;
        self.blocks.clear();
        self.bytes = 0;
        self.revision = revision;
        self.first_revision = revision + 1;
    }
}

/// About what a change takes in memory.
fn size_of(change: &Change) -> usize {
    let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    std::mem::size_of::<Change>() + change.key.len() + len(&change.record) + len(&change.prev)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn change(revision: u64, len: usize) -> Change {
        Change { revision, key: vec![1; len + 1].into(), record: Some(Bytes::new()), prev: None }
    }

    /// Numbers, revisions and lengths, as a plain list keeps them.
    struct Model {
        kept: VecDeque<(u64, u64, usize)>,
        first_revision: u64,
    }

    impl Model {
        fn trim(&mut self, bytes_max: usize) {
            let bytes = |kept: &VecDeque<(u64, u64, usize)>| kept.iter().map(|(_, _, bytes)| bytes).sum::<usize>();
            while let Some((_, revision, _)) = self.kept.front().copied()
                && (bytes(&self.kept) > bytes_max || revision < self.first_revision)
            {
                self.first_revision = revision + 1;
                self.kept.pop_front();
            }
        }
    }

    proptest! {
        /// Chunks of revisions of a few changes each; a reader may hold a part while the history moves on.
        #[test]
        fn it_keeps_what_a_plain_list_of_changes_keeps(
            chunks in vec((vec((1..4usize, 0..200usize), 0..6), any::<bool>()), 1..30),
            bytes_max in 200..3_000usize,
        ) {
            let mut history = History::new(7, bytes_max);
            let mut model = Model { kept: VecDeque::new(), first_revision: 8 };
            let (mut revision, mut number) = (7, 0);
            let mut held = Vec::new();
            for (revisions, hold) in chunks {
                let mut changes = Vec::new();
                for (len, bytes) in revisions {
                    revision += 1;
                    for _ in 0..len {
                        let change = change(revision, bytes);
                        model.kept.push_back((number, revision, size_of(&change)));
                        changes.push(change);
                        number += 1;
                    }
                }
                if hold && let Some(part) = history.read(history.first()) {
                    held.push((part.changes().len(), part));
                }
                history.extend(changes);
                model.trim(bytes_max);

                prop_assert_eq!((history.revision(), history.end()), (revision, number));
                prop_assert_eq!(history.first_revision(), model.first_revision);
                let mut found = Vec::new();
                let mut next = history.first();
                while let Some(part) = history.read(next) {
                    let numbered = (next..).zip(part.changes());
                    found.extend(numbered.map(|(number, change)| (number, change.revision, size_of(change))));
                    next += part.changes().len() as u64;
                }
                prop_assert_eq!(&found, &Vec::from(model.kept.clone()));
                for asked in model.first_revision..=revision + 1 {
                    let expected = model.kept.iter().find(|(_, revision, _)| *revision >= asked);
                    prop_assert_eq!(history.find(asked), expected.map_or(number, |(number, _, _)| *number));
                }
            }
            for (len, part) in held {
                prop_assert_eq!(part.changes().len(), len);
                prop_assert!(part.changes().iter().all(|change| !change.key.is_empty()), "a reader's part stays whole");
            }
        }
    }
}
