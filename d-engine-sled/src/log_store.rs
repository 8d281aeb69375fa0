//! The Raft log in one sled tree.
//!
//! ```text
//! 0                        the state: checksum u32, version u8, epoch u64, purged term u64, purged index u64
//! 1 | epoch | index        an entry, as encoded; both numbers in big-endian order
//! ```
//!
//! A call is one batch of the tree, hence one step for a crash. What would need many removals in one step changes the
//! state instead: entries at or below the boundary and entries of an older epoch do not exist any more, and are removed
//! afterwards, or when the log is opened.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{Entry, Error, LogId, LogStore, Reader, Result, checksum};
use sled::{Batch, IVec, Tree};

use crate::database::Database;

const STATE: [u8; 1] = [0];
const ENTRY: u8 = 1;
const STATE_VERSION: u8 = 1;

/// Entries that are removed in one step.
const REMOVED_AT_ONCE: usize = 1024;

/// The Raft log of one data directory.
///
/// Written calls are readable at once and durable after [`flush`](LogStore::flush). Dropping the last handle flushes and
/// waits until sled has closed its files; nothing relies on that.
pub struct SledLogStore {
    // Before the database: its last handle closes sled.
    log: Tree,
    /// Held by whoever writes, also while he syncs.
    writer: Mutex<()>,
    /// Held exclusively while a batch is applied, so that reads of several entries see whole batches.
    state: RwLock<State>,
    database: Arc<Database>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct State {
    /// Counts how often the whole log was dropped.
    epoch: u64,
    purged: LogId,
    last: u64,
}

impl State {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 4];
        out.push(STATE_VERSION);
        for number in [self.epoch, self.purged.term, self.purged.index] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let sum = checksum(&[&out[4..]]);
        out[..4].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Without the last index, which the entries tell.
    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes, "state of the log");
        let sum = reader.u32()?;
        let found = checksum(&[reader.rest()]);
        if sum != found {
            return Err(Error::corrupt(format!("state of the log: checksum {found:08x}, expected {sum:08x}")));
        }
        let version = reader.u8()?;
        if version != STATE_VERSION {
            return Err(Error::unsupported(format!(
                "state of the log of version {version}; this build reads version {STATE_VERSION}"
            )));
        }
        let (epoch, term, index) = (reader.u64()?, reader.u64()?, reader.u64()?);
        reader.finish()?;
        Ok(Self { epoch, purged: LogId::new(term, index), last: index })
    }

    fn key(&self, index: u64) -> [u8; 17] {
        let mut key = [ENTRY; 17];
        key[1..9].copy_from_slice(&self.epoch.to_be_bytes());
        key[9..].copy_from_slice(&index.to_be_bytes());
        key
    }

    /// An error if `index` was purged.
    fn check(&self, index: u64) -> Result<()> {
        if index <= self.purged.index { Err(Error::Compacted { first: self.purged.index + 1 }) } else { Ok(()) }
    }
}

impl fmt::Debug for SledLogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledLogStore")
            .field("state", &*self.state())
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

impl SledLogStore {
    pub(crate) fn new(database: Arc<Database>) -> Result<Self> {
        let log = database.tree("log")?;
        let state = open_state(&log, &database)?;
        let store = Self { log, writer: Mutex::new(()), state: RwLock::new(state), database };
        store.sweep(&state)?;
        Ok(store)
    }

