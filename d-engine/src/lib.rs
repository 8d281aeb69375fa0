//! A Raft consensus engine that applications embed, with storage that anyone can plug in.
//!
//! One dependency and a few lines make a process one replica of a linearizable, durable key-value store:
//!
//! ```
//! # #[cfg(feature = "file")]
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let data = dir.path().join("data");
//! let node = d_engine::start(data).await?;
//! node.put("greeting", "hello").await?;
//! assert_eq!(node.get("greeting").await?.value.as_deref(), Some(&b"hello"[..]));
//! node.shutdown().await?;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "file"))]
//! # fn main() {}
//! ```
//!
//! * [`NodeBuilder`] puts a node together from a [`NodeConfig`], a [`StorageEngine`] and a [`StateMachine`].
//! * [`Node`] is the running node: [`propose`](Node::propose) and [`read`](Node::read) for any state machine, and the typed
//!   calls of the built-in one. These are [`KeyValue`]'s, and [`Client`] has the same ones for clusters elsewhere: code that
//!   takes a `&KeyValue` works with both.
//! * [`storage`] and the types beside it are the contract that storage adaptors implement; adaptor authors depend on
//!   `d-engine-core` alone.
//! * `testing` (a feature) is a cluster in one process under faults, for tests of applications and state machines.
//! * Backends appear as modules behind features: `file` (default), `mem`, `rocksdb`, `sled` (experimental). `server` (default) is the network.
//!
//! Inside, three threads per node do the work, each with its queue: the driver loop, which owns the sans-IO consensus of
//! `d-engine-raft`; the disk; the state machine. Sockets and callers live on the application's tokio runtime.

mod applying;
pub mod archive;
mod assembled;
mod at_once;
mod budget;
mod builder;
mod clock;
mod config;
mod disk;
mod durable;
mod ending;
mod error;
mod groups;
#[cfg(test)]
mod hooks;
mod inbox;
mod key_value;
mod lease_word;
mod local_router;
mod log_read;
mod machine_clock;
mod machine_handle;
mod marker;
#[cfg(feature = "server")]
mod network;
mod node;
mod operator;
mod pace;
mod pending;
mod place;
mod prepare;
mod published;
mod queue;
mod rebuild;
mod runtime;
mod shared;
mod snapshot_policy;
mod snapshot_store;
mod snapshot_transfer;
#[cfg(feature = "file")]
mod start;
mod state_machine_handler;
mod status;
#[cfg(feature = "testing")]
pub mod testing;
mod wire;
mod writer;

pub use assembled::Assembled;
pub use builder::{NodeBuilder, SharedStateMachine};
pub use clock::{BootClock, Clock};
pub use config::{
    ClusterSection, Compression, ConfigErrors, ConfigProblem, Explained, LimitsSection, NodeConfig, NodeSection,
    Origin, Place, RaftSection, SnapshotSection, StorageSection,
};
/// Commands, outcomes, queries and watches of the built-in key-value machine.
pub use d_engine_core::command;
pub use d_engine_core::{
    ApplyResult, Entry, EntryKind, Error, HardState, KvAnswer, KvCommand, KvOutcome, KvQuery, KvRecord, KvStore, LogId,
    Membership, Result, SnapshotChecksum, SnapshotMetadata, SnapshotView, StateMachine, StorageEngine, WatchSink,
};
pub use d_engine_kv::{KvStateMachine, SnapshotContent};
pub use d_engine_net::{
    Client, ClientError, ClientOptions, Counted, Decided, Delete, Deleted, Digest, Got, Granted, KeptAlive, KeyValue,
    KvChange, KvLease, KvOp, KvOpResult, LeaderHint, Leased, LeasesListed, Listed, MemberStatus, MembershipError,
    NodeStatus, Operated, Operation, Put, Range, ReadMode, Reason, Relation, Removed, Replaced, Reply, Revoked,
    Session, SnapshotHead, SnapshotSource, Swapped, TransferProgress, Txn, Watch, Watched, Watcher, Written,
};
pub use d_engine_raft::{NodeId, StartError};
pub use error::StartupError;
pub use local_router::LocalRouter;
pub use node::Node;
pub use published::Leadership;
pub use rebuild::{NewCluster, NodeStores, RebuildError, Recovered, Restore, Survivor, restore};
#[cfg(feature = "file")]
pub use start::{file_stores, open, start};

/// What a storage adaptor implements.
pub mod storage {
    pub use d_engine_core::{
        Direction, KeyRange, KvStore, KvView, LogStore, LogSummary, MetaStore, StorageEngine, WriteBatch, WriteOp,
    };
}

/// File storage: a segmented write-ahead log and a checkpointed key-value store.
#[cfg(feature = "file")]
pub use d_engine_file as file;
/// Volatile storage in memory.
#[cfg(feature = "mem")]
pub use d_engine_mem as mem;
/// Storage on RocksDB, for data larger than memory. It is built from its sources, which takes a C++ compiler and libclang.
#[cfg(feature = "rocksdb")]
pub use d_engine_rocksdb as rocksdb;
/// Experimental storage on sled; read about its weaknesses first.
#[cfg(feature = "sled")]
pub use d_engine_sled as sled;
/// The laws of storage adaptors as tests.
#[cfg(feature = "test-suite")]
pub use d_engine_test_suite::{Ext4, state_machine_test, storage_engine_test};
