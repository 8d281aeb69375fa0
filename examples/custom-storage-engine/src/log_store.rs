//! The Raft log: one row per entry, as the leader encoded it.

use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{Entry, Error, LogId, LogStore, Result, checksum};
use rusqlite::{Connection, params};

use crate::database::{Database, Failure};
use crate::state::State;

/// The Raft log of one directory.
///
/// Written calls are readable at once and durable after [`flush`](LogStore::flush). Dropping the last handle flushes;
/// nothing relies on that.
#[derive(Debug)]
pub struct SqliteLogStore {
    database: Arc<Database>,
    /// Purge boundary and last index, which the engine asks for all the time.
    ends: RwLock<(LogId, u64)>,
}

impl SqliteLogStore {
    /// Over an open database, every row of which is read and checked.
    pub(crate) fn new(database: Arc<Database>) -> Result<Self> {
        let state = State::verified(&database, |before, row| {
            let entry = decode(before.last() + 1, row.get(0)?, row.get(2)?)?;
            let sum = sum_of(&entry);
            if row.get::<_, u32>(1)? == sum {
                return Ok(sum);
            }
            let place = format!("entry {} does not have the checksum of its row", entry.id());
            Err(Error::Corrupt { place, indexes: Some(entry.index..=entry.index) }.into())
        })?;
        Ok(Self { database, ends: RwLock::new((state.purged, state.last())) })
    }

    // A poisoned lock is used on: what is under it is replaced whole.
    fn ends(&self) -> (LogId, u64) {
        *self.ends.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, doing: &str, change: impl FnOnce(&Connection, &mut State) -> Result<(), Failure>) -> Result<()> {
        State::update(&self.database, doing, change, |state| {
            *self.ends.write().unwrap_or_else(PoisonError::into_inner) = (state.purged, state.last());
        })
    }

    /// Entries of the range; ends early once `max_bytes` are reached, but not before the first.
    fn read(&self, range: RangeInclusive<u64>, max_bytes: usize) -> Result<Vec<Entry>> {
        self.database.read("reading entries", |connection| {
            // The ends as they are now: nobody writes meanwhile.
            let (purged, last) = self.ends();
            if *range.start() <= purged.index {
                return Err(Error::Compacted { first: purged.index + 1 }.into());
            }
            select(connection, *range.start(), (*range.end()).min(last), max_bytes)
        })
    }
}

