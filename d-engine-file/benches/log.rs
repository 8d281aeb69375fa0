//! The file log.
//!
//! `cargo bench -p d-engine-file --bench log`, on a quiet machine; the directory is `D_ENGINE_BENCH_DIR`, else the
//! system's temporary one, which must not be in memory for the figures of syncs to mean anything. `cargo xtask bench
//! storage` runs this, knows the targets, and compares with the device and with other logs in one run.

#![allow(missing_docs, reason = "criterion makes the functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark")]

use std::fs::File;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use d_engine_core::{Entry, EntryKind, LogId, LogStore, StorageEngine};
use d_engine_file::{FileLogStore, FileStorageEngine, FileStorageOptions};

const GROUP: &str = "file-log";
const VALUE_BYTES: usize = 256;
const BATCHES: [u64; 4] = [1, 10, 100, 1000];
const MANY: u64 = 10_000;
const SEGMENT_BYTES: u64 = 64 << 20;

/// Runs a future of the file log: they never wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a call of the file log waited"),
    }
}

fn entries(first: u64, count: u64, value_bytes: usize) -> Vec<Entry> {
    let entry = |index: u64| Entry::new(index, 1, EntryKind::Command, vec![index as u8; value_bytes]);
    (first..first + count).map(entry).collect()
}

fn dir() -> tempfile::TempDir {
    let parent = std::env::var_os("D_ENGINE_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(parent).unwrap()
}

fn open(dir: &tempfile::TempDir, tail_cache_bytes: usize) -> Arc<FileLogStore> {
    let mut options = FileStorageOptions::default();
    // As after the first minutes: segments have their full length.
    options.segment_bytes_min = SEGMENT_BYTES;
    options.tail_cache_bytes = tail_cache_bytes;
    FileStorageEngine::open_with(dir.path().join("log"), &options).unwrap().log_store()
}

/// A log of `count` entries.
fn filled(dir: &tempfile::TempDir, count: u64, value_bytes: usize, tail_cache_bytes: usize) -> Arc<FileLogStore> {
    let log = open(dir, tail_cache_bytes);
    append(&log, count, value_bytes);
    now(log.flush()).unwrap();
    log
}

/// Appends `count` entries, a thousand at a time.
fn append(log: &FileLogStore, count: u64, value_bytes: usize) {
    let (first, last) = (log.last_index() + 1, log.last_index() + count);
    for first in (first..=last).step_by(1000) {
        now(log.persist_entries(entries(first, 1000.min(last + 1 - first), value_bytes))).unwrap();
    }
}

/// Time of `work` alone, `n` times, each after a `prepare`.
fn timed<T>(n: u64, mut prepare: impl FnMut() -> T, mut work: impl FnMut(T)) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..n {
        let input = prepare();
        let start = Instant::now();
        work(input);
        total += start.elapsed();
    }
    total
}

fn appends(c: &mut Criterion) {
    let dir = dir();
    let mut group = c.benchmark_group(GROUP);
    group.sample_size(20);
    let log = open(&dir, 16 << 20);
    for n in BATCHES {
        group.throughput(Throughput::Elements(n));
        group.bench_function(BenchmarkId::new("append", n), |b| {
            let mut purged = log.last_index();
            b.iter_custom(|iterations| {
                timed(
                    iterations,
                    || {
                        // As a node with snapshots does: what is old goes, and its file is written again.
                        let last = log.last_index();
                        if (last - purged) * VALUE_BYTES as u64 > SEGMENT_BYTES / 2 {
                            now(log.purge(LogId::new(1, last - 1))).unwrap();
                            purged = last;
                        }
                        entries(last + 1, n, VALUE_BYTES)
                    },
                    |batch| {
                        now(log.persist_entries(batch)).unwrap();
                        now(log.flush()).unwrap();
                    },
                )
            });
        });
    }
    group.throughput(Throughput::Elements(MANY));
    group.bench_function("persist/10000 without flush", |b| {
        b.iter_custom(|iterations| {
            let spent = timed(
                iterations,
                || {
                    now(log.reset()).unwrap();
                    entries(1, MANY, VALUE_BYTES)
                },
                |batch| now(log.persist_entries(batch)).unwrap(),
            );
            now(log.reset()).unwrap();
            spent
        });
    });
    group.finish();
}

