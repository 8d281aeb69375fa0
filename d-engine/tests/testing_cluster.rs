//! `d_engine::testing::Cluster` does to a cluster what it says, and the cluster keeps what it promises.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use d_engine::file::FileStorageEngine;
use d_engine::testing::{Cluster, TestError, schedule};
use d_engine::{ApplyResult, ClientError, Entry, Error, LogId, SnapshotChecksum, SnapshotMetadata, StateMachine};

/// Short deadlines of calls, so that a minority soon says that it is one.
async fn of_three(seed: u64) -> Cluster {
    let _ = tracing_subscriber::fmt().with_env_filter("d_engine=warn").with_test_writer().try_init();
    Cluster::builder(3).seed(seed).configure(|config| config.request_timeout_ms(1500)).start().await.unwrap()
}

/// A write that is retried until it is acknowledged: all are of different keys.
async fn put(cluster: &Cluster, key: &str) {
    let put = async {
        while cluster.any().put(key.to_owned(), "x").await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), put).await.expect("acknowledged in time");
}

async fn value(cluster: &Cluster, key: &str) -> Option<Bytes> {
    cluster.wait_for_leader().await.unwrap().get(key.to_owned()).await.unwrap().value
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_commits_nothing_and_the_majority_goes_on() {
    let cluster = of_three(1).await;
    let old = cluster.wait_for_leader().await.unwrap();
    cluster.isolate(old.id());
    let refused = old.put("minority", "x").await.unwrap_err();
    assert!(matches!(refused, ClientError::Unknown | ClientError::Unavailable { .. }), "{refused}");
    let new = cluster.wait_for_leader().await.unwrap();
    assert_ne!(new.id(), old.id());
    put(&cluster, "majority").await;
    assert!(old.get("majority").await.is_err(), "who is cut off reads nothing");
    cluster.heal();
    cluster.digests_agree().await.unwrap();
    assert_eq!(value(&cluster, "minority").await, None, "an entry that no majority had is gone");
    assert_eq!(old.get("majority").await.unwrap().value.as_deref(), Some(&b"x"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_may_be_changed_while_messages_are_carried_at_once() {
    let cluster = of_three(8).await;
    cluster.weather(0, Duration::ZERO);
    let changing = async {
        for number in 0..200 {
            cluster.heal();
            cluster.weather(0, Duration::ZERO);
            if number % 20 == 0 {
                put(&cluster, &number.to_string()).await;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), changing).await.expect("nobody waits for the other");
    cluster.digests_agree().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_reach_each_other_only_within_and_one_direction_may_be_cut_alone() {
    let cluster = Cluster::builder(5).configure(|config| config.request_timeout_ms(1500)).start().await.unwrap();
    cluster.partition(&[&[1, 2]]);
    let leader = cluster.wait_for_leader().await.unwrap();
    assert!([3, 4, 5].contains(&leader.id()), "those in no group are one, and the majority");
    for id in [1, 2] {
        assert!(cluster.node(id).unwrap().put("key", "x").await.is_err());
    }
    cluster.heal();
    cluster.wait_until_level().await.unwrap();

    // Whom nobody hears does not lead for long.
    let mute = cluster.wait_for_leader().await.unwrap();
    for id in cluster.ids().into_iter().filter(|id| *id != mute.id()) {
        cluster.cut(mute.id(), id);
    }
    let next = async { while cluster.wait_for_leader().await.unwrap().id() == mute.id() {} };
    tokio::time::timeout(Duration::from_secs(60), next).await.expect("another leader in time");
    put(&cluster, "after").await;
    cluster.heal();
    cluster.digests_agree().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_all_nodes_keeps_everything_that_was_acknowledged() {
    let cluster = of_three(1).await;
    for n in 0..50 {
        put(&cluster, &format!("key{n}")).await;
    }
    for id in cluster.ids() {
        cluster.kill(id).await.unwrap();
    }
    assert!(matches!(cluster.node(1), Err(TestError::NotRunning { node: 1 })));
    for id in cluster.ids() {
        cluster.restart(id).await.unwrap();
    }
    assert!(matches!(cluster.restart(1).await, Err(TestError::Running { node: 1 })));
    cluster.wait_until_ready().await.unwrap();
    for n in 0..50 {
        assert!(value(&cluster, &format!("key{n}")).await.is_some(), "key{n}");
    }
    assert_eq!(cluster.digests_agree().await.unwrap().keys, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_answers_nobody_and_a_handle_of_it_says_so() {
    let cluster = of_three(1).await;
    let doomed = cluster.wait_for_leader().await.unwrap();
    cluster.kill(doomed.id()).await.unwrap();
    let refused = doomed.put("key", "x").await.unwrap_err();
    assert!(matches!(refused, ClientError::ShuttingDown | ClientError::Unavailable { .. }), "{refused}");
    assert!(doomed.status().failure.is_some_and(|why| why.contains("killed")));
    put(&cluster, "key").await;
    cluster.restart(doomed.id()).await.unwrap();
    cluster.digests_agree().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_added_wiped_and_removed_and_all_hold_the_same() {
    let purging = |mut config: d_engine::NodeConfig| {
        config.snapshot.max_entries_behind = 0;
        config
    };
    let cluster = Cluster::builder(2).configure(purging).start().await.unwrap();
    for n in 0..20 {
        put(&cluster, &format!("key{n}")).await;
    }
    // What is purged must come as a snapshot.
    for id in cluster.ids() {
        cluster.snapshot(id).await.unwrap();
    }
    assert_eq!(cluster.add().await.unwrap().id(), 3);
    cluster.wipe(1).await.unwrap();
    put(&cluster, "after").await;
    assert_eq!(cluster.digests_agree().await.unwrap().keys, 21);
    cluster.remove(2).await.unwrap();
    assert_eq!(cluster.ids(), [1, 3]);
    put(&cluster, "of two").await;
    let voters = cluster.wait_for_leader().await.unwrap().status().members;
    assert_eq!(
        voters.iter().map(|member| (member.node, &*member.kind)).collect::<Vec<_>>(),
        [(1, "voter"), (3, "voter")]
    );
    cluster.digests_agree().await.unwrap();
}

#[test]
fn the_same_seed_gives_the_same_schedule_and_every_kind_comes() {
    let nodes = [1, 2, 3];
    assert_eq!(schedule(7, &nodes, 40), schedule(7, &nodes, 40));
    assert_eq!(schedule(7, &nodes, 40)[..10], schedule(7, &nodes, 10)[..], "a longer one begins in the same way");
    assert_ne!(schedule(7, &nodes, 40), schedule(8, &nodes, 40));
    let kinds: BTreeSet<_> = schedule(7, &nodes, 9).iter().map(|fault| format!("{:?}", fault.kind)).collect();
    assert_eq!(kinds.len(), 9, "{kinds:?}");
    assert!(schedule(7, &[], 3).is_empty());
}

/// A register that adds numbers up, kept in memory alone: the log is its journal.
#[derive(Default)]
struct Adder {
    state: Mutex<(u64, LogId)>,
    runs: AtomicBool,
}

impl Adder {
    fn state(&self) -> std::sync::MutexGuard<'_, (u64, LogId)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl StateMachine for Adder {
    fn start(&self) -> Result<(), Error> {
        self.runs.store(true, Ordering::Relaxed);
        Ok(())
    }
    fn stop(&self) -> Result<(), Error> {
        self.runs.store(false, Ordering::Relaxed);
        Ok(())
    }
    fn is_running(&self) -> bool {
        self.runs.load(Ordering::Relaxed)
    }
    fn get(&self, _key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }
    async fn apply_chunk(&self, chunk: Vec<Entry>) -> Result<(), Error> {
        self.apply(chunk).await.map(|_| ())
    }
    async fn apply(&self, chunk: Vec<Entry>) -> Result<Vec<ApplyResult>, Error> {
        let mut state = self.state();
        let mut results = Vec::new();
        for entry in chunk {
            if entry.index > state.1.index {
                let text = std::str::from_utf8(&entry.data).map_err(|error| Error::invalid(error.to_string()))?;
                state.0 += text.parse::<u64>().map_err(|error| Error::invalid(error.to_string()))?;
                state.1 = entry.id();
            }
            results.push(ApplyResult::new(entry.index, Bytes::from(state.0.to_string())));
        }
        Ok(results)
    }
    fn read_at(&self, _query: Bytes) -> Result<(Bytes, LogId), Error> {
        let state = self.state();
        Ok((Bytes::from(state.0.to_string()), state.1))
    }
    fn len(&self) -> usize {
        1
    }
    fn last_applied(&self) -> LogId {
        self.state().1
    }
    fn snapshot_metadata(&self) -> Option<SnapshotMetadata> {
        None
    }
    async fn generate_snapshot_data(&self, _dir: PathBuf, _last: LogId) -> Result<SnapshotChecksum, Error> {
        Err(Error::unsupported("snapshots of this machine"))
    }
    async fn apply_snapshot_from_file(&self, _metadata: &SnapshotMetadata, _path: PathBuf) -> Result<(), Error> {
        Err(Error::unsupported("snapshots of this machine"))
    }
    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
    async fn reset(&self) -> Result<(), Error> {
        *self.state() = Default::default();
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_machine_of_ones_own_suffers_every_fault_and_adds_up() {
    let builder = Cluster::builder(3).seed(11).configure(|config| config.request_timeout_ms(1500));
    let builder = builder.stores(|node, directory| {
        let engine = FileStorageEngine::open(directory.join("log"))?;
        Ok(node.storage_engine(Arc::new(engine)).state_machine(Arc::new(Adder::default())))
    });
    let cluster = Arc::new(builder.start().await.unwrap());
    let done = Arc::new(AtomicBool::new(false));
    let (acknowledged, in_doubt) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (cluster, done) = (Arc::clone(&cluster), Arc::clone(&done));
            let (acknowledged, in_doubt) = (Arc::clone(&acknowledged), Arc::clone(&in_doubt));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    match cluster.propose("1").await {
                        Ok(_) => acknowledged.fetch_add(1, Ordering::Relaxed),
                        Err(ClientError::Unknown) => in_doubt.fetch_add(1, Ordering::Relaxed),
                        Err(error) => panic!("{error}"),
                    };
                }
            })
        })
        .collect();
    for fault in cluster.faults(9) {
        cluster.suffer(&fault).await.unwrap();
        let before = acknowledged.load(Ordering::Relaxed);
        let service = async {
            while acknowledged.load(Ordering::Relaxed) == before {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), service).await.expect("service is back after each fault");
    }
    done.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let sum = cluster.answers_agree("").await.unwrap();
    let sum: u64 = std::str::from_utf8(&sum).unwrap().parse().unwrap();
    let (acknowledged, in_doubt) = (acknowledged.load(Ordering::Relaxed), in_doubt.load(Ordering::Relaxed));
    assert!((acknowledged..=acknowledged + in_doubt).contains(&sum), "{acknowledged} <= {sum} <= +{in_doubt}");
    assert_eq!(cluster.read("").await.unwrap().response, sum.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_weather_costs_time_and_nothing_else() {
    let cluster = of_three(5).await;
    cluster.weather(15, Duration::from_millis(40));
    for n in 0..20 {
        put(&cluster, &format!("key{n}")).await;
    }
    cluster.heal();
    assert_eq!(cluster.digests_agree().await.unwrap().keys, 20);
    assert_eq!(cluster.faults(9), schedule(5, &[1, 2, 3], 9), "a cluster's faults are those of its seed");
}
