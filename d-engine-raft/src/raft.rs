//! The consensus core: state, dispatch of inputs, terms. The protocol's concerns live in the files beside it.
//!
//! Handlers filter, then assert what must now be true, then act. Nothing here reads a clock or performs anything: what is
//! to be done waits as an [`Action`].

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use d_engine_core::{Entry, EntryKind, HardState, Identity, Membership};

use crate::config::MAX_APPLYING_ENTRIES;
use crate::election::Ballot;
use crate::formation::Formation;
use crate::leader::Leader;
use crate::log::Log;
use crate::read::ForwardedReads;
use crate::snapshot::Installing;
use crate::start::StartError;
use crate::status::Bad;
use crate::writes::{Promise, Writes};
use crate::{
    Action, Answer, BadMessages, Body, Boot, Config, Input, Message, NodeId, Rejection, Restored, Role, SnapshotTask,
};

/// One replica's consensus, sans-IO.
#[derive(Debug, Clone)]
pub struct Raft {
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) term: u64,
    pub(crate) voted_for: Option<NodeId>,
    pub(crate) part: Part,
    pub(crate) leader: Option<NodeId>,
    pub(crate) log: Log,
    pub(crate) writes: Writes,
    pub(crate) commit: u64,
    pub(crate) applied: u64,
    /// Highest index handed out to be applied.
    pub(crate) apply_sent: u64,
    /// When this node last heard a leader, or started (§4.2.3).
    pub(crate) heard_at: Option<Duration>,
    pub(crate) election_at: Duration,
    /// Highest index known to equal the present leader's log.
    pub(crate) verified: u64,
    /// Replication stream of the present leader's newest message.
    pub(crate) leader_session: u64,
    /// What the data directories of peers understand, by their handshakes.
    pub(crate) offered_levels: BTreeMap<NodeId, (u128, u32)>,
    /// A snapshot on its way into the state machine: nothing is applied meanwhile.
    pub(crate) installing: Option<Installing>,
    /// Replication stream and end of the newest acknowledgement that waits for the disk, or has waited.
    pub(crate) promised: Option<(u64, u64)>,
    /// Newest confirmation round of the present leader that was answered.
    pub(crate) echoed_round: u64,
    pub(crate) forwarded: ForwardedReads,
    pub(crate) pre_vote_round: u64,
    pub(crate) rng: fastrand::Rng,
    pub(crate) now: Duration,
    pub(crate) actions: VecDeque<Action>,
    /// What whoever asked is told; polled before actions. Kept apart because there are many, and actions are large.
    answers: VecDeque<Answer>,
    pub(crate) bad_messages: BadMessages,
    /// Number of the newest replication stream to anybody. No two leaderships of one life share a number.
    pub(crate) sessions: u64,
    /// Why writes wait for space, while they do.
    pub(crate) full: Option<String>,
    /// Random id for a cluster that this node may found.
    pub(crate) new_cluster: u128,
}

/// The part a replica plays, with the state that only this part has.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    Unformed(Formation),
    Follower,
    PreCandidate(Ballot),
    Candidate(Ballot),
    Leader(Box<Leader>),
    Failed(String),
}

impl Raft {
    /// A replica that begins with what survived the last run.
    ///
    /// # Errors
    /// The directory's state contradicts itself or the configuration; nothing has been changed.
    pub fn new(config: Config, restored: Restored, boot: Boot, now: Duration) -> Result<Self, StartError> {
        restored.check(&config)?;
        let hard_state = restored.hard_state.unwrap_or_default();
        let identity = hard_state.identity.unwrap_or(Identity::unformed(config.node, boot.incarnation));
        let applied = restored.last_applied.index;
        let last = restored.log.last.index;
        let mut raft = Self {
            identity,
            term: hard_state.term,
            voted_for: hard_state.voted_for.filter(|_| !config.breaks(crate::Mutant::VoteForgottenAtStart)),
            part: Part::Follower,
            leader: None,
            log: Log::new(restored.log, restored.snapshot.map(|(at, membership)| (at.index, membership)), applied),
            writes: Writes::new(last),
            commit: applied,
            applied,
            apply_sent: applied,
            heard_at: Some(now).filter(|_| !config.breaks(crate::Mutant::VoteAtStartInsideLease)),
            election_at: now,
            verified: 0,
            leader_session: 0,
            offered_levels: BTreeMap::new(),
            installing: None,
            promised: None,
            echoed_round: 0,
            forwarded: ForwardedReads::new(boot.seed),
            // Grants of an earlier life are not ours.
            pre_vote_round: boot.seed,
            rng: fastrand::Rng::with_seed(boot.seed),
            now,
            actions: VecDeque::new(),
            answers: VecDeque::new(),
            bad_messages: BadMessages::default(),
            sessions: 0,
            full: None,
            new_cluster: boot.cluster,
            config,
        };
        raft.begin(hard_state.identity.is_none());
        Ok(raft)
    }

