//! Three nodes of one process, joined by a router, on volatile storage.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use d_engine::mem::{MemKvStore, MemStorageEngine};
use d_engine::testing::Cluster;
use d_engine::{ClientError, KvStateMachine, LocalRouter, NodeBuilder, NodeConfig, StartupError};
use tokio::sync::watch;

fn config(id: u64) -> NodeConfig {
    NodeConfig::new(id, "unused")
        .peers((1..=3).map(|node| (node, format!("in-process:{node}"))))
        .advertise(format!("in-process:{id}"))
        .allow_unsafe_voters(true)
}

/// Nodes that say soon that they have no quorum.
async fn cluster() -> Cluster {
    let _ = tracing_subscriber::fmt().with_env_filter("d_engine=info").with_test_writer().try_init();
    let stores = |node: NodeBuilder, _: &Path| Ok(volatile(node));
    let builder = Cluster::builder(3).configure(|config| config.request_timeout_ms(2000)).stores(stores);
    builder.start().await.unwrap()
}

fn volatile(node: NodeBuilder) -> NodeBuilder {
    node.storage_engine(Arc::new(MemStorageEngine::new()))
        .state_machine(Arc::new(KvStateMachine::new(MemKvStore::new()).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_takes_writes_and_reads_what_was_written_at_any_other() {
    let cluster = cluster().await;
    for (i, writer) in cluster.nodes().iter().enumerate() {
        let written = writer.put(format!("key{i}"), format!("from {i}")).await.unwrap();
        for reader in cluster.nodes() {
            let got = reader.get(format!("key{i}")).await.unwrap();
            assert_eq!(got.value.unwrap(), format!("from {i}"), "a linearizable read misses no answered write");
            assert!(got.index >= written.index);
        }
    }
    assert_eq!(cluster.any().status().members.len(), 3);
    for id in cluster.ids() {
        cluster.shut_down(id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn service_goes_on_after_the_leader_has_stopped() {
    let cluster = cluster().await;
    cluster.any().put("before", "1").await.unwrap();
    let old = cluster.wait_for_leader().await.unwrap().id();
    cluster.shut_down(old).await.unwrap();
    let new = cluster.wait_for_leader().await.unwrap();
    for node in cluster.nodes() {
        node.put("after", "2").await.unwrap();
        assert_eq!(node.get("before").await.unwrap().value.unwrap(), "1");
        assert_eq!(node.get("after").await.unwrap().value.unwrap(), "2");
    }
    assert_ne!(new.id(), old);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_leader_answers_nothing_and_follows_again_when_healed() {
    let cluster = cluster().await;
    let old = cluster.wait_for_leader().await.unwrap();
    old.put("key", "old").await.unwrap();
    cluster.isolate(old.id());
    cluster.wait_for_leader().await.unwrap().put("key", "new").await.unwrap();
    let read = old.get("key").await.unwrap_err();
    let ClientError::Unavailable { why } = read else { panic!("{read}") };
    assert!(why.contains("no leader is known") || why.contains("no quorum has confirmed"), "{why}");
    cluster.heal();
    cluster.digests_agree().await.unwrap();
    assert_eq!(old.get("key").await.unwrap().value.unwrap(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_quorum_says_so_within_the_deadline() {
    let router = LocalRouter::new();
    let (_stop, shutdown) = watch::channel(());
    let node = volatile(NodeBuilder::new(config(1).request_timeout_ms(300), shutdown))
        .in_process(&router)
        .start()
        .await
        .unwrap();
    let begun = std::time::Instant::now();
    for error in [node.put("a", "b").await.unwrap_err(), node.get("a").await.unwrap_err()] {
        let ClientError::Unavailable { why } = error else { panic!("{error}") };
        assert!(why.contains("belongs to no cluster yet") && why.contains('2') && why.contains('3'), "{why}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(node.get_local("a").await.unwrap().value, None, "its own copy may be read");
    let error = node.wait_ready(Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, StartupError::NotReady { .. }), "{error}");
}

#[tokio::test]
async fn volatile_storage_does_not_vote_among_several_unless_allowed() {
    let (_stop, shutdown) = watch::channel(());
    let build = |config: NodeConfig| volatile(NodeBuilder::new(config, shutdown.clone())).build();
    let text = build(config(1).allow_unsafe_voters(false)).err().unwrap().to_string();
    assert!(text.contains("must not vote in a cluster of 3 nodes") && text.contains("allow_unsafe_voters"), "{text}");
    build(NodeConfig::for_dir("unused")).unwrap();
}
