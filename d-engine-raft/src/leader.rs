//! The leader: proposals, replication within bounded windows, commit (§3.5, §3.6.2, §6.2).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use d_engine_core::{EntryKind, EntryMaker, LogId};

use crate::config::MAX_UNAPPLIED_ENTRIES;
use crate::lease::Lease;
use crate::log::Log;
use crate::membership::{deciding, quorum_value};
use crate::progress::{Flow, Progress};
use crate::raft::{Part, Raft};
use crate::read::LeaderReads;
use crate::reconfigure::{PendingChange, Transfer};
use crate::status::Bad;
use crate::{Answer, AppendOutcome, AppendReply, Change, Mutant, NodeId, Rejection};

/// State that only a leader has.
#[derive(Debug, Clone)]
pub(crate) struct Leader {
    pub(crate) peers: BTreeMap<NodeId, Progress>,
    pub(crate) heartbeat_at: Duration,
    /// Index of the no-op that opened this term.
    pub(crate) noop: u64,
    /// Newest confirmation round (§6.4).
    pub(crate) round: u64,
    pub(crate) reads: LeaderReads,
    pub(crate) change: Option<PendingChange>,
    pub(crate) transfer: Option<Transfer>,
    pub(crate) lease: Lease,
    /// Voters that were asked to take over because this leader cannot write.
    pub(crate) heirs: Vec<NodeId>,
    /// Makes the entries of this term.
    pub(crate) maker: EntryMaker,
}

impl Raft {
    /// Won the election: append a no-op, so that this term may commit, and tell everybody.
    pub(crate) fn lead(&mut self) {
        assert!(matches!(self.part, Part::Candidate(_)), "only a candidate wins an election");
        assert!(self.voted_for == Some(self.config.node), "a leader has its own vote");
        self.sessions += 1;
        let last = self.log.last().index;
        let members = self.membership().map_or(&[][..], |membership| &membership.members);
        let session = self.sessions;
        let others = members.iter().filter(|member| member.node != self.config.node);
        let peers = others.map(|m| (m.node, Progress::new(m.incarnation, last, session, self.now))).collect();
        self.leader = Some(self.config.node);
        self.part = Part::Leader(Box::new(Leader {
            peers,
            heartbeat_at: self.now + self.config.heartbeat_interval,
            noop: last + 1,
            round: 0,
            reads: LeaderReads::default(),
            change: None,
            transfer: None,
            lease: Lease::default(),
            heirs: Vec::new(),
            maker: EntryMaker::default(),
        }));
        self.append_own(EntryKind::Noop, Bytes::new());
    }

    /// What the handshake with a peer said it understands.
    pub(crate) fn on_peer_hello(&mut self, from: NodeId, incarnation: u128, feature_level: u32) {
        self.offered_levels.insert(from, (incarnation, feature_level));
    }

    /// Raises the cluster's feature level once every member, learners too, understands a higher one; never lowers it.
    fn maybe_raise_feature_level(&mut self) {
        let Some(membership) = self.membership() else { return };
        let level = membership.members.iter().map(|member| self.offered_level(member).unwrap_or(0)).min().unwrap_or(0);
        if level <= membership.settings.feature_level {
            return;
        }
        if let Ok(step) = self.plan_change(None, &Change::RaiseFeatureLevel { level })
            && self.full.is_none()
            && !self.is_handing_over()
        {
            self.append_own(EntryKind::Membership, step.encode());
        }
    }

    pub(crate) fn append_own(&mut self, kind: EntryKind, data: Bytes) -> LogId {
        let index = self.log.last().index + 1;
        let Part::Leader(leader) = &mut self.part else { panic!("only a leader appends entries of its own") };
        let entry = leader.maker.make(index, self.term, kind, &data);
        let id = entry.id();
        self.append_entry(entry).expect("an entry made here is readable");
        id
    }

    pub(crate) fn on_propose(&mut self, id: u64, command: Bytes) {
        if !matches!(self.part, Part::Leader(_)) {
            return self.reject(id, Rejection::NotLeader { leader: self.leader });
        }
        if let Some(why) = self.full.clone() {
            return self.reject(id, Rejection::StorageFull { why });
        }
        if self.is_handing_over() && !self.config.breaks(Mutant::TransferTakesProposals) {
            return self.reject(id, Rejection::HandingOver);
        }
        let limit = self.config.max_command_bytes;
        if command.len() > limit {
            return self.reject(id, Rejection::TooLarge { bytes: command.len(), limit });
        }
        let (bytes, entries) = self.log.unapplied();
        if bytes + command.len() > self.config.max_unapplied_bytes || entries >= MAX_UNAPPLIED_ENTRIES {
            return self.reject(id, Rejection::Busy);
        }
        let at = self.append_own(EntryKind::Command, command);
        self.answer(Answer::Accepted { id, at });
    }

    pub(crate) fn on_leader_timeout(&mut self) {
        self.maybe_abandon_transfer();
        let Part::Leader(leader) = &mut self.part else { return };
        if self.now < leader.heartbeat_at {
            return;
        }
        leader.heartbeat_at = self.now + self.config.heartbeat_interval;
        if let Some(transfer) = &leader.transfer {
            leader.heartbeat_at = leader.heartbeat_at.min(transfer.until());
        }
        for progress in leader.peers.values_mut() {
            progress.must_send = true;
        }
        if self.config.lease {
            leader.round += 1;
            leader.lease.sent(leader.round, self.now);
        }
        if self.has_lost_quorum() {
            return self.follow(None);
        }
        self.maybe_step_aside();
        self.maybe_raise_feature_level();
    }

