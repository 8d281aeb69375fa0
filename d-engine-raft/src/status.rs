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
    /// Messages that were dropped because they made no sense.
    pub bad_messages: u64,
    /// While unformed: founders that have not answered yet.
    pub waiting_for: Vec<NodeId>,
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
            bad_messages: self.bad_messages,
            waiting_for: self.waiting_for(),
        }
    }

    /// Random id of this data directory.
    pub fn incarnation(&self) -> u128 {
        self.identity.incarnation
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
