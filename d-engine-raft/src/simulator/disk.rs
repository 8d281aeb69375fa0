//! A node's disk: writes in order, group commit, and what a loss of power leaves.

use std::collections::VecDeque;
use std::sync::Arc;

use d_engine_core::{Entry, EntryKind, HardState, LogId, LogSummary, Membership};

use super::Breach;
use crate::Write;

/// A log that begins after its purge boundary.
#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    purged: LogId,
    entries: Vec<Entry>,
    memberships: Vec<(u64, Arc<Membership>)>,
}

impl Log {
    pub(super) fn purged(&self) -> LogId {
        self.purged
    }

    pub(super) fn last(&self) -> LogId {
        self.entries.last().map_or(self.purged, Entry::id)
    }

    pub(super) fn last_index(&self) -> u64 {
        self.purged.index + self.entries.len() as u64
    }

    /// Everything behind the purge boundary.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(index.checked_sub(self.purged.index + 1)? as usize)
    }

    /// Term of the entry at `index`, or of the purge boundary; 0 where it is not known.
    pub(super) fn term(&self, index: u64) -> u64 {
        if index == self.purged.index {
            return self.purged.term;
        }
        self.entry(index).map_or(0, |entry| entry.term)
    }

    /// Whether the log vouches for an entry. What lies before the purge boundary is in a snapshot, which is committed.
    pub(super) fn holds(&self, id: LogId) -> bool {
        id.index < self.purged.index || self.term(id.index) == id.term && id.index <= self.last_index()
    }

    /// The newest configuration in the log.
    pub(super) fn membership(&self) -> Option<&Arc<Membership>> {
        self.memberships.last().map(|(_, membership)| membership)
    }

    /// Every configuration in the log from `index` on.
    pub(super) fn memberships_from(&self, index: u64) -> impl Iterator<Item = &Arc<Membership>> {
        self.memberships.iter().filter(move |(at, _)| *at >= index).map(|(_, membership)| membership)
    }

    /// Drops everything up to `up_to`; what follows stays only if the log holds that very entry.
    pub(super) fn purge(&mut self, up_to: LogId) {
        if up_to.index <= self.purged.index {
            return;
        }
        if self.entry(up_to.index).is_some_and(|entry| entry.term == up_to.term) {
            self.entries.drain(..(up_to.index - self.purged.index) as usize);
            self.memberships.retain(|(index, _)| *index > up_to.index);
        } else {
            self.entries.clear();
            self.memberships.clear();
        }
        self.purged = up_to;
    }

    fn truncate(&mut self, from: u64) {
        self.entries.truncate(from.saturating_sub(self.purged.index + 1) as usize);
        while self.memberships.last().is_some_and(|(index, _)| *index >= from) {
            self.memberships.pop();
        }
    }

    fn append(&mut self, entries: &[Entry]) -> Result<(), Breach> {
        for entry in entries {
            if entry.index != self.last_index() + 1 {
                let detail = format!("entry {} is to follow entry {}", entry.id(), self.last());
                return Err(Breach::new("Writes Are Contiguous", detail));
            }
            if entry.kind == EntryKind::Membership {
                let membership = Membership::decode(&entry.data)
                    .map_err(|error| Breach::new("Memberships Are Readable", error.to_string()))?;
                self.memberships.push((entry.index, Arc::new(membership)));
            }
            self.entries.push(entry.clone());
        }
        Ok(())
    }
}

/// The disk of one node.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// What a loss of power leaves at least.
    pub(super) hard_state: Option<HardState>,
    pub(super) durable: Log,
    /// What the log shows: the durable one with every pending write.
    pub(super) visible: Log,
    pending: VecDeque<Write>,
    /// How many of `pending` the sync under way covers; 0: none is under way.
    syncing: usize,
    /// No write completes; those that come wait.
    pub(super) stalled: bool,
    /// There is no space for entries; what comes behind them waits with them.
    space: Space,
    /// A write failed: nothing more is written until the node restarts.
    failed: bool,
    last_seq: u64,
}

impl Disk {
    /// The node has decided to write: its log shows it from now on.
    pub(super) fn show(&mut self, write: &Write) -> Result<(), Breach> {
        if self.last_seq != 0 && write.seq != self.last_seq + 1 {
            let detail = format!("write {} follows write {}", write.seq, self.last_seq);
            return Err(Breach::new("Writes Are Numbered In Order", detail));
        }
        self.last_seq = write.seq;
        if let Some(up_to) = write.purge {
            self.visible.purge(up_to);
        }
        if let Some(from) = write.replace_from {
            self.visible.truncate(from);
        }
        self.visible.append(&write.entries)
    }

