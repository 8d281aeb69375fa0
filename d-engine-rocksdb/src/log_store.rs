//! The Raft log in a column family of its own: an entry, as encoded, under its index in big-endian order.
//!
//! A call is one batch, hence one step for a crash. What removes many entries is one range deletion, and reads never look
//! at what lies below the beginning of the log. Where that is stands in the column family of small records:
//!
//! ```text
//! log_state    checksum u32, version u8, purged term u64, purged index u64
//! ```

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{Entry, Error, LogId, LogStore, Reader, Result, checksum};
use rocksdb::{DBRawIterator, Snapshot, WriteBatch};

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
    /// Held for a moment only, never during a read or a write.
    state: RwLock<State>,
    /// Held exclusively while entries go and the state changes with them, and shared while a view is taken: so a view
    /// sees such a batch whole. What is only added needs no lock, for a view ends where the state says.
    removing: RwLock<()>,
    /// How often the beginning of the log has been moved. After that whole files go, which views do not keep.
    moves: AtomicU64,
    database: Arc<LogDatabase>,
}

/// The log between two calls.
struct View<'a> {
    state: State,
    entries: Snapshot<'a>,
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
        Ok(Self { state: RwLock::new(state), removing: RwLock::new(()), moves: AtomicU64::new(0), database })
    }

    // A poisoned lock is used on: the state under it is replaced whole.
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_state(&self, next: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// Never waits for a read, nor for a write that adds entries.
    fn view(&self) -> View<'_> {
        let _removing = self.removing.read().unwrap_or_else(PoisonError::into_inner);
        // The state first: the snapshot may have more, but not less.
        let state = *self.state();
        View { state, entries: self.database.db().snapshot() }
    }

    /// Applies one batch, after which the log is as `next` says.
    fn apply(&self, writer: &mut Writer<'_>, doing: &str, batch: WriteBatch, next: State) -> Result<()> {
        let _removing = self.removing.write().unwrap_or_else(PoisonError::into_inner);
        writer.write(doing, batch)?;
        self.set_state(next);
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
        let next = State { last, ..state };
        if from <= state.last {
            return self.apply(&mut writer, doing, batch, next);
        }
        writer.write(doing, batch)?;
        self.set_state(next);
        Ok(())
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
        // Before files go: a read that may have missed them begins again.
        self.moves.fetch_add(1, Ordering::SeqCst);
        writer.sync()?;
        if gone.is_empty() {
            return Ok(());
        }
        let dropped = self.database.db().delete_file_in_range_cf(entries, key(*gone.start()), key(*gone.end()));
        self.database.failures().written("dropping the files of purged entries", dropped)?;
        writer.rotate_if_large()
    }

    /// Entries of the range; ends early once `max_bytes` are reached, but not before the first.
    fn read(&self, range: RangeInclusive<u64>, max_bytes: usize) -> Result<Vec<Entry>> {
        self.undisturbed(|view| self.read_view(view, &range, max_bytes))
    }

    /// What `look` finds in a view from which no files have gone meanwhile.
    fn undisturbed<T>(&self, look: impl Fn(&View<'_>) -> Result<T>) -> Result<T> {
        loop {
            let moves = self.moves.load(Ordering::SeqCst);
            let found = look(&self.view());
            if self.moves.load(Ordering::SeqCst) == moves {
                return found;
            }
        }
    }

    fn read_view(&self, view: &View<'_>, range: &RangeInclusive<u64>, max_bytes: usize) -> Result<Vec<Entry>> {
        view.state.check(*range.start())?;
        let (from, to) = (*range.start(), (*range.end()).min(view.state.last));
        if from > to {
            return Ok(Vec::new());
        }
        if from == to {
            let found = view.entries.get_pinned_cf(self.database.entries()?, key(from));
            let found =
                self.database.failures().read("reading an entry", found).map_err(|e| name_entries(e, from, to))?;
            return Ok(vec![self.decode(from, found.as_deref())?]);
        }
        self.read_several(view, from, to, max_bytes)
    }

    fn read_several(&self, view: &View<'_>, from: u64, to: u64, max_bytes: usize) -> Result<Vec<Entry>> {
        let options = bounded(Some(key(from).to_vec()), Some(after(to)));
        let mut found = view.entries.raw_iterator_cf_opt(self.database.entries()?, options);
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
        self.database.flush()
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::AtomicBool;

    use d_engine_core::{EntryKind, StorageEngine};

    use super::*;
    use crate::RocksStorageEngine;

    fn entries(range: RangeInclusive<u64>, term: u64) -> Vec<Entry> {
        range.map(|index| Entry::new(index, term, EntryKind::Command, vec![term as u8; 100])).collect()
    }

    fn terms(read: &[Entry]) -> Vec<u64> {
        read.iter().map(|entry| entry.term).collect()
    }

    #[tokio::test]
    async fn a_read_under_way_holds_up_no_write_and_sees_the_log_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let log = RocksStorageEngine::open(dir.path()).unwrap().log_store();
        log.persist_entries(entries(1..=9, 1)).await.unwrap();
        let before = log.view();
        log.persist_entries(entries(10..=12, 1)).await.unwrap();
        log.replace_from(5, entries(5..=6, 2)).await.unwrap();
        log.truncate(6).await.unwrap();
        log.flush().await.unwrap();
        let read = log.read_view(&before, &(1..=99), usize::MAX).unwrap();
        assert_eq!(terms(&read), [1; 9]);
        assert_eq!(terms(&log.get_entries(1..=99).await.unwrap()), [1, 1, 1, 1, 2]);
        // These let files go, which a view does not keep: such a read begins again.
        log.purge(LogId::new(1, 3)).await.unwrap();
        log.reset().await.unwrap();
        drop(before);
        assert_eq!(log.last_index(), 0);
    }

    #[tokio::test]
    async fn a_write_under_way_holds_up_no_read_and_is_not_seen_in_part() {
        let dir = tempfile::tempdir().unwrap();
        let log = RocksStorageEngine::open(dir.path()).unwrap().log_store();
        log.persist_entries(entries(1..=3, 1)).await.unwrap();
        // An append between its write and its end.
        let mut writer = log.database.writer().unwrap();
        let mut batch = writer.batch();
        for entry in entries(4..=6, 1) {
            batch.put_cf(log.database.entries().unwrap(), key(entry.index), entry.encode());
        }
        writer.write("writing entries", batch).unwrap();
        assert_eq!((log.last_index(), log.purged()), (3, LogId::default()));
        assert_eq!(log.get_entries(1..=99).await.unwrap().len(), 3);
        assert_eq!(log.entry(4).await.unwrap(), None);
    }

    #[test]
    fn a_read_under_way_while_the_beginning_moves_begins_again() {
        let dir = tempfile::tempdir().unwrap();
        let log = RocksStorageEngine::open(dir.path()).unwrap().log_store();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(log.persist_entries(entries(1..=9, 1))).unwrap();
        let begun = Cell::new(0);
        let read = log.undisturbed(|view| {
            begun.set(begun.get() + 1);
            if begun.get() == 1 {
                runtime.block_on(log.purge(LogId::new(1, 5)))?;
            }
            log.read_view(view, &(3..=9), usize::MAX)
        });
        assert!(matches!(read, Err(Error::Compacted { first: 6 })), "{read:?}");
        assert_eq!(begun.get(), 2);
    }

    #[test]
    fn readers_beside_appends_replacements_purges_and_resets_see_the_log_between_two_calls() {
        let dir = tempfile::tempdir().unwrap();
        let log = RocksStorageEngine::open(dir.path()).unwrap().log_store();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::SeqCst) {
                        let from = log.purged().index + 1;
                        match log.read(from..=u64::MAX - 1, usize::MAX) {
                            // Ten at a time, each time of one term.
                            Ok(read) => {
                                let tens: Vec<_> = read.chunk_by(|a, b| a.term == b.term).map(<[_]>::len).collect();
                                assert!(tens.iter().all(|len| len % 10 == 0), "{tens:?} entries of a term");
                            }
                            Err(Error::Compacted { .. }) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                });
            }
            runtime.block_on(async {
                for round in 0..300 {
                    let (term, last) = (round + 1, log.last_index());
                    match round % 6 {
                        0..=2 => log.persist_entries(entries(last + 1..=last + 10, term)).await.unwrap(),
                        3 | 4 => log.replace_from(last - 9, entries(last - 9..=last + 10, term)).await.unwrap(),
                        _ if round % 5 == 0 => log.reset().await.unwrap(),
                        _ => {
                            let up_to = log.purged().index + 10;
                            let id = log.entry(up_to).await.unwrap().unwrap().id();
                            log.purge(id).await.unwrap();
                        }
                    }
                }
            });
            done.store(true, Ordering::SeqCst);
        });
    }
}
