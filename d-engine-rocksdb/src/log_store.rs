//! The Raft log in a column family of its own: an entry, as encoded, under its index in big-endian order.
//!
//! A call is one batch, hence one step for a crash. What removes many entries is one range deletion, and reads never look
//! at what lies below the beginning of the log. Where that is stands in the column family of small records:
//!
//! ```text
//! log_state    checksum u32, version u8, purged term u64, purged index u64
//! ```

use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{Entry, Error, LogId, LogStore, Reader, Result, checksum};
use rocksdb::{DBRawIterator, WriteBatch};

use crate::log_database::{LogDatabase, Writer};
use crate::options::bounded;

const STATE: &str = "log_state";
const STATE_VERSION: u8 = 1;

/// The Raft log of one data directory.
///
/// Written calls are readable at once and durable after [`flush`](LogStore::flush); `purge` and `reset` are durable on
/// return. Dropping the last handle writes everything to files; nothing relies on that.
#[derive(Debug)]
pub struct RocksLogStore {
    /// Held exclusively while a batch is applied, so that reads of several entries see whole batches.
    state: RwLock<State>,
    database: Arc<LogDatabase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct State {
    purged: LogId,
    last: u64,
}

impl State {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 4];
        out.push(STATE_VERSION);
        for number in [self.purged.term, self.purged.index] {
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
        let (term, index) = (reader.u64()?, reader.u64()?);
        reader.finish()?;
        Ok(Self { purged: LogId::new(term, index), last: index })
    }

    /// An error if `index` was purged.
    fn check(&self, index: u64) -> Result<()> {
        if index <= self.purged.index { Err(Error::Compacted { first: self.purged.index + 1 }) } else { Ok(()) }
    }
}

/// The place of an entry.
fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

/// The first place after that of an entry.
fn after(index: u64) -> Vec<u8> {
    index.checked_add(1).map_or([key(index).as_slice(), &[0]].concat(), |next| key(next).to_vec())
}

impl RocksLogStore {
    pub(crate) fn new(database: Arc<LogDatabase>) -> Result<Self> {
        let state = open_state(&database)?;
        Ok(Self { state: RwLock::new(state), database })
    }

    // A poisoned lock is used on: the state under it is replaced whole.
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies one batch, after which the log is as `next` says.
    fn apply(&self, writer: &mut Writer<'_>, doing: &str, batch: WriteBatch, next: State) -> Result<()> {
        let mut state = self.state_mut();
        writer.write(doing, batch)?;
        *state = next;
        Ok(())
    }

    /// Replaces what is there from `from` on; the caller has checked that `from` continues the log.
    fn replace(&self, mut writer: Writer<'_>, state: State, from: u64, entries: &[Entry]) -> Result<()> {
        let family = self.database.entries()?;
        let doing = "writing entries";
        let mut batch = writer.batch();
        if from <= state.last {
            batch.delete_range_cf(family, key(from).to_vec(), after(state.last));
        }
        for entry in entries {
            batch.put_cf(family, key(entry.index), entry.encode());
        }
        if !entries.is_empty() {
            writer.check_space(doing, batch.size_in_bytes())?;
        }
        let last = entries.last().map_or(from - 1, |entry| entry.index);
        self.apply(&mut writer, doing, batch, State { last, ..state })
    }

    /// Changes the beginning of the log durably, and removes the entries of `gone`.
    fn restate(&self, mut writer: Writer<'_>, next: State, gone: RangeInclusive<u64>) -> Result<()> {
        let (entries, meta) = (self.database.entries()?, self.database.meta()?);
        let mut batch = writer.batch();
        batch.put_cf(meta, STATE, next.encode());
        if !gone.is_empty() {
            batch.delete_range_cf(entries, key(*gone.start()).to_vec(), after(*gone.end()));
        }
        self.apply(&mut writer, "moving the beginning of the log", batch, next)?;
        self.database.sync()?;
        if gone.is_empty() {
            return Ok(());
        }
        let dropped = self.database.db().delete_file_in_range_cf(entries, key(*gone.start()), key(*gone.end()));
        self.database.failures().written("dropping the files of purged entries", dropped)?;
        writer.rotate_if_large()
    }

    /// Entries of the range; ends early once `max_bytes` are reached, but not before the first.
    fn read(&self, range: RangeInclusive<u64>, max_bytes: usize) -> Result<Vec<Entry>> {
        let state = self.state();
        state.check(*range.start())?;
        let (from, to) = (*range.start(), (*range.end()).min(state.last));
        if from > to {
            return Ok(Vec::new());
        }
        if from == to {
            let found = self.database.db().get_pinned_cf(self.database.entries()?, key(from));
            let found =
                self.database.failures().read("reading an entry", found).map_err(|e| name_entries(e, from, to))?;
            return Ok(vec![self.decode(from, found.as_deref())?]);
        }
        self.read_several(from, to, max_bytes)
    }

    fn read_several(&self, from: u64, to: u64, max_bytes: usize) -> Result<Vec<Entry>> {
        let mut found = iterate(&self.database, from, to)?;
        found.seek_to_first();
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for index in from..=to {
            let here = found.item().filter(|(found, _)| *found == key(index)).map(|(_, bytes)| bytes);
            if here.is_none() {
                let read = self.database.failures().read("reading entries", found.status());
                read.map_err(|error| name_entries(error, index, to))?;
            }
            let entry = self.decode(index, here)?;
            if let Some(before) = entries.last().filter(|before| before.term > entry.term) {
                let place = format!("entry {} follows {}, of a later term", entry.id(), before.id());
                return Err(self.corrupt(index, &place));
            }
            bytes += entry.encoded_len();
            if !entries.is_empty() && bytes > max_bytes {
                break;
            }
            entries.push(entry);
            found.next();
        }
        Ok(entries)
    }

