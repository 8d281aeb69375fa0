//! What an operator may ask of a cluster, and why it is refused.
//!
//! All changes of the membership may be asked for again when an answer was lost: what has been done already is answered
//! as done, once that is known to be committed.

/// Something an operator asks for.
///
/// Changes of the membership say how it should be: each may be repeated after [`ClientError::Unknown`](crate::ClientError),
/// and is answered as done if it has been. So is the removal of a node that is no member.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Adds the node at `address` as a member without a vote. One that is a member with this address and the data directory
    /// that is found there stays as it is, with its vote if it has one.
    AddLearner {
        /// Its id; the node there must have it.
        node: u64,
        /// `host:port`.
        address: String,
        /// Whether the leader lets it vote once it has caught up.
        promote: bool,
    },
    /// Lets a learner vote that has caught up; a voter stays one.
    Promote {
        /// The learner.
        node: u64,
    },
    /// Removes a member; there is nothing to do for a node that is none.
    Remove {
        /// The member.
        node: u64,
    },
    /// Takes one member out and another one in as a learner, in one step. Done already if the old one is no member and the
    /// new one is, as found at `address`.
    Replace {
        /// The member that goes.
        old: u64,
        /// The one that comes; the same id means another data directory.
        node: u64,
        /// `host:port`.
        address: String,
        /// Whether the leader lets it vote once it has caught up.
        promote: bool,
    },
    /// Tells everybody a member's new address.
    Move {
        /// The member.
        node: u64,
        /// `host:port`.
        address: String,
    },
    /// Hands leadership over.
    Transfer {
        /// The voter that is to lead.
        to: u64,
    },
    /// Makes a snapshot of the asked node's own state.
    MakeSnapshot,
}

/// An operation is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Operated {
    /// Index of the configuration that is now in force, or of the snapshot's last entry; 0 for a transfer.
    pub index: u64,
}

impl Operated {
    /// Done, up to `index`.
    pub fn new(index: u64) -> Self {
        Self { index }
    }
}

/// Why the membership cannot be changed, or leadership moved, as asked. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// No such member.
    #[error("node {node} is no member of this cluster")]
    UnknownMember {
        /// The node.
        node: u64,
    },
    /// There is such a member already, at another address or beside the one that it should replace.
    #[error(
        "node {node} is a member already, at another address than this one, or beside the member that it should replace; \
         look at the members first"
    )]
    AlreadyMember {
        /// The node.
        node: u64,
    },
    /// There is such a member already, with another data directory.
    #[error(
        "node {node} is a member with another data directory than the one found; if that one is lost, replace node {node} \
         by node {node}"
    )]
    OtherDirectory {
        /// The node.
        node: u64,
    },
    /// Nobody could vote any more.
    #[error("node {node} is the last voter; a cluster needs at least one")]
    LastVoter {
        /// The node.
        node: u64,
    },
    /// The voters that are left could not decide anything.
    #[error(
        "without node {node} {voters} voters are left; {answering} of them answer, and {needed} are needed. Bring one of \
         the silent ones back, or remove that one first"
    )]
    QuorumLost {
        /// The node.
        node: u64,
        /// Voters that would be left.
        voters: u64,
        /// Those of them that answer.
        answering: u64,
        /// Those of them that are needed.
        needed: u64,
    },
    /// The learner's log is not there yet.
    #[error("node {node} has {matched} of {last} entries; promote it when it has caught up")]
    NotCaughtUp {
        /// The learner.
        node: u64,
        /// Highest index it is known to hold.
        matched: u64,
        /// The leader's last index.
        last: u64,
    },
    /// Another change is not finished.
    #[error("another membership change is in progress (entry {index}); wait until it is finished")]
    InProgress {
        /// Index of its configuration.
        index: u64,
    },
    /// Nothing would be different.
    #[error("there is nothing to change")]
    NoChange,
    /// The node does not understand what the cluster uses.
    #[error("node {node} understands feature level {offers}, the cluster uses {needs}; upgrade the node first")]
    TooOld {
        /// The node.
        node: u64,
        /// Newest level that it offers.
        offers: u64,
        /// Level of the cluster.
        needs: u64,
    },
    /// Nobody answers at the new member's address.
    #[error("node {node} cannot be reached at {address}: {why}. It must run before it is added")]
    Unreachable {
        /// The node.
        node: u64,
        /// Its address.
        address: String,
        /// The cause in plain words.
        why: String,
    },
    /// The new member belongs to another cluster.
    #[error(
        "node {node} at {address} belongs to cluster {theirs}, this is cluster {ours}; start it with an empty directory \
         and --join"
    )]
    OtherCluster {
        /// The node.
        node: u64,
        /// Its address.
        address: String,
        /// Its cluster.
        theirs: String,
        /// This one.
        ours: String,
    },
    /// Another node answers at the new member's address.
    #[error("node {found} answers at {address}, not node {node}")]
    OtherNode {
        /// The node.
        node: u64,
        /// Its address.
        address: String,
        /// The node that answers.
        found: u64,
    },
    /// Leadership stays where it is.
    #[error("leadership was not transferred to node {node}: {why}")]
    NotTransferred {
        /// The target.
        node: u64,
        /// Why not.
        why: String,
    },
}
