//! What the state machine costs on the store in memory: applying, transactions, reads, snapshots, watchers, leases.

#![allow(missing_docs, reason = "criterion makes the functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark: a failed unwrap ends it")]

use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use d_engine_core::command::{KeySpan, KvCompare, KvOp, KvPut, KvTest, KvTxn, KvWatch, LeaseChoice, Relation};
use d_engine_core::{Entry, EntryKind, KvCommand, Membership, SnapshotMetadata, StateMachine, WatchSink};
use d_engine_kv::{KvStateMachine, SNAPSHOT_FILE};
use d_engine_mem::MemKvStore;

const CHUNK: usize = 1_000;
const VALUE: &[u8] = &[b'v'; 64];

/// A machine and the next entry's index.
struct Replica {
    machine: KvStateMachine,
    runtime: tokio::runtime::Runtime,
    index: u64,
    random: u64,
}

impl Replica {
    /// A machine that holds so many keys.
    fn with_keys(keys: u64) -> Self {
        let machine = KvStateMachine::new(MemKvStore::new()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut replica = Self { machine, runtime, index: 0, random: 1 };
        let mut key = 0;
        while key < keys {
            let end = (key + CHUNK as u64).min(keys);
            let chunk = (key..end).map(|key| replica.entry(&put(key))).collect();
            replica.apply(chunk);
            key = end;
        }
        replica
    }

    fn entry(&mut self, command: &KvCommand) -> Entry {
        self.index += 1;
        Entry::new(self.index, 1, EntryKind::Command, command.encode())
    }

    fn apply(&self, chunk: Vec<Entry>) {
        black_box(self.runtime.block_on(self.machine.apply(chunk)).unwrap());
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    /// A chunk of puts to random keys.
    fn chunk(&mut self, keys: u64) -> Vec<Entry> {
        (0..CHUNK)
            .map(|_| {
                let key = self.random(keys);
                self.entry(&put(key))
            })
            .collect()
    }
}

fn key(n: u64) -> Bytes {
    Bytes::from(format!("key-{n:09}"))
}

fn put(n: u64) -> KvCommand {
    KvCommand::Put { key: key(n), value: Bytes::from_static(VALUE) }
}

/// Times `apply` alone: the chunks are made beside it.
fn timed(replica: &mut Replica, iterations: u64, mut chunk: impl FnMut(&mut Replica) -> Vec<Entry>) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..iterations {
        let chunk = chunk(replica);
        let began = Instant::now();
        replica.apply(chunk);
        total += began.elapsed();
    }
    total
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(CHUNK as u64));
    for keys in [10_000, 100_000, 1_000_000] {
        let mut replica = Replica::with_keys(keys);
        group.bench_function(format!("puts, {keys} keys"), |bencher| {
            bencher.iter_custom(|iterations| timed(&mut replica, iterations, |replica| replica.chunk(keys)));
        });
    }
    let mut replica = Replica::with_keys(100_000);
    group.bench_function("transactions of 3 compares and 3 puts", |bencher| {
        bencher.iter_custom(|iterations| {
            timed(&mut replica, iterations, |replica| {
                (0..CHUNK)
                    .map(|_| {
                        let first = replica.random(99_990);
                        let compare = |n| KvCompare::new(key(n), KvTest::Version(Relation::Greater, 0));
                        let put = |n| KvOp::Put(KvPut::new(key(n), VALUE));
                        let compares = (first..first + 3).map(compare).collect();
                        let puts = (first..first + 3).map(put).collect();
                        replica.entry(&KvCommand::Txn(KvTxn::new(compares, puts, Vec::new())))
                    })
                    .collect()
            })
        });
    });
    group.finish();
}

struct Drain;

impl WatchSink for Drain {
    fn offer(&mut self, event: Bytes) -> bool {
        black_box(event);
        true
    }
}

fn watchers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("watchers");
    group.throughput(Throughput::Elements(CHUNK as u64));
    for watchers in [0, 10_000] {
        let mut replica = Replica::with_keys(100_000);
        for n in 0..watchers {
            let watch = KvWatch::new(KeySpan::key(key(n)));
            replica.machine.watch(watch.encode(), Box::new(Drain)).unwrap();
        }
        group.bench_function(format!("puts, {watchers} watchers of their own keys"), |bencher| {
            bencher.iter_custom(|iterations| timed(&mut replica, iterations, |replica| replica.chunk(100_000)));
        });
    }
    group.finish();
}

