//! The leader's side of membership changes and of leadership transfer (§3.10, §4).

use std::time::Duration;

use d_engine_core::{EntryKind, Member, Membership};

use crate::change::{ChangeError, first_step, leave_joint};
use crate::progress::Flow;
use crate::raft::{Part, Raft};
use crate::status::Bad;
use crate::{Answer, Body, Change, Mutant, NodeId, Rejection};

/// Entries that a learner may lack when it is promoted, unless all of them are on their way to it: so few that commit
/// hardly waits for it.
const CATCH_UP_ENTRIES: u64 = 1 << 12;

/// A membership change whose end has not committed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PendingChange {
    id: u64,
    /// Index of its last configuration so far.
    index: u64,
}

/// A transfer of leadership under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transfer {
    /// Whoever asked for it; `None`: this leader itself, which cannot write.
    id: Option<u64>,
    to: NodeId,
    until: Duration,
    is_sent: bool,
}

impl Transfer {
    /// When to give up.
    pub(crate) fn until(&self) -> Duration {
        self.until
    }
}

impl Raft {
    pub(crate) fn on_change(&mut self, id: u64, base: Option<u64>, change: &Change) {
        if !matches!(self.part, Part::Leader(_)) {
            return self.reject(id, Rejection::NotLeader { leader: self.leader });
        }
        if let Some(why) = self.full.clone() {
            return self.reject(id, Rejection::StorageFull { why });
        }
        if self.is_handing_over() {
            return self.reject(id, Rejection::HandingOver);
        }
        match self.plan_change(base, change) {
            Ok(step) => {
                let mut index = self.append_own(EntryKind::Membership, step.encode()).index;
                if step.is_joint() && self.config.breaks(Mutant::LeaveJointBeforeCommitted) {
                    index = self.append_own(EntryKind::Membership, leave_joint(&step).encode()).index;
                }
                if let Part::Leader(leader) = &mut self.part {
                    leader.change = Some(PendingChange { id, index });
                }
            }
            Err(why) => self.reject(id, Rejection::Change(why)),
        }
    }

    /// One change at a time, from a committed configuration, in a term that has committed: the 2015 single-server bug
    /// needs one of these to be missing.
    pub(crate) fn plan_change(&self, base: Option<u64>, change: &Change) -> Result<Membership, ChangeError> {
        let (index, current) = self.log.newest_membership().ok_or(ChangeError::LeaderIsNew)?;
        if !self.own_term_has_committed() && !self.config.breaks(Mutant::ChangeBeforeOwnTermCommit) {
            return Err(ChangeError::LeaderIsNew);
        }
        let is_committed = index <= self.commit || self.config.breaks(Mutant::ChangeFromUncommittedConfig);
        if !is_committed || current.is_joint() {
            return Err(ChangeError::InProgress { index });
        }
        if let Some(expected) = base.filter(|base| *base != index) {
            return Err(ChangeError::BaseMoved { expected, found: index });
        }
        let target = change.target(current)?;
        if target == *current {
            return Err(ChangeError::NoChange { index });
        }
        for voter in target.voters().filter(|node| !current.is_voter(*node)) {
            self.check_caught_up(voter)?;
        }
        let is_raised = target.settings.feature_level > current.settings.feature_level;
        self.check_understands(&target, is_raised)?;
        Ok(first_step(current, &target))
    }

    /// No member is asked for more than it offered. One that has not been met yet may join, but holds up a raise.
    fn check_understands(&self, target: &Membership, is_raised: bool) -> Result<(), ChangeError> {
        let needs = target.settings.feature_level;
        for member in &target.members {
            match self.offered_level(member) {
                Some(offers) if offers >= needs => {}
                None if !is_raised => {}
                offer => return Err(ChangeError::TooOld { node: member.node, offers: offer.unwrap_or(0), needs }),
            }
        }
        Ok(())
    }

    /// What this node, or a member's handshake, offers.
    pub(crate) fn offered_level(&self, member: &Member) -> Option<u32> {
        if member.node == self.config.node {
            return Some(self.config.feature_level);
        }
        self.offered_levels.get(&member.node).filter(|offer| offer.0 == member.incarnation).map(|offer| offer.1)
    }

    fn check_caught_up(&self, node: NodeId) -> Result<(), ChangeError> {
        let Part::Leader(leader) = &self.part else { return Ok(()) };
        let last = self.log.last().index;
        let progress = leader.peers.get(&node);
        let matched = progress.map_or(0, |progress| progress.matched);
        let flows = progress.is_some_and(|progress| progress.flow == Flow::Replicate);
        let is_sent = progress.is_some_and(|progress| progress.next > last);
        if flows && (is_sent || matched + CATCH_UP_ENTRIES >= last) {
            return Ok(());
        }
        Err(ChangeError::NotCaughtUp { node, matched, last })
    }

