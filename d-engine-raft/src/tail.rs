//! The newest entries in memory: what followers and apply mostly ask for, and what only memory holds yet. The same bytes
//! as on disk; bounded in bytes as far as they are durable.

use std::collections::VecDeque;

use d_engine_core::Entry;

use crate::Write;

#[derive(Debug)]
pub(crate) struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
    max_bytes: usize,
    /// Entries up to this index can be read from the log.
    durable: u64,
}

impl Tail {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, max_bytes, durable: 0 }
    }

    /// Follows a write to the log.
    pub(crate) fn write(&mut self, write: &Write) {
        if let Some(up_to) = write.purge {
            self.forget(up_to.index);
        }
        if let Some(from) = write.replace_from {
            while let Some(entry) = self.entries.pop_back_if(|entry| entry.index >= from) {
                self.bytes -= entry.encoded_len();
            }
        }
        let continues = self.entries.back().zip(write.entries.first()).is_none_or(|(a, b)| a.index + 1 == b.index);
        if !continues {
            // The whole log before them was purged.
            self.entries.clear();
            self.bytes = 0;
        }
        for entry in &write.entries {
            self.bytes += entry.encoded_len();
            self.entries.push_back(entry.clone());
        }
        self.trim();
    }

    /// The log holds everything up to `index`.
    pub(crate) fn persisted(&mut self, index: u64) {
        self.durable = index;
        self.trim();
    }

    fn trim(&mut self) {
        let durable = self.durable;
        while self.bytes > self.max_bytes && self.entries.len() > 1 {
            let Some(entry) = self.entries.pop_front_if(|entry| entry.index <= durable) else { return };
            self.bytes -= entry.encoded_len();
        }
    }

    /// The log has dropped everything up to `index`.
    fn forget(&mut self, index: u64) {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.index <= index) {
            self.bytes -= entry.encoded_len();
        }
    }

    /// Entries `first..=last`, if all of them are here.
    pub(crate) fn range(&self, first: u64, last: u64) -> Option<Vec<Entry>> {
        let begin = self.entries.front()?.index;
        let from = first.checked_sub(begin)? as usize;
        let to = (last + 1).checked_sub(begin)? as usize;
        if to > self.entries.len() {
            return None;
        }
        Some(self.entries.range(from..to).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use d_engine_core::EntryKind;

    fn write(replace_from: Option<u64>, indexes: std::ops::RangeInclusive<u64>) -> Write {
        let entries = indexes.map(|index| Entry::new(index, 1, EntryKind::Command, [0; 72])).collect();
        Write { replace_from, entries, ..Write::default() }
    }

    #[test]
    fn old_entries_leave_and_replaced_ones_too() {
        let mut tail = Tail::new(500);
        tail.write(&write(None, 1..=8));
        assert!(tail.range(1, 8).is_some(), "nothing else holds them yet");
        tail.persisted(8);
        assert!(tail.range(3, 8).is_none(), "five entries of 100 bytes fit");
        assert_eq!(tail.range(4, 8).map(|entries| entries.len()), Some(5));
        tail.write(&write(Some(6), 6..=6));
        assert!(tail.range(4, 7).is_none());
        assert_eq!(tail.range(5, 6).map(|entries| entries.len()), Some(2));
    }
}
