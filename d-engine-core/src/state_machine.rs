//! What committed entries do.

use std::path::{Path, PathBuf};
use std::task::Waker;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    ApplyResult, Entry, Error, HardState, KvAnswer, KvQuery, LogId, Result, SnapshotChecksum, SnapshotMetadata,
};

/// The application's state: every replica applies the same entries in the same order and reaches the same state.
///
/// The log is the machine's write-ahead log: applying need not sync. The same entries, in whatever chunks, give the same
/// state and results on every replica: no clock, randomness, iteration order or environment may enter.
///
/// `Err` means that this replica's storage failed, and stops this replica. What a *command* does wrong is a result, equal
/// on every replica, and costs no other entry of the chunk. A command version newer than the code is `Unsupported`.
#[async_trait]
pub trait StateMachine: Send + Sync + 'static {
    /// Begins service. Called once, before anything else.
    fn start(&self) -> Result<(), Error>;

    /// Ends service; the state stays readable after a restart.
    fn stop(&self) -> Result<(), Error>;

    /// Whether the machine has been started and not stopped.
    fn is_running(&self) -> bool;

    /// The value of a key; callable from any thread while entries are applied, never sees half a chunk.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// Applies commands in order: effects **and** [`last_applied`](StateMachine::last_applied) become visible in one
    /// step and durable in one step. Entries at or below `last_applied` are skipped; indexes that do not increase are
    /// an error and nothing happens. Indexes may skip: no-ops and membership entries stay with the engine. The data of an
    /// entry is a slice of memory that many share: what the machine keeps of it, it copies
    /// ([`compact_bytes`](crate::compact_bytes)).
    async fn apply_chunk(&self, chunk: Vec<Entry>) -> Result<(), Error>;

    /// How many items the machine holds.
    fn len(&self) -> usize;

    /// The last applied entry; the default id at first. After a crash the state is exactly the one after this entry.
    fn last_applied(&self) -> LogId;

    /// Metadata of the newest snapshot, if the machine keeps it. The engine keeps its own and does not ask.
    fn snapshot_metadata(&self) -> Option<SnapshotMetadata>;

    /// Writes a snapshot of the present state into `dir`. `last_included` must be [`last_applied`]; another id is
    /// refused. The checksum covers every byte and is never zero.
    ///
    /// [`last_applied`]: StateMachine::last_applied
    async fn generate_snapshot_data(&self, dir: PathBuf, last_included: LogId) -> Result<SnapshotChecksum, Error>;

    /// Verifies length, format and checksum of the snapshot, then replaces the whole state atomically and durably. A bad
    /// file leaves the old state.
    async fn apply_snapshot_from_file(&self, metadata: &SnapshotMetadata, path: PathBuf) -> Result<(), Error>;

    /// Makes the state durable. May cost O(state): called at shutdown and by policy, never per chunk.
    fn flush(&self) -> Result<(), Error>;

    /// Back to the initial state, durably.
    async fn reset(&self) -> Result<(), Error>;

    /// Whether the machine holds no items.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Term of an entry, where the machine knows it. Informative.
    fn entry_term(&self, entry_id: u64) -> Option<u64> {
        let last = self.last_applied();
        (last.index == entry_id && entry_id != 0).then_some(last.term)
    }

    /// Informative: the engine never calls it.
    fn update_last_applied(&self, _last_applied: LogId) {}

    /// Informative: durable `last_applied` is the business of [`apply_chunk`](StateMachine::apply_chunk).
    fn persist_last_applied(&self, _last_applied: LogId) -> Result<(), Error> {
        Ok(())
    }

    /// Informative: the engine keeps snapshot metadata itself.
    fn update_last_snapshot_metadata(&self, _metadata: &SnapshotMetadata) -> Result<(), Error> {
        Ok(())
    }

    /// Informative: the engine keeps snapshot metadata itself.
    fn persist_last_snapshot_metadata(&self, _metadata: &SnapshotMetadata) -> Result<(), Error> {
        Ok(())
    }

    /// Informative: the hard state belongs to [`MetaStore`](crate::MetaStore).
    fn save_hard_state(&self, _state: &HardState) -> Result<(), Error> {
        Ok(())
    }

    /// [`flush`](StateMachine::flush) for asynchronous callers.
    async fn flush_async(&self) -> Result<(), Error> {
        self.flush()
    }

    /// [`apply_chunk`](StateMachine::apply_chunk) with one answer per entry, in order. The engine calls this one.
    async fn apply(&self, chunk: Vec<Entry>) -> Result<Vec<ApplyResult>, Error> {
        let results = chunk.iter().map(|entry| ApplyResult::new(entry.index, Bytes::new())).collect();
        self.apply_chunk(chunk).await?;
        Ok(results)
    }

    /// A promise that [`apply`](StateMachine::apply) waits for no device, nor for other threads longer than they take to copy
    /// what they read. The engine then applies a few entries on whatever thread has committed them, a caller's or a
    /// socket's, as long as that has shown to take microseconds, instead of waking the one that applies everything else.
    fn never_waits(&self) -> bool {
        false
    }

    /// [`get`](StateMachine::get) without the copy.
    fn get_bytes(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.get(key)?.map(Bytes::from))
    }

    /// Whether this machine understands a command, asked before it is proposed: bytes that no replica can read must not
    /// get into the log, where they would stop every one of them. Must not depend on the state.
    fn check_command(&self, _command: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    /// Answers any question at one point in time, which the id names. May block for one disk read.
    fn read_at(&self, _query: Bytes) -> Result<(Bytes, LogId), Error> {
        Err(Error::unsupported("this state machine answers no queries (StateMachine::read_at)"))
    }

    /// [`read_at`](StateMachine::read_at) of the built-in key-value machine's questions, without encoding question and answer:
    /// what calls in the same process ask. `None`: this machine answers encoded questions only.
    fn answer(&self, _query: &KvQuery) -> Result<Option<(KvAnswer, LogId)>, Error> {
        Ok(None)
    }

    /// A view of the present state, to be written out beside further applies; O(1). `None`: the engine holds apply until
    /// [`generate_snapshot_data`](StateMachine::generate_snapshot_data) returns.
    fn begin_snapshot(&self) -> Result<Option<Box<dyn SnapshotView>>, Error> {
        Ok(None)
    }

    /// Tells whether this node leads, by its own monotonic clock; true once the leader's own first entry has applied.
    fn leadership(&self, _leads: bool, _now: Duration) {}

    /// On the leader: commands to propose now (expiry, checkpoints).
    fn due(&self, _now: Duration) -> Vec<Bytes> {
        Vec::new()
    }

    /// Registers a watcher. Events are bounded and never block apply.
    fn watch(&self, _request: Bytes, _sink: Box<dyn WatchSink>) -> Result<(), Error> {
        Err(Error::unsupported("this state machine has no watches (StateMachine::watch)"))
    }

    /// This node serves no more, for a while or for good: ends every watch that there is with a reason. Others may begin
    /// later.
    fn end_watches(&self) {}
}

