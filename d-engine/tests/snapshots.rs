//! Snapshots of one node: made, purged behind, and started from.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![cfg(feature = "file")]

use std::path::Path;
use std::time::Duration;

use d_engine::{Node, NodeConfig};
use tokio::sync::watch;

const WITHIN: Duration = Duration::from_secs(30);

/// Small segments and no patience: whatever a snapshot allows is purged, and files go.
fn config(dir: &Path) -> NodeConfig {
    let mut config = NodeConfig::for_dir(dir);
    config.snapshot.max_entries_behind = 0;
    config.storage.segment_bytes_max = 64 << 10;
    config
}

async fn start(config: NodeConfig) -> Node {
    let (_, shutdown) = watch::channel(());
    let node = d_engine::open(config, shutdown).await.unwrap().start().await.unwrap();
    node.wait_ready(WITHIN).await.unwrap();
    node
}

async fn fill(node: &Node, count: usize) {
    for i in 0..count {
        node.put(format!("key{i}"), vec![b'v'; 1024]).await.unwrap();
    }
}

/// Waits until the log is purged up to at least `index`.
async fn purged(node: &Node, index: u64) {
    let done = async {
        while node.status().purged < index {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WITHIN, done).await.expect("the log is purged in time");
}

fn len_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| entry.metadata().unwrap().len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_after_a_purge_finds_the_state_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(config(dir.path())).await;
    fill(&node, 200).await;
    let at = node.snapshot().await.unwrap();
    assert_eq!(node.snapshot().await.unwrap(), at, "nothing has been written since");
    purged(&node, at.index).await;
    node.put("after", "1").await.unwrap();
    let digest = node.digest().await.unwrap().digest;
    node.shutdown().await.unwrap();

    let node = start(config(dir.path())).await;
    let status = node.status();
    assert_eq!((status.snapshot, status.purged), (Some(at.index), at.index));
    assert_eq!(node.digest().await.unwrap().digest, digest);
    node.put("again", "2").await.unwrap();
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_behind_the_purged_log_starts_from_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(config(dir.path())).await;
    fill(&node, 50).await;
    let at = node.snapshot().await.unwrap();
    purged(&node, at.index).await;
    node.put("after", "1").await.unwrap();
    let digest = node.digest().await.unwrap().digest;
    node.shutdown().await.unwrap();
    // What a crash may leave of a machine that is not synced.
    std::fs::remove_dir_all(dir.path().join("kv")).unwrap();

    let node = start(config(dir.path())).await;
    assert_eq!(node.digest().await.unwrap().digest, digest);
    node.shutdown().await.unwrap();

    std::fs::remove_dir_all(dir.path().join("kv")).unwrap();
    std::fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
    let (_, shutdown) = watch::channel(());
    let refused = d_engine::open(config(dir.path()), shutdown).await.unwrap().start().await.unwrap_err().to_string();
    assert!(refused.contains("there is no snapshot"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_made_by_policy_and_the_log_does_not_grow_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.snapshot.entries = 100;
    config.snapshot.kept = 1;
    let node = start(config).await;
    fill(&node, 300).await;
    let early = len_of(&dir.path().join("log"));
    for _ in 0..5 {
        fill(&node, 300).await;
    }
    purged(&node, 1500).await;
    assert!(len_of(&dir.path().join("log")) < early * 3, "six times as much was written");
    let names: Vec<_> = std::fs::read_dir(dir.path().join("snapshots")).unwrap().collect();
    assert!(names.len() <= 2, "one kept, one being built: {names:?}");
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn time_alone_makes_a_snapshot_due_only_if_something_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.snapshot.interval_s = 1;
    let node = start(config).await;
    let written = node.put("a", "b").await.unwrap();
    purged(&node, written.index).await;
    assert_eq!(node.status().snapshot, Some(written.index));
    node.shutdown().await.unwrap();
}
