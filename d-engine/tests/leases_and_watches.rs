//! Leases that end and watches that see it, on a node.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use d_engine::mem::{MemKvStore, MemStorageEngine};
use d_engine::{ClientError, KvChange, KvStateMachine, Node, NodeBuilder, NodeConfig, Put, Watch, Watched, Watcher};
use tokio::sync::watch;

async fn start() -> (tempfile::TempDir, Node) {
    let dir = tempfile::tempdir().unwrap();
    let (_, shutdown) = watch::channel(());
    let node = NodeBuilder::new(NodeConfig::new(1, dir.path()), shutdown)
        .storage_engine(Arc::new(MemStorageEngine::new()))
        .state_machine(Arc::new(KvStateMachine::new(MemKvStore::new()).unwrap()))
        .start()
        .await
        .unwrap();
    node.wait_ready(Duration::from_secs(30)).await.unwrap();
    (dir, node)
}

/// The revision and the changes that the watcher is told next.
async fn next(watcher: &mut Watcher) -> (u64, Vec<KvChange>) {
    let next = tokio::time::timeout(Duration::from_secs(30), watcher.next()).await.expect("in time").unwrap();
    match next {
        Watched::Changes { revision, changes, .. } => (revision, changes),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_a_time_goes_when_it_is_over_and_a_watcher_sees_both() {
    let (_dir, node) = start().await;
    let mut watcher = node.watch(Watch::key("k")).await.unwrap();
    let (began, ttl) = (Instant::now(), Duration::from_millis(700));
    node.put_with(Put::new("k", "v").ttl(ttl)).await.unwrap();
    let (_, changes) = next(&mut watcher).await;
    assert!(matches!(&changes[..], [KvChange::Put { record, .. }] if record.value == "v"));
    let (_, changes) = next(&mut watcher).await;
    assert!(matches!(&changes[..], [KvChange::Delete { key, .. }] if key == "k"));
    assert!(began.elapsed() >= ttl, "{:?}", began.elapsed());
    assert_eq!(node.get("k").await.unwrap().value, None);
    node.shutdown().await.unwrap();
    assert_eq!(watcher.next().await, Err(ClientError::ShuttingDown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_a_past_revision_sees_everything_since() {
    let (_dir, node) = start().await;
    for n in 0..50 {
        node.put(format!("k{n}"), "v").await.unwrap();
    }
    let mut watcher = node.watch(Watch::all().since(11)).await.unwrap();
    assert_eq!(watcher.revision(), 50);
    for expected in 11..=50 {
        assert_eq!(next(&mut watcher).await.0, expected);
    }
    node.shutdown().await.unwrap();
}
