//! Linearizable reads by read index (§6.4): which index, and whether this leader still leads.
//!
//! A read waits for the *next* confirmation round, opened at once if none is under way, never for one already sent. Many
//! reads share a round. A follower asks the leader for the index and answers from its own copy.

use std::time::Duration;

use crate::membership::quorum_value;
use crate::raft::{Part, Raft};
use crate::status::Bad;
use crate::{Answer, Body, Mutant, NodeId, Rejection};

/// Who waits for a read index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    Local { id: u64 },
    Remote { node: NodeId, nonce: u64, counter: u64 },
}

/// Reads at a leader.
#[derive(Debug, Clone, Default)]
pub(crate) struct LeaderReads {
    /// Before this term's no-op has committed the read index is not known.
    held: Vec<Asker>,
    /// For the next round.
    waiting: Vec<Asker>,
    /// For the round under way, with its read index.
    confirming: Vec<Asker>,
    index: u64,
    round: u64,
}

impl LeaderReads {
    /// Opens the next round if somebody waits for it and none is under way. True: it must be sent.
    pub(crate) fn open_round(&mut self, newest: &mut u64, commit: u64) -> bool {
        if self.waiting.is_empty() || !self.confirming.is_empty() {
            return false;
        }
        std::mem::swap(&mut self.waiting, &mut self.confirming);
        *newest += 1;
        self.round = *newest;
        self.index = commit;
        true
    }

    /// Whether this question is being answered already.
    fn knows(&self, asker: Asker) -> bool {
        [&self.held, &self.waiting, &self.confirming].iter().any(|askers| askers.contains(&asker))
    }

    fn len(&self) -> usize {
        self.held.len() + self.waiting.len() + self.confirming.len()
    }
}

/// Reads at a follower: one question to the leader at a time, for all who wait.
#[derive(Debug, Clone)]
pub(crate) struct ForwardedReads {
    /// Random number of this start: answers to questions of an earlier life are not ours.
    nonce: u64,
    counter: u64,
    waiting: Vec<u64>,
    asked: Vec<u64>,
    resend_at: Duration,
    /// When those who wait for an answer are told that there is none.
    until: Duration,
}

impl ForwardedReads {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            nonce: seed,
            counter: 0,
            waiting: Vec::new(),
            asked: Vec::new(),
            resend_at: Duration::ZERO,
            until: Duration::ZERO,
        }
    }

    /// When a question that is under way should be asked again.
    pub(crate) fn resend_at(&self) -> Option<Duration> {
        (!self.asked.is_empty()).then_some(self.resend_at)
    }
}

impl Raft {
    pub(crate) fn on_read(&mut self, id: u64, by_lease: bool) {
        let limit = self.config.max_pending_reads;
        let waiting = match &self.part {
            Part::Leader(leader) => leader.reads.len(),
            _ => self.forwarded.waiting.len() + self.forwarded.asked.len(),
        };
        if waiting >= limit {
            return self.reject(id, Rejection::Busy);
        }
        if let Some(index) = self.lease_index().filter(|_| by_lease) {
            return self.answer(Answer::ReadReady { id, index });
        }
        if matches!(self.part, Part::Leader(_)) {
            return self.take_read(Asker::Local { id });
        }
        if !matches!(self.part, Part::Follower) || self.leader.is_none() || self.membership().is_none() {
            return self.reject(id, Rejection::NotLeader { leader: self.leader });
        }
        self.forwarded.waiting.push(id);
    }

    /// The read index, if this leader's lease is valid now.
    fn lease_index(&self) -> Option<u64> {
        let until = self.lease_until()?;
        (self.now < until).then_some(self.commit)
    }

    /// Until when this leader may answer reads by itself.
    pub(crate) fn lease_until(&self) -> Option<Duration> {
        let Part::Leader(leader) = &self.part else { return None };
        leader.lease.until().filter(|_| self.config.lease && self.own_term_has_committed())
    }

    /// Whether a round, or a follower's question, is under way.
    pub(crate) fn is_asking(&self) -> bool {
        match &self.part {
            Part::Leader(leader) => !leader.reads.confirming.is_empty(),
            _ => !self.forwarded.asked.is_empty(),
        }
    }

    fn take_read(&mut self, asker: Asker) {
        let is_held = !self.own_term_has_committed() && !self.config.breaks(Mutant::ReadBeforeNoop);
        let Part::Leader(leader) = &mut self.part else { return };
        if is_held {
            leader.reads.held.push(asker);
        } else if self.config.breaks(Mutant::ReadJoinsRoundUnderWay) && !leader.reads.confirming.is_empty() {
            leader.reads.confirming.push(asker);
        } else {
            leader.reads.waiting.push(asker);
        }
    }

    pub(crate) fn own_term_has_committed(&self) -> bool {
        matches!(&self.part, Part::Leader(leader) if self.commit >= leader.noop)
    }

    /// Commit has moved: reads that waited for the no-op may join the next round.
    pub(crate) fn release_held_reads(&mut self) {
        if !self.own_term_has_committed() {
            return;
        }
        let Part::Leader(leader) = &mut self.part else { return };
        let held = std::mem::take(&mut leader.reads.held);
        leader.reads.waiting.extend(held);
    }

