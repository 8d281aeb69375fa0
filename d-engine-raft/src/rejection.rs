//! Why requests are refused.

use crate::{ChangeError, NodeId};

/// Why a request is refused. It has had and will have no effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// Another node leads, or none.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Too much is under way.
    #[error("too much is under way; try again")]
    Busy,
    /// The leader has stopped taking requests that change anything, so that its successor can catch up (§3.10).
    #[error("leadership is being handed to another node; try again")]
    HandingOver,
    /// The command is too large.
    #[error("the command has {bytes} bytes; at most {limit} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The membership change cannot be made.
    #[error("{0}")]
    Change(ChangeError),
    /// Leadership stays.
    #[error("leadership was not transferred to node {to}: {why}")]
    NoTransfer {
        /// The target.
        to: NodeId,
        /// Why not.
        why: String,
    },
    /// The disk is full.
    #[error("the disk of the leader is full: {why}. Reads go on; writes are taken again once there is space")]
    StorageFull {
        /// What the storage said.
        why: String,
    },
    /// The node does not take part.
    #[error("this node does not take part: {why}")]
    Unavailable {
        /// Why not.
        why: String,
    },
}
