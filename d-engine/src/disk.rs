//! The disk thread: performs the node's writes, one group after the other, in the order of their numbers.
//!
//! Everything that waits when the disk is free forms one group with one sync; while it runs, the next group gathers.
//! The order on disk is the order of the sequence: before a hard state is saved, log writes ahead of it are flushed.
//! An error is never retried: the node stops taking part, and nothing further is written. A full disk is none as long as
//! the store refused the write before its first byte: the sequence waits there until there is space.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use d_engine_core::{Entry, Error, LogStore, MetaStore};
use d_engine_raft::{Input, Write};
use tokio::runtime::Handle;

use crate::inbox::Inbox;
use crate::queue::{Queue, Sleep};
use crate::snapshot_store::SnapshotStore;
use crate::writer::Writing;

/// How often a write that was refused for want of space is tried again.
const SPACE_INTERVAL: Duration = Duration::from_millis(250);

/// Bytes of entries that are appended by one call, at most; a single larger write is appended alone.
const APPENDED_LEN_MAX: usize = 64 << 20;

/// Writes on their way to the disk; bounded because the core bounds what is not applied.
pub(crate) type DiskQueue = Queue<DiskJob>;

/// What the disk thread performs.
pub(crate) enum DiskJob {
    /// Something to write.
    Write(Write),
    /// Writes up to this number, begun elsewhere by a store that waits although it has promised not to
    /// ([`Writer`](crate::writer::Writer)).
    Begun { seq: u64, writing: Writing },
}

impl DiskJob {
    /// Number of the last write.
    pub(crate) fn seq(&self) -> u64 {
        match self {
            Self::Write(write) => write.seq,
            Self::Begun { seq, .. } => *seq,
        }
    }
}

/// The stores, as the disk thread uses them.
pub(crate) struct Disk {
    log: Arc<dyn LogStore>,
    meta: Arc<dyn MetaStore>,
    runtime: Handle,
    /// Entries of consecutive writes, appended by one call.
    appended: Vec<Entry>,
    appended_len: usize,
    unflushed: bool,
    latencies: Arc<SyncLatencies>,
    snapshots: Arc<SnapshotStore>,
}

impl Disk {
    pub(crate) fn new(
        log: Arc<dyn LogStore>,
        meta: Arc<dyn MetaStore>,
        runtime: Handle,
        latencies: Arc<SyncLatencies>,
        snapshots: Arc<SnapshotStore>,
    ) -> Self {
        Self { log, meta, runtime, appended: Vec::new(), appended_len: 0, unflushed: false, latencies, snapshots }
    }

    /// Serves `queue` until it is closed and empty.
    pub(crate) fn run(mut self, queue: &DiskQueue, inbox: &Inbox) {
        let mut jobs = Vec::new();
        while queue.take_all(&mut jobs, None, Sleep::Light) {
            let Some(last) = jobs.last().map(DiskJob::seq) else { continue };
            match self.perform(&mut jobs, queue, inbox) {
                Ok(()) => inbox.complete(Input::Persisted { seq: last }),
                Err(error) => {
                    tracing::error!(%error, "the log or hard state cannot be written; this node stops taking part");
                    inbox.complete(Input::StorageFailed { why: error.to_string() });
                    return drain(queue);
                }
            }
        }
        // Everything acknowledged is durable already; this only spares the next start a recovery.
        if let Err(error) = self.runtime.block_on(self.log.flush()).and_then(|()| self.meta.flush()) {
            tracing::warn!(%error, "the last flush of the log failed");
        }
    }

    fn perform(&mut self, jobs: &mut Vec<DiskJob>, queue: &DiskQueue, inbox: &Inbox) -> Result<(), Error> {
        let space = Space { queue, inbox };
        for job in jobs.drain(..) {
            let write = match job {
                DiskJob::Write(write) => write,
                DiskJob::Begun { writing, .. } => {
                    self.flush(space)?;
                    self.runtime.block_on(writing)?;
                    continue;
                }
            };
            if let Some(hard_state) = &write.hard_state {
                self.flush(space)?;
                space.wait_for(|| self.meta.save_hard_state(hard_state))?;
            }
            if let Some(up_to) = write.purge {
                self.flush(space)?;
                space.wait_for(|| self.runtime.block_on(self.log.purge(up_to)))?;
                self.snapshots.purged(up_to);
            }
            match write.replace_from {
                Some(from) => {
                    self.append(space)?;
                    let replace = || self.log.replace_from(from, write.entries.clone());
                    space.wait_for(|| self.runtime.block_on(replace()))?;
                    self.unflushed = true;
                }
                None => self.gather(write.entries, space)?,
            }
        }
        self.flush(space)
    }

