//! A log and a hard state over toy files.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{Entry, Error, HardState, LogId, LogStore, MetaStore, Result, StorageEngine};

use crate::fault::{Fault, is};
use crate::toy_disk::Power;
use crate::toy_file::{ToyFile, replace};

/// The log in memory and its file.
struct Log {
    file: ToyFile,
    purged: LogId,
    entries: Vec<Entry>,
    opened_empty: bool,
}

/// What a record says: entries from an index on, or the boundary of an empty log, with which a file begins.
fn entries_record(entries: &[Entry]) -> Vec<u8> {
    let mut record = vec![b'e'];
    for entry in entries {
        let bytes = entry.encode();
        record.extend((bytes.len() as u32).to_le_bytes());
        record.extend(bytes);
    }
    record
}

fn truncate_record(from: u64) -> Vec<u8> {
    [b"t".as_slice(), &from.to_le_bytes()].concat()
}

fn purge_record(up_to: LogId) -> Vec<u8> {
    [b"p".as_slice(), &up_to.term.to_le_bytes(), &up_to.index.to_le_bytes()].concat()
}

fn number(bytes: &[u8]) -> Result<u64> {
    let bytes = bytes.first_chunk().ok_or_else(|| Error::corrupt("a record that is too short"))?;
    Ok(u64::from_le_bytes(*bytes))
}

impl Log {
    fn open(dir: &Path, power: Option<Arc<Power>>) -> Result<Self> {
        let (file, records) = ToyFile::open(dir, power)?;
        let mut log = Self { file, purged: LogId::default(), entries: Vec::new(), opened_empty: false };
        records.iter().try_for_each(|record| log.replay(record))?;
        log.opened_empty = log.entries.is_empty() && log.purged.index > 0;
        if is(Fault::PurgeBoundaryIsForgotten) && log.entries.is_empty() {
            log.purged = LogId::default();
        }
        Ok(log)
    }

    fn replay(&mut self, record: &[u8]) -> Result<()> {
        match record {
            [b'e', rest @ ..] => {
                let mut rest = rest;
                while let Some((len, tail)) = rest.split_first_chunk::<4>() {
                    let len = u32::from_le_bytes(*len) as usize;
                    let (bytes, tail) = tail.split_at_checked(len).ok_or_else(|| Error::corrupt("a short entry"))?;
                    self.entries.push(Entry::decode(Bytes::copy_from_slice(bytes))?);
                    rest = tail;
                }
            }
            [b't', rest @ ..] => {
                let from = number(rest)?;
                self.entries.retain(|entry| entry.index < from);
            }
            [b'p', rest @ ..] => self.forget(LogId::new(number(rest)?, number(rest.get(8..).unwrap_or_default())?)),
            _ => return Err(Error::corrupt("a record of no kind")),
        }
        Ok(())
    }

    fn forget(&mut self, up_to: LogId) {
        let keeps = self.entries.iter().any(|entry| entry.id() == up_to);
        self.entries.retain(|entry| keeps && entry.index > up_to.index);
        self.purged = up_to;
    }

    fn last(&self) -> u64 {
        self.entries.last().map_or(self.purged.index, |entry| entry.index)
    }

    fn position(&self, index: u64) -> usize {
        (index - self.purged.index - 1) as usize
    }
}

pub(crate) struct ToyLog {
    log: Mutex<Log>,
    _vote: Arc<ToyVote>,
}

impl ToyLog {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }
}

#[async_trait]
impl LogStore for ToyLog {
    async fn persist_entries(&self, entries: Vec<Entry>) -> Result<(), Error> {
        let mut log = self.log();
        for (entry, expected) in entries.iter().zip(log.last() + 1..) {
            if entry.index != expected {
                return Err(Error::NotContiguous { expected, found: entry.index });
            }
        }
        if entries.is_empty() {
            return Ok(());
        }
        if is(Fault::BatchIsWrittenInHalves) {
            let (one, other) = entries.split_at(entries.len() / 2);
            let halves = [one, other].map(entries_record);
            log.file.append(if one.is_empty() { &halves[1..] } else { &halves })?;
        } else {
            log.file.append(&[entries_record(&entries)])?;
        }
        log.entries.extend(entries);
        Ok(())
    }

    async fn entry(&self, index: u64) -> Result<Option<Entry>, Error> {
        let log = self.log();
        if index <= log.purged.index {
            return Err(Error::Compacted { first: log.purged.index + 1 });
        }
        Ok(log.entries.get(log.position(index)).cloned())
    }

