//! Where a round's writes go: to the disk thread, or, if the stores never wait, to the stores at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;

use d_engine_core::{Error, LogStore, MetaStore};
use d_engine_raft::Write;
use tokio::runtime::Handle;

use crate::at_once::{Begun, begun, poll_once};
use crate::disk::{DiskJob, DiskQueue};
use crate::ending::cause;

/// Writes under way.
pub(crate) type Writing = Begun<Result<(), Error>>;

pub(crate) struct Writer {
    queue: Arc<DiskQueue>,
    /// Log and hard state, if they have promised not to wait and have kept it.
    here: Option<(Arc<dyn LogStore>, Arc<dyn MetaStore>)>,
    runtime: Handle,
    /// The last write that the disk thread was given and has not reported; nothing overtakes it.
    handed: Option<u64>,
    has_failed: bool,
}

impl Writer {
    /// `here`: log and hard state, if they never wait.
    pub(crate) fn new(
        queue: Arc<DiskQueue>,
        here: Option<(Arc<dyn LogStore>, Arc<dyn MetaStore>)>,
        runtime: Handle,
    ) -> Self {
        Self { queue, here, runtime, handed: None, has_failed: false }
    }

    pub(crate) fn queue(&self) -> &DiskQueue {
        &self.queue
    }

    /// Has `jobs` written, in order after what came before. Gives the number of the last one if all are written already.
    ///
    /// # Errors
    /// That of the store; nothing is written any more.
    pub(crate) fn write(&mut self, jobs: &mut Vec<DiskJob>) -> Result<Option<u64>, Error> {
        let Some(last) = jobs.last().map(DiskJob::seq) else { return Ok(None) };
        if self.has_failed {
            jobs.clear();
            return Ok(None);
        }
        // Along with a purge, files of snapshots may go.
        let is_simple = |job: &DiskJob| matches!(job, DiskJob::Write(write) if write.purge.is_none());
        match &self.here {
            Some((log, meta)) if self.handed.is_none() && jobs.iter().all(is_simple) => {
                let writes = jobs.drain(..).filter_map(|job| match job {
                    DiskJob::Write(write) => Some(write),
                    DiskJob::Begun { .. } => None,
                });
                let writing = write_all(Arc::clone(log), Arc::clone(meta), writes.collect());
                self.begin(last, begun(writing))
            }
            _ => {
                self.handed = Some(last);
                self.queue.append(jobs);
                Ok(None)
            }
        }
    }

    fn begin(&mut self, seq: u64, mut writing: Writing) -> Result<Option<u64>, Error> {
        // What a panic leaves behind is not looked at again.
        match catch_unwind(AssertUnwindSafe(|| poll_once(&mut writing, &self.runtime))) {
            Ok(Poll::Ready(Ok(()))) => Ok(Some(seq)),
            Ok(Poll::Pending) => {
                tracing::warn!("the store waits although it has promised not to; from now on its thread writes");
                self.here = None;
                self.handed = Some(seq);
                // A node that ends has been told nothing of it.
                let _ = self.queue.push(DiskJob::Begun { seq, writing });
                Ok(None)
            }
            Ok(Poll::Ready(Err(error))) => {
                self.has_failed = true;
                Err(error)
            }
            Err(panic) => {
                self.has_failed = true;
                Err(Error::backend(format!("the store panicked: {}", cause(&*panic))))
            }
        }
    }

    /// The disk thread reports what is written.
    pub(crate) fn persisted(&mut self, seq: u64) {
        self.handed.take_if(|handed| *handed <= seq);
    }
}

async fn write_all(log: Arc<dyn LogStore>, meta: Arc<dyn MetaStore>, writes: Vec<Write>) -> Result<(), Error> {
    let must_flush = !log.is_write_durable();
    let mut is_flushed = true;
    for write in writes {
        if let Some(hard_state) = &write.hard_state {
            if !std::mem::replace(&mut is_flushed, true) {
                log.flush().await?;
            }
            meta.save_hard_state(hard_state)?;
        }
        if let Some(from) = write.replace_from {
            log.replace_from(from, write.entries).await?;
        } else if write.entries.is_empty() {
            continue;
        } else {
            log.persist_entries(write.entries).await?;
        }
        is_flushed = !must_flush;
    }
    if is_flushed { Ok(()) } else { log.flush().await }
}

#[cfg(test)]
#[cfg(feature = "mem")]
mod tests;
