//! The key-value stores in memory and in files: how their price grows with the number of keys, and what a snapshot costs
//! those who write beside it.
//!
//! `cargo bench -p d-engine-file --bench kv`; files go to `D_ENGINE_BENCH_DIR`, else to the system's temporary directory.
//! `D_ENGINE_BENCH_KEYS` takes other numbers of keys, separated by commas. The rate of writes may fall by less than 15 %
//! from one to ten million keys; of a million, a view takes less than a millisecond, and no write beside a snapshot takes
//! longer than ten.

#![allow(missing_docs, reason = "criterion makes the functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark")]

use std::cell::RefCell;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use d_engine_core::{Direction, KeyRange, KvStore, WriteBatch};
use d_engine_file::FileKvStore;
use d_engine_mem::MemKvStore;

const BATCH: u64 = 100;

fn sizes() -> Vec<u64> {
    let sizes = std::env::var("D_ENGINE_BENCH_KEYS").unwrap_or_else(|_| "100000,1000000".into());
    sizes.split(',').map(|size| size.trim().parse().unwrap()).collect()
}

fn dir() -> tempfile::TempDir {
    let parent = std::env::var_os("D_ENGINE_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(parent).unwrap()
}

/// Keys of eight bytes, spread over all there are.
fn key(n: u64) -> Bytes {
    Bytes::copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes())
}

fn fill(store: &dyn KvStore, keys: u64) {
    let value = Bytes::from(vec![7; 256]);
    let mut sorted: Vec<Bytes> = (0..keys).map(key).collect();
    sorted.sort_unstable();
    store.replace_all(&mut sorted.into_iter().map(|key| Ok((key, value.clone())))).unwrap();
}

/// Writes to random keys.
struct Writer {
    keys: u64,
    rng: fastrand::Rng,
}

impl Writer {
    fn new(keys: u64) -> Self {
        Self { keys, rng: fastrand::Rng::with_seed(1) }
    }

    fn write(&mut self, store: &dyn KvStore) {
        let mut batch = WriteBatch::new();
        for _ in 0..BATCH {
            batch.put(key(self.rng.u64(..self.keys)), vec![8; 256]);
        }
        store.write(batch).unwrap();
    }
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn operations(group: &mut Group<'_>, store: &dyn KvStore, keys: u64) {
    let mut writer = Writer::new(keys);
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function(BenchmarkId::new("write of 100", keys), |b| b.iter(|| writer.write(store)));
    group.bench_function(BenchmarkId::new("write of 100 beside a view", keys), |b| {
        b.iter(|| {
            store
                .with_view(&mut |view| {
                    writer.write(store);
                    black_box(view.get(b"")?);
                    Ok(())
                })
                .unwrap()
        });
    });
    group.throughput(Throughput::Elements(1));
    let mut rng = fastrand::Rng::with_seed(2);
    group.bench_function(BenchmarkId::new("get", keys), |b| b.iter(|| store.get(&key(rng.u64(..keys))).unwrap()));
    group.bench_function(BenchmarkId::new("scan of 100", keys), |b| {
        b.iter(|| store.scan(KeyRange::from(&key(rng.u64(..keys))), 100, Direction::Forward).unwrap());
    });
}

/// A view is taken while another thread writes.
fn views(group: &mut Group<'_>, store: &impl KvStore, keys: u64) {
    group.bench_function(BenchmarkId::new("view", keys), |b| {
        b.iter_custom(|iterations| {
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut writer = Writer::new(keys);
                    while !stop.load(Ordering::Relaxed) {
                        writer.write(store);
                    }
                });
                let mut spent = Duration::ZERO;
                for _ in 0..iterations {
                    let start = Instant::now();
                    let taken = store.with_view(&mut |_| {
                        spent += start.elapsed();
                        Ok(())
                    });
                    assert!(taken.unwrap(), "the store has views");
                }
                stop.store(true, Ordering::Relaxed);
                spent
            })
        });
    });
}

/// The longest time of a write while `snapshot` runs, once per iteration.
fn longest_write(group: &mut Group<'_>, store: &impl KvStore, keys: u64, snapshot: &(dyn Fn() + Sync)) {
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function(BenchmarkId::new("longest write beside a snapshot", keys), |b| {
        let writer = RefCell::new(Writer::new(keys));
        b.iter_custom(|iterations| {
            let mut longest = Duration::ZERO;
            for _ in 0..iterations {
                writer.borrow_mut().write(store);
                let done = AtomicBool::new(false);
                thread::scope(|scope| {
                    scope.spawn(|| {
                        snapshot();
                        done.store(true, Ordering::Release);
                    });
                    while !done.load(Ordering::Acquire) {
                        let start = Instant::now();
                        writer.borrow_mut().write(store);
                        longest = longest.max(start.elapsed());
                        // As many writes as a busy node makes, not as many as there can be.
                        thread::sleep(Duration::from_micros(500));
                    }
                });
            }
            // Criterion divides by the number of iterations.
            longest * u32::try_from(iterations).unwrap()
        });
    });
    group.sampling_mode(SamplingMode::Auto);
}

fn in_memory(c: &mut Criterion) {
    let mut group = c.benchmark_group("kv-mem");
    group.sample_size(10);
    for keys in sizes() {
        let store = MemKvStore::new();
        fill(&store, keys);
        operations(&mut group, &store, keys);
        views(&mut group, &store, keys);
        // What a snapshot does here: it reads a view from beginning to end.
        let snapshot = || {
            let read = store.with_view(&mut |view| {
                let mut from = Bytes::new();
                loop {
                    let pairs = view.scan(KeyRange::from(&from), 1000, Direction::Forward)?;
                    match pairs.last() {
                        Some((last, _)) if pairs.len() == 1000 => from = last.clone(),
                        _ => return Ok(()),
                    }
                }
            });
            assert!(read.unwrap(), "the store has views");
        };
        longest_write(&mut group, &store, keys, &snapshot);
    }
    group.finish();
}

fn in_files(c: &mut Criterion) {
    let mut group = c.benchmark_group("kv-file");
    group.sample_size(10);
    for keys in sizes() {
        let dir = dir();
        let store = FileKvStore::open(dir.path()).unwrap();
        fill(&store, keys);
        operations(&mut group, &store, keys);
        views(&mut group, &store, keys);
        longest_write(&mut group, &store, keys, &|| store.flush().unwrap());
        group.throughput(Throughput::Elements(keys));
        let mut writer = Writer::new(keys);
        group.bench_function(BenchmarkId::new("checkpoint", keys), |b| {
            b.iter(|| {
                writer.write(&store);
                store.flush().unwrap();
            });
        });
        drop(store);
        group.bench_function(BenchmarkId::new("open", keys), |b| {
            // One at a time: the directory is locked until the last one is dropped, which is not part of the time.
            b.iter_custom(|rounds| {
                let open = |_| {
                    let begun = Instant::now();
                    let store = FileKvStore::open(dir.path()).unwrap();
                    let took = begun.elapsed();
                    drop(store);
                    took
                };
                (0..rounds).map(open).sum()
            })
        });
    }
    group.finish();
}

criterion_group!(benches, in_memory, in_files);
criterion_main!(benches);
