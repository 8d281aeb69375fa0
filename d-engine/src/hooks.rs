//! Stores and machines of the tests of this crate: real ones, with a hook where a test wants to see or to break something.

use std::ops::{Deref, RangeInclusive};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{Entry, Error, LogId, LogStore, SnapshotChecksum, SnapshotMetadata, StateMachine};
use d_engine_kv::KvStateMachine;
use d_engine_mem::MemKvStore;

/// What a machine does beside its work.
#[async_trait]
pub(crate) trait MachineHooks: Send + Sync + 'static {
    async fn before_apply(&self, chunk: &[Entry]);

    fn never_waits(&self) -> bool {
        false
    }

    /// It is told whether this node leads.
    fn told(&self) {}

    /// It is asked what is due.
    fn asked(&self) {}
}

/// The built-in machine in memory, with hooks.
pub(crate) struct HookedMachine<H> {
    inner: KvStateMachine,
    hooks: H,
}

impl<H> HookedMachine<H> {
    pub(crate) fn new(hooks: H) -> Self {
        Self { inner: KvStateMachine::new(MemKvStore::new()).unwrap(), hooks }
    }
}

impl<H> Deref for HookedMachine<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.hooks
    }
}

#[async_trait]
impl<H: MachineHooks> StateMachine for HookedMachine<H> {
    fn start(&self) -> Result<(), Error> {
        self.inner.start()
    }
    fn stop(&self) -> Result<(), Error> {
        self.inner.stop()
    }
    fn is_running(&self) -> bool {
        self.inner.is_running()
    }
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.inner.get(key)
    }
    async fn apply_chunk(&self, chunk: Vec<Entry>) -> Result<(), Error> {
        self.hooks.before_apply(&chunk).await;
        self.inner.apply_chunk(chunk).await
    }
    fn never_waits(&self) -> bool {
        self.hooks.never_waits()
    }
    fn len(&self) -> usize {
        self.inner.len()
    }
    fn last_applied(&self) -> LogId {
        self.inner.last_applied()
    }
    fn snapshot_metadata(&self) -> Option<SnapshotMetadata> {
        None
    }
    async fn generate_snapshot_data(&self, dir: PathBuf, at: LogId) -> Result<SnapshotChecksum, Error> {
        self.inner.generate_snapshot_data(dir, at).await
    }
    async fn apply_snapshot_from_file(&self, metadata: &SnapshotMetadata, path: PathBuf) -> Result<(), Error> {
        self.inner.apply_snapshot_from_file(metadata, path).await
    }
    fn flush(&self) -> Result<(), Error> {
        self.inner.flush()
    }
    async fn reset(&self) -> Result<(), Error> {
        self.inner.reset().await
    }
    fn leadership(&self, _: bool, _: Duration) {
        self.hooks.told();
    }
    fn due(&self, _: Duration) -> Vec<Bytes> {
        self.hooks.asked();
        Vec::new()
    }
}

/// What a log does before it appends.
#[async_trait]
pub(crate) trait LogHooks: Send + Sync + 'static {
    async fn before_append(&self, entries: &[Entry]) -> Result<(), Error>;
}

/// A log with a hook.
pub(crate) struct HookedLog<H> {
    inner: Arc<dyn LogStore>,
    hooks: H,
}

impl<H> HookedLog<H> {
    pub(crate) fn new(inner: Arc<dyn LogStore>, hooks: H) -> Self {
        Self { inner, hooks }
    }
}

impl<H> Deref for HookedLog<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.hooks
    }
}

#[async_trait]
impl<H: LogHooks> LogStore for HookedLog<H> {
    async fn persist_entries(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.hooks.before_append(&entries).await?;
        self.inner.persist_entries(entries).await
    }
    async fn entry(&self, index: u64) -> Result<Option<Entry>, Error> {
        self.inner.entry(index).await
    }
    async fn get_entries(&self, range: RangeInclusive<u64>) -> Result<Vec<Entry>, Error> {
        self.inner.get_entries(range).await
    }
    async fn purge(&self, up_to: LogId) -> Result<(), Error> {
        self.inner.purge(up_to).await
    }
    async fn truncate(&self, from: u64) -> Result<(), Error> {
        self.inner.truncate(from).await
    }
    async fn flush(&self) -> Result<(), Error> {
        self.inner.flush().await
    }
    async fn reset(&self) -> Result<(), Error> {
        self.inner.reset().await
    }
    fn last_index(&self) -> u64 {
        self.inner.last_index()
    }
    fn purged(&self) -> LogId {
        self.inner.purged()
    }
}
