//! The log on sled. Its syncs are what sled and this crate make of them; it does not promise to survive a loss of power.
//!
//! `cargo bench -p d-engine-sled --bench log`, on a quiet machine; the directory is `D_ENGINE_BENCH_DIR`, else the
//! system's temporary one. `cargo xtask bench storage` runs this beside the others.

#![allow(missing_docs, reason = "criterion makes the functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark")]

use std::path::PathBuf;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use d_engine_core::{LogStore, StorageEngine};
use d_engine_sled::SledStorageEngine;
use d_engine_test_suite::time_appends;

fn appends(c: &mut Criterion) {
    let parent = std::env::var_os("D_ENGINE_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(parent).unwrap();
    let log = SledStorageEngine::open(dir.path()).unwrap().log_store();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut group = c.benchmark_group("sled-log");
    group.sample_size(10);
    for n in [1, 10, 100, 1000] {
        group.throughput(Throughput::Elements(n));
        group.bench_function(BenchmarkId::new("append", n), |b| {
            b.iter_custom(|iterations| {
                let spent = runtime.block_on(time_appends(&*log, n, iterations)).unwrap();
                runtime.block_on(log.reset()).unwrap();
                spent
            });
        });
    }
    group.finish();
}

criterion_group!(benches, appends);
criterion_main!(benches);
