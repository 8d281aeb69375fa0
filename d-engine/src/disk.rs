//! The disk thread: performs the node's writes, one group after the other, in the order of their numbers.
//!
//! Everything that waits when the disk is free forms one group with one sync; while it runs, the next group gathers.
//! The order on disk is the order of the sequence: before a hard state is saved, log writes ahead of it are flushed.
//! An error is never retried: the node stops taking part, and nothing further is written.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use d_engine_core::{Entry, Error, LogStore, MetaStore};
use d_engine_raft::{Event, Write};
use tokio::runtime::Handle;

use crate::inbox::Inbox;
use crate::queue::Queue;

/// Writes on their way to the disk; bounded because the core bounds what is not applied.
pub(crate) type DiskQueue = Queue<Write>;

/// The stores, as the disk thread uses them.
pub(crate) struct Disk {
    log: Arc<dyn LogStore>,
    meta: Arc<dyn MetaStore>,
    runtime: Handle,
    /// Entries of consecutive writes, appended by one call.
    appended: Vec<Entry>,
    unflushed: bool,
    latencies: Arc<SyncLatencies>,
}

impl Disk {
    pub(crate) fn new(
        log: Arc<dyn LogStore>,
        meta: Arc<dyn MetaStore>,
        runtime: Handle,
        latencies: Arc<SyncLatencies>,
    ) -> Self {
        Self { log, meta, runtime, appended: Vec::new(), unflushed: false, latencies }
    }

    /// Serves `queue` until it is closed and empty.
    pub(crate) fn run(mut self, queue: &DiskQueue, inbox: &Inbox) {
        let mut writes = Vec::new();
        while queue.take_all(&mut writes, None) {
            let Some(last) = writes.last().map(|write| write.seq) else { continue };
            match self.perform(&mut writes) {
                Ok(()) => inbox.complete(Event::Persisted { seq: last }),
                Err(error) => {
                    tracing::error!(%error, "the log or hard state cannot be written; this node stops taking part");
                    inbox.complete(Event::StorageFailed { why: error.to_string() });
                    return drain(queue);
                }
            }
        }
        // Everything acknowledged is durable already; this only spares the next start a recovery.
        if let Err(error) = self.runtime.block_on(self.log.flush()).and_then(|()| self.meta.flush()) {
            tracing::warn!(%error, "the last flush of the log failed");
        }
    }

    fn perform(&mut self, writes: &mut Vec<Write>) -> Result<(), Error> {
        for write in writes.drain(..) {
            if let Some(hard_state) = &write.hard_state {
                self.flush()?;
                self.meta.save_hard_state(hard_state)?;
            }
            match write.replace_from {
                Some(from) => {
                    self.append()?;
                    self.runtime.block_on(self.log.replace_from(from, write.entries))?;
                    self.unflushed = true;
                }
                None if self.appended.is_empty() => self.appended = write.entries,
                None => self.appended.extend(write.entries),
            }
        }
        self.flush()
    }

    fn append(&mut self) -> Result<(), Error> {
        if !self.appended.is_empty() {
            self.unflushed = true;
            self.runtime.block_on(self.log.persist_entries(std::mem::take(&mut self.appended)))?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.append()?;
        if std::mem::take(&mut self.unflushed) && !self.log.is_write_durable() {
            let start = Instant::now();
            self.runtime.block_on(self.log.flush())?;
            self.latencies.record(start.elapsed());
        }
        Ok(())
    }
}

/// After a failure: nothing is written any more, and nobody waits for room.
fn drain(queue: &DiskQueue) {
    let mut dropped = Vec::new();
    while queue.take_all(&mut dropped, None) {
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
