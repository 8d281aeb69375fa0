//! Three nodes of one process, joined by a router, on volatile storage.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::Duration;

use d_engine::mem::{MemKvStore, MemStorageEngine};
use d_engine::{ClientError, KvStateMachine, LocalRouter, Node, NodeBuilder, NodeConfig, StartupError};
use tokio::sync::watch;

const WITHIN: Duration = Duration::from_secs(30);

struct Cluster {
    router: LocalRouter,
    nodes: Vec<Node>,
    _stop: watch::Sender<()>,
}

fn config(id: u64) -> NodeConfig {
    NodeConfig::new(id, "unused")
        .peers((1..=3).map(|node| (node, format!("in-process:{node}"))))
        .advertise(format!("in-process:{id}"))
        .allow_unsafe_voters(true)
}

async fn cluster() -> Cluster {
    let _ = tracing_subscriber::fmt().with_env_filter("d_engine=info").with_test_writer().try_init();
    let router = LocalRouter::new();
    let (stop, shutdown) = watch::channel(());
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let node = NodeBuilder::new(config(id), shutdown.clone())
            .storage_engine(Arc::new(MemStorageEngine::new()))
            .state_machine(Arc::new(KvStateMachine::new(MemKvStore::new()).unwrap()))
            .in_process(&router)
            .start()
            .await
            .unwrap();
        nodes.push(node);
    }
    for node in &nodes {
        node.wait_ready(WITHIN).await.unwrap();
    }
    Cluster { router, nodes, _stop: stop }
}

impl Cluster {
    /// The node that leads, once the nodes of `among` know one.
    async fn leader(&self, among: &[usize]) -> usize {
        let mut watch = self.nodes[among[0]].watch_leadership();
        let known = watch.wait_for(|now| now.leader.is_some_and(|leader| among.contains(&(leader as usize - 1))));
        let leader = tokio::time::timeout(WITHIN, known).await.expect("a leader in time").unwrap().leader.unwrap();
        leader as usize - 1
    }
}

/// Repeats a call until it is answered: during an election it may be `Unknown` or `Unavailable`.
async fn eventually<T, F: Future<Output = Result<T, ClientError>>>(mut call: impl FnMut() -> F) -> T {
    let answered = async {
        loop {
            match call().await {
                Ok(answer) => return answer,
                Err(ClientError::Unknown | ClientError::Unavailable { .. } | ClientError::NotLeader { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
    };
    tokio::time::timeout(WITHIN, answered).await.expect("an answer in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_takes_writes_and_reads_what_was_written_at_any_other() {
    let cluster = cluster().await;
    for (i, writer) in cluster.nodes.iter().enumerate() {
        let written = writer.put(format!("key{i}"), format!("from {i}")).await.unwrap();
        for reader in &cluster.nodes {
            let got = reader.get(format!("key{i}")).await.unwrap();
            assert_eq!(got.value.unwrap(), format!("from {i}"), "a linearizable read misses no answered write");
            assert!(got.index >= written.index);
        }
    }
    let status = cluster.nodes[0].status();
    assert_eq!(status.members.len(), 3);
    for node in &cluster.nodes {
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn service_goes_on_after_the_leader_has_stopped() {
    let cluster = cluster().await;
    cluster.nodes[0].put("before", "1").await.unwrap();
    let leader = cluster.leader(&[0, 1, 2]).await;
    let rest: Vec<_> = (0..3).filter(|node| *node != leader).collect();
    cluster.nodes[leader].shutdown().await.unwrap();
    for &node in &rest {
        let node = &cluster.nodes[node];
        eventually(|| node.put("after", "2")).await;
        assert_eq!(eventually(|| node.get("before")).await.value.unwrap(), "1");
        assert_eq!(eventually(|| node.get("after")).await.value.unwrap(), "2");
    }
    assert!(rest.contains(&cluster.leader(&rest).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_leader_answers_nothing_and_follows_again_when_healed() {
    let cluster = cluster().await;
    let old = cluster.leader(&[0, 1, 2]).await;
    let rest: Vec<_> = (0..3).filter(|node| *node != old).collect();
    cluster.nodes[old].put("key", "old").await.unwrap();
    cluster.router.isolate(old as u64 + 1);
    eventually(|| cluster.nodes[rest[0]].put("key", "new")).await;
    let read = cluster.nodes[old].get("key").await.unwrap_err();
    let ClientError::Unavailable { why } = read else { panic!("{read}") };
    assert!(why.contains("no leader is known") || why.contains("no quorum has confirmed"), "{why}");
    cluster.router.heal(old as u64 + 1);
    assert_eq!(eventually(|| cluster.nodes[old].get("key")).await.value.unwrap(), "new");
    let mut digests = Vec::new();
    for node in &cluster.nodes {
        eventually(|| node.get("key")).await;
        digests.push(node.digest().await.unwrap().digest);
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_quorum_says_so_within_the_deadline() {
    let router = LocalRouter::new();
    let (_stop, shutdown) = watch::channel(());
    let node = NodeBuilder::new(config(1).request_timeout_ms(300), shutdown)
        .storage_engine(Arc::new(MemStorageEngine::new()))
        .state_machine(Arc::new(KvStateMachine::new(MemKvStore::new()).unwrap()))
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
    let build = |config: NodeConfig| {
        NodeBuilder::new(config, shutdown.clone())
            .storage_engine(Arc::new(MemStorageEngine::new()))
            .state_machine(Arc::new(KvStateMachine::new(MemKvStore::new()).unwrap()))
            .build()
    };
    let text = build(config(1).allow_unsafe_voters(false)).err().unwrap().to_string();
    assert!(text.contains("must not vote in a cluster of 3 nodes") && text.contains("allow_unsafe_voters"), "{text}");
    build(NodeConfig::for_dir("unused")).unwrap();
}
