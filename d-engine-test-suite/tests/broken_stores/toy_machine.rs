//! A state machine over a toy key-value store: the built-in puts and compare-and-swaps, and nothing else.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::snapshot::{ChecksumWriter, SnapshotHeader, SnapshotReader, SnapshotWriter};
use d_engine_core::{
    Direction, Entry, Error, KeyRange, KvCommand, KvStore, LogId, Result, SnapshotChecksum, SnapshotMetadata,
    StateMachine, WriteBatch,
};

use crate::fault::{Fault, is};
use crate::toy_file::replace;
use crate::toy_kv::ToyKv;

/// Before every key of a user; the marker has a key of its own.
const DATA: u8 = b'd';
const MARKER: &[u8] = b"m";

pub(crate) struct ToyMachine {
    store: ToyKv,
    dir: PathBuf,
    last: Mutex<LogId>,
    runs: AtomicBool,
}

fn marker(last: LogId) -> Vec<u8> {
    [last.term.to_le_bytes(), last.index.to_le_bytes()].concat()
}

fn read_marker(bytes: Option<Bytes>) -> LogId {
    let number = |at: usize| {
        let bytes = bytes.as_deref().and_then(|bytes| bytes.get(at..)?.first_chunk());
        u64::from_le_bytes(bytes.copied().unwrap_or_default())
    };
    LogId::new(number(0), number(8))
}

fn data_key(key: &[u8]) -> Vec<u8> {
    [&[DATA], key].concat()
}

impl ToyMachine {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let store = ToyKv::open(dir)?;
        let mut stored = store.get(MARKER)?;
        if is(Fault::MarkerIsApartFromTheData) {
            stored = std::fs::read(dir.join("marker")).ok().map(Bytes::from);
        }
        let last = Mutex::new(read_marker(stored));
        Ok(Self { store, dir: dir.to_owned(), last, runs: AtomicBool::new(false) })
    }

    /// Sets the marker where the data is.
    fn mark(&self, batch: &mut WriteBatch, last: LogId) -> Result<()> {
        if !is(Fault::MarkerIsApartFromTheData) {
            batch.put(MARKER, marker(last));
        }
        Ok(())
    }

    fn data(&self) -> Result<Vec<(Bytes, Bytes)>> {
        self.store.scan(KeyRange::new(&[DATA], &[DATA + 1]), usize::MAX, Direction::Forward)
    }
}

#[async_trait]
impl StateMachine for ToyMachine {
    fn start(&self) -> Result<(), Error> {
        self.runs.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn stop(&self) -> Result<(), Error> {
        self.runs.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.runs.load(Ordering::Relaxed)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.store.get(&data_key(key))?.map(Vec::from))
    }

    async fn apply_chunk(&self, chunk: Vec<Entry>) -> Result<(), Error> {
        if !chunk.is_sorted_by(|one, next| one.index < next.index) {
            return Err(Error::invalid("indexes that do not increase"));
        }
        let mut last = self.last.lock().unwrap();
        let mut batch = WriteBatch::new();
        for entry in chunk.iter().filter(|entry| entry.index > last.index) {
            if let Ok(KvCommand::Put { key, value }) = KvCommand::decode(&entry.data) {
                batch.put(data_key(&key), value);
            }
        }
        let Some(newest) = chunk.last().filter(|newest| newest.index > last.index) else { return Ok(()) };
        self.mark(&mut batch, newest.id())?;
        self.store.write(batch)?;
        *last = newest.id();
        Ok(())
    }

    fn len(&self) -> usize {
        self.data().unwrap().len()
    }

    fn last_applied(&self) -> LogId {
        *self.last.lock().unwrap()
    }

    fn snapshot_metadata(&self) -> Option<SnapshotMetadata> {
        None
    }

    async fn generate_snapshot_data(&self, dir: PathBuf, last_included: LogId) -> Result<SnapshotChecksum, Error> {
        let last = self.last.lock().unwrap();
        if last_included != *last && !is(Fault::SnapshotTakesAnyLabel) {
            return Err(Error::invalid(format!("a snapshot of {last_included} in the state after {last}")));
        }
        let output = ChecksumWriter::new(File::create(dir.join("snapshot"))?);
        let mut writer = SnapshotWriter::new(output, SnapshotHeader::new(last_included, 0))?;
        for (key, value) in self.data()? {
            writer.push(&key, &value)?;
        }
        let (file, checksum) = writer.finish()?.0.finish();
        file.sync_all()?;
        Ok(checksum)
    }

    async fn apply_snapshot_from_file(&self, metadata: &SnapshotMetadata, path: PathBuf) -> Result<(), Error> {
        let mut bytes = Vec::new();
        File::open(path)?.read_to_end(&mut bytes)?;
        let mut check = ChecksumWriter::new(std::io::sink());
        check.write_all(&bytes)?;
        if bytes.len() as u64 != metadata.size || check.finish().1 != metadata.checksum {
            return Err(Error::corrupt("a snapshot of another length or checksum"));
        }
        let mut reader = SnapshotReader::new(&bytes[..])?;
        let mut pairs = Vec::new();
        while let Some(pair) = reader.next_record()? {
            pairs.push(pair);
        }
        let mut last = self.last.lock().unwrap();
        pairs.push((MARKER.into(), marker(metadata.last_included).into()));
        self.store.replace_all(&mut pairs.into_iter().map(Ok))?;
        *last = metadata.last_included;
        drop(last);
        self.flush()
    }

    fn flush(&self) -> Result<(), Error> {
        self.store.flush()?;
        if is(Fault::MarkerIsApartFromTheData) {
            replace(&self.dir, "marker", &marker(self.last_applied()))?;
        }
        Ok(())
    }

    async fn reset(&self) -> Result<(), Error> {
        let mut last = self.last.lock().unwrap();
        self.store.replace_all(&mut std::iter::empty())?;
        *last = LogId::default();
        drop(last);
        self.flush()
    }
}