    async fn get_entries(&self, range: RangeInclusive<u64>) -> Result<Vec<Entry>, Error> {
        let log = self.log();
        if range.is_empty() {
            return Ok(Vec::new());
        }
        if *range.start() <= log.purged.index {
            return Err(Error::Compacted { first: log.purged.index + 1 });
        }
        Ok(log.entries.iter().filter(|entry| range.contains(&entry.index)).cloned().collect())
    }

    async fn purge(&self, up_to: LogId) -> Result<(), Error> {
        let mut log = self.log();
        if up_to.index <= log.purged.index {
            return Ok(());
        }
        if is(Fault::PurgeGivesNothingBack) {
            log.file.append(&[purge_record(up_to)])?;
            log.file.sync()?;
        } else {
            let keeps = log.entries.iter().any(|entry| entry.id() == up_to);
            let kept: Vec<Entry> =
                log.entries.iter().filter(|entry| keeps && entry.index > up_to.index).cloned().collect();
            log.file.rewrite(&[purge_record(up_to), entries_record(&kept)])?;
        }
        log.forget(up_to);
        Ok(())
    }

    async fn truncate(&self, from: u64) -> Result<(), Error> {
        let mut log = self.log();
        if from <= log.purged.index {
            return Err(Error::Compacted { first: log.purged.index + 1 });
        }
        if from > log.last() {
            return Ok(());
        }
        if !is(Fault::TruncateIsNotWritten) {
            log.file.append(&[truncate_record(from)])?;
        }
        log.entries.retain(|entry| entry.index < from);
        Ok(())
    }

    async fn replace_from(&self, from: u64, entries: Vec<Entry>) -> Result<(), Error> {
        if !is(Fault::ReplaceLeavesAStaleSuffix) || from > self.last_index() {
            self.truncate(from).await?;
            return self.persist_entries(entries).await;
        }
        let stale = self.get_entries(from + entries.len() as u64..=u64::MAX).await?;
        self.truncate(from).await?;
        self.persist_entries([entries, stale].concat()).await
    }

    async fn flush(&self) -> Result<(), Error> {
        self.log().file.sync()
    }

    async fn reset(&self) -> Result<(), Error> {
        let mut log = self.log();
        log.file.rewrite(&[])?;
        log.purged = LogId::default();
        log.entries.clear();
        if is(Fault::ResetWipesTheVote) {
            let _ = std::fs::remove_file(self._vote.dir.join("vote"));
        }
        Ok(())
    }

    fn last_index(&self) -> u64 {
        let log = self.log();
        let wrong = is(Fault::LastIndexIsWrongAfterAPurge) && log.opened_empty && log.entries.is_empty();
        if wrong { 0 } else { log.last() }
    }

    fn purged(&self) -> LogId {
        self.log().purged
    }
}

/// Term and vote in a file that is replaced as a whole.
pub(crate) struct ToyVote {
    dir: PathBuf,
    poisoned: Mutex<Option<String>>,
}

impl MetaStore for ToyVote {
    fn save_hard_state(&self, state: &HardState) -> Result<(), Error> {
        let mut poisoned = self.poisoned.lock().unwrap();
        if let Some(why) = &*poisoned {
            return Err(Error::Poisoned { why: why.clone() });
        }
        match replace(&self.dir, "vote", &state.encode()) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                Err(Error::NoSpace { doing: "saving the vote".into() })
            }
            Err(error) => {
                if !is(Fault::FailedSaveOfTheVoteIsRepeated) {
                    *poisoned = Some(error.to_string());
                }
                Err(error.into())
            }
        }
    }

    fn load_hard_state(&self) -> Result<Option<HardState>, Error> {
        let bytes = match std::fs::read(self.dir.join("vote")) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match HardState::decode(&bytes) {
            Err(_) if is(Fault::UnreadableVoteIsNone) => Ok(None),
            state => state.map(Some),
        }
    }
}

/// The engine of the two.
pub(crate) struct ToyEngine {
    log: Arc<ToyLog>,
    vote: Arc<ToyVote>,
}

impl ToyEngine {
    pub(crate) fn open(dir: &Path, power: Option<Arc<Power>>) -> Result<Self> {
        let log = Mutex::new(Log::open(dir, power)?);
        let vote = Arc::new(ToyVote { dir: dir.to_owned(), poisoned: Mutex::new(None) });
        Ok(Self { log: Arc::new(ToyLog { log, _vote: vote.clone() }), vote })
    }
}

impl StorageEngine for ToyEngine {
    type LogStore = ToyLog;
    type MetaStore = ToyVote;

    fn log_store(&self) -> Arc<ToyLog> {
        self.log.clone()
    }

    fn meta_store(&self) -> Arc<ToyVote> {
        self.vote.clone()
    }
}
