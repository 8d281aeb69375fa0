//! What the state machine costs on the stores in memory and in files: applying, reads, watchers, leases, snapshots.
//!
//! `cargo bench -p d-engine-kv --bench machine [-- FILTER]`; less than five minutes. Criterion measures `apply`; the rest are
//! ratios, peaks and longest times, for which it has no form: they print a line each, with the target, if there is one, and
//! whether it is met. Each of them compares within one run, in turns. With `D_ENGINE_BENCH_JSON` set the lines are JSON,
//! `cargo xtask bench kv` reads these. Files go to `D_ENGINE_BENCH_DIR`, else to the system's temporary directory.

#![allow(missing_docs, reason = "criterion makes the functions")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark: a failed unwrap ends it")]

mod allocations;
mod figures;
mod leases;
mod reads;
mod replica;
mod snapshot;
mod watchers;

use std::time::Duration;

use criterion::{Criterion, Throughput};
use d_engine_core::Entry;
use d_engine_core::KvCommand;
use d_engine_core::command::{KvCompare, KvOp, KvPut, KvTest, KvTxn, Relation};

use figures::Figures;
use replica::{CHUNK, LARGE, Replica, SMALL, STORES, Store, key};

const KEYS: u64 = 100_000;

fn main() {
    // From then on the system's allocator keeps what is freed, as in a node that has read a segment of its log once, and does
    // not give each chunk's memory back to the kernel.
    drop(std::hint::black_box(vec![0u8; 16 << 20]));
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20)
        .configure_from_args();
    apply(&mut criterion);
    criterion.final_summary();
    let figures = Figures::from_args();
    for (name, part) in [
        ("gets", reads::measure as fn(&Figures)),
        ("watchers", watchers::measure),
        ("leases", leases::measure),
        ("snapshots", snapshot::measure),
    ] {
        if figures.wants(name) {
            part(&figures);
        }
    }
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kv-apply");
    group.throughput(Throughput::Elements(CHUNK as u64));
    for store in STORES {
        for (value, keys) in [(SMALL, 10_000), (SMALL, KEYS), (LARGE, KEYS), (LARGE, 1_000_000)] {
            // The map is the same; the growth with its size is shown once.
            if matches!(store, Store::File) && keys != KEYS {
                continue;
            }
            // Filled only if the filter lets it run.
            let mut replica: Option<Replica> = None;
            group.bench_function(format!("{store}, puts of {} bytes, {keys} keys", value.len()), |bencher| {
                let replica = replica.get_or_insert_with(|| Replica::with_keys(store, keys, value));
                bencher.iter_custom(|iterations| replica.timed(iterations, |replica| replica.puts(keys, value)));
            });
        }
        let mut replica: Option<Replica> = None;
        group.bench_function(format!("{store}, transactions of 3 compares and 3 puts, {KEYS} keys"), |bencher| {
            let replica = replica.get_or_insert_with(|| Replica::with_keys(store, KEYS, SMALL));
            bencher.iter_custom(|iterations| replica.timed(iterations, transactions));
        });
    }
    group.finish();
}

fn transactions(replica: &mut Replica) -> Vec<Entry> {
    let transaction = |replica: &mut Replica| {
        let first = replica.random(KEYS - 2);
        let compare = |n| KvCompare::new(key(n), KvTest::Version(Relation::Greater, 0));
        let put = |n| KvOp::Put(KvPut::new(key(n), SMALL));
        let compares = (first..first + 3).map(compare).collect();
        let puts = (first..first + 3).map(put).collect();
        replica.entry(&KvCommand::Txn(KvTxn::new(compares, puts, Vec::new())))
    };
    (0..CHUNK).map(|_| transaction(replica)).collect()
}
