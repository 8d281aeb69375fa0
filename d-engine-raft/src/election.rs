//! Elections: pre-votes, votes, leader stickiness (§3.4, §3.6.1, §4.2.3, §9.6).

use std::collections::BTreeSet;
use std::time::Duration;

use d_engine_core::LogId;

use crate::membership::{deciding, has_quorum};
use crate::raft::{Part, Raft};
use crate::status::Bad;
use crate::writes::Promise;
use crate::{Body, Mutant, NodeId, VoteRequest};

/// Answers of one round of votes or pre-votes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ballot {
    pub(crate) granted: BTreeSet<NodeId>,
    pub(crate) refused: BTreeSet<NodeId>,
}

impl Raft {
    pub(crate) fn reset_election_timer(&mut self) {
        let (min, max) = (self.config.election_timeout_min, self.config.election_timeout_max);
        let spread = (max - min).as_micros() as u64;
        self.election_at = self.now + min + Duration::from_micros(self.rng.u64(0..spread.max(1)));
    }

    /// Only a voter campaigns: of its latest configuration, or of one before it as long as the latest may not have
    /// committed (§4.2.2). Whoever appended its own removal may hold the only log that the remaining voters accept.
    pub(crate) fn may_campaign(&self) -> bool {
        let commit = if self.config.breaks(Mutant::RemovedNeverCampaigns) { u64::MAX } else { self.commit };
        self.log.possible_memberships(commit).any(|membership| {
            let member = membership.member(self.config.node);
            member.is_some_and(|m| m.incarnation == self.identity.incarnation) && membership.is_voter(self.config.node)
        })
    }

    pub(crate) fn is_only_voter(&self) -> bool {
        self.may_campaign() && self.membership().is_some_and(|m| has_quorum(m, |node| node == self.config.node))
    }

    /// Whether a leader was heard within the minimum election timeout (§4.2.3). A node that has just started counts as
    /// having just heard one: it may have, before the restart.
    pub(crate) fn is_protecting_leader(&self) -> bool {
        if self.config.breaks(Mutant::NoStickiness) {
            return false;
        }
        matches!(self.part, Part::Leader(_))
            || self.heard_at.is_some_and(|heard| self.now < heard + self.config.election_timeout_min)
    }

    /// Whether a vote could be saved now: nothing waits for space, and no earlier vote or term for the disk. Campaigns that
    /// overtake their own votes would never end.
    fn may_save_a_vote(&self) -> bool {
        self.full.is_none() && self.writes.is_hard_state_durable()
    }

    pub(crate) fn on_election_timeout(&mut self) {
        self.reset_election_timer();
        if !self.may_save_a_vote() {
            // Its vote for itself would wait; whoever has a working disk is better.
            if matches!(self.part, Part::Follower) {
                self.follow(None);
            }
            return;
        }
        if self.is_only_voter() {
            return self.campaign(false);
        }
        self.follow(None);
        self.pre_vote_round = self.pre_vote_round.wrapping_add(1);
        let mut ballot = Ballot::default();
        ballot.granted.insert(self.config.node);
        self.part = Part::PreCandidate(ballot);
        let body = Body::PreVote { next_term: self.term + 1, round: self.pre_vote_round, last: self.log.last() };
        self.ask_voters(|raft, to| raft.send(to, body.clone()));
    }

    /// Asks for votes in a new term (§3.4). The requests leave once the own vote is durable.
    pub(crate) fn campaign(&mut self, transfer: bool) {
        assert!(self.may_campaign(), "only a voter campaigns");
        self.follow(None);
        self.reset_election_timer();
        self.term += 1;
        self.voted_for = Some(self.config.node);
        self.stage_hard_state();
        self.part = Part::Candidate(Ballot::default());
        let body = Body::RequestVote(VoteRequest { last: self.log.last(), transfer });
        self.promise_to(Promise::OwnVote);
        self.ask_voters(|raft, to| raft.promise(to, body.clone()));
    }

    fn ask_voters(&mut self, mut ask: impl FnMut(&mut Self, NodeId)) {
        for node in self.others() {
            if self.membership().is_some_and(|membership| membership.is_voter(node)) {
                ask(self, node);
            }
        }
    }

    /// The own vote is durable.
    pub(crate) fn on_own_vote(&mut self) {
        self.on_vote_reply(self.config.node, true);
    }

    pub(crate) fn on_pre_vote(&mut self, from: NodeId, next_term: u64, round: u64, last: LogId) {
        let vote_is_free = self.voted_for.is_none() && self.leader.is_none() || self.voted_for == Some(from);
        let granted = !self.is_protecting_leader()
            && self.full.is_none()
            && (last >= self.log.last() || self.config.breaks(Mutant::VoteWithoutLogCheck))
            && (next_term > self.term || next_term == self.term && vote_is_free);
        self.send(from, Body::PreVoteReply { round, granted });
    }

    pub(crate) fn on_pre_vote_reply(&mut self, from: NodeId, round: u64, granted: bool) {
        if round != self.pre_vote_round {
            return self.bad_message(Bad::Stale);
        }
        let Part::PreCandidate(ballot) = &mut self.part else { return };
        ballot.count(from, granted);
        self.tally();
    }

    pub(crate) fn on_request_vote(&mut self, from: NodeId, term: u64, request: VoteRequest) {
        if term < self.term {
            return self.send(from, Body::VoteReply { granted: false });
        }
        let vote_is_free = self.voted_for.is_none() || self.voted_for == Some(from);
        let is_up_to_date = request.last >= self.log.last() || self.config.breaks(Mutant::VoteWithoutLogCheck);
        let is_passive = matches!(self.part, Part::Follower | Part::PreCandidate(_));
        if !(is_passive && vote_is_free && self.leader.is_none() && is_up_to_date) {
            return self.send(from, Body::VoteReply { granted: false });
        }
        if self.config.breaks(Mutant::TermAndVoteSavedApart) {
            self.promise(from, Body::VoteReply { granted: true });
        }
        if self.voted_for.is_none() {
            self.voted_for = Some(from);
            self.stage_hard_state();
        }
        self.part = Part::Follower;
        self.reset_election_timer();
        if self.config.breaks(Mutant::VoteReplyBeforePersist) {
            return self.send(from, Body::VoteReply { granted: true });
        }
        self.promise(from, Body::VoteReply { granted: true });
    }

    pub(crate) fn on_vote_reply(&mut self, from: NodeId, granted: bool) {
        let granted = granted || self.config.breaks(Mutant::RefusedVoteCounts);
        let Part::Candidate(ballot) = &mut self.part else { return };
        ballot.count(from, granted);
        self.tally();
    }

    fn tally(&mut self) {
        let (Part::PreCandidate(ballot) | Part::Candidate(ballot)) = &self.part else { return };
        let Some(membership) = self.membership() else { return };
        let membership = &*deciding(membership, &self.config);
        let won = has_quorum(membership, |node| ballot.granted.contains(&node));
        let lost = !has_quorum(membership, |node| !ballot.refused.contains(&node));
        match &self.part {
            Part::PreCandidate(_) if won && self.may_campaign() => self.campaign(false),
            Part::Candidate(_) if won => self.lead(),
            _ if lost => self.follow(None),
            _ => {}
        }
    }
}

impl Ballot {
    fn count(&mut self, from: NodeId, granted: bool) {
        let side = if granted { &mut self.granted } else { &mut self.refused };
        side.insert(from);
    }
}
