//! The shape of the log: log ids as runs of equal terms, memberships, sizes of the newest entries. No payload.

use std::collections::VecDeque;

use d_engine_core::{Entry, EntryKind, LogId, LogSummary, Membership};

use crate::config::MAX_UNAPPLIED_ENTRIES;

/// Entries in one message when their sizes are not known any more.
pub(crate) const COLD_ENTRIES: u64 = 256;

/// What the core knows of its log. Memory grows with the number of terms, not of entries.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    purged: LogId,
    last: LogId,
    /// Id of the first entry of each run of equal terms.
    runs: Vec<LogId>,
    /// Membership entries by index.
    memberships: Vec<(u64, Membership)>,
    /// The configuration as of the purge boundary, with its index; the snapshot's after an installation.
    base: Option<(u64, Membership)>,
    /// Encoded sizes of the newest entries, the last one's at the back.
    sizes: VecDeque<u32>,
    applied: u64,
    unapplied_bytes: usize,
}

impl Log {
    pub(crate) fn new(summary: LogSummary, base: Option<(u64, Membership)>, applied: u64) -> Self {
        Self {
            purged: summary.purged,
            last: summary.last,
            runs: summary.runs,
            memberships: summary.memberships,
            base,
            sizes: VecDeque::new(),
            applied,
            unapplied_bytes: 0,
        }
    }

    pub(crate) fn purged(&self) -> LogId {
        self.purged
    }

    pub(crate) fn last(&self) -> LogId {
        self.last
    }