    /// Commit has moved: a joint configuration that committed is left, a change whose end committed is answered, and a
    /// leader that is no voter any more steps down. Inherited configurations are treated the same.
    pub(crate) fn follow_configuration(&mut self) {
        let Some((index, membership)) = self.log.newest_membership() else { return };
        if index > self.commit || !self.own_term_has_committed() {
            return;
        }
        if membership.is_joint() {
            let target = leave_joint(membership);
            let index = self.append_own(EntryKind::Membership, target.encode()).index;
            if let Part::Leader(leader) = &mut self.part
                && let Some(change) = &mut leader.change
            {
                change.index = index;
            }
            return;
        }
        let is_voter = membership.is_voter(self.config.node);
        if let Part::Leader(leader) = &mut self.part
            && let Some(PendingChange { id, index }) = leader.change.take_if(|change| change.index <= index)
        {
            self.answer(Answer::Changed { id, index });
        }
        if !is_voter {
            self.retire();
        }
    }

    /// Leads no longer, being no voter any more; the followers are told what has committed first.
    fn retire(&mut self) {
        if let Part::Leader(leader) = &mut self.part {
            leader.peers.values_mut().for_each(|progress| progress.must_send = true);
        }
        self.flush_writes();
        self.replicate();
        self.follow(None);
    }

    /// Whoever waited for a change or transfer learns that this node leads no more.
    pub(crate) fn abandon_leadership_work(&mut self, failure: Option<&str>) {
        let Part::Leader(leader) = &mut self.part else { return };
        let change = leader.change.take().map(|change| change.id);
        let transfer = leader.transfer.take();
        change.into_iter().for_each(|id| self.answer(Answer::Lost { id }));
        let Some(Transfer { id: Some(id), to, is_sent, .. }) = transfer else { return };
        if is_sent && failure.is_none() {
            return self.answer(Answer::Transferred { id });
        }
        let why = failure.unwrap_or("it lost its office before the target had the whole log");
        self.reject(id, Rejection::NoTransfer { to, why: format!("this node leads no more: {why}") });
    }

    pub(crate) fn on_transfer(&mut self, id: u64, to: NodeId) {
        let is_voter = self.membership().is_some_and(|membership| membership.voters().any(|node| node == to));
        let Part::Leader(leader) = &self.part else {
            return self.reject(id, Rejection::NotLeader { leader: self.leader });
        };
        if !is_voter {
            return self.reject(id, Rejection::NoTransfer { to, why: "it is not a voter of this cluster".into() });
        }
        if leader.transfer.is_some_and(|transfer| transfer.id.is_some()) {
            return self.reject(id, Rejection::NoTransfer { to, why: "another transfer is under way".into() });
        }
        if to == self.config.node {
            return self.answer(Answer::Transferred { id });
        }
        self.begin_transfer(Some(id), to);
    }

    pub(crate) fn is_handing_over(&self) -> bool {
        matches!(&self.part, Part::Leader(leader) if leader.transfer.is_some())
    }

    /// Takes no proposals until the target leads or an election timeout has passed.
    pub(crate) fn begin_transfer(&mut self, id: Option<u64>, to: NodeId) {
        let until = self.now + self.config.election_timeout_max;
        let Part::Leader(leader) = &mut self.part else { return };
        leader.transfer = Some(Transfer { id, to, until, is_sent: false });
        leader.heartbeat_at = leader.heartbeat_at.min(until);
        self.maybe_hand_over();
    }

    /// Tells the target to campaign once it has the whole log (§3.10). It cannot be recalled: for the rest of this term
    /// the lease is gone.
    pub(crate) fn maybe_hand_over(&mut self) {
        let last = self.log.last().index;
        let Part::Leader(leader) = &mut self.part else { return };
        let Some(transfer) = leader.transfer.as_mut().filter(|transfer| !transfer.is_sent) else { return };
        let Some(progress) = leader.peers.get(&transfer.to).filter(|progress| progress.matched == last) else { return };
        transfer.is_sent = true;
        if !self.config.breaks(Mutant::LeaseSurvivesTransfer) {
            leader.lease.end();
        }
        let (to, session) = (transfer.to, progress.session);
        self.send(to, Body::TimeoutNow { session });
    }

    /// The target did not take over in time: go on leading.
    pub(crate) fn maybe_abandon_transfer(&mut self) {
        let now = self.now;
        let Part::Leader(leader) = &mut self.part else { return };
        let over = leader.transfer.take_if(|transfer| now >= transfer.until);
        if let Some(Transfer { id: Some(id), to, .. }) = over {
            let why = "it did not take over within an election timeout; this node goes on leading".into();
            self.reject(id, Rejection::NoTransfer { to, why });
        }
    }

    /// The leader asks this node to take over.
    pub(crate) fn on_timeout_now(&mut self, from: NodeId, term: u64, session: u64) {
        let is_asked =
            self.leader == Some(from) && matches!(self.part, Part::Follower) && session == self.leader_session;
        if term != self.term || !is_asked {
            return self.bad_message(Bad::Stale);
        }
        if self.may_campaign() && self.full.is_none() {
            self.campaign(true);
        }
    }
}
