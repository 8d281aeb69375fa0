//! How a data directory becomes part of a cluster: alone, or with founders that are all empty.
//!
//! With founders, everybody asks everybody; once *all* have answered that they are empty, the lowest id writes the first
//! entry, a membership with a random cluster id, and hands it to whoever asks. An unformed node never votes, campaigns
//! or acknowledges.

use std::collections::BTreeMap;
use std::time::Duration;

use d_engine_core::{ClusterSettings, Entry, EntryKind, Member, MemberKind, Membership};

use crate::config::FIRST_FEATURE_LEVEL;
use crate::raft::{Part, Raft};
use crate::status::Bad;
use crate::writes::Promise;
use crate::{Body, Mutant, NodeId};

/// Term of the entry that forms a cluster.
const FORMATION_TERM: u64 = 1;

/// What an unformed node knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Formation {
    pub(crate) probe_at: Duration,
    /// Incarnations of founders that said they are empty.
    empty: BTreeMap<NodeId, u128>,
    /// The first entry is staged; waiting for the disk.
    storing: bool,
    /// Founders that belong to a cluster without this directory.
    pub(crate) refused_by: Vec<NodeId>,
}

impl Raft {
    pub(crate) fn begin_formation(&mut self) {
        self.part = Part::Unformed(Formation { probe_at: self.now, ..Formation::default() });
        if self.identity.cluster != 0 {
            // A leader has welcomed this directory; if its entries became durable and the hard state did not, go on.
            return self.maybe_join();
        }
        if let Some(membership) = self.log.formation().cloned() {
            // The entry became durable, the hard state that says so did not.
            return self.store_formation(&membership);
        }
        if !self.config.join && self.config.founders.iter().all(|(node, _)| *node == self.config.node) {
            let member = self.founder(self.config.node, self.identity.incarnation);
            self.found(vec![member]);
        }
    }

    fn founder(&self, node: NodeId, incarnation: u128) -> Member {
        let listed = self.config.founders.iter().find(|(id, _)| *id == node);
        let address = listed.map_or(&self.config.address, |(_, address)| address);
        Member::new(node, incarnation, address, MemberKind::Voter)
    }

    fn found(&mut self, members: Vec<Member>) {
        let settings = ClusterSettings::new(
            self.config.election_timeout_min.as_millis() as u64,
            self.config.clock_drift_ppm,
            FIRST_FEATURE_LEVEL,
        );
        let membership = Membership::new(self.new_cluster, members, settings);
        let entry = formation_entry(&membership);
        self.append_entry(entry).expect("a membership that was just encoded is readable");
        self.store_formation(&membership);
    }

    /// The first entry is in the log; the hard state follows it, never the other way round: formed without a log would be
    /// refused at start.
    fn store_formation(&mut self, membership: &Membership) {
        if let Part::Unformed(formation) = &mut self.part {
            formation.storing = true;
        }
        self.identity = self.identity.form(membership.cluster);
        self.term = FORMATION_TERM;
        self.stage_hard_state();
        self.promise_to(Promise::Formed);
    }

    /// Entry and identity are durable.
    pub(crate) fn on_formed(&mut self) {
        if !matches!(self.part, Part::Unformed(_)) {
            return;
        }
        self.part = Part::Follower;
        self.heard_at = None;
        self.reset_election_timer();
        if self.is_only_voter() {
            return self.on_election_timeout();
        }
        if let Some(membership) = self.log.formation().cloned() {
            let is_lowest = membership.members.first().is_some_and(|member| member.node == self.config.node);
            if is_lowest {
                // Nobody else can win before it has the entry, so the one who hands it out need not wait long.
                self.election_at = self.now + self.config.heartbeat_interval;
                self.others().into_iter().for_each(|to| self.send(to, Body::Formation(formation_entry(&membership))));
            }
        }
    }

    pub(crate) fn on_formation_timeout(&mut self) {
        let interval = self.config.heartbeat_interval;
        let Part::Unformed(formation) = &mut self.part else { return };
        if self.now < formation.probe_at {
            return;
        }
        formation.probe_at = self.now + interval;
        if formation.storing || self.identity.cluster != 0 {
            return;
        }
        let founders = self.config.founders.iter().map(|(node, _)| *node);
        let others: Vec<_> = founders.filter(|node| *node != self.config.node).collect();
        others.into_iter().for_each(|node| self.send(node, Body::FormationProbe));
    }

    pub(crate) fn on_formation_probe(&mut self, from: NodeId, incarnation: u128) {
        if let Part::Unformed(formation) = &self.part {
            // The founder will name this incarnation for good, so it must survive a crash first; until then it asks again.
            if !formation.storing && self.writes.is_settled() && self.identity.cluster == 0 {
                self.send(from, Body::FormationEmpty);
            }
            return;
        }
        if !self.identity.formed {
            return;
        }
        let listed =
            |membership: &Membership| membership.member(from).is_some_and(|member| member.incarnation == incarnation);
        match self.log.formation().filter(|membership| listed(membership)) {
            Some(membership) => {
                let entry = formation_entry(membership);
                self.send(from, Body::Formation(entry));
            }
            None if self.membership().is_some_and(listed) => {}
            None => self.send(from, Body::FormationRefused),
        }
    }