    fn lock_writer(&self) -> Result<MutexGuard<'_, ()>> {
        let writer =
            self.writer.lock().map_err(|_| Error::Poisoned { why: "a write to the log ended in a panic".into() })?;
        self.database.check()?;
        Ok(writer)
    }

    // A poisoned lock is used on: the state under it is replaced whole.
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies one batch, after which the log is as `next` says.
    fn apply(&self, doing: &str, batch: Batch, next: State) -> Result<()> {
        let mut state = self.state_mut();
        self.database.written(doing, self.log.apply_batch(batch))?;
        *state = next;
        Ok(())
    }

    /// Replaces what is there from `from` on; the caller has checked that `from` continues the log.
    fn replace(&self, state: State, from: u64, entries: &[Entry]) -> Result<()> {
        let mut batch = Batch::default();
        for index in from..=state.last {
            batch.remove(&state.key(index));
        }
        for entry in entries {
            batch.insert(&state.key(entry.index), &entry.encode()[..]);
        }
        let last = entries.last().map_or(from - 1, |entry| entry.index);
        self.apply("writing entries", batch, State { last, ..state })
    }

    /// Changes the state durably, and then removes what it does not count any more.
    fn restate(&self, next: State) -> Result<()> {
        let mut batch = Batch::default();
        batch.insert(&STATE, next.encode());
        self.apply("moving the beginning of the log", batch, next)?;
        self.database.flush()?;
        self.sweep(&next)
    }

    /// Removes the entries before the log's beginning.
    fn sweep(&self, state: &State) -> Result<()> {
        let begin = state.key(state.purged.index + 1);
        loop {
            let mut batch = Batch::default();
            let mut count = 0;
            for item in self.log.range(&[ENTRY][..]..&begin[..]).take(REMOVED_AT_ONCE) {
                batch.remove(item.map_err(|error| self.database.error("looking for purged entries", error))?.0);
                count += 1;
            }
            if count == 0 {
                return Ok(());
            }
            self.database.written("removing purged entries", self.log.apply_batch(batch))?;
        }
    }

    /// Entries of the range; ends early once `max_bytes` are reached, but not before the first.
    fn read(&self, range: RangeInclusive<u64>, max_bytes: usize) -> Result<Vec<Entry>> {
        let state = self.state();
        state.check(*range.start())?;
        let (from, to) = (*range.start(), (*range.end()).min(state.last));
        if from > to {
            return Ok(Vec::new());
        }
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut found = self.log.range(state.key(from)..=state.key(to));
        for index in from..=to {
            let entry = self.decode(&state, index, found.next())?;
            bytes += entry.encoded_len();
            if !entries.is_empty() && bytes > max_bytes {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The entry at `index`, from what stands in its place.
    fn decode(&self, state: &State, index: u64, found: Option<sled::Result<(IVec, IVec)>>) -> Result<Entry> {
        let corrupt = |what: String| Error::Corrupt { place: self.database.place(&what), indexes: Some(index..=index) };
        let found = found.transpose().map_err(|error| self.database.error("reading entries", error))?;
        let bytes = match found {
            Some((key, bytes)) if key == state.key(index) => bytes,
            _ => return Err(corrupt(format!("entry {index} is missing"))),
        };
        let entry = Entry::decode(Bytes::copy_from_slice(&bytes)).map_err(|error| corrupt(error.to_string()))?;
        if entry.index != index {
            return Err(corrupt(format!("entry {} stands in the place of {index}", entry.id())));
        }
        Ok(entry)
    }
}

/// The state as stored, with the last index.
fn open_state(log: &Tree, database: &Database) -> Result<State> {
    let reading = |error| database.error("reading the state of the log", error);
    let stored = log.get(STATE).map_err(reading)?;
    let mut state = stored.map(|bytes| State::decode(&bytes)).transpose()?.unwrap_or_default();
    let mut live = log.range(state.key(state.purged.index + 1)..=state.key(u64::MAX));
    let Some(first) = live.next().transpose().map_err(reading)? else { return Ok(state) };
    if first.0 != state.key(state.purged.index + 1) {
        let place = database.place("the first entry of the log is missing");
        return Err(Error::Corrupt { place, indexes: Some(state.purged.index + 1..=state.purged.index + 1) });
    }
    let last = live.next_back().transpose().map_err(reading)?.unwrap_or(first).0;
    let mut index = [0; 8];
    index.copy_from_slice(&last[9..]);
    state.last = u64::from_be_bytes(index);
    Ok(state)
}

fn check_contiguous(first: u64, entries: &[Entry]) -> Result<()> {
    for (expected, entry) in (first..).zip(entries) {
        if entry.index != expected {
            return Err(Error::NotContiguous { expected, found: entry.index });
        }
    }
    Ok(())
}

#[async_trait]
impl LogStore for SledLogStore {
    async fn persist_entries(&self, entries: Vec<Entry>) -> Result<(), Error> {
        let _writer = self.lock_writer()?;
        let state = *self.state();
        check_contiguous(state.last + 1, &entries)?;
        self.replace(state, state.last + 1, &entries)
    }

    async fn entry(&self, index: u64) -> Result<Option<Entry>, Error> {
        Ok(self.read(index..=index, usize::MAX)?.pop())
    }

    async fn get_entries(&self, range: RangeInclusive<u64>) -> Result<Vec<Entry>, Error> {
        self.read(range, usize::MAX)
    }

    async fn purge(&self, up_to: LogId) -> Result<(), Error> {
        let _writer = self.lock_writer()?;
        let state = *self.state();
        if up_to.index <= state.purged.index {
            return Ok(());
        }
        if up_to.index == u64::MAX {
            return Err(Error::invalid("the log cannot begin after the highest index"));
        }
        let held = self.read(up_to.index..=up_to.index, usize::MAX)?.pop();
        if held.is_some_and(|entry| entry.term == up_to.term) {
            return self.restate(State { purged: up_to, ..state });
        }
        self.restate(State { epoch: state.epoch + 1, purged: up_to, last: up_to.index })
    }

    async fn truncate(&self, from_index: u64) -> Result<(), Error> {
        let _writer = self.lock_writer()?;
        let state = *self.state();
        state.check(from_index)?;
        if from_index > state.last {
            return Ok(());
        }
        self.replace(state, from_index, &[])
    }

    async fn flush(&self) -> Result<(), Error> {
        self.database.flush()
    }

    async fn reset(&self) -> Result<(), Error> {
        let _writer = self.lock_writer()?;
        let epoch = self.state().epoch + 1;
        self.restate(State { epoch, ..State::default() })
    }

    fn last_index(&self) -> u64 {
        self.state().last
    }

    fn purged(&self) -> LogId {
        self.state().purged
    }

    /// One batch, hence one step: neither a reader nor a crash sees the log without its replaced end.
    async fn replace_from(&self, from: u64, entries: Vec<Entry>) -> Result<(), Error> {
        let _writer = self.lock_writer()?;
        let state = *self.state();
        state.check(from)?;
        if from > state.last + 1 {
            return Err(Error::NotContiguous { expected: state.last + 1, found: from });
        }
        check_contiguous(from, &entries)?;
        self.replace(state, from, &entries)
    }

    async fn read_limited(&self, range: RangeInclusive<u64>, max_bytes: usize) -> Result<Vec<Entry>, Error> {
        self.read(range, max_bytes)
    }
}
