//! The operations that are counted. Each is made ready once and then done again and again, always with the same input.

use std::future::Future;
use std::hint::black_box;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use d_engine_core::command::{KvCompare, KvOp, KvPut, KvQuery, KvTest, KvTxn, Relation, SessionHeader};
use d_engine_core::{
    Entry, EntryKind, KvCommand, KvRequest, LogId, LogStore as _, StateMachine as _, StorageEngine as _,
};
use d_engine_file::{FileStorageEngine, FileStorageOptions};
use d_engine_kv::KvStateMachine;
use d_engine_mem::MemKvStore;
use d_engine_net::fuzzing;
use d_engine_raft::{Append, Body, Message};

use crate::Error;
use crate::leader::Cluster;

/// One kind of operation.
pub(crate) struct Work {
    /// What it is called in the committed figures.
    pub(crate) name: &'static str,
    /// Operations in one call of what `ready` gives.
    pub(crate) operations: u64,
    /// Makes everything ready, in this directory if it needs one.
    pub(crate) ready: fn(&Path) -> Result<Call, Error>,
}

/// Does the operations of one call.
pub(crate) type Call = Box<dyn FnMut() -> Result<(), Error>>;

const VALUE_BYTES: usize = 256;
const KEYS: u64 = 10_000;
const CHUNK: u64 = 100;

/// Everything that is counted.
pub(crate) const WORKS: &[Work] = &[
    Work { name: "core: propose to commit, one by one", operations: 1, ready: |_| propose(1) },
    Work { name: "core: propose to commit, groups of 100", operations: CHUNK, ready: |_| propose(CHUNK) },
    Work { name: "log: append and sync, one by one", operations: 1, ready: |dir| append(dir, 1) },
    Work { name: "log: append and sync, batches of 100", operations: CHUNK, ready: |dir| append(dir, CHUNK) },
    Work { name: "key-value: put, chunks of 100", operations: CHUNK, ready: |_| apply(&puts(None)) },
    Work { name: "key-value: put in a session, chunks of 100", operations: CHUNK, ready: |_| apply_in_session() },
    Work { name: "key-value: transaction of 3 and 3, chunks of 100", operations: CHUNK, ready: |_| apply(&txns()) },
    Work { name: "key-value: get", operations: CHUNK, ready: |_| get() },
    Work { name: "codec: command of a put, both ways", operations: 1, ready: |_| command() },
    Work { name: "codec: message of 100 entries, both ways", operations: CHUNK, ready: |_| message() },
];

fn propose(group: u64) -> Result<Call, Error> {
    let mut cluster = Cluster::new();
    let command = value();
    Ok(Box::new(move || {
        for _ in 0..group {
            cluster.propose(command.clone());
        }
        cluster.settle();
        Ok(())
    }))
}

fn append(dir: &Path, batch: u64) -> Result<Call, Error> {
    let mut options = FileStorageOptions::default();
    // One file for all that is counted: changing over to the next one is not the work of any batch.
    options.segment_bytes_min = options.segment_bytes_max;
    let engine = FileStorageEngine::open_with(dir.join("log"), &options)?;
    let log = engine.log_store();
    let data = value();
    let mut next = 1;
    Ok(Box::new(move || {
        let _open = &engine;
        let entry = |index| Entry::new(index, 1, EntryKind::Command, &data);
        now(log.persist_entries((next..next + batch).map(entry).collect()))?;
        now(log.flush())?;
        next += batch;
        Ok(())
    }))
}

/// Applies chunk after chunk of `commands`.
fn apply(commands: &[Bytes]) -> Result<Call, Error> {
    let mut replica = Replica::new()?;
    let mut chunks = commands.chunks(CHUNK as usize).map(<[Bytes]>::to_vec).collect::<Vec<_>>().into_iter().cycle();
    Ok(Box::new(move || replica.apply(chunks.next().unwrap_or_default())))
}

