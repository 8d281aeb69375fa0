//! What happens to a replica.

use bytes::Bytes;
use d_engine_core::{LogId, Membership};

use crate::{Change, Message, NodeId};

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
        /// A leader whose lease is valid may answer by itself, which trusts clock rates; otherwise a round confirms it.
        by_lease: bool,
    },
    /// Change the membership.
    ChangeMembership {
        /// The caller's number for it, given back in the answer.
        id: u64,
        /// Index of the configuration that the caller looked at; another one refuses the change.
        base: Option<u64>,
        /// What to change.
        change: Change,
    },
    /// Hand leadership over to a voter.
    Transfer {
        /// The caller's number for it, given back in the answer.
        id: u64,
        /// The voter.
        to: NodeId,
    },
    /// The disk holds everything up to write `seq`.
    Persisted {
        /// Number of a [`Write`](crate::Write).
        seq: u64,
    },
    /// Storage or state machine failed: the node stops taking part.
    StorageFailed {
        /// The cause in plain words.
        why: String,
    },
    /// A write was refused for want of space before its first byte. The writes wait there, in order, until there is
    /// space: then [`Input::StorageFreed`], then [`Input::Persisted`].
    StorageFull {
        /// The cause in plain words.
        why: String,
    },
    /// The writes that waited for space go on.
    StorageFreed,
    /// The state machine has applied everything up to `index`.
    Applied {
        /// Index of an entry.
        index: u64,
    },
    /// A snapshot of the own state is durable and verified.
    SnapshotMade {
        /// The last entry whose effects it holds.
        last_included: LogId,
    },
    /// The transfer of a snapshot ended.
    SnapshotSent {
        /// Its receiver.
        to: NodeId,
        /// As in [`SnapshotTask::Send`](crate::SnapshotTask::Send).
        session: u64,
        /// The snapshot's last entry if the receiver holds that state now; `None`: try again.
        installed: Option<LogId>,
    },
    /// A leader's snapshot is complete, verified and durable here.
    SnapshotReceived {
        /// The leader.
        from: NodeId,
        /// Its term.
        term: u64,
        /// The last entry whose effects the snapshot holds.
        last_included: LogId,
        /// The configuration as of that entry.
        membership: Membership,
    },
    /// Answer to [`SnapshotTask::Install`](crate::SnapshotTask::Install).
    SnapshotInstalled {
        /// As asked.
        last_included: LogId,
        /// False: the file was bad, the old state stands.
        ok: bool,
    },
    /// A message of [`Action::SendEntries`](crate::Action::SendEntries) could not be filled.
    NotSent {
        /// Its receiver.
        to: NodeId,
        /// Its session.
        session: u64,
        /// How many of its entries would have fitted, if it was too large.
        fitting: Option<u64>,
    },
    /// The handshake with a peer succeeded.
    PeerHello {
        /// The peer.
        from: NodeId,
        /// Its data directory.
        incarnation: u128,
        /// Newest feature level that it understands.
        feature_level: u32,
    },
    /// The connection to a peer broke: what was under way may be lost.
    Unreachable {
        /// The peer.
        to: NodeId,
    },
    /// The time of [`Raft::poll_timeout`](crate::Raft::poll_timeout) has come.
    Timeout,
}
