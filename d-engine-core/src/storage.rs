//! The Raft log and the hard state: what a storage adaptor implements.

use std::ops::RangeInclusive;
use std::sync::Arc;

use async_trait::async_trait;

use crate::{Entry, EntryKind, Error, HardState, LogId, Membership};

/// A backend for the Raft log and the hard state.
pub trait StorageEngine: Send + Sync + 'static {
    /// The log.
    type LogStore: LogStore;
    /// The hard state.
    type MetaStore: MetaStore;

    /// The log.
    fn log_store(&self) -> Arc<Self::LogStore>;

    /// The hard state.
    fn meta_store(&self) -> Arc<Self::MetaStore>;

    /// True if a restart of the process forgets everything. The node then takes a new incarnation at each start.
    fn is_volatile(&self) -> bool {
        false
    }

    /// Whether flushed data survives a power cut. A store that answers false is refused as a voter of a cluster of more
    /// than one node, unless the configuration has `allow_unsafe_voters = true`.
    fn survives_power_loss(&self) -> bool {
        !self.is_volatile()
    }

    /// A promise that no write to log and hard state waits: not for a device, nor for other threads longer than they
    /// take to copy what they read; its futures are ready when they are polled first. The engine then writes on whatever
    /// thread drives it, a caller's or a socket's, instead of waking one of its own; nor does it wait for space: an
    /// [`Error::NoSpace`] ends the node's part. Law: `who_never_waits_is_ready_at_once`.
    fn never_waits(&self) -> bool {
        false
    }
}

/// The Raft log of one node.
///
/// **Crash law.** After a crash the store is in the state after some prefix of its write calls (persist, truncate,
/// replace, purge, reset), each whole, and that prefix holds every call that had returned before the last successful
/// [`flush`](LogStore::flush) began. What a store shows after opening is durable: open syncs what it recovered.
///
/// A failed write or sync poisons the store: every later write fails until it is reopened, and a failed sync is never
/// retried. [`Error::NoSpace`] before the first byte of a batch is clean and may be retried.
///
/// The engine makes write calls and flushes one after the other, as a rule from one thread; reads run concurrently with them and
/// never see half a batch. All methods may block.
#[async_trait]
pub trait LogStore: Send + Sync + 'static {
    /// Appends entries. The first index is [`last_index`](LogStore::last_index)` + 1`. On return they are readable;
    /// durable only after [`flush`](LogStore::flush), unless [`is_write_durable`](LogStore::is_write_durable).
    ///
    /// # Errors
    /// `NotContiguous` for a hole or an overlap, and nothing changes. Law: `persist_is_contiguous`.
    async fn persist_entries(&self, entries: Vec<Entry>) -> Result<(), Error>;

    /// The entry at `index`; `None` beyond the end.
    ///
    /// # Errors
    /// `Compacted` for a purged index, `Corrupt` for damage; never a hole. Law: `entry_answers_for_every_index`.
    async fn entry(&self, index: u64) -> Result<Option<Entry>, Error>;

    /// The entries of the range, in order; a shorter list where it reaches beyond the end.
    ///
    /// # Errors
    /// `Compacted` if the range begins at a purged index, `Corrupt` for damage. Law: `get_entries_is_a_slice`.
    async fn get_entries(&self, range: RangeInclusive<u64>) -> Result<Vec<Entry>, Error>;

    /// Drops the entries up to and including `up_to`, durably on return. What follows is kept only if the log holds
    /// `up_to.index` with `up_to.term`; otherwise the whole log goes, in one crash-atomic step, and begins after
    /// `up_to`. Below the present boundary it does nothing. Laws: `purge_*`.
    async fn purge(&self, up_to: LogId) -> Result<(), Error>;

    /// Removes the entries from `from_index` on; beyond the end it does nothing. Durable after
    /// [`flush`](LogStore::flush). Laws: `truncate_*`.
    ///
    /// # Errors
    /// `Compacted` if `from_index` is at or below the purge boundary.
    async fn truncate(&self, from_index: u64) -> Result<(), Error>;

    /// Makes every write that has returned durable against loss of power.
    async fn flush(&self) -> Result<(), Error>;

    /// Empties the log, purge boundary included, durably on return.
    async fn reset(&self) -> Result<(), Error>;

    /// Index of the last entry; of the purge boundary if the log is empty; 0 at first. A load from memory.
    fn last_index(&self) -> u64;

    /// The last purged id; the default id if nothing was ever purged. Survives a restart. A load from memory.
    fn purged(&self) -> LogId;

    /// True if persist, replace and truncate are durable when they return: the engine then skips the flush.
    fn is_write_durable(&self) -> bool {
        false
    }

    /// Replaces everything from `from` on with `entries`, whose first index is `from`. This default makes two calls,
    /// and a crash between them leaves the truncated log, which is safe: nothing new was acknowledged.
    async fn replace_from(&self, from: u64, entries: Vec<Entry>) -> Result<(), Error> {
        self.truncate(from).await?;
        self.persist_entries(entries).await
    }

    /// Like [`get_entries`](LogStore::get_entries), ending early once `max_bytes` of encoded entries are reached. The
    /// first entry is returned whatever its size.
    async fn read_limited(&self, range: RangeInclusive<u64>, max_bytes: usize) -> Result<Vec<Entry>, Error> {
        let mut out = Vec::new();
        let mut bytes = 0;
        for index in range {
            let Some(entry) = self.entry(index).await? else {
                break;
            };
            bytes += entry.encoded_len();
            if !out.is_empty() && bytes > max_bytes {
                break;
            }
            out.push(entry);
        }
        Ok(out)
    }

    /// What the engine needs to know of the log at start, without its payload. This default reads every entry.
    async fn summary(&self) -> Result<LogSummary, Error> {
        const CHUNK: u64 = 1024;
        let mut summary = LogSummary::new(self.purged());
        let last = self.last_index();
        let mut next = self.purged().index + 1;
        while next <= last {
            let entries = self.get_entries(next..=last.min(next + CHUNK - 1)).await?;
            if entries.is_empty() {
                return Err(Error::Corrupt {
                    place: "log: an entry before its last index is missing".into(),
                    indexes: Some(next..=last),
                });
            }
            for entry in &entries {
                summary.push(entry)?;
            }
            next += entries.len() as u64;
        }
        Ok(summary)
    }
}