    /// Purges before the node starts: an installation of a snapshot that a crash interrupted goes on.
    pub(super) fn resume_purge(&mut self, up_to: LogId) {
        self.durable.purge(up_to);
        self.visible = self.durable.clone();
    }

    /// Takes a write that is shown already; it becomes durable later.
    pub(super) fn queue(&mut self, write: Write) {
        if !self.failed {
            self.pending.push_back(write);
        }
    }

    /// Whether writes wait and no sync is under way.
    pub(super) fn wants_sync(&self) -> bool {
        self.syncing == 0 && self.writable() > 0 && !self.failed
    }

    /// How many of the writes that wait there is space for.
    fn writable(&self) -> usize {
        match self.space {
            Space::Free => self.pending.len(),
            // The reserve takes hard states.
            Space::Full | Space::Refused => self.pending.iter().take_while(|write| write.entries.is_empty()).count(),
        }
    }

    /// Begins to sync everything that waits and that there is space for.
    pub(super) fn begin_sync(&mut self) {
        self.syncing = self.writable();
    }

    /// There is no space any more.
    pub(super) fn fill(&mut self) {
        if self.space == Space::Free {
            self.space = Space::Full;
        }
    }

    /// Whether a write has to be refused for want of space now; true once until there is space again.
    pub(super) fn refuses(&mut self) -> bool {
        let waits = self.syncing == 0 && self.writable() < self.pending.len() && !self.failed;
        let refuses = waits && self.space == Space::Full;
        if refuses {
            self.space = Space::Refused;
        }
        refuses
    }

    /// Whether a write that was refused waits.
    pub(super) fn is_refusing(&self) -> bool {
        self.space == Space::Refused
    }

    /// There is space again; whether a write was refused meanwhile.
    pub(super) fn free(&mut self) -> bool {
        std::mem::take(&mut self.space) == Space::Refused
    }

    pub(super) fn is_syncing(&self) -> bool {
        self.syncing > 0
    }

    /// The sync under way completes: calls `on_write` before each write, with the number of
    /// its steps that will be performed, and returns the last one's number.
    pub(super) fn complete_sync(
        &mut self,
        mut on_write: impl FnMut(&Write, usize, &Option<HardState>, &Log) -> Result<(), Breach>,
    ) -> Result<Option<u64>, Breach> {
        let mut done = None;
        for _ in 0..std::mem::take(&mut self.syncing) {
            let Some(write) = self.pending.pop_front() else { break };
            on_write(&write, STEPS, &self.hard_state, &self.durable)?;
            for step in 0..STEPS {
                self.perform(&write, step)?;
            }
            done = Some(write.seq);
        }
        Ok(done)
    }

    /// One of the ordered steps of a write: hard state, purge, truncation, append.
    fn perform(&mut self, write: &Write, step: usize) -> Result<(), Breach> {
        match step {
            0 => {
                if let Some(state) = write.hard_state {
                    self.hard_state = Some(state);
                }
            }
            1 => {
                if let Some(up_to) = write.purge {
                    self.durable.purge(up_to);
                }
            }
            2 => {
                if let Some(from) = write.replace_from {
                    self.durable.truncate(from);
                }
            }
            _ => self.durable.append(&write.entries)?,
        }
        Ok(())
    }

    /// Steps that have not reached the disk for certain.
    pub(super) fn unsynced_steps(&self) -> usize {
        self.pending.len() * STEPS
    }

    /// Loses power after `survive` of the unsynced steps have reached the disk.
    pub(super) fn lose_power(
        &mut self,
        survive: usize,
        mut on_write: impl FnMut(&Write, usize, &Option<HardState>, &Log) -> Result<(), Breach>,
    ) -> Result<(), Breach> {
        let pending = std::mem::take(&mut self.pending);
        for (number, write) in pending.iter().enumerate().take(survive.div_ceil(STEPS)) {
            let steps = STEPS.min(survive - number * STEPS);
            on_write(write, steps, &self.hard_state, &self.durable)?;
            for step in 0..steps {
                self.perform(write, step)?;
            }
        }
        self.visible = self.durable.clone();
        self.syncing = 0;
        self.failed = false;
        self.stalled = false;
        self.space = Space::Free;
        self.last_seq = 0;
        Ok(())
    }