    /// Term of the entry at `index`; of the purge boundary too. `None`: not in the log.
    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.purged.index {
            return Some(self.purged.term);
        }
        if index < self.purged.index || index > self.last.index {
            return None;
        }
        self.runs.get(self.run_of(index)).map(|run| run.term)
    }

    /// The id at `index`, if the log holds it.
    pub(crate) fn id_at(&self, index: u64) -> Option<LogId> {
        self.term_at(index).map(|term| LogId::new(term, index))
    }

    fn run_of(&self, index: u64) -> usize {
        match self.runs.last() {
            Some(run) if run.index <= index => self.runs.len() - 1,
            _ => self.runs.partition_point(|run| run.index <= index).wrapping_sub(1),
        }
    }

    /// Last index of the run of equal terms that holds `index`.
    pub(crate) fn run_end(&self, index: u64) -> u64 {
        self.runs.get(self.run_of(index).wrapping_add(1)).map_or(self.last.index, |next| next.index - 1)
    }

    /// The newest entry at or before `limit` whose term is at most `term`: nothing between it and `limit` can match a
    /// log whose entry there has that term. Skips whole terms (§3.5).
    pub(crate) fn newest_at_most(&self, limit: u64, term: u64) -> LogId {
        let mut index = limit.min(self.last.index);
        while index > self.purged.index {
            let run = self.runs[self.run_of(index)];
            if run.term <= term {
                return LogId::new(run.term, index);
            }
            index = run.index - 1;
        }
        self.purged
    }

    /// The newest configuration in the log (§4.1: it takes effect when appended).
    pub(crate) fn membership(&self) -> Option<&Membership> {
        self.newest_membership().map(|(_, membership)| membership)
    }

    /// The same with its index.
    pub(crate) fn newest_membership(&self) -> Option<(u64, &Membership)> {
        self.memberships.last().or(self.base.as_ref()).map(|(index, membership)| (*index, membership))
    }

    /// The newest configuration up to `commit` and all after it, newest first: one of them is in force.
    pub(crate) fn possible_memberships(&self, commit: u64) -> impl Iterator<Item = &Membership> {
        let all = self.memberships.iter().rev().chain(self.base.as_ref());
        let mut is_older = false;
        all.take_while(move |(index, _)| !std::mem::replace(&mut is_older, *index <= commit))
            .map(|(_, membership)| membership)
    }

    /// The entry that formed the cluster, if it is still in the log.
    pub(crate) fn formation(&self) -> Option<&Membership> {
        self.memberships
            .first()
            .or(self.base.as_ref())
            .filter(|(index, _)| *index == 1)
            .map(|(_, membership)| membership)
    }

    /// Adds an entry that continues the log.
    pub(crate) fn append(&mut self, entry: &Entry, membership: Option<Membership>) {
        assert!(entry.index == self.last.index + 1, "the log has no holes");
        assert!(entry.term >= self.last.term, "terms in the log never go back");
        assert!(membership.is_some() == (entry.kind == EntryKind::Membership), "memberships come with their entries");
        if self.runs.last().is_none_or(|run| run.term != entry.term) {
            self.runs.push(entry.id());
        }
        if let Some(membership) = membership {
            self.memberships.push((entry.index, membership));
        }
        self.last = entry.id();
        self.sizes.push_back(entry.encoded_len() as u32);
        self.unapplied_bytes += entry.encoded_len();
        if self.sizes.len() as u64 > 2 * MAX_UNAPPLIED_ENTRIES {
            self.forget_oldest_size();
        }
    }

    fn forget_oldest_size(&mut self) {
        let index = self.last.index + 1 - self.sizes.len() as u64;
        if let Some(size) = self.sizes.pop_front().filter(|_| index > self.applied) {
            // Nobody will know how much to subtract once it is applied.
            self.unapplied_bytes = self.unapplied_bytes.saturating_sub(size as usize);
        }
    }

    /// Removes the entries from `from` on.
    pub(crate) fn truncate(&mut self, from: u64) {
        self.truncate_entries(from);
        let index = self.last.index;
        self.memberships.truncate(self.memberships.partition_point(|(at, _)| *at <= index));
    }

    /// Removes the entries from `from` on, not the configurations among them.
    pub(crate) fn truncate_entries(&mut self, from: u64) {
        assert!(from > self.purged.index, "the purged part of the log is committed and never truncated");
        while self.last.index >= from {
            let freed = self.size_at(self.last.index).unwrap_or(0);
            self.unapplied_bytes = self.unapplied_bytes.saturating_sub(freed);
            self.sizes.pop_back();
            self.last.index -= 1;
        }
        let index = self.last.index;
        self.runs.truncate(self.runs.partition_point(|run| run.index <= index));
        self.last.term = self.runs.last().map_or(self.purged.term, |run| run.term);
    }

    /// Drops the entries up to `up_to`; all of them if the log does not hold that one, and then `membership` is the
    /// configuration that stands for them.
    pub(crate) fn purge(&mut self, up_to: LogId, membership: Option<Membership>) {
        assert!(up_to.index > self.purged.index, "the purge boundary only moves on");
        if self.id_at(up_to.index) != Some(up_to) {
            self.runs.clear();
            self.memberships.clear();
            self.sizes.clear();
            self.unapplied_bytes = 0;
            self.base = membership.map(|membership| (up_to.index, membership));
            self.last = up_to;
        } else if self.last == up_to {
            self.runs.clear();
        } else {
            let first = LogId::new(self.term_at(up_to.index + 1).unwrap_or(up_to.term), up_to.index + 1);
            self.runs.drain(..self.run_of(first.index));
            self.runs[0] = first;
        }
        let purged = self.memberships.partition_point(|(index, _)| *index <= up_to.index);
        if let Some(newest) = self.memberships.drain(..purged).next_back() {
            self.base = Some(newest);
        }
        self.purged = up_to;
        let left = (self.last.index - up_to.index) as usize;
        self.sizes.drain(..self.sizes.len().saturating_sub(left));
    }

    /// Counts the entries up to `index` as applied.
    pub(crate) fn applied(&mut self, index: u64) {
        for at in self.applied + 1..=index.min(self.last.index) {
            let freed = self.size_at(at).unwrap_or(0);
            self.unapplied_bytes = self.unapplied_bytes.saturating_sub(freed);
        }
        self.applied = self.applied.max(index);
    }

    /// Bytes and number of the entries that are not applied.
    pub(crate) fn unapplied(&self) -> (usize, u64) {
        (self.unapplied_bytes, self.last.index - self.applied.min(self.last.index))
    }

    /// Forgets the sizes of entries, as a restart does.
    #[cfg(feature = "simulator")]
    pub(crate) fn forget_sizes(&mut self) {
        self.sizes.clear();
        self.unapplied_bytes = 0;
    }

    /// Forgets what was applied, as the restart of a state machine that keeps nothing does.
    #[cfg(feature = "simulator")]
    pub(crate) fn forget_applied(&mut self) {
        self.applied = 0;
    }

    fn size_at(&self, index: u64) -> Option<usize> {
        let from_back = self.last.index.checked_sub(index)? as usize;
        let at = self.sizes.len().checked_sub(from_back + 1)?;
        self.sizes.get(at).map(|size| *size as usize)
    }

    /// The last index of a message that begins at `first`, has one term and at most `max_bytes` of entries (one always
    /// fits), and its bytes. Where sizes are not known the message has at most `cold` entries, none of known size, and
    /// `None` for its bytes.
    pub(crate) fn message_end(&self, first: u64, max_bytes: usize, cold: u64) -> (u64, Option<usize>) {
        let run_end = self.run_end(first);
        let known_from = self.last.index + 1 - self.sizes.len() as u64;
        if first < known_from {
            return (run_end.min(known_from - 1).min(first + cold.max(1) - 1), None);
        }
        let mut bytes = 0;
        let mut end = first;
        for index in first..=run_end {
            let size = self.size_at(index).unwrap_or(0);
            if index > first && bytes + size > max_bytes {
                break;
            }
            bytes += size;
            end = index;
        }
        (end, Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(terms: &[u64]) -> Log {
        let mut log = Log::new(LogSummary::new(LogId::default()), None, 0);
        for (term, index) in terms.iter().zip(1..) {
            log.append(&Entry::new(index, *term, EntryKind::Command, b"x"), None);
        }
        log
    }

    #[test]
    fn terms_are_found_in_runs() {
        let log = log(&[1, 1, 2, 2, 5]);
        let terms: Vec<_> = (0..=6).map(|index| log.term_at(index)).collect();
        assert_eq!(terms, [Some(0), Some(1), Some(1), Some(2), Some(2), Some(5), None]);
        assert_eq!((log.run_end(1), log.run_end(3), log.run_end(5)), (2, 4, 5));
    }

    #[test]
    fn truncation_restores_the_shape_before() {
        let mut longer = log(&[1, 1, 2, 2, 5]);
        longer.truncate(4);
        assert_eq!((longer.last(), longer.runs.clone()), (LogId::new(2, 3), log(&[1, 1, 2]).runs));
        longer.truncate(1);
        assert_eq!((longer.last(), longer.runs.len()), (LogId::default(), 0));
        assert_eq!(longer.unapplied(), (0, 0));
    }

    #[test]
    fn hints_skip_whole_terms() {
        let log = log(&[1, 1, 4, 4, 4, 6]);
        assert_eq!(log.newest_at_most(6, 5), LogId::new(4, 5));
        assert_eq!(log.newest_at_most(6, 3), LogId::new(1, 2));
        assert_eq!(log.newest_at_most(9, 0), LogId::default());
        assert_eq!(log.newest_at_most(4, 4), LogId::new(4, 4));
    }

    #[test]
    fn purging_keeps_what_follows_only_behind_the_same_entry() {
        let mut kept = log(&[1, 1, 2, 2, 5]);
        kept.purge(LogId::new(2, 3), None);
        let terms: Vec<_> = (2..=6).map(|index| kept.term_at(index)).collect();
        assert_eq!(terms, [None, Some(2), Some(2), Some(5), None]);
        assert_eq!(kept.newest_at_most(5, 1), LogId::new(2, 3));
        kept.purge(LogId::new(5, 5), None);
        assert_eq!((kept.last(), kept.term_at(5)), (LogId::new(5, 5), Some(5)));
        let mut dropped = log(&[1, 1, 2, 2, 5]);
        dropped.purge(LogId::new(3, 3), None);
        assert_eq!((dropped.last(), dropped.term_at(4)), (LogId::new(3, 3), None));
    }

    #[test]
    fn messages_end_at_terms_and_byte_limits() {
        let log = log(&[1, 1, 1, 2]);
        let size = Entry::new(1, 1, EntryKind::Command, b"x").encoded_len();
        assert_eq!(log.message_end(1, usize::MAX, 1), (3, Some(3 * size)));
        assert_eq!(log.message_end(1, 2 * size, 1), (2, Some(2 * size)));
        assert_eq!(log.message_end(2, 0, 1), (2, Some(size)));
    }

    /// A read of old entries that ends early shortens the next message only if all of them are of unknown size.
    #[test]
    fn messages_of_old_entries_hold_no_new_ones() {
        let mut log = log(&[1, 1, 1, 1, 1, 1]);
        log.sizes.drain(..4);
        assert_eq!(log.message_end(1, usize::MAX, 3), (3, None));
        assert_eq!(log.message_end(3, usize::MAX, 3), (4, None), "entry 5 is known again");
        assert_eq!(log.message_end(5, usize::MAX, 3).0, 6);
    }

    #[test]
    fn sizes_that_are_forgotten_before_they_are_applied_do_not_count_for_ever() {
        let mut log = log(&[1; 4]);
        log.forget_oldest_size();
        log.forget_oldest_size();
        log.applied(4);
        assert_eq!(log.unapplied(), (0, 0));
    }
}
