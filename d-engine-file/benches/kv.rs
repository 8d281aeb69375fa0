//! The file key-value store: how its price grows with the number of keys.
//!
//! `cargo bench -p d-engine-file --bench kv`. The rate of writes may fall by less than 15 % from one to ten million keys;
//! `D_ENGINE_BENCH_KEYS` takes other sizes, separated by commas.

#![allow(missing_docs, reason = "criterion makes the functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use d_engine_core::{Direction, KeyRange, KvStore, WriteBatch};
use d_engine_file::FileKvStore;

const BATCH: u64 = 100;

fn sizes() -> Vec<u64> {
    let sizes = std::env::var("D_ENGINE_BENCH_KEYS").unwrap_or_else(|_| "100000,1000000".into());
    sizes.split(',').map(|size| size.trim().parse().unwrap()).collect()
}

/// Keys of eight bytes, spread over all there are.
fn key(n: u64) -> Bytes {
    Bytes::copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes())
}

fn filled(dir: &tempfile::TempDir, keys: u64) -> FileKvStore {
    let store = FileKvStore::open(dir.path()).unwrap();
    let value = Bytes::from(vec![7; 256]);
    let mut sorted: Vec<Bytes> = (0..keys).map(key).collect();
    sorted.sort_unstable();
    store.replace_all(&mut sorted.into_iter().map(|key| Ok((key, value.clone())))).unwrap();
    store
}

fn store(c: &mut Criterion) {
    let mut group = c.benchmark_group("kv");
    group.sample_size(10);
    for keys in sizes() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(&dir, keys);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut write = |store: &FileKvStore| {
            let mut batch = WriteBatch::new();
            for _ in 0..BATCH {
                batch.put(key(rng.u64(..keys)), vec![8; 256]);
            }
            store.write(batch).unwrap();
        };
        group.throughput(Throughput::Elements(BATCH));
        group.bench_function(BenchmarkId::new("write/100", keys), |b| b.iter(|| write(&store)));
        group.bench_function(BenchmarkId::new("write/100 beside a view", keys), |b| {
            b.iter(|| {
                store
                    .with_view(&mut |view| {
                        write(&store);
                        black_box(view.get(b"")?);
                        Ok(())
                    })
                    .unwrap()
            });
        });
        group.throughput(Throughput::Elements(1));
        let mut rng = fastrand::Rng::with_seed(2);
        group.bench_function(BenchmarkId::new("get", keys), |b| {
            b.iter(|| store.get(&key(rng.u64(..keys))).unwrap());
        });
        group.bench_function(BenchmarkId::new("scan/100", keys), |b| {
            b.iter(|| store.scan(KeyRange::from(&key(rng.u64(..keys))), 100, Direction::Forward).unwrap());
        });
        group.throughput(Throughput::Elements(keys));
        group.bench_function(BenchmarkId::new("checkpoint", keys), |b| {
            b.iter(|| {
                write(&store);
                store.flush().unwrap();
            });
        });
        drop(store);
        group.bench_function(BenchmarkId::new("open", keys), |b| {
            b.iter_with_large_drop(|| FileKvStore::open(dir.path()).unwrap())
        });
    }
    group.finish();
}

criterion_group!(benches, store);
criterion_main!(benches);
