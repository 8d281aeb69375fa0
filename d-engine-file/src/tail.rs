//! The newest entries of the log, bounded in bytes of memory. Never does I/O.
//!
//! They are kept as they came, one vector per write call: keeping one costs the same however many entries it has, and
//! no entry is touched before it goes. Freeing thousands of entries that no cache of the processor holds takes longer
//! than writing them, so whoever removes entries here hands them on (see `Keeper::discard`) and frees none himself.

use std::collections::VecDeque;

use d_engine_core::Entry;

/// What an allocation costs beside its bytes, and an entry has two: its bytes and their count of owners.
const ALLOCATIONS_BYTES: usize = 72;

/// The entries of one write call.
#[derive(Debug)]
pub(crate) struct Cached {
    /// Contiguous, never empty.
    entries: Vec<Entry>,
    /// What they take up in memory.
    bytes: usize,
}

impl Cached {
    fn new(entries: Vec<Entry>) -> Self {
        let own: usize = entries.iter().map(|entry| entry.encoded_len() + ALLOCATIONS_BYTES).sum();
        Self { bytes: own + entries.capacity() * size_of::<Entry>(), entries }
    }

    fn first(&self) -> u64 {
        self.entries.first().map_or(u64::MAX, |entry| entry.index)
    }

    fn last(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.index)
    }
}

#[derive(Debug)]
pub(crate) struct Tail {
    /// Contiguous.
    calls: VecDeque<Cached>,
    bytes: usize,
    bytes_max: usize,
    removed: Vec<Cached>,
}

impl Tail {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { calls: VecDeque::new(), bytes: 0, bytes_max, removed: Vec::new() }
    }

    /// An empty one with the same bound; what this one held is its [`Tail::take_removed`].
    pub(crate) fn emptied(&mut self) -> Self {
        self.clear();
        Self { removed: self.take_removed(), ..Self::new(self.bytes_max) }
    }

    /// Keeps the entries of one write call, which follow each other.
    pub(crate) fn push(&mut self, entries: Vec<Entry>) {
        let cached = Cached::new(entries);
        if cached.entries.is_empty() {
            return;
        }
        if self.calls.back().is_some_and(|before| before.last() + 1 != cached.first()) {
            self.clear();
        }
        self.bytes += cached.bytes;
        self.calls.push_back(cached);
        if self.bytes > self.bytes_max {
            // Some more than needed, so that it is not done for each call.
            self.shrink_to(self.bytes_max - self.bytes_max / 16);
        }
    }

    /// The first index that memory has; then it has all behind it.
    pub(crate) fn first_index(&self) -> Option<u64> {
        self.calls.front().map(Cached::first)
    }

    /// The entries from `index` on, if memory has it.
    pub(crate) fn from(&self, index: u64) -> impl Iterator<Item = &Entry> {
        let at = self.calls.partition_point(|call| call.first() <= index).checked_sub(1);
        let calls = self.calls.range(at.unwrap_or(self.calls.len())..);
        calls.flat_map(|call| &call.entries).skip_while(move |entry| entry.index < index)
    }

    /// Removes the entries from `from` on.
    pub(crate) fn truncate(&mut self, from: u64) {
        while let Some(call) = self.calls.pop_back_if(|call| call.first() >= from) {
            self.remove(call);
        }
        if let Some(call) = self.calls.pop_back_if(|call| call.last() >= from) {
            self.bytes -= call.bytes;
            let mut entries = call.entries;
            let removed = entries.split_off((from - entries[0].index) as usize);
            self.removed.push(Cached::new(removed));
            let kept = Cached::new(entries);
            self.bytes += kept.bytes;
            self.calls.push_back(kept);
        }
    }

    /// Removes entries up to `up_to`, but for those that came in one call with a later one.
    pub(crate) fn purge(&mut self, up_to: u64) {
        while let Some(call) = self.calls.pop_front_if(|call| call.last() <= up_to) {
            self.remove(call);
        }
    }

    /// What was removed since the last time.
    pub(crate) fn take_removed(&mut self) -> Vec<Cached> {
        std::mem::take(&mut self.removed)
    }

    fn shrink_to(&mut self, bytes: usize) {
        while self.bytes > bytes {
            let Some(oldest) = self.calls.pop_front() else { break };
            self.remove(oldest);
        }
    }

    fn clear(&mut self) {
        self.bytes = 0;
        self.removed.extend(self.calls.drain(..));
    }

    fn remove(&mut self, call: Cached) {
        self.bytes -= call.bytes;
        self.removed.push(call);
    }
}

#[cfg(test)]
mod tests {
    use d_engine_core::EntryKind;

    use super::*;

    fn call(indexes: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
        indexes.map(|index| Entry::new(index, 1, EntryKind::Command, [7; 100])).collect()
    }

    fn tail(bytes_max: usize) -> Tail {
        let mut tail = Tail::new(bytes_max);
        for indexes in [1..=3, 4..=4, 5..=9] {
            tail.push(call(indexes));
        }
        tail
    }

    #[track_caller]
    fn check(tail: &Tail, indexes: std::ops::RangeInclusive<u64>) {
        let expected: Vec<u64> = indexes.collect();
        assert_eq!(tail.first_index(), expected.first().copied());
        assert_eq!(tail.bytes, tail.calls.iter().map(|call| call.bytes).sum::<usize>());
        for from in 0..12 {
            let found: Vec<u64> = tail.from(from).map(|entry| entry.index).collect();
            let known = expected.first().is_some_and(|first| *first <= from);
            let skipped = expected.iter().copied().filter(|index| known && *index >= from);
            assert_eq!(found, skipped.collect::<Vec<_>>(), "from {from}");
        }
    }

    #[test]
    fn entries_are_found_across_the_calls_they_came_in() {
        check(&tail(1 << 20), 1..=9);
    }

    #[test]
    fn a_removed_end_goes_within_a_call_as_well() {
        for from in 1..=9 {
            let mut tail = tail(1 << 20);
            tail.truncate(from);
            check(&tail, 1..=from - 1);
            tail.push(call(from..=from + 1));
            check(&tail, 1..=from + 1);
            assert_eq!(tail.take_removed().iter().map(|call| call.entries.len()).sum::<usize>() as u64, 10 - from);
        }
    }

    #[test]
    fn a_purged_front_goes_by_whole_calls() {
        for (up_to, first) in [(0, 1), (2, 1), (3, 4), (4, 5), (8, 5)] {
            let mut tail = tail(1 << 20);
            tail.purge(up_to);
            check(&tail, first..=9);
        }
        let mut tail = tail(1 << 20);
        tail.purge(9);
        assert_eq!((tail.first_index(), tail.bytes), (None, 0));
        assert_eq!(tail.take_removed().len(), 3);
    }

    #[test]
    fn the_oldest_go_when_the_bound_is_passed() {
        let one = Cached::new(call(1..=1)).bytes;
        check(&tail(7 * one), 4..=9);
        check(&tail(9 * one), 1..=9);
        assert_eq!(tail(0).first_index(), None);
        assert_eq!(tail(0).take_removed().len(), 3);
    }

    #[test]
    fn a_gap_empties_it_and_so_does_a_new_beginning() {
        let mut gap = tail(1 << 20);
        gap.push(call(20..=21));
        assert_eq!(gap.first_index(), Some(20));
        let mut fresh = gap.emptied();
        assert_eq!((fresh.first_index(), fresh.bytes), (None, 0));
        assert_eq!(fresh.take_removed().len(), 4);
    }
}
