//! What a replica can tell about itself.

use std::time::Duration;

use d_engine_core::{Identity, LogId, Membership};

use crate::NodeId;
use crate::progress::Flow;
use crate::raft::{Part, Raft};

/// A replica's part at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Belongs to no cluster yet.
    Unformed,
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it could win, without a new term (§9.6).
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Its storage failed; takes part again after a restart.
    Failed,
}

/// A snapshot of a replica's consensus state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// Its identity.
    pub identity: Identity,
    /// Its part.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// The leader it knows of.
    pub leader: Option<NodeId>,
    /// Highest index known committed.
    pub commit: u64,
    /// Highest index applied.
    pub applied: u64,
    /// Highest index durable here.
    pub persisted: u64,
    /// Last entry of the log.
    pub last: LogId,
    /// Purge boundary of the log.
    pub purged: LogId,
    /// The newest configuration in the log.
    pub membership: Membership,
    /// The followers, if this node leads.
    pub peers: Vec<PeerStatus>,
    /// Until when this leader may answer reads by itself (on this node's clock); `None`: no lease.
    pub lease_until: Option<Duration>,
    /// Why the node does not take part, if it does not.
    pub failure: Option<String>,
    /// Why writes wait for space, while they do.
    pub full: Option<String>,
    /// Messages that were dropped, by kind.
    pub bad_messages: BadMessages,
    /// While unformed: founders that have not answered yet.
    pub waiting_for: Vec<NodeId>,
}

/// Counts of messages that were dropped, by kind, since the start. A few are normal (old answers, members that the own
/// configuration does not hold yet); the others show a fault of a peer or of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BadMessages {
    /// For another Raft group.
    pub other_group: u64,
    /// Numbers that no honest sender counts to, answers to what was never asked, a message from this node itself.
    pub impossible: u64,
    /// Entries that do not follow each other, have terms of the future, or cannot be read.
    pub malformed: u64,
    /// Answers of data directories that the configuration does not hold.
    pub stranger: u64,
    /// Entries of a second leader of the same term: an election was not safe, or somebody lies.
    pub rival_leader: u64,
    /// Answers of another term, round, replication stream or life; hand-overs that the leader no longer stands for.
    pub stale: u64,
    /// What only a member of a cluster could act on; this node is none yet.
    pub unformed: u64,
}

impl BadMessages {
    pub(crate) fn count(&mut self, why: Bad) {
        let count = match why {
            Bad::OtherGroup => &mut self.other_group,
            Bad::Impossible => &mut self.impossible,
            Bad::Malformed => &mut self.malformed,
            Bad::Stranger => &mut self.stranger,
            Bad::RivalLeader => &mut self.rival_leader,
            Bad::Stale => &mut self.stale,
            Bad::Unformed => &mut self.unformed,
        };
        *count += 1;
    }
}

/// Why a message is dropped; see [`BadMessages`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bad {
    OtherGroup,
    Impossible,
    Malformed,
    Stranger,
    RivalLeader,
    Stale,
    Unformed,
}

/// What a leader knows of one follower.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// The follower.
    pub node: NodeId,
    /// Highest index known to equal the leader's log, durably.
    pub matched: u64,
    /// Whether entries flow without waiting for answers.
    pub replicating: bool,
    /// Time since its last answer; `None`: none in this term.
    pub silent_for: Option<Duration>,
}

/// `node 3`, or `nodes 1 and 3`.
fn nodes(nodes: &[NodeId]) -> String {
    let mut sorted: Vec<_> = nodes.iter().map(u64::to_string).collect();
    sorted.sort();
    match sorted.split_last() {
        Some((last, [])) => format!("node {last}"),
        Some((last, others)) => format!("nodes {} and {last}", others.join(", ")),
        None => "no nodes".into(),
    }
}

impl Raft {
    /// What the replica can tell about itself.
    pub fn status(&self, now: Duration) -> Status {
        Status {
            node: self.config.node,
            identity: self.identity,
            role: self.role(),
            term: self.term,
            leader: self.leader,
            commit: self.commit,
            applied: self.applied,
            persisted: self.writes.persisted_index(),
            last: self.log.last(),
            purged: self.log.purged(),
            membership: self.membership().cloned().unwrap_or_default(),
            peers: self.peer_status(now),
            lease_until: self.lease_until(),
            failure: self.failure(),
            full: self.full.clone(),
            bad_messages: self.bad_messages,
            waiting_for: self.waiting_for(),
        }
    }

    /// Random id of this data directory.
    pub fn incarnation(&self) -> u128 {
        self.identity.incarnation
    }

    /// Term, part and leader: what decides whether anybody must be told at once.
    pub(crate) fn leadership(&self) -> (u64, Role, Option<NodeId>) {
        (self.term, self.role(), self.leader)
    }

    fn failure(&self) -> Option<String> {
        match &self.part {
            Part::Failed(why) => Some(why.clone()),
            Part::Unformed(formation) if !formation.refused_by.is_empty() => Some(format!(
                "this data directory is empty, and {} already belong to a cluster that was formed without it. If it is the \
                 wiped directory of a member, the cluster goes on without it; it cannot come back under its old identity",
                nodes(&formation.refused_by)
            )),
            _ => None,
        }
    }

    fn peer_status(&self, now: Duration) -> Vec<PeerStatus> {
        let Part::Leader(leader) = &self.part else { return Vec::new() };
        let peer = |(node, progress): (&NodeId, &crate::progress::Progress)| PeerStatus {
            node: *node,
            matched: progress.matched,
            replicating: progress.flow == Flow::Replicate,
            silent_for: progress.has_answered.then(|| now.saturating_sub(progress.contact)),
        };
        leader.peers.iter().map(peer).collect()
    }
}