    /// The next sync fails: what it covered may be anywhere between the page cache and nowhere, and nothing follows.
    pub(super) fn fail(&mut self) {
        self.failed = true;
        self.syncing = 0;
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// The shape of the durable log, as a log store tells it at start.
    pub(super) fn summary(&self) -> LogSummary {
        let mut summary = LogSummary::new(self.durable.purged());
        for entry in self.durable.entries() {
            summary.push(entry).expect("the log took these entries one after the other");
        }
        summary
    }

    /// What the log shows for `first..=last`, ending early at `max_bytes`; the first entry whatever its size.
    pub(super) fn read(&self, first: u64, last: u64, max_bytes: usize) -> Vec<Entry> {
        let mut out = Vec::new();
        let mut bytes = 0;
        for index in first..=last {
            let Some(entry) = self.visible.entry(index) else { break };
            bytes += entry.encoded_len();
            if !out.is_empty() && bytes > max_bytes {
                break;
            }
            out.push(entry.clone());
        }
        out
    }
}

/// Whether a disk has space for entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Space {
    #[default]
    Free,
    Full,
    /// Full, and the node has been told.
    Refused,
}

/// Steps of one write: hard state, purge, truncation, append.
pub(super) const STEPS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry::new(index, term, EntryKind::Command, [index as u8, term as u8])
    }

    fn write(seq: u64, term: u64, replace_from: Option<u64>, entries: Vec<Entry>) -> Write {
        Write { seq, hard_state: Some(HardState::new(term, None, None)), replace_from, entries, ..Write::default() }
    }

    fn give(disk: &mut Disk, write: Write) {
        disk.show(&write).unwrap();
        disk.queue(write);
    }

    #[test]
    fn a_write_is_visible_at_once_and_durable_after_its_sync() {
        let mut disk = Disk::default();
        give(&mut disk, write(1, 1, None, vec![entry(1, 1), entry(2, 1)]));
        assert_eq!((disk.visible.last_index(), disk.durable.last_index()), (2, 0));
        disk.begin_sync();
        give(&mut disk, write(2, 1, None, vec![entry(3, 1)]));
        assert_eq!(disk.complete_sync(|_, _, _, _| Ok(())).unwrap(), Some(1));
        assert_eq!((disk.visible.last_index(), disk.durable.last_index()), (3, 2));
        assert!(disk.wants_sync());
    }

    #[test]
    fn a_crash_leaves_every_prefix_of_the_unsynced_steps() {
        for (survive, expected) in [(0, (1, 2, 1)), (1, (2, 2, 1)), (3, (2, 1, 1)), (4, (2, 2, 2)), (8, (3, 2, 2))] {
            let mut disk = Disk::default();
            give(&mut disk, write(1, 1, None, vec![entry(1, 1), entry(2, 1)]));
            disk.begin_sync();
            disk.complete_sync(|_, _, _, _| Ok(())).unwrap();
            give(&mut disk, write(2, 2, Some(2), vec![entry(2, 2)]));
            give(&mut disk, write(3, 3, None, vec![]));
            disk.lose_power(survive, |_, _, _, _| Ok(())).unwrap();
            let term = disk.hard_state.map_or(0, |state| state.term);
            assert_eq!((term, disk.durable.last().index, disk.durable.last().term), expected, "{survive} steps");
            assert_eq!(disk.visible.last(), disk.durable.last());
        }
    }

    #[test]
    fn a_purge_keeps_what_follows_only_behind_the_same_entry() {
        let log = |up_to| {
            let mut disk = Disk::default();
            give(&mut disk, write(1, 1, None, vec![entry(1, 1), entry(2, 1), entry(3, 1)]));
            disk.visible.purge(up_to);
            (disk.visible.purged(), disk.visible.last(), disk.visible.entries().len())
        };
        assert_eq!(log(LogId::new(1, 2)), (LogId::new(1, 2), LogId::new(1, 3), 1));
        assert_eq!(log(LogId::new(2, 2)), (LogId::new(2, 2), LogId::new(2, 2), 0));
        assert_eq!(log(LogId::new(2, 9)), (LogId::new(2, 9), LogId::new(2, 9), 0));
    }

    #[test]
    fn a_hole_is_a_breach() {
        let mut disk = Disk::default();
        assert!(disk.show(&write(1, 1, None, vec![entry(2, 1)])).is_err());
    }
}
