//! The Raft log of the in-memory backend: a deque of entries behind the purge boundary.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use d_engine_core::{Entry, Error, LogId, LogStore, Result};

/// A Raft log in memory. Every call is whole the moment it returns; `flush` has nothing to do.
#[derive(Debug, Default)]
pub struct MemLogStore {
    log: RwLock<Log>,
}

/// `entries[0]` has index `purged.index + 1`, and so on without holes.
#[derive(Debug, Default)]
struct Log {
    purged: LogId,
    entries: VecDeque<Entry>,
}

impl MemLogStore {
    // A poisoned lock is used on: every writer checks first and then changes the log in steps that do not panic.
    fn read(&self) -> RwLockReadGuard<'_, Log> {
        self.log.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> RwLockWriteGuard<'_, Log> {
        self.log.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl LogStore for MemLogStore {
    async fn persist_entries(&self, entries: Vec<Entry>) -> Result<(), Error> {
        let mut log = self.lock();
        check_contiguous(log.last_index() + 1, &entries)?;
        log.entries.extend(entries);
        Ok(())
    }

    async fn entry(&self, index: u64) -> Result<Option<Entry>, Error> {
        let log = self.read();
        let offset = log.offset(index)?;
        Ok(log.entries.get(offset).cloned())
    }

    async fn get_entries(&self, range: RangeInclusive<u64>) -> Result<Vec<Entry>, Error> {
        let log = self.read();
        let (from, to) = (*range.start(), (*range.end()).min(log.last_index()));
        let offset = log.offset(from)?;
        if from > to {
            return Ok(Vec::new());
        }
        let count = (to - from + 1) as usize;
        Ok(log.entries.range(offset..offset + count).cloned().collect())
    }

    async fn purge(&self, up_to: LogId) -> Result<(), Error> {
        let mut log = self.lock();
        let Ok(offset) = log.offset(up_to.index) else {
            return Ok(());
        };
        if log.entries.get(offset).is_some_and(|entry| entry.term == up_to.term) {
            log.entries.drain(..=offset);
        } else {
            log.entries.clear();
        }
        log.purged = up_to;
        Ok(())
    }

    async fn truncate(&self, from_index: u64) -> Result<(), Error> {
        let mut log = self.lock();
        let offset = log.offset(from_index)?;
        log.entries.truncate(offset);
        Ok(())
    }

    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn reset(&self) -> Result<(), Error> {
        *self.lock() = Log::default();
        Ok(())
    }

    fn last_index(&self) -> u64 {
        self.read().last_index()
    }

    fn purged(&self) -> LogId {
        self.read().purged
    }

    /// One step: nobody sees the log without its replaced end.
    async fn replace_from(&self, from: u64, entries: Vec<Entry>) -> Result<(), Error> {
        let mut log = self.lock();
        let offset = log.offset(from)?;
        if from > log.last_index() + 1 {
            return Err(Error::NotContiguous { expected: log.last_index() + 1, found: from });
        }
        check_contiguous(from, &entries)?;
        log.entries.truncate(offset);
        log.entries.extend(entries);
        Ok(())
    }
}

impl Log {
    fn last_index(&self) -> u64 {
        self.purged.index + self.entries.len() as u64
    }

    /// Where `index` is, or would be, in `entries`.
    fn offset(&self, index: u64) -> Result<usize, Error> {
        if index <= self.purged.index {
            return Err(Error::Compacted { first: self.purged.index + 1 });
        }
        Ok(usize::try_from(index - self.purged.index - 1).unwrap_or(usize::MAX))
    }
}

fn check_contiguous(first: u64, entries: &[Entry]) -> Result<(), Error> {
    for (expected, entry) in (first..).zip(entries) {
        if entry.index != expected {
            return Err(Error::NotContiguous { expected, found: entry.index });
        }
    }
    Ok(())
}
