//! What a leader knows of one follower: how far its log matches, and what is under way to it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::log::COLD_ENTRIES;

/// How entries flow to a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Looking for the place where the logs agree, one empty message at a time.
    Probe,
    /// Needs entries that are purged: a snapshot is on its way.
    Snapshot,
    /// The place is known: entries flow without waiting for answers, within the window.
    Replicate,
}

#[derive(Debug, Clone)]
pub(crate) struct Progress {
    /// The follower's data directory.
    pub(crate) incarnation: u128,
    /// Highest index known to equal the leader's log, durably. Never goes back within a term.
    pub(crate) matched: u64,
    /// Next index to send.
    pub(crate) next: u64,
    pub(crate) flow: Flow,
    /// Number of the replication stream; acknowledgements of older ones do not move progress.
    pub(crate) session: u64,
    /// Messages under way: last index and bytes of each.
    inflight: VecDeque<(u64, usize)>,
    inflight_bytes: usize,
    /// When the follower last answered in this term.
    pub(crate) contact: Duration,
    pub(crate) has_answered: bool,
    /// Newest confirmation round that the follower has echoed.
    pub(crate) acked_round: u64,
    /// Something must be sent even without entries: a heartbeat or a new round.
    pub(crate) must_send: bool,
    /// While a snapshot is on its way: the log behind this index is kept for its receiver.
    pub(crate) pinned: u64,
    /// Entries in one message whose sizes are not known.
    pub(crate) cold_entries: u64,
}

impl Progress {
    /// A follower about which nothing is known; probing begins at the end of the log.
    pub(crate) fn new(incarnation: u128, last: u64, session: u64, now: Duration) -> Self {
        Self {
            incarnation,
            matched: 0,
            next: last + 1,
            flow: Flow::Probe,
            session,
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            contact: now,
            has_answered: false,
            acked_round: 0,
            must_send: true,
            pinned: 0,
            cold_entries: COLD_ENTRIES,
        }
    }

    pub(crate) fn window_is_full(&self, max_messages: usize, max_bytes: usize) -> bool {
        self.inflight.len() >= max_messages || self.inflight_bytes >= max_bytes
    }

    /// A message with entries up to `last` is under way.
    pub(crate) fn sent(&mut self, last: u64, bytes: usize) {
        self.next = last + 1;
        self.inflight.push_back((last, bytes));
        self.inflight_bytes += bytes;
    }

    /// The follower holds everything up to `matched`, durably.
    pub(crate) fn accepted(&mut self, matched: u64) {
        if matched > self.matched {
            // One large entry does not make all later messages small.
            self.cold_entries = (self.cold_entries * 2).min(COLD_ENTRIES);
        }
        self.matched = self.matched.max(matched);
        while let Some((_, bytes)) = self.inflight.pop_front_if(|(last, _)| *last <= matched) {
            self.inflight_bytes -= bytes;
        }
        match self.flow {
            Flow::Replicate => self.next = self.next.max(self.matched + 1),
            Flow::Probe => {
                self.flow = Flow::Replicate;
                self.next = self.matched + 1;
            }
            // The snapshot's answer ends this; what has matched meanwhile is not sent again.
            Flow::Snapshot => self.next = self.next.max(self.matched + 1),
        }
    }

    /// Forgets what is under way: of a window that is never full nothing depends on it.
    #[cfg(feature = "simulator")]
    pub(crate) fn forget_window(&mut self) {
        self.inflight.clear();
        self.inflight_bytes = 0;
    }

    /// Starts over at `next` with a new stream: what is under way may be lost, and its answers say nothing any more.
    pub(crate) fn probe(&mut self, next: u64, session: u64) {
        self.flow = Flow::Probe;
        self.session = session;
        self.next = next.max(self.matched + 1);
        self.inflight.clear();
        self.inflight_bytes = 0;
    }
}
