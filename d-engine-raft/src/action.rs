//! What a replica wants done.

use d_engine_core::{Entry, HardState, LogId};

#[cfg(doc)]
use crate::Input;
use crate::{Append, Message, NodeId, Rejection};

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
    /// Work on a snapshot.
    Snapshot(SnapshotTask),
    /// Entries up to `up_to` are committed and durable here: apply them.
    Apply {
        /// Index of the last one.
        up_to: u64,
    },
    /// An answer to whoever asked for something.
    Answer(Answer),
}

/// One write. First the hard state, then the log: purge, replace, append; all writes form one sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Write {
    /// Its number; consecutive.
    pub seq: u64,
    /// The hard state to save, if it changed.
    pub hard_state: Option<HardState>,
    /// Purge the log up to this entry; all of it if it does not hold that one.
    pub purge: Option<LogId>,
    /// Remove the entries from this index on before appending.
    pub replace_from: Option<u64>,
    /// Entries to append.
    pub entries: Vec<Entry>,
}

/// Work on a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotTask {
    /// Send the newest snapshot to a follower that needs purged entries; answered by [`Input::SnapshotSent`].
    Send {
        /// Receiver.
        to: NodeId,
        /// Replication stream, given back in the answer.
        session: u64,
        /// This leader's term.
        term: u64,
    },
    /// Install a received snapshot in the state machine, after what was handed out to be applied; answered by
    /// [`Input::SnapshotInstalled`] or [`Input::StorageFailed`]. The purge of the log follows as a write; the mark may be
    /// cleared once that is durable.
    Install {
        /// Which.
        last_included: LogId,
    },
    /// A received snapshot is not needed: delete it.
    Discard {
        /// Which.
        last_included: LogId,
    },
}

/// An answer to whoever asked for something; each request gets exactly one, or the node fails. A proposal that was
/// accepted is answered by its application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
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
    /// A membership change has committed.
    Changed {
        /// The caller's number.
        id: u64,
        /// Index of its last configuration.
        index: u64,
    },
    /// This node leads no more; whether the change takes effect is not known.
    Lost {
        /// The caller's number.
        id: u64,
    },
    /// This node leads no more, as it was asked.
    Transferred {
        /// The caller's number.
        id: u64,
    },
    /// A request is refused; it has had and will have no effect.
    Rejected {
        /// The caller's number.
        id: u64,
        /// Why.
        why: Rejection,
    },
}
