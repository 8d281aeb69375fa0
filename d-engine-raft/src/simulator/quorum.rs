//! Quorums and configurations as the checks see them. On purpose this shares no code with the core.

use std::collections::BTreeMap;
use std::sync::Arc;

use d_engine_core::{Entry, EntryKind, LogId, MemberKind, Membership};

use super::Breach;
use super::checks::Checks;
use super::disk::Log;
use super::node::Node;
use super::report::roll;
use super::snapshots::Snapshot;
use crate::NodeId;

/// What is known about configurations and about disks that are gone.
#[derive(Debug, Default)]
pub(super) struct Configurations {
    /// Those of the committed log, by index.
    chosen: Vec<(u64, Arc<Membership>)>,
    /// The logs of data directories that were wiped, by incarnation: what they acknowledged, they held.
    graves: BTreeMap<u128, Log>,
}

impl Configurations {
    pub(super) fn choose(&mut self, entry: &Entry) -> Result<(), Breach> {
        if entry.kind != EntryKind::Membership {
            return Ok(());
        }
        let membership = Membership::decode(&entry.data)
            .map_err(|error| Breach::new("Memberships Are Readable", error.to_string()))?;
        if let Some((_, earlier)) = self.chosen.last() {
            one_step(entry.id(), earlier, &membership)?;
        }
        self.chosen.push((entry.index, Arc::new(membership)));
        Ok(())
    }

    /// The committed configuration as of `index`.
    pub(super) fn as_of(&self, index: u64) -> Option<&Arc<Membership>> {
        let count = self.chosen.partition_point(|(at, _)| *at <= index);
        self.chosen[..count].last().map(|(_, membership)| membership)
    }

    /// The one that stands at `index` itself.
    pub(super) fn at(&self, index: u64) -> Option<&Membership> {
        let found = self.chosen.binary_search_by_key(&index, |(at, _)| *at).ok()?;
        Some(&self.chosen[found].1)
    }

    /// Where the newest committed one stands.
    pub(super) fn newest_index(&self) -> u64 {
        self.chosen.last().map_or(0, |(index, _)| *index)
    }

    /// The newest committed one.
    pub(super) fn newest(&self) -> Option<&Arc<Membership>> {
        self.chosen.last().map(|(_, membership)| membership)
    }

    /// The one in force for a node with this log.
    pub(super) fn in_force<'a>(&'a self, log: &'a Log) -> Option<&'a Arc<Membership>> {
        log.membership().or_else(|| self.as_of(log.purged().index))
    }

    pub(super) fn bury(&mut self, incarnation: u128, log: Log) {
        self.graves.insert(incarnation, log);
    }
}

/// From one committed configuration to the next at most one voter changes, or the halves of a joint one agree with its
/// neighbours.
fn one_step(id: LogId, from: &Membership, to: &Membership) -> Result<(), Breach> {
    use MemberKind::{Demoting, Joining, Leaving, Voter};
    let half = |membership: &Membership, kinds: &[MemberKind]| {
        let members = membership.members.iter().filter(|member| kinds.contains(&member.kind));
        members.map(|member| (member.node, member.incarnation)).collect::<Vec<_>>()
    };
    let (new, old) = (&[Voter, Joining][..], &[Voter, Leaving, Demoting][..]);
    let is_safe = match (from.is_joint(), to.is_joint()) {
        (false, false) => {
            let (a, b) = (half(from, new), half(to, new));
            a.iter().filter(|v| !b.contains(v)).count() + b.iter().filter(|v| !a.contains(v)).count() <= 1
        }
        (false, true) => half(from, new) == half(to, old),
        (true, false) => half(from, new) == half(to, new),
        (true, true) => false,
    };
    if !is_safe || from.cluster != to.cluster || to.settings.feature_level < from.settings.feature_level {
        let detail = format!(
            "the configuration of entry {id} does not follow from the one before it: {}; {}",
            roll(from),
            roll(to)
        );
        return Err(Breach::new("Configurations Overlap", detail));
    }
    Ok(())
}

/// Members in both halves that fulfil `holds`: voters and holders of each.
fn halves(membership: &Membership, holds: impl Fn(NodeId, u128) -> bool) -> Vec<(usize, usize)> {
    use MemberKind::{Demoting, Joining, Leaving, Voter};
    let count = |kinds: &[MemberKind]| {
        let voters: Vec<_> = membership.members.iter().filter(|member| kinds.contains(&member.kind)).collect();
        (voters.len(), voters.iter().filter(|member| holds(member.node, member.incarnation)).count())
    };
    let mut halves = vec![count(&[Voter, Joining])];
    if membership.is_joint() {
        halves.push(count(&[Voter, Leaving, Demoting]));
    }
    halves
}

