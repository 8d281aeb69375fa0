//! The disk speaks first: one numbered sequence of writes, and the promises that wait for it.

use std::collections::VecDeque;
use std::time::Duration;

use d_engine_core::{Entry, HardState, LogId};

use crate::{Body, Message, NodeId, Write};

/// A promise. It leaves once every write that was staged before it is durable, and only in the term it was made in:
/// what was true in an older term (these entries are here) may be false by now.
#[derive(Debug, Clone)]
pub(crate) enum Promise {
    Send {
        to: NodeId,
        message: Message,
    },
    OwnVote,
    Formed,
    /// To let the state machine install a snapshot, whose mark a restart follows only in a term it remembers.
    Install(LogId),
}

#[derive(Debug, Clone)]
struct Pending {
    seq: u64,
    /// Last index of the log once this write is durable, as far as it still equals the present log.
    last: u64,
    since: Duration,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Writes {
    last_seq: u64,
    staged: Write,
    is_staged: bool,
    pending: VecDeque<Pending>,
    persisted_seq: u64,
    persisted_index: u64,
    /// The sequence number that holds the newest hard state.
    hard_state_seq: u64,
    held: VecDeque<(u64, u64, Promise)>,
}

impl Writes {
    pub(crate) fn new(persisted_index: u64) -> Self {
        Self { persisted_index, ..Self::default() }
    }

    /// Highest index that is durable here and equals the present log.
    pub(crate) fn persisted_index(&self) -> u64 {
        self.persisted_index
    }

    /// Number of the write that holds everything staged so far.
    fn covering_seq(&self) -> u64 {
        self.last_seq + u64::from(self.is_staged)
    }

    /// Stages a hard state. Within one write it comes first, so entries that were staged before make a write of their
    /// own, which is returned.
    pub(crate) fn stage_hard_state(&mut self, state: HardState, now: Duration, last: u64) -> Option<Write> {
        let earlier = if self.staged.entries.is_empty() && self.staged.replace_from.is_none() {
            None
        } else {
            self.take_staged(now, last)
        };
        self.staged.hard_state = Some(state);
        self.is_staged = true;
        self.hard_state_seq = self.covering_seq();
        earlier
    }

    /// Stages one entry behind the others.
    pub(crate) fn stage_entry(&mut self, entry: Entry) {
        self.staged.entries.push(entry);
        self.is_staged = true;
    }

    /// Stages the removal of everything from `from` on, before `last`, the log's last index, has changed. What was staged
    /// before makes a write of its own, which is returned.
    pub(crate) fn stage_truncate(&mut self, from: u64, now: Duration, last: u64, by_index: bool) -> Option<Write> {
        let earlier = if self.staged.entries.is_empty() { None } else { self.take_staged(now, last) };
        self.staged.replace_from = Some(self.staged.replace_from.map_or(from, |other| other.min(from)));
        self.is_staged = true;
        if !by_index {
            self.forget_from(from);
        }
        earlier
    }

    /// Stages a purge of the log up to `up_to`; `holds`: the log holds that entry, so what follows it stays. What was
    /// staged before makes a write of its own, which is returned. `last` is the log's last index before the purge.
    pub(crate) fn stage_purge(&mut self, up_to: LogId, holds: bool, now: Duration, last: u64) -> Option<Write> {
        let earlier = self.take_staged(now, last);
        self.staged.purge = Some(up_to);
        self.is_staged = true;
        if !holds {
            // The snapshot that stands for the whole log is durable; of the log itself nothing is left to vouch for.
            self.persisted_index = up_to.index;
            self.pending.iter_mut().for_each(|write| write.last = up_to.index);
        }
        earlier
    }

    /// Completions that are still to come no longer vouch for indexes from `from` on: other entries will stand there.
    fn forget_from(&mut self, from: u64) {
        self.persisted_index = self.persisted_index.min(from - 1);
        for write in &mut self.pending {
            write.last = write.last.min(from - 1);
        }
    }

    /// The staged write, numbered; `last` is the log's last index.
    pub(crate) fn take_staged(&mut self, now: Duration, last: u64) -> Option<Write> {
        if !self.is_staged {
            return None;
        }
        self.is_staged = false;
        self.last_seq += 1;
        self.pending.push_back(Pending { seq: self.last_seq, last, since: now });
        let mut write = std::mem::take(&mut self.staged);
        write.seq = self.last_seq;
        Some(write)
    }

    /// Everything up to `seq` is durable.
    pub(crate) fn persisted(&mut self, seq: u64) {
        while let Some(write) = self.pending.pop_front_if(|write| write.seq <= seq) {
            self.persisted_seq = write.seq;
            self.persisted_index = write.last;
        }
    }

    /// Keeps a promise made in `term` until the disk has spoken.
    pub(crate) fn hold(&mut self, term: u64, promise: Promise) {
        self.held.push_back((self.covering_seq(), term, promise));
    }