    /// Answers the round under way once a quorum has echoed it.
    pub(crate) fn confirm_reads(&mut self) {
        let Part::Leader(leader) = &mut self.part else { return };
        if leader.reads.confirming.is_empty() && !self.config.lease {
            return;
        }
        let Some(membership) = self.log.membership() else { return };
        let confirmed = quorum_value(membership, |node| {
            if node == self.config.node { leader.round } else { leader.peers.get(&node).map_or(0, |p| p.acked_round) }
        });
        if self.config.lease {
            leader.lease.confirmed(confirmed, self.now, &self.config);
        }
        if leader.reads.confirming.is_empty() {
            return;
        }
        if confirmed < leader.reads.round && !self.config.breaks(Mutant::ReadWithoutRound) {
            return;
        }
        let index = leader.reads.index;
        let confirmed = std::mem::take(&mut leader.reads.confirming);
        for asker in confirmed {
            self.answer_read(asker, Some(index));
        }
    }

    fn answer_read(&mut self, asker: Asker, index: Option<u64>) {
        match (asker, index) {
            (Asker::Local { id }, Some(index)) => self.answer(Answer::ReadReady { id, index }),
            (Asker::Local { id }, None) => self.reject(id, Rejection::NotLeader { leader: self.leader }),
            (Asker::Remote { node, nonce, counter }, index) => {
                self.send(node, Body::ReadIndexReply { nonce, counter, index });
            }
        }
    }

    /// A forwarded read counts from its arrival here.
    pub(crate) fn on_read_index(&mut self, from: NodeId, nonce: u64, counter: u64) {
        let asker = Asker::Remote { node: from, nonce, counter };
        match &self.part {
            Part::Leader(leader) if leader.reads.knows(asker) => {}
            Part::Leader(leader) if leader.reads.len() < self.config.max_pending_reads => self.take_read(asker),
            _ => self.answer_read(asker, None),
        }
    }

    /// Asks the leader for everybody who waits, if no question is under way.
    pub(crate) fn forward_reads(&mut self) {
        let Some(leader) = self.leader.filter(|_| matches!(self.part, Part::Follower)) else { return };
        let reads = &mut self.forwarded;
        if reads.waiting.is_empty() || !reads.asked.is_empty() {
            return;
        }
        std::mem::swap(&mut reads.waiting, &mut reads.asked);
        reads.counter += 1;
        reads.until = self.now + self.config.election_timeout_max * 2;
        self.ask_read_index(leader);
    }

    /// Question or answer may be lost: ask the same again, so that a late answer still counts. A leader that has not been
    /// heard for long answers nobody; and of one that this node's configuration does not hold yet no answer counts.
    pub(crate) fn resend_forwarded_reads(&mut self) {
        if self.forwarded.resend_at().is_none_or(|at| self.now < at) {
            return;
        }
        if self.now >= self.forwarded.until {
            for id in std::mem::take(&mut self.forwarded.asked) {
                self.reject(id, Rejection::NotLeader { leader: None });
            }
            return;
        }
        let is_silent = self.heard_at.is_none_or(|heard| heard + self.config.election_timeout_max * 2 < self.now);
        match self.leader.filter(|_| !is_silent) {
            Some(leader) => self.ask_read_index(leader),
            None => self.follow(None),
        }
    }

    fn ask_read_index(&mut self, leader: NodeId) {
        let reads = &mut self.forwarded;
        reads.resend_at = self.now + self.config.heartbeat_interval * 2;
        let body = Body::ReadIndex { nonce: reads.nonce, counter: reads.counter };
        self.send(leader, body);
    }

    /// Answers to questions that are not under way are dropped.
    pub(crate) fn on_read_index_reply(&mut self, nonce: u64, counter: u64, index: Option<u64>) {
        let any_nonce = self.config.breaks(Mutant::ForeignNonceCounts);
        let reads = &mut self.forwarded;
        if nonce != reads.nonce && !any_nonce || counter != reads.counter || reads.asked.is_empty() {
            return self.bad_message(Bad::Stale);
        }
        let asked = std::mem::take(&mut reads.asked);
        for id in asked {
            match index {
                Some(index) => self.answer(Answer::ReadReady { id, index }),
                None => self.reject(id, Rejection::NotLeader { leader: None }),
            }
        }
        if let Some(index) = index {
            // The leader has committed `index`, and up to `verified` the logs are equal.
            self.follow_commit(index.min(self.verified));
        }
    }

    /// Leadership is another now: nobody will confirm these.
    pub(crate) fn reject_waiting_reads(&mut self, leader: Option<NodeId>) {
        let mut askers = Vec::new();
        if let Part::Leader(leading) = &mut self.part {
            let reads = std::mem::take(&mut leading.reads);
            askers.extend(reads.held.into_iter().chain(reads.waiting).chain(reads.confirming));
        }
        let forwarded = std::mem::take(&mut self.forwarded.waiting);
        let asked = std::mem::take(&mut self.forwarded.asked);
        askers.extend(forwarded.into_iter().chain(asked).map(|id| Asker::Local { id }));
        for asker in askers {
            match asker {
                Asker::Local { id } => self.reject(id, Rejection::NotLeader { leader }),
                remote @ Asker::Remote { .. } => self.answer_read(remote, None),
            }
        }
    }
}
