//! What an operator does while load runs: members come, go and are replaced, leadership moves, disks die.

use d_engine_core::{Member, MemberKind, Membership};

use super::Breach;
use super::agenda::Happening;
use super::clients::Goal;
use super::faults::{Fault, log_uniform};
use super::mask::Disturbance;
use super::network::MAX_NODES;
use super::node::Node;
use super::quorum::is_quorum;
use super::trace::{Asks, What};
use super::world::World;
use crate::change::first_step;
use crate::{Change, Input, NodeId};

impl World {
    /// One thing, and the time of the next.
    pub(super) fn operate(&mut self) -> Result<(), Breach> {
        let Some(interval) = self.profile.operator_interval.filter(|_| !self.is_settling) else { return Ok(()) };
        let after = log_uniform(&mut self.rng, 0.1, 3.0) * interval as f64;
        self.schedule(after as u64, Happening::Operate);
        self.operate_once()
    }

    pub(super) fn operate_once(&mut self) -> Result<(), Breach> {
        if self.is_settling || !self.occurs(Disturbance::Operator) {
            return Ok(());
        }
        let at = match self.leader() {
            Some(leader) if self.rng.u8(..8) != 0 => leader,
            _ => self.draw_victim(),
        };
        if self.rng.u8(..4) == 0 {
            let to = self.rng.u64(1..=self.size());
            return self.request_transfer(at, to).map(|_| ());
        }
        let known = self.node(at).driver.as_ref().and_then(|driver| driver.raft().newest_membership());
        let Some((base, membership)) = known.map(|(index, membership)| (index, membership.clone())) else {
            return Ok(());
        };
        match self.draw_change(&membership)? {
            Some(change) if self.is_sound(&membership, &change) => {
                self.request_change(at, Some(base), change).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    fn draw_change(&mut self, membership: &Membership) -> Result<Option<Change>, Breach> {
        let member = membership.members[self.rng.usize(..membership.members.len())].clone();
        let learners: Vec<_> = membership.members.iter().filter(|m| m.kind == MemberKind::Learner).collect();
        let voters = membership.voters().count();
        Ok(match self.rng.u8(..16) {
            0..=3 => self.draw_newcomer(membership)?.map(|(node, incarnation)| Change::AddLearner {
                node,
                incarnation,
                address: format!("n{node}"),
            }),
            4..=7 if !learners.is_empty() => {
                Some(Change::Promote { node: learners[self.rng.usize(..learners.len())].node })
            }
            8..=9 if voters > 1 => Some(Change::Remove { node: member.node }),
            10..=11 => self.draw_replacement(membership, &member)?,
            12..=14 => {
                let chosen = membership.members.iter().filter(|_| self.rng.u8(..3) != 0).map(|member| member.node);
                Some(Change::SetVoters { voters: chosen.collect() })
            }
            _ => Some(Change::SetAddress { node: member.node, address: format!("m{}", self.rng.u8(..3)) }),
        })
    }

    /// A node outside the membership: a new one, or a removed one with its old disk or with an empty one.
    fn draw_newcomer(&mut self, membership: &Membership) -> Result<Option<(NodeId, u128)>, Breach> {
        let outside: Vec<_> = (1..=self.size()).filter(|node| membership.member(*node).is_none()).collect();
        let node = if outside.is_empty() || self.rng.bool() && self.size() < MAX_NODES as u64 {
            if self.size() >= MAX_NODES as u64 {
                return Ok(None);
            }
            self.found_node()?
        } else {
            let node = outside[self.rng.usize(..outside.len())];
            if self.rng.bool() && self.may_wipe(node) {
                self.replace_disk(node)?;
            }
            node
        };
        Ok(self.node(node).incarnation().map(|incarnation| (node, incarnation)))
    }

    /// Another empty node, which waits to be added.
    pub(super) fn found_node(&mut self) -> Result<NodeId, Breach> {
        let id = self.size() + 1;
        let mut template = self.node(1).config.clone();
        template.feature_level = self.cluster_level() + u32::from(self.profile.upgrades && self.rng.bool());
        let mut node = Node::new(id, &template, &[]);
        node.config.join = true;
        self.nodes.push(node);
        self.start(id)?;
        Ok(id)
    }

    fn cluster_level(&self) -> u32 {
        let levels = self.nodes.iter().filter_map(|node| node.disk.visible.membership());
        levels.map(|membership| membership.settings.feature_level).max().unwrap_or(1).max(1)
    }

    fn draw_replacement(&mut self, membership: &Membership, member: &Member) -> Result<Option<Change>, Breach> {
        let old = member.node;
        let is_wiped = self.node(old).incarnation() != Some(member.incarnation);
        let (node, incarnation) = if self.rng.bool() {
            if !is_wiped && !self.may_wipe(old) {
                return Ok(None);
            }
            if !is_wiped {
                self.replace_disk(old)?;
            }
            match self.node(old).incarnation() {
                Some(incarnation) => (old, incarnation),
                None => return Ok(None),
            }
        } else {
            match self.draw_newcomer(membership)? {
                Some(newcomer) => newcomer,
                None => return Ok(None),
            }
        };
        Ok(Some(Change::Replace { old, node, incarnation, address: format!("n{node}") }))
    }

    /// Whether every configuration that may still be acted on keeps a quorum of disks without this one. Older ones than the
    /// newest committed do not matter: whoever follows them lacks the entry that ended them, and cannot win.
    fn may_wipe(&self, lost: NodeId) -> bool {
        let configurations = &self.checks.configurations;
        let from = configurations.newest_index();
        let logs = self.nodes.iter().flat_map(|node| [&node.disk.visible, &node.disk.durable]);
        let mut alive = logs.flat_map(|log| log.memberships_from(from)).chain(configurations.newest());
        !self.clients.has_open_change(|node| self.nodes.get((node as usize).wrapping_sub(1)).map_or(0, |n| n.life))
            && alive.all(|membership| self.has_quorum_of_disks(membership, lost))
    }

    /// Whether the disks that are there, without `lost`, are a quorum.
    fn has_quorum_of_disks(&self, membership: &Membership, lost: NodeId) -> bool {
        is_quorum(membership, |node, incarnation| {
            let identity = self.nodes.get(node as usize - 1).and_then(|node| node.disk.hard_state?.identity);
            node != lost && identity.is_some_and(|identity| identity.formed && identity.incarnation == incarnation)
        })
    }

    /// An operator does not ask for voters that are gone.
    fn is_sound(&self, current: &Membership, change: &Change) -> bool {
        change.target(current).is_ok_and(|target| {
            let step = first_step(current, &target);
            self.has_quorum_of_disks(&step, 0) && self.has_quorum_of_disks(&target, 0)
        })
    }

    /// The disk is lost; the node comes back with an empty one and waits to be added.
    fn replace_disk(&mut self, id: NodeId) -> Result<(), Breach> {
        self.faults.add(Fault::Wipe);
        self.crash_node(id, None)?;
        self.wipe(id);
        let level = self.cluster_level();
        let node = self.node_mut(id);
        (node.config.join, node.config.feature_level) = (true, node.config.feature_level.max(level));
        node.config.founders.clear();
        self.start(id)
    }

    /// A change asked for at `node`; the request's number.
    pub(super) fn request_change(&mut self, node: NodeId, base: Option<u64>, change: Change) -> Result<u64, Breach> {
        let (asks, number, bits) = match &change {
            Change::AddLearner { node, .. } => (Asks::AddLearner, *node, 0),
            Change::Promote { node } => (Asks::Promote, *node, 0),
            Change::Remove { node } => (Asks::Remove, *node, 0),
            Change::Replace { old, node, .. } => (Asks::Replace, *old, *node),
            Change::SetVoters { voters } => (Asks::SetVoters, 0, voters.iter().fold(0, |bits, node| bits | 1 << node)),
            Change::SetAddress { node, .. } => (Asks::SetAddress, *node, 0),
            Change::RaiseFeatureLevel { level } => (Asks::SetAddress, 0, u64::from(*level)),
        };
        let id = self.clients.change(Goal::of(&change));
        self.trace.note(node, What::ChangeAsked(asks), &[id, number, bits]);
        self.note_asked(id, node);
        self.give(node, Input::ChangeMembership { id, base, change })?;
        Ok(id)
    }

    /// A transfer asked for at `node`; the request's number.
    pub(super) fn request_transfer(&mut self, node: NodeId, to: NodeId) -> Result<u64, Breach> {
        let id = self.clients.transfer();
        self.trace.note(node, What::TransferAsked, &[id, to]);
        self.note_asked(id, node);
        self.give(node, Input::Transfer { id, to })?;
        Ok(id)
    }

    /// A node has started: handshakes with everybody that is up, in both directions.
    pub(super) fn shake_hands(&mut self, id: NodeId) {
        for other in (1..=self.size()).filter(|other| *other != id) {
            for (node, from) in [(id, other), (other, id)] {
                let after = self.profile.delay(&mut self.rng);
                let peer = self.node(from).driver.as_ref().map(|driver| driver.raft().incarnation());
                let (life, feature_level) = (self.node(node).life, self.node(from).config.feature_level);
                if let Some(incarnation) = peer {
                    self.schedule(after, Happening::Hello { node, life, from, incarnation, feature_level });
                }
            }
        }
    }
}
