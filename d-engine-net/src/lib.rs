//! The network of d-engine: peers, gRPC services, client.
//!
//! The only crate that knows tonic and the generated protobuf types; none of them appears in its interface.
//!
//! * [`Peers`] carries raft messages between nodes, [`serve`] answers everything that comes in on a node's port.
//! * [`NodeService`] is what a node offers to its server.
//! * [`KeyValue`] is the typed key-value store, the same in process and over the wire.
//! * [`offer_snapshot`] sends a snapshot to another node, [`Download`] fetches one; each on a connection of its own.
//! * [`Client`] finds and follows the leader; [`Connection`] is one pipelined connection to one node.
//!
//! The wire contract is `proto/d_engine/v1`; `cargo xtask codegen` makes the code in `src/generated` from it.

mod channel;
mod client;
mod connection;
mod convert;
mod download;
mod error;
mod framing;
#[doc(hidden)]
pub mod fuzzing;
mod generated;
mod hello;
mod inbound;
mod kv;
mod operation;
mod outbound;
mod peer;
mod server;
mod service;
mod snapshot;
#[cfg(test)]
mod tests;

pub use client::{Client, ClientOptions};
pub use connection::Connection;
pub use d_engine_core::command::{KvChange, KvLease, KvOp, KvOpResult, Relation};
pub use download::{Download, SnapshotHead, SnapshotSource};
pub use error::{ClientError, LeaderHint, Reason, Result};
pub use hello::Hello;
pub use kv::{
    Counted, Decided, Delete, Deleted, Digest, Got, Granted, KeptAlive, KeyValue, KvCalls, Leased, LeasesListed,
    Listed, Put, Range, Removed, Replaced, Revoked, Session, Swapped, Txn, Watch, WatchStream, Watched, Watcher,
    Written, answer_of, outcome_of, watch_queue,
};
pub use operation::{MembershipError, Operated, Operation};
pub use peer::{PeerEvent, PeerSink, Peers};
pub use server::{ServeError, serve};
pub use service::{MemberStatus, NodeService, NodeStatus, ReadMode, Reply, TransferProgress};
pub use snapshot::{SnapshotAnswer, SnapshotOffer, SnapshotSink, offer_snapshot};

/// Protocol versions that this build speaks with its peers.
pub const PROTOCOL_VERSIONS: std::ops::RangeInclusive<u32> = 1..=1;

/// Bytes of one command or query on the wire, at most; servers are usually configured for less.
pub const COMMAND_LEN_MAX: usize = 16 << 20;

/// Bytes of entries in one message between nodes, at most: with what the wire adds to each, they fit a frame.
pub const ENTRIES_LEN_MAX: usize = FRAME_LEN_MAX / 2;

/// Bytes of one chunk of a snapshot, at most.
pub const SNAPSHOT_CHUNK_LEN_MAX: usize = 1 << 20;

/// Bytes of one frame that a receiver accepts.
const FRAME_LEN_MAX: usize = 64 << 20;
/// A sender closes a frame once it holds so many bytes; a single larger item still travels.
const FRAME_LEN_TARGET: usize = 1 << 20;
/// HTTP/2 flow control: what may be under way unread, on a stream and on a connection. Windows cost memory only when
/// used.
const WINDOW_LEN: u32 = 16 << 20;
/// HTTP/2 frame size: large values travel in few frames.
const HTTP2_FRAME_LEN: u32 = 1 << 20;