/// The same as a client that has [`CHUNK`] calls under way: each command says that all of the chunk before are answered.
fn apply_in_session() -> Result<Call, Error> {
    let mut replica = Replica::new()?;
    let session = replica.index + 1;
    replica.apply(vec![KvCommand::SessionOpen.encode()])?;
    let commands = puts(None);
    let mut sequence = 0;
    Ok(Box::new(move || {
        let lowest = sequence + 1;
        let chunk = (lowest..lowest + CHUNK).map(|sequence| {
            let command = &commands[(sequence % KEYS) as usize];
            SessionHeader { session, sequence, lowest }.attach(command)
        });
        sequence += CHUNK;
        replica.apply(chunk.collect::<Result<_, _>>()?)
    }))
}

fn get() -> Result<Call, Error> {
    let replica = Replica::new()?;
    let queries: Vec<_> = scattered().map(|number| KvQuery::Get { key: key(number) }.encode()).collect();
    let mut next = 0;
    Ok(Box::new(move || {
        for _ in 0..CHUNK {
            black_box(replica.machine.read_at(queries[next % queries.len()].clone())?);
            next += 1;
        }
        Ok(())
    }))
}

fn command() -> Result<Call, Error> {
    let header = SessionHeader { session: 7, sequence: 1_000, lowest: 900 };
    Ok(Box::new(move || {
        let command = KvCommand::Put { key: key(1), value: value() };
        let bytes = KvRequest::new(command, Some(header)).encode();
        black_box(KvRequest::decode_bytes(bytes)?);
        Ok(())
    }))
}

fn message() -> Result<Call, Error> {
    let data = value();
    let entries: Vec<_> = (1..=CHUNK).map(|index| Entry::new(index, 1, EntryKind::Command, &data)).collect();
    Ok(Box::new(move || {
        let append = Append {
            session: 1,
            prev: LogId::default(),
            commit: 0,
            matched: 0,
            receiver: 1,
            round: 1,
            entries: entries.clone(),
        };
        let bytes = fuzzing::message_bytes(Message { term: 1, incarnation: 1, group: 0, body: Body::Append(append) });
        black_box(fuzzing::message(&bytes)?);
        Ok(())
    }))
}

/// A state machine in memory with all keys.
struct Replica {
    machine: KvStateMachine,
    index: u64,
}

impl Replica {
    fn new() -> Result<Self, Error> {
        let mut replica = Self { machine: KvStateMachine::new(MemKvStore::new())?, index: 0 };
        replica.machine.start()?;
        for chunk in puts(None).chunks(CHUNK as usize) {
            replica.apply(chunk.to_vec())?;
        }
        Ok(replica)
    }

    fn apply(&mut self, commands: Vec<Bytes>) -> Result<(), Error> {
        let first = self.index + 1;
        let entry = |(index, command)| Entry::new(index, 1, EntryKind::Command, command);
        let entries: Vec<_> = (first..).zip(commands).map(entry).collect();
        self.index += entries.len() as u64;
        black_box(now(self.machine.apply(entries))?);
        Ok(())
    }
}

/// Puts of all keys, in an order that goes all over them.
fn puts(header: Option<SessionHeader>) -> Vec<Bytes> {
    let put = |number| KvCommand::Put { key: key(number), value: value() };
    scattered().map(|number| KvRequest::new(put(number), header).encode()).collect()
}

fn txns() -> Vec<Bytes> {
    let txn = |first: u64| {
        let keys = || (first..first + 3).map(|number| key(number % KEYS));
        let compares = keys().map(|key| KvCompare::new(key, KvTest::Version(Relation::Greater, 0))).collect();
        let then = keys().map(|key| KvOp::Put(KvPut::new(key, value()))).collect();
        KvCommand::Txn(KvTxn::new(compares, then, Vec::new())).encode()
    };
    scattered().map(txn).collect()
}

/// Every number below [`KEYS`] once.
fn scattered() -> impl Iterator<Item = u64> {
    // Without a common divisor with the number of keys.
    (0..KEYS).map(|number| number * 7_919 % KEYS)
}

fn key(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn value() -> Bytes {
    Bytes::from(vec![b'v'; VALUE_BYTES])
}

/// Runs a future of a file log or of a state machine in memory: they never wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("a call that never waits has waited"),
    }
}