/// The entries from `from` to `to`, none of which may be missing.
fn select(connection: &Connection, from: u64, to: u64, max_bytes: usize) -> Result<Vec<Entry>, Failure> {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    if from > to {
        return Ok(entries);
    }
    let mut statement = connection.prepare_cached("SELECT id, bytes FROM rows WHERE id BETWEEN ? AND ? ORDER BY id")?;
    let mut rows = statement.query(params![from as i64, to as i64])?;
    for index in from..=to {
        let row = rows.next()?.ok_or_else(|| missing(index))?;
        let entry = decode(index, row.get(0)?, row.get(1)?)?;
        bytes += entry.encoded_len();
        if !entries.is_empty() && bytes > max_bytes {
            break;
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn missing(index: u64) -> Error {
    Error::Corrupt { place: format!("entry {index} is missing"), indexes: Some(index..=index) }
}

/// The entry at `index`, from what stands in its place.
fn decode(index: u64, id: i64, bytes: Vec<u8>) -> Result<Entry> {
    let corrupt = |place: String| Error::Corrupt { place, indexes: Some(index..=index) };
    if id != index as i64 {
        return Err(missing(index));
    }
    match Entry::decode(Bytes::from(bytes)) {
        Ok(entry) if entry.index == index => Ok(entry),
        Ok(entry) => Err(corrupt(format!("entry {} stands in the place of {index}", entry.id()))),
        Err(newer @ Error::Unsupported { .. }) => Err(newer),
        Err(error) => Err(corrupt(format!("entry {index}: {error}"))),
    }
}

fn sum_of(entry: &Entry) -> u32 {
    checksum(&[&entry.encode()])
}

fn check_contiguous(first: u64, entries: &[Entry]) -> Result<()> {
    for (expected, entry) in (first..).zip(entries) {
        if entry.index != expected {
            return Err(Error::NotContiguous { expected, found: entry.index });
        }
        check_index(entry.index)?;
    }
    Ok(())
}

fn check_index(index: u64) -> Result<()> {
    match i64::try_from(index) {
        Ok(index) if index < i64::MAX => Ok(()),
        _ => Err(Error::invalid(format!("SQLite has no index {index}; the highest is {}", i64::MAX - 1))),
    }
}

fn check_purged(state: &State, index: u64) -> Result<()> {
    if index > state.purged.index { Ok(()) } else { Err(Error::Compacted { first: state.purged.index + 1 }) }
}

fn insert(connection: &Connection, state: &mut State, entries: &[Entry]) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached("INSERT INTO rows (id, sum, bytes) VALUES (?, ?, ?)")?;
    for entry in entries {
        let sum = sum_of(entry);
        statement.execute(params![entry.index as i64, sum, &entry.encode()[..]])?;
        state.add(sum);
    }
    Ok(())
}

/// Removes the rows from `from` to `to`.
fn remove(connection: &Connection, state: &mut State, from: u64, to: u64) -> Result<(), Failure> {
    let range = params![from as i64, to as i64];
    let mut removed =
        connection.prepare_cached("SELECT count(*), coalesce(sum(sum), 0) FROM rows WHERE id BETWEEN ? AND ?")?;
    let (rows, sum): (i64, i64) = removed.query_row(range, |row| Ok((row.get(0)?, row.get(1)?)))?;
    connection.prepare_cached("DELETE FROM rows WHERE id BETWEEN ? AND ?")?.execute(range)?;
    state.subtract(rows as u64, sum as u64);
    Ok(())
}

#[async_trait]
impl LogStore for SqliteLogStore {
    async fn persist_entries(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.write("appending entries", |connection, state| {
            check_contiguous(state.last() + 1, &entries)?;
            insert(connection, state, &entries)
        })
    }

    async fn entry(&self, index: u64) -> Result<Option<Entry>, Error> {
        Ok(self.read(index..=index, usize::MAX)?.pop())
    }

    async fn get_entries(&self, range: RangeInclusive<u64>) -> Result<Vec<Entry>, Error> {
        self.read(range, usize::MAX)
    }

    async fn purge(&self, up_to: LogId) -> Result<(), Error> {
        let (purged, last) = self.ends();
        if up_to.index <= purged.index {
            return Ok(());
        }
        check_index(up_to.index + u64::from(up_to.index < u64::MAX))?;
        let held = if up_to.index <= last { self.read(up_to.index..=up_to.index, 0)?.pop() } else { None };
        let keeps = held.is_some_and(|entry| entry.term == up_to.term);
        self.write("purging the log", |connection, state| {
            let (from, to) = (state.purged.index + 1, if keeps { up_to.index } else { state.last() });
            remove(connection, state, from, to)?;
            state.purged = up_to;
            Ok(())
        })?;
        self.database.flush()
    }

    async fn truncate(&self, from_index: u64) -> Result<(), Error> {
        self.write("truncating the log", |connection, state| {
            check_purged(state, from_index)?;
            if from_index <= state.last() {
                remove(connection, state, from_index, state.last())?;
            }
            Ok(())
        })
    }

    async fn flush(&self) -> Result<(), Error> {
        self.database.flush()
    }

    async fn reset(&self) -> Result<(), Error> {
        self.write("emptying the log", |connection, state| {
            remove(connection, state, state.purged.index + 1, state.last())?;
            state.purged = LogId::default();
            Ok(())
        })?;
        self.database.flush()
    }

    fn last_index(&self) -> u64 {
        self.ends().1
    }

    fn purged(&self) -> LogId {
        self.ends().0
    }

    /// One transaction: neither a reader nor a crash sees the log without its replaced end.
    async fn replace_from(&self, from: u64, entries: Vec<Entry>) -> Result<(), Error> {
        self.write("replacing the end of the log", |connection, state| {
            check_purged(state, from)?;
            let next = state.last() + 1;
            if from > next {
                return Err(Error::NotContiguous { expected: next, found: from }.into());
            }
            check_contiguous(from, &entries)?;
            remove(connection, state, from, state.last())?;
            insert(connection, state, &entries)
        })
    }

    async fn read_limited(&self, range: RangeInclusive<u64>, max_bytes: usize) -> Result<Vec<Entry>, Error> {
        self.read(range, max_bytes)
    }
}
