//! The contract between d-engine and its storage: traits, the plain types in their signatures, and their bytes on disk.
//!
//! Adaptor authors depend on this crate alone (and on `d-engine-test-suite` for their tests). It contains no consensus,
//! no runtime, no wire format and does no I/O.
//!
//! * [`StorageEngine`] = [`LogStore`] + [`MetaStore`]: the Raft log and the hard state.
//! * [`StateMachine`]: what committed entries do.
//! * [`KvStore`]: an ordered map with atomic batches, the shortest way to publish a backend.

mod codec;
pub mod command;
mod compact;
mod entry_maker;
mod error;
mod kv_store;
pub mod slot;
pub mod snapshot;
mod snapshot_metadata;
mod state_machine;
mod storage;
mod types;

pub use codec::{Reader, checksum};
pub use command::{KvAnswer, KvCommand, KvOutcome, KvQuery, KvRecord, KvReject, KvRequest};
pub use compact::{compact_bytes, compact_pair};
pub use entry_maker::EntryMaker;
pub use error::{Error, Result, Severity};
pub use kv_store::{Direction, KeyRange, KvStore, KvView, WriteBatch, WriteOp};
pub use snapshot_metadata::SnapshotMetadata;
pub use state_machine::{SnapshotView, StateMachine, WatchSink};
pub use storage::{LogStore, LogSummary, MetaStore, StorageEngine};
pub use types::{
    ApplyResult, ClusterSettings, ENTRY_HEADER_LEN, Entry, EntryKind, HardState, Identity, LogId, Member, MemberKind,
    Membership, SnapshotChecksum,
};
