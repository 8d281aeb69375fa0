//! Leases that end and watches that see it, on a node.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use d_engine::command::{KeySpan, KvChange, KvPut, KvWatch, LeaseChoice, WatchEnd, WatchMessage};
use d_engine::mem::{MemKvStore, MemStorageEngine};
use d_engine::{KvCommand, KvOutcome, KvStateMachine, Node, NodeBuilder, NodeConfig, Watcher};
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

async fn next(watcher: &mut Watcher) -> WatchMessage {
    tokio::time::timeout(Duration::from_secs(30), watcher.next()).await.unwrap().unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_a_time_goes_when_it_is_over_and_a_watcher_sees_both() {
    let (_dir, node) = start().await;
    let mut watcher = node.watch(&KvWatch::new(KeySpan::key("k"))).unwrap();
    assert!(matches!(next(&mut watcher).await, WatchMessage::Created { .. }));
    let began = Instant::now();
    let put = KvCommand::PutWith(KvPut::new("k", "v").lease(LeaseChoice::Ttl(700)));
    let reply = node.propose(put.encode()).await.unwrap();
    assert!(matches!(KvOutcome::decode(&reply.response).unwrap(), KvOutcome::Done { .. }));
    let WatchMessage::Changes { changes, .. } = next(&mut watcher).await else { panic!("not the put") };
    assert!(matches!(&changes[..], [KvChange::Put { record, .. }] if record.value == "v"));
    let WatchMessage::Changes { changes, .. } = next(&mut watcher).await else { panic!("not the end") };
    assert!(matches!(&changes[..], [KvChange::Delete { key, .. }] if key == "k"));
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    assert_eq!(node.get("k").await.unwrap().value, None);
    node.shutdown().await.unwrap();
    assert_eq!(next(&mut watcher).await, WatchMessage::Ended(WatchEnd::Stopped));
    assert!(watcher.next().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_a_past_revision_sees_everything_since() {
    let (_dir, node) = start().await;
    for n in 0..50 {
        node.put(format!("k{n}"), "v").await.unwrap();
    }
    let mut watch = KvWatch::new(KeySpan::ALL);
    watch.from_revision = 11;
    let mut watcher = node.watch(&watch).unwrap();
    assert!(matches!(next(&mut watcher).await, WatchMessage::Created { revision: 50 }));
    for expected in 11..=50 {
        let WatchMessage::Changes { revision, .. } = next(&mut watcher).await else { panic!("not a change") };
        assert_eq!(revision, expected);
    }
    node.shutdown().await.unwrap();
}
