//! Short forms for commands and calls, and stores that record or fail.

pub(crate) mod model;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use d_engine_core::command::{KeySpan, KvRange};
use d_engine_core::{
    ApplyResult, Direction, Entry, EntryKind, Error, KeyRange, KvAnswer, KvCommand, KvOutcome, KvQuery, KvStore,
    KvView, LogId, Result, StateMachine, WriteBatch,
};
use d_engine_kv::KvStateMachine;
use d_engine_mem::MemKvStore;
use proptest::option;
use proptest::prelude::*;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn put(key: &str, value: &str) -> KvCommand {
    KvCommand::Put { key: bytes(key), value: bytes(value) }
}

pub(crate) fn delete(key: &str) -> KvCommand {
    KvCommand::Delete { key: bytes(key) }
}

pub(crate) fn cas(key: &str, expected: Option<&str>, value: Option<&str>) -> KvCommand {
    KvCommand::Cas { key: bytes(key), expected: expected.map(bytes), value: value.map(bytes) }
}

/// Commands on few keys with few values, so that they meet.
pub(crate) fn command() -> impl Strategy<Value = KvCommand> {
    let key = || "[a-d]{1,2}".prop_map(Bytes::from);
    let value = || "[xyz]?".prop_map(Bytes::from);
    prop_oneof![
        (key(), value()).prop_map(|(key, value)| KvCommand::Put { key, value }),
        key().prop_map(|key| KvCommand::Delete { key }),
        (key(), option::of(value()), option::of(value())).prop_map(|(key, expected, value)| KvCommand::Cas {
            key,
            expected,
            value
        }),
    ]
}

pub(crate) fn entry(index: u64, command: &KvCommand) -> Entry {
    Entry::new(index, 1, EntryKind::Command, command.encode())
}

pub(crate) fn entries(first: u64, commands: &[KvCommand]) -> Vec<Entry> {
    (first..).zip(commands).map(|(index, command)| entry(index, command)).collect()
}

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

pub(crate) fn apply(machine: &KvStateMachine, chunk: Vec<Entry>) -> Result<Vec<ApplyResult>> {
    run(machine.apply(chunk))
}

/// Applies the commands as one chunk.
pub(crate) fn outcomes(machine: &KvStateMachine, first: u64, commands: &[KvCommand]) -> Vec<KvOutcome> {
    let results = apply(machine, entries(first, commands)).unwrap();
    assert!(results.iter().map(|result| result.index).eq(first..first + commands.len() as u64));
    results.iter().map(|result| KvOutcome::decode(&result.response).unwrap()).collect()
}

pub(crate) fn get(machine: &KvStateMachine, key: &str) -> (KvAnswer, LogId) {
    let (answer, at) = machine.read_at(KvQuery::Get { key: bytes(key) }.encode()).unwrap();
    (KvAnswer::decode(&answer).unwrap(), at)
}

pub(crate) fn value(machine: &KvStateMachine, key: &str) -> Option<String> {
    machine.get(key.as_bytes()).unwrap().map(|value| String::from_utf8(value).unwrap())
}

pub(crate) fn range(machine: &KvStateMachine, start: &str, end: Option<&str>, limit: u32, reverse: bool) -> KvAnswer {
    let mut query = KvRange::new(KeySpan::new(bytes(start), end.map(bytes)));
    (query.limit, query.reverse) = (limit, reverse);
    KvAnswer::decode(&machine.read_at(KvQuery::Range(query).encode()).unwrap().0).unwrap()
}

pub(crate) fn digest(machine: &KvStateMachine) -> [u8; 32] {
    match KvAnswer::decode(&machine.read_at(KvQuery::Digest.encode()).unwrap().0).unwrap() {
        KvAnswer::Digest { digest, keys, .. } => {
            assert_eq!(keys, machine.len() as u64);
            digest
        }
        other => panic!("{other:?}"),
    }
}

/// A store without views.
#[derive(Clone, Default)]
pub(crate) struct NoViews(pub(crate) MemKvStore);

impl KvStore for NoViews {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.0.get(key)
    }

    fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.0.scan(range, limit, direction)
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        self.0.write(batch)
    }

    fn replace_all(&self, sorted: &mut dyn Iterator<Item = Result<(Bytes, Bytes), Error>>) -> Result<(), Error> {
        self.0.replace_all(sorted)
    }

    fn flush(&self) -> Result<(), Error> {
        self.0.flush()
    }
}

/// A store that keeps every batch it was given.
#[derive(Clone, Default)]
pub(crate) struct RecordingStore {
    inner: MemKvStore,
    batches: Arc<Mutex<Vec<WriteBatch>>>,
}

impl RecordingStore {
    pub(crate) fn batches(&self) -> Vec<WriteBatch> {
        self.batches.lock().unwrap().clone()
    }
}

impl KvStore for RecordingStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.inner.get(key)
    }

    fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.inner.scan(range, limit, direction)
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        self.batches.lock().unwrap().push(batch.clone());
        self.inner.write(batch)
    }

    fn replace_all(&self, sorted: &mut dyn Iterator<Item = Result<(Bytes, Bytes), Error>>) -> Result<(), Error> {
        self.inner.replace_all(sorted)
    }

    fn flush(&self) -> Result<(), Error> {
        self.inner.flush()
    }

    fn with_view(&self, f: &mut dyn FnMut(&dyn KvView) -> Result<(), Error>) -> Result<bool, Error> {
        self.inner.with_view(f)
    }
}

/// A store whose writes fail on demand.
#[derive(Clone, Default)]
pub(crate) struct FailingStore {
    inner: MemKvStore,
    fails: Arc<AtomicBool>,
}

impl FailingStore {
    pub(crate) fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::Relaxed);
    }
}

impl KvStore for FailingStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.inner.get(key)
    }

    fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.inner.scan(range, limit, direction)
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(Error::NoSpace { doing: "writing a batch".into() });
        }
        self.inner.write(batch)
    }

    fn replace_all(&self, sorted: &mut dyn Iterator<Item = Result<(Bytes, Bytes), Error>>) -> Result<(), Error> {
        self.inner.replace_all(sorted)
    }

    fn flush(&self) -> Result<(), Error> {
        self.inner.flush()
    }
}
