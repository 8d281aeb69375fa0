//! What a node's state leaves out, so that states which behave alike are equal; and its names under another numbering.
//!
//! Nothing that is forgotten here can change what the node does in a search. README.md says why for each.

use d_engine_core::{HardState, Identity};

use super::NOW;
use crate::election::Ballot;
use crate::raft::{Part, Raft};
use crate::writes::Promise;
use crate::{Body, Message, NodeId};

/// Id of the data directory of a node; a search knows no other one.
pub(super) fn incarnation(node: NodeId) -> u128 {
    u128::from(node) << 64
}

/// Another numbering of the nodes.
#[derive(Debug, Clone)]
pub(super) struct Numbering(Vec<NodeId>);

impl Numbering {
    /// Every numbering of `count` nodes; the first one changes nothing.
    pub(super) fn all(count: u64) -> Vec<Self> {
        let mut all = vec![vec![]];
        for _ in 0..count {
            let longer = |begin: &Vec<NodeId>| {
                let left = (1..=count).filter(|node| !begin.contains(node)).collect::<Vec<_>>();
                left.into_iter().map(|node| [&begin[..], &[node]].concat()).collect::<Vec<_>>()
            };
            all = all.iter().flat_map(longer).collect();
        }
        all.into_iter().map(Self).collect()
    }

    pub(super) fn of(&self, node: NodeId) -> NodeId {
        self.0[node as usize - 1]
    }

    fn directory(&self, directory: u128) -> u128 {
        incarnation(self.of((directory >> 64) as NodeId))
    }

    pub(super) fn hard_state(&self, state: HardState) -> HardState {
        let identity = state.identity.map(|identity| self.identity(identity));
        HardState::new(state.term, state.voted_for.map(|node| self.of(node)), identity)
    }

    fn identity(&self, identity: Identity) -> Identity {
        Identity::unformed(self.of(identity.node), self.directory(identity.incarnation)).form(identity.cluster)
    }

    pub(super) fn message(&self, message: &mut Message) {
        message.incarnation = self.directory(message.incarnation);
        if let Body::Append(append) = &mut message.body {
            append.receiver = self.directory(append.receiver);
        }
    }

    fn ballot(&self, ballot: &mut Ballot) {
        for side in [&mut ballot.granted, &mut ballot.refused] {
            *side = side.iter().map(|node| self.of(*node)).collect();
        }
    }
}

impl Raft {
    /// Forgets times, counters and what only inputs that a search does not have would ask for.
    pub(super) fn forget(&mut self) -> u64 {
        (self.now, self.election_at, self.heard_at) = (NOW, NOW, None);
        (self.pre_vote_round, self.verified, self.leader_session) = (0, 0, 0);
        self.rng = fastrand::Rng::with_seed(0);
        self.bad_messages = Default::default();
        self.log.forget_sizes();
        if self.writes.is_settled() && matches!(self.part, Part::Follower | Part::PreCandidate(_)) {
            (self.leader, self.promised) = (None, None);
            (self.commit, self.applied, self.apply_sent) = (0, 0, 0);
            self.log.forget_applied();
        }
        if !matches!(self.part, Part::Leader(_)) {
            self.sessions = 0;
        }
        match &mut self.part {
            Part::Leader(leader) => {
                leader.heartbeat_at = NOW;
                for progress in leader.peers.values_mut() {
                    (progress.contact, progress.has_answered) = (NOW, false);
                    progress.forget_window();
                }
            }
            Part::PreCandidate(_) => self.part = Part::Follower,
            _ => {}
        }
        self.writes.number_from_zero()
    }

    /// The same node in a cluster with other names.
    pub(super) fn renumber(&mut self, names: &Numbering) {
        self.config.node = names.of(self.config.node);
        self.identity = names.identity(self.identity);
        self.voted_for = self.voted_for.map(|node| names.of(node));
        self.leader = self.leader.map(|node| names.of(node));
        match &mut self.part {
            Part::Candidate(ballot) | Part::PreCandidate(ballot) => names.ballot(ballot),
            Part::Leader(leader) => {
                let peers = std::mem::take(&mut leader.peers).into_iter();
                leader.peers = peers
                    .map(|(node, mut progress)| {
                        progress.incarnation = names.directory(progress.incarnation);
                        (names.of(node), progress)
                    })
                    .collect();
            }
            Part::Follower | Part::Failed(_) | Part::Unformed(_) => {}
        }
        self.writes.for_each_held(|promise| {
            if let Promise::Send { to, message } = promise {
                *to = names.of(*to);
                names.message(message);
            }
        });
        self.writes.sort_held();
    }
}