    fn gather(&mut self, entries: Vec<Entry>, space: Space<'_>) -> Result<(), Error> {
        let len: usize = entries.iter().map(Entry::encoded_len).sum();
        if self.appended_len + len > APPENDED_LEN_MAX {
            self.append(space)?;
        }
        self.appended_len += len;
        if self.appended.is_empty() {
            self.appended = entries;
        } else {
            self.appended.extend(entries);
        }
        Ok(())
    }

    fn append(&mut self, space: Space<'_>) -> Result<(), Error> {
        if !self.appended.is_empty() {
            self.appended_len = 0;
            self.unflushed = true;
            let entries = std::mem::take(&mut self.appended);
            // Of each entry only the handle is copied.
            space.wait_for(|| self.runtime.block_on(self.log.persist_entries(entries.clone())))?;
        }
        Ok(())
    }

    fn flush(&mut self, space: Space<'_>) -> Result<(), Error> {
        self.append(space)?;
        if std::mem::take(&mut self.unflushed) && !self.log.is_write_durable() {
            let start = Instant::now();
            self.runtime.block_on(self.log.flush())?;
            self.latencies.record(start.elapsed());
        }
        Ok(())
    }
}

/// Where a write waits that was refused for want of space.
#[derive(Clone, Copy)]
struct Space<'a> {
    queue: &'a DiskQueue,
    inbox: &'a Inbox,
}

impl Space<'_> {
    /// Writes, and again for as long as there is no space; gives up when the node shuts down.
    fn wait_for(self, mut write: impl FnMut() -> Result<(), Error>) -> Result<(), Error> {
        let mut is_waiting = false;
        loop {
            let result = write();
            match &result {
                Err(error @ Error::NoSpace { .. }) if !self.queue.is_closed() => {
                    if !std::mem::replace(&mut is_waiting, true) {
                        tracing::error!(%error, "the disk is full; writes wait until there is space");
                        self.inbox.complete(Input::StorageFull { why: error.to_string() });
                    }
                    std::thread::sleep(SPACE_INTERVAL);
                }
                _ => {
                    if is_waiting && result.is_ok() {
                        tracing::info!("there is space again; writes go on");
                        self.inbox.complete(Input::StorageFreed);
                    }
                    return result;
                }
            }
        }
    }
}

/// After a failure: nothing is written any more, and nobody waits for room.
fn drain(queue: &DiskQueue) {
    let mut dropped = Vec::new();
    while queue.take_all(&mut dropped, None, Sleep::Light) {
        dropped.clear();
    }
}

/// How long the latest syncs took.
#[derive(Debug, Default)]
pub(crate) struct SyncLatencies {
    ring: Mutex<VecDeque<Duration>>,
}

impl SyncLatencies {
    const KEPT: usize = 256;

    fn record(&self, latency: Duration) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() == Self::KEPT {
            ring.pop_front();
        }
        ring.push_back(latency);
    }

    /// Median and 99th percentile; `None` before the first sync.
    pub(crate) fn percentiles(&self) -> Option<(Duration, Duration)> {
        let mut sorted: Vec<_> = self.ring.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        Some((sorted[last / 2], sorted[last * 99 / 100]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use d_engine_core::{EntryKind, StorageEngine as _};

    use crate::hooks::{HookedLog, LogHooks};
    use crate::inbox::Bounds;

    /// Remembers how many bytes each call appended.
    #[derive(Default)]
    struct Recorder {
        appended: Mutex<Vec<usize>>,
    }

    #[async_trait]
    impl LogHooks for Recorder {
        async fn before_append(&self, entries: &[Entry]) -> Result<(), Error> {
            self.appended.lock().unwrap().push(entries.iter().map(Entry::encoded_len).sum());
            Ok(())
        }
    }

    #[test]
    fn writes_of_one_group_are_appended_together_up_to_a_bound() {
        let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let engine = d_engine_mem::MemStorageEngine::new();
        let recorder = Arc::new(HookedLog::new(engine.log_store(), Recorder::default()));
        let log: Arc<dyn LogStore> = Arc::clone(&recorder) as _;
        let snapshots = Arc::new(SnapshotStore::temporary("unused".into(), 1));
        let mut disk = Disk::new(log, engine.meta_store(), tokio.handle().clone(), Arc::default(), snapshots);
        let write = |index| {
            let entries = vec![Entry::new(index, 1, EntryKind::Command, vec![0; APPENDED_LEN_MAX / 5])];
            DiskJob::Write(Write { seq: index, entries, ..Write::default() })
        };
        let (queue, inbox) = (DiskQueue::new(), Inbox::new(Bounds { callers: 1, bytes: 1, messages: 1 }));
        disk.perform(&mut (1..=6).map(write).collect(), &queue, &inbox).unwrap();
        let appended = recorder.appended.lock().unwrap();
        assert_eq!(appended.len(), 2, "four and two");
        assert!(appended.iter().all(|len| *len <= APPENDED_LEN_MAX), "{appended:?}");
        assert_eq!(recorder.last_index(), 6);
    }
}
