//! The last changes, as many as fit a number of bytes.

use std::collections::VecDeque;

use crate::overlay::Change;

/// Changes in order, each with a number that never comes again.
#[derive(Debug)]
pub(crate) struct History {
    changes: VecDeque<Change>,
    /// The number of the first change that is kept, or of the next one to come.
    first: u64,
    /// All changes of this revision and later ones are kept.
    first_revision: u64,
    /// The store's revision.
    revision: u64,
    bytes: usize,
    bytes_max: usize,
    /// Readers that stand before this number have missed changes that never were here.
    reset_at: u64,
}

impl History {
    /// Nothing is kept yet of a state at `revision`.
    pub(crate) fn new(revision: u64, bytes_max: usize) -> Self {
        let first_revision = revision + 1;
        Self { changes: VecDeque::new(), first: 0, first_revision, revision, bytes: 0, bytes_max, reset_at: 0 }
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
    pub(crate) fn end(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    /// The number of the first change of `revision` or a later one.
    pub(crate) fn find(&self, revision: u64) -> u64 {
        self.first + self.changes.partition_point(|change| change.revision < revision) as u64
    }

    /// Calls `f` with the changes from `number` on, which is not before the first one: those of `limit` changes and of
    /// whatever else has the revision of the last of them. Returns the number of the next one.
    pub(crate) fn read(&self, number: u64, limit: usize, mut f: impl FnMut(u64, &Change)) -> u64 {
        let from = usize::try_from(number - self.first).unwrap_or(usize::MAX).min(self.changes.len());
        let mut revision = None;
        let mut next = number;
        for (place, change) in self.changes.range(from..).enumerate() {
            if place >= limit && revision != Some(change.revision) {
                break;
            }
            f(next, change);
            revision = Some(change.revision);
            next += 1;
        }
        next
    }

    /// Adds what a chunk has changed, and drops the oldest beyond the bytes that may be kept.
    pub(crate) fn extend(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.revision = change.revision;
            self.bytes += size_of(&change);
            self.changes.push_back(change);
        }
        // A revision goes whole.
        while let Some(change) = self.changes.front()
            && (self.bytes > self.bytes_max || change.revision < self.first_revision)
        {
            self.bytes -= size_of(change);
            self.first += 1;
            self.first_revision = change.revision + 1;
            self.changes.pop_front();
        }
    }

    /// The state was replaced by one at `revision`; changes on the way there are not known. Nothing happens if it is the
    /// revision that the history has come to.
    pub(crate) fn reset(&mut self, revision: u64) {
        if revision == self.revision {
            return;
        }
        // One number is left out, so that those who stand at the end have missed something too.
        self.first = self.end() + 1;
        self.reset_at = self.first;
        self.changes.clear();
        self.bytes = 0;
        self.revision = revision;
        self.first_revision = revision + 1;
    }
}

/// About what a change takes in memory.
fn size_of(change: &Change) -> usize {
    let len = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    std::mem::size_of::<Change>() + change.key.len() + len(&change.record) + len(&change.prev)
}