/// Whether majorities of both halves fulfil `holds`.
pub(super) fn is_quorum(membership: &Membership, holds: impl Fn(NodeId, u128) -> bool) -> bool {
    halves(membership, holds).into_iter().all(|(voters, holders)| holders * 2 > voters)
}

impl Checks {
    /// Majorities of both halves hold entry `id` on disk, in the data directories that the membership names.
    pub(super) fn durable_quorum(
        &self,
        by: NodeId,
        id: LogId,
        membership: &Membership,
        nodes: &[Node],
    ) -> Result<(), Breach> {
        let holds = |node: NodeId, incarnation: u128| match nodes.get(node as usize - 1) {
            Some(node) if node.incarnation() == Some(incarnation) => node.secures(id),
            _ => self.configurations.graves.get(&incarnation).is_some_and(|log| log.holds(id)),
        };
        for (voters, holders) in halves(membership, holds) {
            if holders * 2 <= voters {
                let detail = format!("node {by} commits {id}, which {holders} of {voters} voters hold on disk");
                return Err(Breach::new("Commits Need A Durable Quorum", detail));
            }
        }
        Ok(())
    }

    /// Majorities of both halves gave a new leader their votes.
    pub(super) fn elected(&self, node: &Node, term: u64) -> Result<(), Breach> {
        let Some(membership) = self.configurations.in_force(&node.disk.visible) else { return Ok(()) };
        let gave = |voter: NodeId, incarnation: u128| {
            voter == node.id || self.vote_of(term, voter, incarnation) == Some(node.id)
        };
        if is_quorum(membership, gave) {
            return Ok(());
        }
        let detail =
            format!("node {} leads term {term} without the votes of a quorum of {}", node.id, roll(membership));
        Err(Breach::new("Leaders Are Elected By A Quorum", detail))
    }

    /// A node's core means the same configuration as its log.
    pub(super) fn configured(&self, node: &Node) -> Result<(), Breach> {
        let core = node.driver.as_ref().and_then(|driver| driver.raft().membership());
        let log = self.configurations.in_force(&node.disk.visible).map(|membership| &**membership);
        if core == log {
            return Ok(());
        }
        let named = |membership: Option<&Membership>| membership.map_or("nobody".to_owned(), roll);
        let detail = format!("node {} follows {}; its log says {}", node.id, named(core), named(log));
        Err(Breach::new("The Newest Configuration In The Log Counts", detail))
    }

    /// Nobody is asked for more than it understands.
    pub(super) fn feature_levels(&self, node: &Node, nodes: &[Node]) -> Result<(), Breach> {
        let Some(membership) = node.disk.visible.membership() else { return Ok(()) };
        let level = membership.settings.feature_level;
        let committed = self.configurations.newest().map_or(1, |newest| newest.settings.feature_level);
        if level <= committed {
            return Ok(());
        }
        let lacks = |member: &&d_engine_core::Member| {
            nodes
                .get(member.node as usize - 1)
                .is_some_and(|node| node.incarnation() == Some(member.incarnation) && node.config.feature_level < level)
        };
        match membership.members.iter().find(lacks) {
            Some(member) => {
                let detail =
                    format!("the cluster is at level {level}, which member {} does not understand", member.node);
                Err(Breach::new("Every Member Understands The Feature Level", detail))
            }
            None => Ok(()),
        }
    }

    /// A machine is about to install a snapshot over what it has applied.
    pub(super) fn installing(&mut self, node: NodeId, applied: u64, snapshot: &Snapshot) -> Result<(), Breach> {
        let at = snapshot.at;
        if at.index <= applied {
            let detail = format!("node {node} installs {at} over a state that has applied {applied}");
            return Err(Breach::new("Snapshots Only Move On", detail));
        }
        let is_chosen = self.chosen().get(at.index as usize - 1).is_some_and(|entry| entry.id() == at);
        let is_whole = is_chosen
            && super::node::Machine::replay(&self.chosen()[..at.index as usize]).written == snapshot.written
            && self.configurations.as_of(at.index) == Some(&snapshot.membership);
        if !is_whole {
            let detail = format!("node {node} installs snapshot {at}, which is not the state after that entry");
            return Err(Breach::new("State Machine Safety", detail));
        }
        self.installed += 1;
        Ok(())
    }

    /// The id of a committed entry.
    pub(super) fn id_of(&self, index: u64) -> LogId {
        (index as usize).checked_sub(1).and_then(|at| self.chosen().get(at)).map_or(LogId::default(), Entry::id)
    }

    /// The configuration that stands at `index` of the committed log.
    pub(super) fn configuration_at(&self, index: u64) -> Option<&Membership> {
        self.configurations.at(index)
    }
}