/// The shape of a log: which terms its indexes have, and which entries are memberships.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LogSummary {
    /// The purge boundary.
    pub purged: LogId,
    /// The last entry; the purge boundary if there is none.
    pub last: LogId,
    /// Runs of equal terms: the id of the first entry of each, in order.
    pub runs: Vec<LogId>,
    /// Indexes of the membership entries with their content, in order.
    pub memberships: Vec<(u64, Membership)>,
}

impl LogSummary {
    /// The summary of an empty log that begins after `purged`.
    pub fn new(purged: LogId) -> Self {
        Self { purged, last: purged, runs: Vec::new(), memberships: Vec::new() }
    }

    /// Adds the next entry.
    ///
    /// # Errors
    /// `NotContiguous` for a wrong index; `Corrupt` for a term that goes back or an unreadable membership.
    pub fn push(&mut self, entry: &Entry) -> Result<(), Error> {
        if entry.index != self.last.index + 1 {
            return Err(Error::NotContiguous { expected: self.last.index + 1, found: entry.index });
        }
        if entry.term < self.last.term {
            return Err(Error::Corrupt {
                place: format!("log: entry {} follows an entry of term {}", entry.id(), self.last.term),
                indexes: Some(entry.index..=entry.index),
            });
        }
        if self.runs.last().is_none_or(|run| run.term != entry.term) {
            self.runs.push(entry.id());
        }
        if entry.kind == EntryKind::Membership {
            self.memberships.push((entry.index, Membership::decode(&entry.data)?));
        }
        self.last = entry.id();
        Ok(())
    }
}

/// The hard state of one node: term, vote and identity.
pub trait MetaStore: Send + Sync + 'static {
    /// Saves the state atomically; durable on return. Law: `hard_state_is_durable_on_return`.
    fn save_hard_state(&self, state: &HardState) -> Result<(), Error>;

    /// The state saved last; `None` only if none was ever saved.
    ///
    /// # Errors
    /// A state that is there and cannot be read is an error, never `None`. Law: `unreadable_hard_state_is_an_error`.
    fn load_hard_state(&self) -> Result<Option<HardState>, Error>;

    /// Makes everything saved durable; nothing to do where saving already is.
    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
}
