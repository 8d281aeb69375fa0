//! The typed calls of the key-value store: one body of code for a node in process and for a client.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::Duration;

use d_engine::mem::{MemKvStore, MemStorageEngine};
use d_engine::{
    Client, ClientError, Delete, KeyValue, KvOpResult, KvStateMachine, Node, NodeBuilder, NodeConfig, Put, Range,
    ReadMode, Reason, Relation, Txn, Watch, Watched,
};
use tokio::sync::watch;

async fn node() -> (Node, watch::Sender<()>) {
    let (stop, shutdown) = watch::channel(());
    let node = NodeBuilder::new(NodeConfig::for_dir("unused").listen("127.0.0.1:0"), shutdown)
        .storage_engine(Arc::new(MemStorageEngine::new()))
        .state_machine(Arc::new(KvStateMachine::new(MemKvStore::new()).unwrap()))
        .start()
        .await
        .unwrap();
    node.wait_ready(Duration::from_secs(20)).await.unwrap();
    (node, stop)
}

async fn transactions_and_ranges(store: &KeyValue) {
    store.put("alice", "10").await.unwrap();
    let transfer = || {
        Txn::new()
            .if_value("alice", Relation::Equal, "10")
            .if_absent("bob")
            .then(Put::new("alice", "7").prev())
            .then_put("bob", "3")
            .otherwise_get("alice")
    };
    let decided = store.txn(transfer()).await.unwrap();
    assert!(decided.succeeded);
    assert!(matches!(&decided.results[0], KvOpResult::Put { prev: Some(record), .. } if record.value == "10"));
    let decided = store.txn(transfer()).await.unwrap();
    assert!(!decided.succeeded);
    assert!(matches!(&decided.results[..], [KvOpResult::Range { records, .. }] if records[0].value == "7"));
    let twice = Txn::new().then_put("k", "1").then_delete("k");
    assert_eq!(store.txn(twice).await, Err(Reason::DuplicateKey { key: "k".into() }.into()));

    assert_eq!(store.count(Range::all()).await.unwrap().count, 2);
    let page = store.range(Range::all().limit(1)).await.unwrap();
    assert!(page.more && page.records[0].key == "alice");
    let page = store.range(Range::all().after("alice").keys_only()).await.unwrap();
    assert!(!page.more && page.records[0].key == "bob" && page.records[0].value.is_empty());
    let removed = store.delete_range(Delete::prefix("").prev()).await.unwrap();
    assert_eq!((removed.deleted, removed.prev.len()), (2, 2));
    assert_eq!(store.get_in_mode("alice", ReadMode::Lease).await.unwrap().value, None, "without a lease, a round");
}

async fn leases(store: &KeyValue) {
    let lease = store.lease_grant(Duration::from_secs(60)).await.unwrap();
    let replaced = store.put_with(Put::new("leased", "v").lease(lease.id)).await.unwrap();
    assert_eq!((replaced.lease, replaced.prev), (lease.id, None));
    assert_eq!((lease.revision + 1, lease.index + 1), (replaced.revision, replaced.index), "a lease changes no key");
    let kept = store.lease_keep_alive(lease.id).await.unwrap();
    assert_eq!(kept.ttl, Duration::from_secs(60));
    assert_eq!((kept.revision, kept.index), (replaced.revision, replaced.index + 1));
    let shown = store.lease_time_to_live(lease.id, true).await.unwrap().lease.unwrap();
    assert_eq!((shown.keys, shown.renewals), (vec!["leased".into()], 1));
    assert_eq!(store.lease_list(0, 0).await.unwrap().ids, [lease.id]);
    assert_eq!(store.lease_revoke(lease.id).await.unwrap().keys, 1);
    assert_eq!(store.get("leased").await.unwrap().value, None);
    let gone = ClientError::from(Reason::LeaseNotFound { id: lease.id });
    assert_eq!(store.lease_keep_alive(lease.id).await, Err(gone.clone()));
    assert_eq!(store.put_with(Put::new("leased", "v").lease(lease.id)).await, Err(gone));
}

async fn watches(store: &KeyValue) {
    let mut watcher = store.watch(Watch::prefix("w/").prev()).await.unwrap();
    let first = store.put("w/a", "1").await.unwrap().revision;
    store.put("other", "1").await.unwrap();
    store.delete("w/a").await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let next = tokio::time::timeout(Duration::from_secs(20), watcher.next()).await.expect("in time").unwrap();
        let Watched::Changes { revision, changes, .. } = next else { panic!("{next:?}") };
        seen.push((revision, changes[0].key().clone()));
    }
    assert_eq!(seen, [(first, "w/a".into()), (first + 2, "w/a".into())]);
    let again = store.watch(Watch::key("w/a").since(first)).await.unwrap().next().await.unwrap();
    assert!(matches!(again, Watched::Changes { revision, .. } if revision == first));
}

async fn sessions(store: &KeyValue) {
    let session = store.session().await.unwrap();
    session.put("s", "1").await.unwrap();
    assert!(session.cas("s", Some("1".into()), Some("2".into())).await.unwrap().succeeded);
    let late = session.clone();
    session.close().await.unwrap();
    let expired = Err(Reason::SessionExpired { session: late.id() }.into());
    assert_eq!(late.put("s", "3").await, expired);
    assert_eq!(store.get("s").await.unwrap().value.unwrap(), "2");
}

async fn every_call(store: &KeyValue) {
    transactions_and_ranges(store).await;
    leases(store).await;
    watches(store).await;
    sessions(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_carries_out_every_call() {
    let (node, _stop) = node().await;
    every_call(&node).await;
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_carries_out_every_call() {
    let (node, _stop) = node().await;
    let client = Client::new([node.status().members[0].address.clone()]).unwrap();
    every_call(&client).await;
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_with_its_node() {
    let (node, _stop) = node().await;
    let mut watcher = node.watch(Watch::all()).await.unwrap();
    let waiting = tokio::spawn(async move { watcher.next().await });
    node.shutdown().await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("in time").unwrap();
    assert_eq!(ended, Err(ClientError::ShuttingDown));
}

#[tokio::test]
async fn a_caller_whose_calls_are_all_answered_at_once_lets_other_tasks_run() {
    let (node, _stop) = node().await;
    // Both on the only thread of this runtime.
    let other = tokio::spawn(async {});
    for _ in 0..300 {
        node.get("key").await.unwrap();
        if other.is_finished() {
            return node.shutdown().await.unwrap();
        }
    }
    panic!("the other task has not run");
}