    pub(crate) fn on_formation_empty(&mut self, from: NodeId, incarnation: u128) {
        let Part::Unformed(formation) = &mut self.part else { return };
        let founders = &self.config.founders;
        if formation.storing || !founders.iter().any(|(node, _)| *node == from) {
            return;
        }
        formation.refused_by.retain(|node| *node != from);
        formation.empty.insert(from, incarnation);
        let is_lowest = founders.iter().all(|(node, _)| *node >= self.config.node);
        let all_empty =
            founders.iter().all(|(node, _)| *node == self.config.node || formation.empty.contains_key(node));
        if is_lowest && all_empty {
            let mut empty = std::mem::take(&mut formation.empty);
            empty.insert(self.config.node, self.identity.incarnation);
            let members = empty.iter().map(|(node, incarnation)| self.founder(*node, *incarnation)).collect();
            self.found(members);
        }
    }

    pub(crate) fn on_formation(&mut self, entry: Entry) {
        let Part::Unformed(formation) = &self.part else { return };
        if formation.storing || self.identity.cluster != 0 {
            return;
        }
        let membership = match Membership::decode(&entry.data) {
            Ok(membership) if entry == formation_entry(&membership) => membership,
            _ => return self.bad_message(Bad::Malformed),
        };
        let listed = membership.member(self.config.node);
        if listed.is_none_or(|member| member.incarnation != self.identity.incarnation) {
            return self.bad_message(Bad::Stranger);
        }
        if self.append_entry(entry).is_err() {
            return self.bad_message(Bad::Malformed);
        }
        self.store_formation(&membership);
    }

    /// `from` does not leave this directory out any more.
    fn on_accepted_by(&mut self, from: NodeId) {
        if let Part::Unformed(formation) = &mut self.part {
            formation.refused_by.retain(|node| *node != from);
        }
    }

    pub(crate) fn on_formation_refused(&mut self, from: NodeId) {
        let Part::Unformed(formation) = &mut self.part else { return };
        formation.empty.remove(&from);
        if !formation.refused_by.contains(&from) {
            formation.refused_by.push(from);
        }
    }

    /// A leader has this directory as a member: take its entries. With the first of them the directory is formed. If it
    /// has another directory under this id as a member, this one is a stranger (wiped, perhaps) and stays out.
    pub(crate) fn on_welcome(&mut self, from: NodeId, cluster: u128, receiver: u128) {
        if !matches!(&self.part, Part::Unformed(formation) if !formation.storing) || self.identity.cluster == cluster {
            return;
        }
        if receiver != self.identity.incarnation && !self.config.breaks(Mutant::StrangerAcceptsWelcome) {
            return self.on_formation_refused(from);
        }
        if cluster == 0 || self.identity.cluster != 0 {
            return self.bad_message(Bad::Stranger);
        }
        self.on_accepted_by(from);
        self.identity.cluster = cluster;
        self.stage_hard_state();
    }

    /// Entries of the cluster that welcomed this directory are in the log: the hard state that says so follows them.
    pub(crate) fn maybe_join(&mut self) {
        if !self.identity.formed && self.log.last().index > 0 {
            self.identity = self.identity.form(self.identity.cluster);
            self.stage_hard_state();
            if matches!(self.part, Part::Unformed(_)) {
                self.part = Part::Follower;
                self.reset_election_timer();
            }
        }
    }

    /// Founders that have not said they are empty.
    pub(crate) fn waiting_for(&self) -> Vec<NodeId> {
        let Part::Unformed(formation) = &self.part else { return Vec::new() };
        let founders = self.config.founders.iter().map(|(node, _)| *node);
        founders.filter(|node| *node != self.config.node && !formation.empty.contains_key(node)).collect()
    }
}

/// The entry that forms a cluster; equal on every founder, byte for byte.
fn formation_entry(membership: &Membership) -> Entry {
    Entry::new(1, FORMATION_TERM, EntryKind::Membership, membership.encode())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Append, Boot, Config, Input, Message, Restored};
    use d_engine_core::LogId;

    fn drain(raft: &mut Raft) -> Vec<Action> {
        std::iter::from_fn(|| raft.poll_action()).collect()
    }

    /// Seed 9599 of the simulation: a directory that had applied its first entry came back without knowing its cluster.
    #[test]
    fn nothing_is_applied_before_the_directory_durably_belongs_to_a_cluster() {
        let founders = vec![(1, "a:1".into()), (2, "b:1".into())];
        let config = Config { founders, ..Config::new(2, "b:1") };
        let boot = Boot { seed: 1, incarnation: 20, cluster: 0 };
        let mut raft = Raft::new(config, Restored::default(), boot, Duration::ZERO).unwrap();
        let says = |term, body| Input::Message { from: 1, message: Message { term, incarnation: 10, group: 0, body } };
        let writes = |actions: &[Action]| actions.iter().filter(|action| matches!(action, Action::Write(_))).count();
        let applies = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::Apply { .. }));

        assert_eq!(writes(&drain(&mut raft)), 1, "the incarnation");
        raft.handle(Duration::ZERO, Input::Persisted { seq: 1 });
        let member = |node, incarnation| Member::new(node, incarnation, "a:1", MemberKind::Voter);
        let membership = Membership::new(7, vec![member(1, 10), member(2, 20)], ClusterSettings::new(500, 500, 1));
        raft.handle(Duration::ZERO, says(1, Body::Formation(formation_entry(&membership))));
        assert_eq!(writes(&drain(&mut raft)), 2, "the entry, then the hard state");
        raft.handle(Duration::ZERO, Input::Persisted { seq: 2 });
        let prev = LogId::new(1, 1);
        let append = Append { session: 1, prev, commit: 1, matched: 0, receiver: 0, round: 0, entries: Vec::new() };
        raft.handle(Duration::ZERO, says(2, Body::Append(append)));
        assert!(!applies(&drain(&mut raft)), "the entry is durable, who owns it is not");
        raft.handle(Duration::ZERO, Input::Persisted { seq: 4 });
        assert!(applies(&drain(&mut raft)));
    }
}