    fn begin(&mut self, is_new: bool) {
        if is_new {
            self.stage_hard_state();
        }
        if self.identity.formed {
            self.reset_election_timer();
            // Of a configuration that may not have committed it is not the only voter yet: a leader of the one before may
            // have a lease.
            let is_settled = self.log.possible_memberships(self.commit).count() == 1;
            if is_settled && self.is_only_voter() {
                self.heard_at = None;
                self.election_at = self.now;
            }
        } else {
            self.begin_formation();
        }
    }

    /// Takes one input. What follows from it waits in [`Raft::poll_action`]; handle everything that has arrived before
    /// polling, so that it shares writes and messages.
    pub fn handle(&mut self, now: Duration, input: Input) {
        self.now = self.now.max(now);
        if let Part::Failed(why) = &self.part {
            let why = Rejection::Unavailable { why: why.clone() };
            if let Input::Propose { id, .. }
            | Input::Read { id, .. }
            | Input::ChangeMembership { id, .. }
            | Input::Transfer { id, .. } = input
            {
                self.reject(id, why);
            }
            return;
        }
        match input {
            Input::Message { from, message } => self.on_message(from, message),
            Input::Propose { id, command } => self.on_propose(id, command),
            Input::Read { id, by_lease } => self.on_read(id, by_lease),
            Input::ChangeMembership { id, base, change } => self.on_change(id, base, &change),
            Input::Transfer { id, to } => self.on_transfer(id, to),
            Input::Persisted { seq } => self.on_persisted(seq),
            Input::StorageFailed { why } => self.fail(why),
            Input::StorageFull { why } => self.on_storage_full(why),
            Input::StorageFreed => self.on_storage_freed(),
            Input::Applied { index } => self.on_applied(index),
            Input::SnapshotMade { last_included } => self.on_snapshot_made(last_included),
            Input::SnapshotSent { to, session, installed } => self.on_snapshot_sent(to, session, installed),
            Input::SnapshotReceived { from, term, last_included, membership } => {
                self.on_snapshot_received(from, term, last_included, membership);
            }
            Input::SnapshotInstalled { last_included, ok } => self.on_snapshot_installed(last_included, ok),
            Input::NotSent { to, session, fitting } => self.on_not_sent(to, session, fitting),
            Input::PeerHello { from, incarnation, feature_level } => {
                self.on_peer_hello(from, incarnation, feature_level);
            }
            Input::Unreachable { to } => self.on_unreachable(to),
            Input::Timeout => self.on_timeout(),
        }
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    /// The next thing to do, until `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.actions.is_empty() && self.answers.is_empty() {
            self.flush();
        }
        self.poll_answer().map(Action::Answer).or_else(|| self.actions.pop_front())
    }

    /// The next answer alone.
    pub(crate) fn poll_answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    /// Turns what the handled inputs left behind into one write and one round of messages.
    fn flush(&mut self) {
        self.flush_writes();
        self.replicate();
        self.forward_reads();
    }

    /// When the next [`Input::Timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        match &self.part {
            Part::Failed(_) => None,
            Part::Unformed(formation) => Some(formation.probe_at),
            Part::Leader(leader) => Some(leader.heartbeat_at),
            Part::Follower | Part::PreCandidate(_) | Part::Candidate(_) => {
                let election = (self.may_campaign() || self.leader.is_some()).then_some(self.election_at);
                [election, self.forwarded.resend_at()].into_iter().flatten().min()
            }
        }
    }

    fn on_timeout(&mut self) {
        match &self.part {
            Part::Failed(_) => {}
            Part::Unformed(_) => self.on_formation_timeout(),
            Part::Leader(_) => self.on_leader_timeout(),
            Part::Follower | Part::PreCandidate(_) | Part::Candidate(_) => {
                self.resend_forwarded_reads();
                if self.now < self.election_at {
                    return;
                }
                if self.may_campaign() {
                    self.on_election_timeout();
                } else if self.leader.is_some() {
                    // It is silent; whoever leads next will be heard.
                    self.follow(None);
                }
            }
        }
    }

    fn on_message(&mut self, from: NodeId, message: Message) {
        // No honest sender counts so far; what is added to these numbers must not overflow.
        let is_absurd = message.term > u64::MAX / 2
            || matches!(&message.body, Body::Append(append) if append.prev.index > u64::MAX / 2);
        if message.group != 0 {
            return self.bad_message(Bad::OtherGroup);
        }
        if from == self.config.node || is_absurd {
            return self.bad_message(Bad::Impossible);
        }
        let Message { term, incarnation, body, .. } = message;
        let is_append = matches!(body, Body::Append(_));
        match body {
            Body::FormationProbe => return self.on_formation_probe(from, incarnation),
            Body::FormationEmpty => return self.on_formation_empty(from, incarnation),
            Body::Formation(entry) => return self.on_formation(entry),
            Body::FormationRefused => return self.on_formation_refused(from),
            Body::Welcome { cluster, receiver } => return self.on_welcome(from, cluster, receiver),
            _ if !(self.identity.formed || self.identity.cluster != 0 && is_append) => {
                return self.bad_message(Bad::Unformed);
            }
            // Pre-votes and their grants never change a term (§9.6); a challenger of a live leader does not either (§4.2.3).
            Body::PreVote { next_term, round, last } => return self.on_pre_vote(from, next_term, round, last),
            Body::PreVoteReply { granted: true, .. } => {}
            Body::RequestVote(request) if self.is_protecting_leader() && !request.transfer => {
                return self.send(from, Body::VoteReply { granted: false });
            }
            _ if term > self.term => self.adopt_term(term),
            _ => {}
        }
        let counts = self.membership().and_then(|m| m.member(from)).is_some_and(|m| m.incarnation == incarnation);
        match body {
            Body::RequestVote(request) => self.on_request_vote(from, term, request),
            Body::Append(append) => self.on_append(from, term, append),
            Body::ReadIndex { nonce, counter } => self.on_read_index(from, nonce, counter),
            Body::TimeoutNow { session } => self.on_timeout_now(from, term, session),
            // The asker's configuration decides which answers count (raft §4.1).
            _ if !counts && !self.config.breaks(crate::Mutant::CountStrangerIncarnation) => {
                self.bad_message(Bad::Stranger);
            }
            Body::PreVoteReply { round, granted } => self.on_pre_vote_reply(from, round, granted),
            Body::VoteReply { granted } if term == self.term => self.on_vote_reply(from, granted),
            Body::AppendReply(reply) if term == self.term => self.on_append_reply(from, reply),
            Body::ReadIndexReply { nonce, counter, index } => {
                let index = index.filter(|_| term == self.term);
                self.on_read_index_reply(nonce, counter, index);
            }
            _ => self.bad_message(Bad::Stale),
        }
    }

    fn on_persisted(&mut self, seq: u64) {
        self.writes.persisted(seq);
        self.keep_promises();
        self.maybe_commit();
        self.maybe_apply();
    }

    /// Lets go what the disk now stands behind.
    fn keep_promises(&mut self) {
        let any_term = self.config.breaks(crate::Mutant::ReleaseHeldAcrossTerms);
        while let Some(promise) = self.writes.release(self.term, any_term) {
            match promise {
                Promise::Send { to, message } => self.actions.push_back(Action::Send { to, message }),
                Promise::OwnVote => self.on_own_vote(),
                Promise::Formed => self.on_formed(),
                Promise::Install(last_included) => {
                    self.actions.push_back(Action::Snapshot(SnapshotTask::Install { last_included }));
                }
            }
        }
    }

    /// Sends `body` once everything staged so far is durable.
    pub(crate) fn promise(&mut self, to: NodeId, body: Body) {
        let message = self.message(body);
        self.promise_to(Promise::Send { to, message });
    }

    pub(crate) fn promise_to(&mut self, promise: Promise) {
        if let Promise::Send { to, message } = &promise
            && self.full.is_some()
            && self.config.breaks(crate::Mutant::PromisesOvertakeFullDisk)
        {
            self.actions.push_back(Action::Send { to: *to, message: message.clone() });
        }
        self.writes.hold(self.term, promise);
        if self.writes.is_settled() {
            self.keep_promises();
        }
    }

    fn on_applied(&mut self, index: u64) {
        assert!(index <= self.apply_sent, "only what was handed out can be applied");
        self.applied = self.applied.max(index);
        self.log.applied(index);
        self.maybe_apply();
    }

    /// Hands out what is committed and durable here. `Apply` never passes the node's own persisted index, so a
    /// `last_applied` beyond the log at start proves a lost log; nor the hard state, so that a directory which has applied
    /// anything knows that it belongs to a cluster.
    pub(crate) fn maybe_apply(&mut self) {
        let unpersisted = self.config.breaks(crate::Mutant::ApplyBeforePersisted);
        let durable = if unpersisted { self.log.last().index } else { self.writes.persisted_index() };
        let up_to = self.commit.min(durable).min(self.applied + MAX_APPLYING_ENTRIES);
        let is_owned = self.writes.is_hard_state_durable() && self.installing.is_none();
        if up_to > self.apply_sent && is_owned {
            self.apply_sent = up_to;
            self.actions.push_back(Action::Apply { up_to });
        }
    }

    /// Stops taking part until restarted: the storage cannot be trusted.
    pub(crate) fn fail(&mut self, why: String) {
        self.reject_waiting_reads(None);
        self.abandon_leadership_work(Some("its storage failed"));
        self.leader = None;
        self.full = None;
        self.part = Part::Failed(why);
    }

    /// A newer term exists: follow in it (§3.3). Clears the vote.
    pub(crate) fn adopt_term(&mut self, term: u64) {
        assert!(term > self.term, "terms only grow");
        self.term = term;
        self.voted_for = None;
        self.stage_hard_state();
        self.follow(None);
    }

    /// Becomes a follower in the present term, of `leader` if one is known.
    pub(crate) fn follow(&mut self, leader: Option<NodeId>) {
        if self.leader != leader {
            self.reject_waiting_reads(leader);
            self.verified = 0;
            self.echoed_round = 0;
            self.promised = None;
            // If this leader comes back, its next message is acknowledged anew: while a disk hangs, acknowledgements of leaders
            // that are lost and found must not pile up.
            if !self.config.breaks(crate::Mutant::ReleaseHeldAcrossTerms) {
                self.writes.forget_acknowledgements(None);
            }
        }
        if matches!(self.part, Part::Leader(_)) {
            self.abandon_leadership_work(None);
            self.reset_election_timer();
        }
        self.leader = leader;
        self.part = Part::Follower;
    }

    pub(crate) fn stage_hard_state(&mut self) {
        let state = HardState::new(self.term, self.voted_for, Some(self.identity));
        let earlier = self.writes.stage_hard_state(state, self.now, self.log.last().index);
        self.actions.extend(earlier.map(Action::Write));
    }

    /// Puts an entry behind the log and stages it.
    pub(crate) fn append_entry(&mut self, entry: Entry) -> Result<(), d_engine_core::Error> {
        let membership = match entry.kind {
            EntryKind::Membership => Some(Membership::decode(&entry.data)?),
            EntryKind::Command | EntryKind::Noop => None,
        };
        let changed = membership.is_some();
        self.log.append(&entry, membership);
        self.writes.stage_entry(entry);
        if changed {
            self.on_membership_changed();
        }
        Ok(())
    }

    pub(crate) fn flush_writes(&mut self) {
        let write = self.writes.take_staged(self.now, self.log.last().index);
        self.actions.extend(write.map(Action::Write));
    }

    pub(crate) fn message(&self, body: Body) -> Message {
        Message { term: self.term, incarnation: self.identity.incarnation, group: 0, body }
    }

    pub(crate) fn send(&mut self, to: NodeId, body: Body) {
        let message = self.message(body);
        self.actions.push_back(Action::Send { to, message });
    }

    pub(crate) fn reject(&mut self, id: u64, why: Rejection) {
        self.answer(Answer::Rejected { id, why });
    }

    pub(crate) fn answer(&mut self, answer: Answer) {
        self.answers.push_back(answer);
    }

    pub(crate) fn bad_message(&mut self, why: Bad) {
        self.bad_messages.count(why);
    }

    pub(crate) fn membership(&self) -> Option<&Membership> {
        self.log.membership()
    }

    /// The newest configuration with its index.
    #[cfg(feature = "simulator")]
    pub(crate) fn newest_membership(&self) -> Option<(u64, &Membership)> {
        self.log.newest_membership()
    }

    /// Everybody else in the newest configuration.
    pub(crate) fn others(&self) -> Vec<NodeId> {
        let members = self.membership().map_or(&[][..], |membership| &membership.members);
        members.iter().map(|member| member.node).filter(|node| *node != self.config.node).collect()
    }

    pub(crate) fn role(&self) -> Role {
        match self.part {
            Part::Unformed(_) => Role::Unformed,
            Part::Follower => Role::Follower,
            Part::PreCandidate(_) => Role::PreCandidate,
            Part::Candidate(_) => Role::Candidate,
            Part::Leader(_) => Role::Leader,
            Part::Failed(_) => Role::Failed,
        }
    }
}
