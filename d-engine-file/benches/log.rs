//! The file log beside the device it stands on.
//!
//! `cargo bench -p d-engine-file --bench log`, on a quiet machine; the directory is `D_ENGINE_BENCH_DIR`, else the
//! system's temporary one, which must not be in memory for the figures of syncs to mean anything.
//!
//! `device/N` writes the bytes of N entries as a log does it at best (one copy, one checksum for each, one write, one
//! data sync, into a file of zeros), `append/N` is the log itself: at least 0.9 of it at 10 and 100, 0.85 at 1 and 1,000.
//! Published targets of the rest: persist more than 100,000 entries/s; entry under 1 ms; 10,000 by get_entries under 1 ms;
//! purge of 10,000 and truncate under 100 ms; reset under 1 s; last_index under 100 µs; opening 1 GiB under 500 ms.

#![allow(missing_docs, reason = "criterion makes the functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark")]

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use d_engine_core::{Entry, EntryKind, LogId, LogStore, StorageEngine, checksum};
use d_engine_file::{FileLogStore, FileStorageEngine, FileStorageOptions};

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

fn entries(first: u64, count: u64) -> Vec<Entry> {
    (first..first + count).map(|index| Entry::new(index, 1, EntryKind::Command, [index as u8; VALUE_BYTES])).collect()
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
fn filled(dir: &tempfile::TempDir, count: u64, tail_cache_bytes: usize) -> Arc<FileLogStore> {
    let log = open(dir, tail_cache_bytes);
    for first in (1..=count).step_by(1000) {
        now(log.persist_entries(entries(first, 1000.min(count + 1 - first)))).unwrap();
    }
    now(log.flush()).unwrap();
    log
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

/// The device, with the bytes of a log.
struct Device {
    file: File,
    end: u64,
    buffer: Vec<u8>,
}

impl Device {
    fn new(dir: &tempfile::TempDir) -> Self {
        let file = OpenOptions::new().write(true).create_new(true).open(dir.path().join("device")).unwrap();
        let zeros = vec![0; 1 << 20];
        for at in (0..SEGMENT_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at).unwrap();
        }
        file.sync_all().unwrap();
        Self { file, end: 0, buffer: Vec::new() }
    }

    fn append(&mut self, entries: &[Entry]) {
        self.buffer.clear();
        self.buffer.resize(72 + 20 * entries.len(), 1);
        for entry in entries {
            let bytes = entry.encode();
            black_box(checksum(&[&bytes]));
            self.buffer.extend_from_slice(&bytes);
        }
        self.buffer.resize(self.buffer.len().next_multiple_of(4096), 0);
        if self.end + self.buffer.len() as u64 > SEGMENT_BYTES {
            self.end = 0;
        }
        self.file.write_all_at(&self.buffer, self.end).unwrap();
        self.file.sync_data().unwrap();
        self.end += self.buffer.len() as u64;
    }
}

fn appends(c: &mut Criterion) {
    let dir = dir();
    let mut group = c.benchmark_group("log");
    group.sample_size(20);
    let mut device = Device::new(&dir);
    let log = open(&dir, 16 << 20);
    for n in BATCHES {
        group.throughput(Throughput::Elements(n));
        group.bench_function(BenchmarkId::new("device", n), |b| {
            b.iter_custom(|iterations| timed(iterations, || entries(1, n), |batch| device.append(&batch)));
        });
        group.bench_function(BenchmarkId::new("append", n), |b| {
            b.iter_custom(|iterations| {
                let spent = timed(
                    iterations,
                    || entries(log.last_index() + 1, n),
                    |batch| {
                        now(log.persist_entries(batch)).unwrap();
                        now(log.flush()).unwrap();
                    },
                );
                now(log.purge(LogId::new(1, log.last_index() - 1))).unwrap();
                spent
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
                    entries(1, MANY)
                },
                |batch| now(log.persist_entries(batch)).unwrap(),
            );
            now(log.reset()).unwrap();
            spent
        });
    });
    group.finish();
}

fn reads(c: &mut Criterion) {
    let mut group = c.benchmark_group("log");
    group.sample_size(20);
    for (place, tail_cache_bytes) in [("memory", 1 << 30), ("disk", 0)] {
        let dir = dir();
        let log = filled(&dir, MANY, tail_cache_bytes);
        group.bench_function(BenchmarkId::new("entry", place), |b| {
            let mut index = 0;
            b.iter(|| {
                index = index % MANY + 1;
                now(log.entry(index)).unwrap()
            });
        });
        group.bench_function(BenchmarkId::new("get_entries/10000", place), |b| {
            b.iter_with_large_drop(|| now(log.get_entries(1..=MANY)).unwrap());
        });
        group.bench_function(BenchmarkId::new("last_index", place), |b| b.iter(|| log.last_index()));
    }
    group.finish();
}

fn removals(c: &mut Criterion) {
    let dir = dir();
    let mut group = c.benchmark_group("log");
    group.sample_size(10);
    let log = open(&dir, 16 << 20);
    let refill = || {
        now(log.reset()).unwrap();
        now(log.persist_entries(entries(1, MANY + 1))).unwrap();
        now(log.flush()).unwrap();
    };
    group.bench_function("purge/10000", |b| {
        b.iter_custom(|n| timed(n, refill, |()| now(log.purge(LogId::new(1, MANY))).unwrap()));
    });
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
    drop(filled(&dir, count, 0));
    let mut group = c.benchmark_group("log");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(1 << 30));
    group.bench_function("open/1 GiB", |b| {
        b.iter_custom(|n| timed(n, || (), |()| assert_eq!(open(&dir, 0).last_index(), count)));
    });
    let log = open(&dir, 0);
    group.bench_function("verify/1 GiB", |b| b.iter(|| log.verify().unwrap()));
    group.finish();
}

criterion_group!(benches, appends, reads, removals, opening);
criterion_main!(benches);
