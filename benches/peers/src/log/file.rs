//! The log of d-engine-file.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use d_engine_core::{Entry, LogId, LogStore, StorageEngine};
use d_engine_file::{FileLogStore, FileStorageEngine, FileStorageOptions};

use super::{Result, SEGMENT_BYTES, Subject};

pub struct FileLog {
    log: Arc<FileLogStore>,
    entries: Vec<Entry>,
    /// Bytes appended since the last purge.
    unpurged: u64,
}

impl FileLog {
    pub fn open(dir: &Path) -> Result<Self> {
        let mut options = FileStorageOptions::default();
        // As after the first minutes: segments have their full length.
        options.segment_bytes_min = SEGMENT_BYTES;
        options.segment_bytes_max = SEGMENT_BYTES;
        let log = FileStorageEngine::open_with(dir.join("file"), &options)?.log_store();
        Ok(Self { log, entries: Vec::new(), unpurged: 0 })
    }
}

impl Subject for FileLog {
    fn name(&self) -> &'static str {
        "d-engine-file"
    }

    fn next_index(&self) -> u64 {
        self.log.last_index() + 1
    }

    fn prepare(&mut self, entries: Vec<Entry>) -> Result<()> {
        // As a node with snapshots does: what is old goes, and its file is written again.
        if self.unpurged > SEGMENT_BYTES / 2 {
            now(self.log.purge(LogId::new(1, self.log.last_index() - 1)))?;
            self.unpurged = 0;
        }
        self.unpurged += entries.iter().map(|entry| entry.encoded_len() as u64).sum::<u64>().max(4096);
        self.entries = entries;
        Ok(())
    }

    fn append(&mut self) -> Result<()> {
        now(self.log.persist_entries(std::mem::take(&mut self.entries)))?;
        Ok(now(self.log.flush())?)
    }
}

/// Runs a future of the file log: they never wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a call of the file log waited"),
    }
}