    /// Check-quorum (§6.2): nobody may be left behind by a leader that cannot commit.
    fn has_lost_quorum(&self) -> bool {
        let (Part::Leader(leader), Some(membership)) = (&self.part, self.membership()) else { return false };
        if self.config.breaks(Mutant::NoCheckQuorum) {
            return false;
        }
        let heard = quorum_value(membership, |node| {
            let at = if node == self.config.node { Some(self.now) } else { leader.peers.get(&node).map(|p| p.contact) };
            at.map_or(0, |at| at.as_nanos() as u64)
        });
        Duration::from_nanos(heard) + self.config.election_timeout_max < self.now
    }

    pub(crate) fn on_append_reply(&mut self, from: NodeId, reply: AppendReply) {
        let last = self.log.last().index;
        let Part::Leader(leader) = &mut self.part else { return };
        let Some(progress) = leader.peers.get_mut(&from) else { return };
        progress.contact = self.now;
        progress.has_answered = true;
        if reply.round > leader.round {
            return self.bad_message(Bad::Impossible);
        }
        progress.acked_round = progress.acked_round.max(reply.round);
        if reply.session != progress.session {
            self.bad_messages.count(Bad::Stale);
        }
        if reply.session == progress.session || self.config.breaks(Mutant::OldSessionsCount) {
            match reply.outcome {
                AppendOutcome::Pending | AppendOutcome::Stale => {}
                AppendOutcome::Accepted { matched } if matched > last => return self.bad_message(Bad::Impossible),
                AppendOutcome::Accepted { matched } => progress.accepted(matched),
                AppendOutcome::Rejected { prev, hint } => {
                    self.sessions += 1;
                    rewind(&self.log, progress, self.sessions, prev, hint);
                    if self.config.breaks(Mutant::HintMovesNextBelowMatch) {
                        progress.next = progress.next.min(hint.index + 1);
                    }
                    if self.config.breaks(Mutant::RejectionMovesMatch) && hint.index < progress.next {
                        progress.matched = progress.matched.max(hint.index.min(progress.next - 1));
                    }
                }
            }
        }
        self.confirm_reads();
        self.maybe_commit();
        self.maybe_hand_over();
    }

    /// Commits what a quorum holds durably, if it is of this term; older entries commit with it (§3.6.2).
    pub(crate) fn maybe_commit(&mut self) {
        let (Part::Leader(leader), Some(membership)) = (&self.part, self.log.membership()) else { return };
        let unpersisted = self.config.breaks(Mutant::LeaderCountsUnpersisted);
        let own = if unpersisted { self.log.last().index } else { self.writes.persisted_index() };
        let held = quorum_value(&deciding(membership, &self.config), |node| {
            if node == self.config.node { own } else { leader.peers.get(&node).map_or(0, |progress| progress.matched) }
        });
        let is_own_term =
            self.log.term_at(held) == Some(self.term) || self.config.breaks(Mutant::CommitOldTermByCounting);
        if held > self.commit && is_own_term {
            self.commit = held;
            self.release_held_reads();
            self.maybe_apply();
            self.follow_configuration();
        }
    }

    /// A message could not be filled: its entries are gone, or it was too large.
    pub(crate) fn on_not_sent(&mut self, to: NodeId, session: u64, fitting: Option<u64>) {
        let Part::Leader(leader) = &mut self.part else { return };
        let Some(progress) = leader.peers.get_mut(&to).filter(|progress| progress.session == session) else { return };
        if let Some(fitting) = fitting {
            progress.cold_entries = fitting.max(1);
        }
        self.sessions += 1;
        progress.probe(progress.matched + 1, self.sessions);
        // Entries that cannot be read now are asked for again with the next heartbeat, not at once and for ever.
        progress.must_send = fitting.is_some();
    }

    pub(crate) fn on_unreachable(&mut self, to: NodeId) {
        let Part::Leader(leader) = &mut self.part else { return };
        if let Some(progress) = leader.peers.get_mut(&to).filter(|progress| progress.flow != Flow::Probe) {
            self.sessions += 1;
            progress.probe(progress.matched + 1, self.sessions);
        }
    }

    /// The newest configuration is another one: follow it.
    pub(crate) fn on_membership_changed(&mut self) {
        let (last, own) = (self.log.last().index, self.config.node);
        let (Part::Leader(leader), Some(membership)) = (&mut self.part, self.log.membership()) else { return };
        let (peers, sessions) = (&mut leader.peers, &mut self.sessions);
        let inherits = self.config.breaks(Mutant::ProgressSurvivesReplacement);
        // Another directory under the same id is another follower: nothing is known of it.
        let stays = |node: &NodeId, progress: &mut Progress| {
            membership.member(*node).is_some_and(|member| inherits || member.incarnation == progress.incarnation)
        };
        peers.retain(stays);
        for member in membership.members.iter().filter(|member| member.node != own) {
            peers.entry(member.node).or_insert_with(|| {
                *sessions += 1;
                Progress::new(member.incarnation, last, *sessions, self.now)
            });
        }
    }
}

/// The follower does not hold `prev`: continue where the logs may agree. Never below what is known to match.
fn rewind(log: &Log, progress: &mut Progress, session: u64, prev: u64, hint: LogId) {
    let is_current = match progress.flow {
        Flow::Probe => prev == progress.next - 1,
        Flow::Replicate => prev > progress.matched,
        Flow::Snapshot => false,
    };
    if !is_current || prev <= progress.matched {
        return;
    }
    let limit = hint.index.min(prev.saturating_sub(1));
    let next = if limit < log.purged().index { limit + 1 } else { log.newest_at_most(limit, hint.term).index + 1 };
    progress.probe(next, session);
    progress.must_send = true;
}