fn get(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("get");
    group.throughput(Throughput::Elements(CHUNK as u64));
    for writes in [false, true] {
        let mut replica = Replica::with_keys(100_000);
        let keys: Vec<_> = (0..CHUNK).map(|_| key(replica.random(100_000))).collect();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            if writes {
                scope.spawn(|| {
                    let mut index = replica.index;
                    while !done.load(Ordering::Relaxed) {
                        index += 1;
                        replica.apply(vec![Entry::new(index, 1, EntryKind::Command, put(index % 100_000).encode())]);
                    }
                });
            }
            let suffix = if writes { "while writes go on" } else { "alone" };
            group.bench_function(suffix, |bencher| {
                bencher.iter(|| {
                    for key in &keys {
                        black_box(replica.machine.get_bytes(key).unwrap());
                    }
                });
            });
            done.store(true, Ordering::Relaxed);
        });
    }
    group.finish();
}

fn metadata(machine: &KvStateMachine, checksum: d_engine_core::SnapshotChecksum, dir: &Path) -> SnapshotMetadata {
    let size = std::fs::metadata(dir.join(SNAPSHOT_FILE)).unwrap().len();
    SnapshotMetadata::new(machine.last_applied(), Membership::default(), checksum, size)
}

fn snapshot(criterion: &mut Criterion) {
    const KEYS: u64 = 1_000_000;
    let mut group = criterion.benchmark_group("snapshot of a million keys");
    group.sample_size(10).throughput(Throughput::Elements(KEYS));
    let replica = Replica::with_keys(KEYS);
    let dir = tempfile::tempdir().unwrap();
    group.bench_function("write", |bencher| {
        bencher.iter(|| replica.machine.begin_snapshot().unwrap().unwrap().write(dir.path()).unwrap());
    });
    let checksum = replica.machine.begin_snapshot().unwrap().unwrap().write(dir.path()).unwrap();
    let metadata = metadata(&replica.machine, checksum, dir.path());
    group.bench_function("install", |bencher| {
        let fresh = || KvStateMachine::new(MemKvStore::new()).unwrap();
        let install = |machine: KvStateMachine| {
            let file = dir.path().join(SNAPSHOT_FILE);
            replica.runtime.block_on(machine.apply_snapshot_from_file(&metadata, file)).unwrap();
            machine
        };
        bencher.iter_batched(fresh, install, BatchSize::PerIteration);
    });
    group.finish();
}

fn leases(criterion: &mut Criterion) {
    const LEASES: u64 = 100_000;
    let mut group = criterion.benchmark_group("a hundred thousand leases");
    let mut replica = Replica::with_keys(0);
    let mut now = Duration::from_secs(1);
    replica.machine.leadership(true, now);
    for first in (0..LEASES).step_by(CHUNK) {
        let commands: Vec<_> = (first..first + CHUNK as u64)
            .flat_map(|n| {
                let attach = KvPut::new(key(n), VALUE).lease(LeaseChoice::Attach(n + 1));
                [KvCommand::LeaseGrant { id: n + 1, ttl_ms: 3_600_000_000 }, KvCommand::PutWith(attach)]
            })
            .collect();
        let chunk = commands.iter().map(|command| replica.entry(command)).collect();
        replica.apply(chunk);
    }
    replica.machine.due(now);
    group.bench_function("a look with nothing due", |bencher| {
        bencher.iter(|| {
            now += Duration::from_nanos(1);
            black_box(replica.machine.due(now))
        });
    });
    group.throughput(Throughput::Elements(CHUNK as u64));
    group.bench_function("keep-alives of a thousand in one command", |bencher| {
        bencher.iter_custom(|iterations| {
            timed(&mut replica, iterations, |replica| {
                let ids = (0..CHUNK).map(|_| 1 + replica.random(LEASES)).collect();
                vec![replica.entry(&KvCommand::LeaseKeepAlive { ids })]
            })
        });
    });
    group.finish();
}

criterion_group!(benches, apply, watchers, get, leases, snapshot);
criterion_main!(benches);
