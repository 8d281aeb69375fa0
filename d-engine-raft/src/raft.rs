//! The consensus core.
use crate::{Append, Message, NodeId};
use bytes::Bytes;
use d_engine_core::{Entry, HardState, LogId};

/// What happens to a replica.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Input {
    /// A message from another replica.
    Message {
        /// Who sent it.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// A client's command.
    Propose {
        /// The caller's number for it, given back in the answer.
        id: u64,
        /// The command.
        command: Bytes,
    },
    /// A client asks for a linearizable read index.
    Read {
        /// The caller's number for it, given back in the answer.
        id: u64,
    },
    /// The disk holds everything up to write `seq`.
    Persisted {
        /// Number of a [`Write`].
        seq: u64,
    },
    /// Storage or state machine failed: the node stops taking part.
    StorageFailed {
        /// The cause in plain words.
        why: String,
    },
    /// The state machine has applied everything up to `index`.
    Applied {
        /// Index of an entry.
        index: u64,
    },
    /// A message of [`Action::SendEntries`] could not be filled.
    NotSent {
        /// Its receiver.
        to: NodeId,
        /// Its session.
        session: u64,
        /// How many of its entries would have fitted, if it was too large.
        fitting: Option<u64>,
    },
    /// The connection to a peer broke: what was under way may be lost.
    Unreachable {
        /// The peer.
        to: NodeId,
    },
    /// The time of [`Raft::poll_timeout`](crate::Raft::poll_timeout) has come.
    Timeout,
}

/// What a replica wants done.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Action {
    /// Write to the local disk, in the order of the numbers.
    Write(Write),
    /// Send a message; it may be lost.
    Send {
        /// Receiver.
        to: NodeId,
        /// The message.
        message: Message,
    },
    /// Fill `append` with the entries of `term` up to index `last`, and send it; if one is missing or has another term,
    /// send nothing and report [`Input::NotSent`].
    SendEntries {
        /// Receiver.
        to: NodeId,
        /// The message's term.
        term: u64,
        /// The message, without its entries.
        append: Append,
        /// Term of all the entries.
        entries_term: u64,
        /// Index of the last entry.
        last: u64,
    },
    /// Entries up to `up_to` are committed and durable here: apply them.
    Apply {
        /// Index of the last one.
        up_to: u64,
    },
    /// The proposal has a place in the log. Whether it stays there, its application tells.
    Accepted {
        /// The caller's number.
        id: u64,
        /// The place.
        at: LogId,
    },
    /// A read may be answered from a state that has applied `index`.
    ReadReady {
        /// The caller's number.
        id: u64,
        /// The read index.
        index: u64,
    },
    /// A proposal or read is refused; it has had and will have no effect.
    Reject {
        /// The caller's number.
        id: u64,
        /// Why.
        why: Rejection,
    },
}

/// One write. First the hard state, then the log; all writes form one sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Write {
    /// Its number; consecutive.
    pub seq: u64,
    /// The hard state to save, if it changed.
    pub hard_state: Option<HardState>,
    /// Remove the entries from this index on before appending.
    pub replace_from: Option<u64>,
    /// Entries to append.
    pub entries: Vec<Entry>,
}

/// Why a proposal or read is refused.
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
    /// The command is too large.
    #[error("the command has {bytes} bytes; at most {limit} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The node does not take part.
    #[error("this node does not take part: {why}")]
    Unavailable {
        /// Why not.
        why: String,
    },
}