    /// Drops the acknowledgements of replication streams other than `kept`: they say nothing any more.
    pub(crate) fn forget_acknowledgements(&mut self, kept: Option<u64>) {
        self.held.retain(|(_, _, promise)| match promise {
            Promise::Send { message: Message { body: Body::AppendReply(reply), .. }, .. } => {
                Some(reply.session) == kept
            }
            _ => true,
        });
    }

    /// Whether nothing that was staged so far waits for the disk.
    pub(crate) fn is_settled(&self) -> bool {
        self.persisted_seq == self.covering_seq()
    }

    /// Whether the newest hard state is durable.
    pub(crate) fn is_hard_state_durable(&self) -> bool {
        self.persisted_seq >= self.hard_state_seq
    }

    /// The next promise that may leave. Promises of other terms than `term` are dropped unless `any_term`.
    pub(crate) fn release(&mut self, term: u64, any_term: bool) -> Option<Promise> {
        let persisted = self.persisted_seq;
        while let Some((_, made_in, promise)) = self.held.pop_front_if(|(seq, _, _)| *seq <= persisted) {
            if made_in == term || any_term || matches!(promise, Promise::Install(_)) {
                return Some(promise);
            }
        }
        None
    }

    /// The disk takes writes again: how long it takes counts from `now`.
    pub(crate) fn restart_clock(&mut self, now: Duration) {
        self.pending.iter_mut().for_each(|write| write.since = now);
    }

    /// Numbers everything that waits as if nothing had been written before, and forgets since when it waits. Answers what
    /// was taken off each number.
    #[cfg(feature = "simulator")]
    pub(crate) fn number_from_zero(&mut self) -> u64 {
        let base = std::mem::take(&mut self.persisted_seq);
        self.last_seq -= base;
        self.hard_state_seq = self.hard_state_seq.saturating_sub(base);
        for write in &mut self.pending {
            (write.seq, write.since) = (write.seq - base, Duration::ZERO);
        }
        self.held.iter_mut().for_each(|(seq, ..)| *seq = seq.saturating_sub(base));
        base
    }

    #[cfg(feature = "simulator")]
    pub(crate) fn for_each_held(&mut self, mut change: impl FnMut(&mut Promise)) {
        self.held.iter_mut().for_each(|(_, _, promise)| change(promise));
    }

    /// Orders promises that leave together by their receivers.
    #[cfg(feature = "simulator")]
    pub(crate) fn sort_held(&mut self) {
        self.held.make_contiguous().sort_by_key(|(seq, _, promise)| match promise {
            Promise::Send { to, .. } => (*seq, *to),
            Promise::OwnVote | Promise::Formed | Promise::Install(_) => (*seq, 0),
        });
    }

    /// When the oldest write that is not durable was handed out.
    pub(crate) fn oldest_pending(&self) -> Option<Duration> {
        self.pending.front().map(|write| write.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use d_engine_core::EntryKind;

    fn entry(index: u64) -> Entry {
        Entry::new(index, 1, EntryKind::Command, b"")
    }

    #[test]
    fn late_completions_do_not_vouch_for_replacements() {
        let mut writes = Writes::new(0);
        (1..=3).for_each(|index| writes.stage_entry(entry(index)));
        let first = writes.take_staged(Duration::ZERO, 3).unwrap();
        writes.stage_truncate(2, Duration::ZERO, 3, false);
        (2..=4).for_each(|index| writes.stage_entry(entry(index)));
        let second = writes.take_staged(Duration::ZERO, 4).unwrap();
        writes.persisted(first.seq);
        assert_eq!(writes.persisted_index(), 1, "entries 2 and 3 have been replaced");
        writes.persisted(second.seq);
        assert_eq!(writes.persisted_index(), 4);
    }

    #[test]
    fn a_hard_state_never_overtakes_entries() {
        let mut writes = Writes::new(0);
        writes.stage_entry(entry(1));
        let earlier = writes.stage_hard_state(HardState::default(), Duration::ZERO, 1).unwrap();
        let later = writes.take_staged(Duration::ZERO, 1).unwrap();
        assert_eq!((earlier.seq, earlier.entries.len(), earlier.hard_state), (1, 1, None));
        assert_eq!((later.seq, later.entries.len(), later.hard_state), (2, 0, Some(HardState::default())));
    }

    #[test]
    fn promises_wait_for_what_was_staged_before_them() {
        let mut writes = Writes::new(0);
        writes.stage_entry(entry(1));
        writes.hold(1, Promise::OwnVote);
        assert!(writes.release(1, false).is_none());
        let write = writes.take_staged(Duration::ZERO, 1).unwrap();
        assert!(writes.release(1, false).is_none());
        writes.persisted(write.seq);
        assert!(writes.release(1, false).is_some());
    }
}
