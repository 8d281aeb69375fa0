//! What one proposal costs the core of a three-node leader, without disk and network.

#![allow(missing_docs, reason = "criterion makes the functions")]

mod leader;

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use leader::Cluster;

fn propose(c: &mut Criterion) {
    let command = Bytes::from(vec![0; 256]);
    let mut group = c.benchmark_group("leader_of_three");
    for batch in [1u64, 100] {
        let mut cluster = Cluster::new();
        group.throughput(Throughput::Elements(batch));
        group.bench_function(format!("propose_to_commit_in_groups_of_{batch}"), |b| {
            b.iter(|| {
                for _ in 0..batch {
                    cluster.propose(command.clone());
                }
                cluster.settle();
            });
        });
        group.bench_function(format!("propose_and_drain_in_groups_of_{batch}"), |b| {
            b.iter_batched_ref(
                Cluster::new,
                |cluster| {
                    for _ in 0..batch {
                        cluster.propose(command.clone());
                    }
                    while let Some(action) = cluster.raft.poll_action() {
                        black_box(action);
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, propose);
criterion_main!(benches);