    /// The entry at `index`, from what stands in its place.
    fn decode(&self, index: u64, found: Option<&[u8]>) -> Result<Entry> {
        let bytes = found.ok_or_else(|| self.corrupt(index, &format!("entry {index} is missing")))?;
        let entry = Entry::decode(Bytes::copy_from_slice(bytes)).map_err(|e| self.corrupt(index, &e.to_string()))?;
        if entry.index != index {
            return Err(self.corrupt(index, &format!("entry {} stands in the place of {index}", entry.id())));
        }
        Ok(entry)
    }

    fn corrupt(&self, index: u64, what: &str) -> Error {
        Error::Corrupt { place: self.database.failures().damage(what), indexes: Some(index..=index) }
    }
}

/// What RocksDB found damaged while these entries were read.
fn name_entries(error: Error, from: u64, to: u64) -> Error {
    match error {
        Error::Corrupt { place, indexes: None } => Error::Corrupt { place, indexes: Some(from..=to) },
        other => other,
    }
}

/// An iterator over these entries that never looks at others.
fn iterate(database: &LogDatabase, from: u64, to: u64) -> Result<DBRawIterator<'_>> {
    let options = bounded(Some(key(from).to_vec()), Some(after(to)));
    Ok(database.db().raw_iterator_cf_opt(database.entries()?, options))
}

/// The state as stored, with the last index.
fn open_state(database: &LogDatabase) -> Result<State> {
    let stored = database.db().get_pinned_cf(database.meta()?, STATE);
    let stored = database.failures().read("reading the state of the log", stored)?;
    let mut state = stored.map(|bytes| State::decode(&bytes)).transpose()?.unwrap_or_default();
    let begin = state.purged.index + 1;
    let mut live = iterate(database, begin, u64::MAX)?;
    live.seek_to_first();
    let first = live.key().map(<[u8]>::to_vec);
    database.failures().read("looking for the first entry", live.status())?;
    let Some(first) = first else { return Ok(state) };
    if first != key(begin) {
        let place = database.failures().damage("the first entry of the log is missing");
        return Err(Error::Corrupt { place, indexes: Some(begin..=begin) });
    }
    live.seek_to_last();
    let last = live.key().and_then(|key| key.try_into().ok()).map(u64::from_be_bytes);
    database.failures().read("looking for the last entry", live.status())?;
    let missing = || Error::corrupt(database.failures().damage("the key of the last entry is not an index"));
    state.last = last.ok_or_else(missing)?;
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
impl LogStore for RocksLogStore {
    async fn persist_entries(&self, entries: Vec<Entry>) -> Result<(), Error> {
        let writer = self.database.writer()?;
        let state = *self.state();
        check_contiguous(state.last + 1, &entries)?;
        self.replace(writer, state, state.last + 1, &entries)
    }

    async fn entry(&self, index: u64) -> Result<Option<Entry>, Error> {
        Ok(self.read(index..=index, usize::MAX)?.pop())
    }

    async fn get_entries(&self, range: RangeInclusive<u64>) -> Result<Vec<Entry>, Error> {
        self.read(range, usize::MAX)
    }

    async fn purge(&self, up_to: LogId) -> Result<(), Error> {
        let writer = self.database.writer()?;
        let state = *self.state();
        if up_to.index <= state.purged.index {
            return Ok(());
        }
        if up_to.index == u64::MAX {
            return Err(Error::invalid("the log cannot begin after the highest index"));
        }
        let held = self.read(up_to.index..=up_to.index, usize::MAX)?.pop();
        let first = state.purged.index + 1;
        if held.is_some_and(|entry| entry.term == up_to.term) {
            return self.restate(writer, State { purged: up_to, ..state }, first..=up_to.index);
        }
        self.restate(writer, State { purged: up_to, last: up_to.index }, first..=state.last)
    }

    async fn truncate(&self, from_index: u64) -> Result<(), Error> {
        let writer = self.database.writer()?;
        let state = *self.state();
        state.check(from_index)?;
        if from_index > state.last {
            return Ok(());
        }
        self.replace(writer, state, from_index, &[])
    }

    async fn flush(&self) -> Result<(), Error> {
        self.database.sync()
    }

    async fn reset(&self) -> Result<(), Error> {
        let writer = self.database.writer()?;
        // All that there is: a file that hides purged entries may have been dropped before the file that has them.
        self.restate(writer, State::default(), 0..=u64::MAX)
    }

    fn last_index(&self) -> u64 {
        self.state().last
    }

    fn purged(&self) -> LogId {
        self.state().purged
    }

    /// One batch, hence one step: neither a reader nor a crash sees the log without its replaced end.
    async fn replace_from(&self, from: u64, entries: Vec<Entry>) -> Result<(), Error> {
        let writer = self.database.writer()?;
        let state = *self.state();
        state.check(from)?;
        if from > state.last + 1 {
            return Err(Error::NotContiguous { expected: state.last + 1, found: from });
        }
        check_contiguous(from, &entries)?;
        self.replace(writer, state, from, &entries)
    }

    async fn read_limited(&self, range: RangeInclusive<u64>, max_bytes: usize) -> Result<Vec<Entry>, Error> {
        self.read(range, max_bytes)
    }
}