/// A state to be written out as a snapshot while the machine goes on.
pub trait SnapshotView: Send {
    /// The last entry whose effects the view holds.
    fn last_applied(&self) -> LogId;

    /// Writes the snapshot into `dir`, synced, and returns its checksum.
    fn write(self: Box<Self>, dir: &Path) -> Result<SnapshotChecksum, Error>;
}

/// Where a watcher's events go. Implementations are bounded. Called from a thread of the machine's own, one call at a time.
pub trait WatchSink: Send {
    /// Offers one event; false: the sink is full or closed, and the watcher is ended.
    fn offer(&mut self, event: Bytes) -> bool;

    /// Whether the next [`offer`](WatchSink::offer) would be taken. While it would not, the machine keeps the watcher's place
    /// as long as its history reaches back so far. A sink that always says yes has its watcher ended when it is full.
    fn is_ready(&self) -> bool {
        true
    }

    /// Whom to wake when a sink that was not ready is ready again, or closed. Given once, before the first event.
    fn set_waker(&mut self, _waker: Waker) {}

    /// The last event, which says why the watch has ended. To be kept even by a sink that is full.
    fn end(mut self: Box<Self>, event: Bytes) {
        // One that has no room for it learns from its own refusal that the watch has ended.
        self.offer(event);
    }
}
