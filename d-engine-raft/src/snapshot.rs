//! Snapshots as consensus sees them (§5): when a follower needs one, when a received one is installed, what may be purged.
//!
//! The bytes travel and are verified elsewhere. A received snapshot is installed in a crash-safe order: the file is
//! verified, marked and synced (runtime); the state machine installs it; only then the log is purged; the mark is cleared.

use d_engine_core::{LogId, Membership};

use crate::progress::Flow;
use crate::raft::{Part, Raft};
use crate::status::Bad;
use crate::writes::Promise;
use crate::{Action, Mutant, NodeId, SnapshotTask};

/// A received snapshot on its way into the state machine.
#[derive(Debug, Clone)]
pub(crate) struct Installing {
    last_included: LogId,
    membership: Membership,
}

impl Raft {
    /// A complete, verified snapshot of `from`, the leader of `term`, is durable here.
    pub(crate) fn on_snapshot_received(
        &mut self,
        from: NodeId,
        term: u64,
        last_included: LogId,
        membership: Membership,
    ) {
        let is_stranger = self.identity.cluster != membership.cluster;
        let is_absurd = term > u64::MAX / 2 || last_included.index > u64::MAX / 2 || last_included.term > term;
        if is_stranger || is_absurd {
            self.bad_message(if is_stranger { Bad::Stranger } else { Bad::Impossible });
        }
        if is_stranger
            || is_absurd
            || term < self.term
            || self.leader.is_some_and(|leader| leader != from) && term == self.term
        {
            self.actions.push_back(Action::Snapshot(SnapshotTask::Discard { last_included }));
            return;
        }
        if term > self.term {
            self.adopt_term(term);
        }
        self.hear_leader(from);
        if self.installing.as_ref().is_some_and(|installing| installing.last_included == last_included) {
            // It came twice; the first is being read.
            return;
        }
        if self.installing.is_some() || last_included.index <= self.commit {
            self.actions.push_back(Action::Snapshot(SnapshotTask::Discard { last_included }));
            return;
        }
        if self.log.id_at(last_included.index) == Some(last_included) {
            // The entries are all here: what the snapshot proves is that they are committed.
            self.actions.push_back(Action::Snapshot(SnapshotTask::Discard { last_included }));
            return self.follow_commit(last_included.index);
        }
        self.installing = Some(Installing { last_included, membership });
        if self.config.breaks(Mutant::InstallBeforeHardState) {
            self.actions.push_back(Action::Snapshot(SnapshotTask::Install { last_included }));
            return;
        }
        if self.config.breaks(Mutant::InstallPurgesBeforeMachine) {
            self.purge(last_included, self.installing.as_ref().map(|it| it.membership.clone()));
        }
        self.promise_to(Promise::Install(last_included));
    }

    /// The state machine holds the snapshot, durably; or the file was bad and the old state stands.
    pub(crate) fn on_snapshot_installed(&mut self, last_included: LogId, ok: bool) {
        let Some(Installing { membership, .. }) = self.installing.take_if(|it| it.last_included == last_included)
        else {
            return;
        };
        if ok {
            assert!(last_included.index > self.applied, "a snapshot is installed only over an older state");
            let at = last_included.index;
            self.commit = self.commit.max(at);
            self.apply_sent = at;
            self.applied = at;
            // While the log still knows the sizes of what it is about to purge.
            self.log.applied(at);
            let old = self.membership().filter(|_| self.config.breaks(Mutant::SnapshotKeepsOldMembership));
            let membership = old.cloned().unwrap_or(membership);
            if self.log.purged() != last_included {
                self.purge(last_included, Some(membership));
            }
            self.maybe_join();
            if matches!(self.part, Part::PreCandidate(_) | Part::Candidate(_)) && !self.may_campaign() {
                self.follow(None);
            }
        }
        self.maybe_apply();
    }

    /// A snapshot of the own state is durable: the log before it may go, but for what healthy followers still need.
    pub(crate) fn on_snapshot_made(&mut self, last_included: LogId) {
        assert!(last_included.index <= self.applied, "a snapshot holds what was applied");
        let needed = self.slowest_healthy_match().unwrap_or(last_included.index);
        let bound = last_included.index.saturating_sub(self.config.max_entries_behind_snapshot);
        let pinned = self.pinned_by_snapshots().unwrap_or(last_included.index);
        let mut up_to = last_included.index.min(needed.max(bound)).min(pinned);
        if self.config.breaks(Mutant::PurgeBeyondSnapshot) {
            up_to = self.applied;
        }
        if up_to <= self.log.purged().index {
            return;
        }
        if let Some(up_to) = self.log.id_at(up_to) {
            self.purge(up_to, None);
        }
    }

    /// What every follower that answers has.
    fn slowest_healthy_match(&self) -> Option<u64> {
        let Part::Leader(leader) = &self.part else { return None };
        let healthy = |contact| contact + self.config.election_timeout_max >= self.now;
        let replicating = leader.peers.values().filter(|p| p.flow != Flow::Snapshot);
        replicating.filter(|p| p.has_answered && healthy(p.contact)).map(|p| p.matched).min()
    }

    /// What the receivers of snapshots that are on their way will need next: without it they would need another snapshot,
    /// and so on. A transfer that fails or whose receiver is silent holds nothing back.
    fn pinned_by_snapshots(&self) -> Option<u64> {
        let Part::Leader(leader) = &self.part else { return None };
        let healthy = |contact| contact + self.config.election_timeout_max >= self.now;
        leader.peers.values().filter(|p| p.flow == Flow::Snapshot && healthy(p.contact)).map(|p| p.pinned).min()
    }

    /// Drops the log up to `up_to`; all of it if it does not hold that entry.
    fn purge(&mut self, up_to: LogId, membership: Option<Membership>) {
        let holds = self.log.id_at(up_to.index) == Some(up_to);
        let earlier = self.writes.stage_purge(up_to, holds, self.now, self.log.last().index);
        self.actions.extend(earlier.map(Action::Write));
        self.log.purge(up_to, membership);
        self.on_membership_changed();
    }

    /// The transfer of a snapshot to a follower ended; with its id if the follower now holds it.
    pub(crate) fn on_snapshot_sent(&mut self, to: NodeId, session: u64, installed: Option<LogId>) {
        let Part::Leader(leader) = &mut self.part else { return };
        let Some(progress) = leader.peers.get_mut(&to) else { return };
        if progress.session != session || progress.flow != Flow::Snapshot {
            return;
        }
        self.sessions += 1;
        match installed {
            Some(at) => {
                progress.probe(at.index + 1, self.sessions);
                progress.must_send = true;
            }
            // The next heartbeat tries again.
            None => progress.probe(progress.next, self.sessions),
        }
    }
}