/// 10,000 entries of 100 bytes: from the entries in memory, from the system's cache of the file, and from the disk.
fn reads(c: &mut Criterion) {
    let mut group = c.benchmark_group(GROUP);
    group.sample_size(20);
    for (place, tail_cache_bytes) in [("memory", 1 << 30), ("page cache", 0), ("disk", 0)] {
        let dir = dir();
        let log = filled(&dir, MANY, 100, tail_cache_bytes);
        let forget = || {
            if place == "disk" {
                forget_files(&dir);
            }
        };
        group.bench_function(BenchmarkId::new("entry", place), |b| {
            let mut index = 0;
            let next = || {
                forget();
                index = index % MANY + 1;
                index
            };
            b.iter_batched(next, |index| now(log.entry(index)).unwrap(), BatchSize::PerIteration);
        });
        group.bench_function(BenchmarkId::new("get_entries of 10000", place), |b| {
            b.iter_batched(forget, |()| now(log.get_entries(1..=MANY)).unwrap(), BatchSize::PerIteration);
        });
    }
    let dir = dir();
    let log = filled(&dir, MANY, 100, 0);
    group.bench_function("last_index", |b| b.iter(|| log.last_index()));
    group.finish();
}

/// Makes the system forget what it has cached of the log's files, which are all synced.
fn forget_files(dir: &tempfile::TempDir) {
    for entry in std::fs::read_dir(dir.path().join("log/wal")).unwrap() {
        let file = File::open(entry.unwrap().path()).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

/// The time of a purge depends on what goes, not on what stays.
fn purges(c: &mut Criterion) {
    let mut group = c.benchmark_group(GROUP);
    group.sample_size(10);
    for (name, remain) in [("nothing remains", 0), ("10000 remain", 10_000), ("1000000 remain", 1_000_000)] {
        let dir = dir();
        let log = filled(&dir, remain, VALUE_BYTES, 16 << 20);
        group.bench_function(BenchmarkId::new("purge of 10000", name), |b| {
            b.iter_custom(|n| {
                let refill = || {
                    append(&log, MANY, VALUE_BYTES);
                    now(log.flush()).unwrap();
                    log.last_index() - remain
                };
                timed(n, refill, |up_to| now(log.purge(LogId::new(1, up_to))).unwrap())
            });
        });
    }
    group.finish();
}

fn removals(c: &mut Criterion) {
    let dir = dir();
    let mut group = c.benchmark_group(GROUP);
    group.sample_size(10);
    let log = open(&dir, 16 << 20);
    let refill = || {
        now(log.reset()).unwrap();
        append(&log, MANY + 1, VALUE_BYTES);
        now(log.flush()).unwrap();
    };
    group.bench_function("truncate/10000", |b| {
        b.iter_custom(|n| {
            timed(n, refill, |()| {
                now(log.truncate(2)).unwrap();
                now(log.flush()).unwrap();
            })
        });
    });
    group.bench_function("reset/10000", |b| {
        b.iter_custom(|n| timed(n, refill, |()| now(log.reset()).unwrap()));
    });
    group.finish();
}

fn opening(c: &mut Criterion) {
    let dir = dir();
    let count = (1 << 30) / VALUE_BYTES as u64;
    drop(filled(&dir, count, VALUE_BYTES, 0));
    let mut group = c.benchmark_group(GROUP);
    group.sample_size(10);
    group.throughput(Throughput::Bytes(1 << 30));
    group.bench_function("open/1 GiB", |b| {
        b.iter_custom(|n| timed(n, || (), |()| assert_eq!(open(&dir, 0).last_index(), count)));
    });
    let log = open(&dir, 0);
    group.bench_function("verify/1 GiB", |b| b.iter(|| log.verify().unwrap()));
    group.finish();
}

criterion_group!(benches, appends, reads, purges, removals, opening);
criterion_main!(benches);
