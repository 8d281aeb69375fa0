//! Three nodes on files, joined by real sockets.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::time::Duration;

use d_engine::{Client, ClientError, Node, NodeConfig, StartupError};
use tokio::sync::watch;

const WITHIN: Duration = Duration::from_secs(60);

/// Addresses that were free a moment ago.
fn addresses() -> Vec<String> {
    let listeners: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

async fn start(dir: &Path, id: u64, addresses: &[String]) -> Node {
    let config = NodeConfig::new(id, dir.join(id.to_string()))
        .listen(&addresses[id as usize - 1])
        .peers((1..).zip(addresses.iter().cloned()));
    let (_, shutdown) = watch::channel(());
    d_engine::open(config, shutdown).await.unwrap().start().await.unwrap()
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
async fn any_node_takes_writes_and_the_cluster_outlives_its_leader() {
    let _ = tracing_subscriber::fmt().with_env_filter("d_engine=info").with_test_writer().try_init();
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(start(dir.path(), id, &addresses).await);
    }
    for node in &nodes {
        node.wait_ready(WITHIN).await.unwrap();
    }

    for (i, writer) in nodes.iter().enumerate() {
        let written = eventually(|| writer.put(format!("key{i}"), format!("from {i}"))).await;
        for reader in &nodes {
            let got = eventually(|| reader.get(format!("key{i}"))).await;
            assert_eq!(got.value.unwrap(), format!("from {i}"));
            assert!(got.index >= written.index);
        }
    }

    // Over the wire, through one node that may not lead.
    let client = Client::new([addresses[2].clone()]).unwrap();
    eventually(|| client.put("wire", "1")).await;
    assert_eq!(eventually(|| client.get("wire")).await.value.unwrap(), "1");
    assert_eq!(eventually(|| nodes[0].get("wire")).await.value.unwrap(), "1");

    let leader = nodes[0].status().leader.expect("the node has just answered with a leader's help");
    nodes[leader as usize - 1].shutdown().await.unwrap();
    let rest: Vec<_> = nodes.iter().filter(|node| node.id() != leader).collect();
    for node in &rest {
        eventually(|| node.put("after", "2")).await;
        assert_eq!(eventually(|| node.get("wire")).await.value.unwrap(), "1");
    }

    let returned = start(dir.path(), leader, &addresses).await;
    returned.wait_ready(WITHIN).await.unwrap();
    assert_eq!(eventually(|| returned.get("after")).await.value.unwrap(), "2");
    eventually(|| returned.put("returned", "3")).await;
    let mut digests = Vec::new();
    for node in rest.iter().copied().chain([&returned]) {
        eventually(|| node.get("returned")).await;
        digests.push(node.digest().await.unwrap().digest);
    }
    for node in rest.into_iter().chain([&returned]) {
        node.shutdown().await.unwrap();
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "equal logs give equal states");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_named_and_the_directory_stays_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (_stop, shutdown) = watch::channel(());
    let config = NodeConfig::for_dir(dir.path()).listen(&address);
    let error = d_engine::open(config, shutdown).await.unwrap().start().await.unwrap_err();
    assert!(matches!(error, StartupError::Listen { .. }), "{error}");
    assert!(error.to_string().contains(&address) && error.to_string().contains("another process uses it"), "{error}");
    d_engine::start(dir.path()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_of_three_names_those_it_cannot_reach() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses();
    let config = NodeConfig::new(1, dir.path())
        .listen(&addresses[0])
        .peers((1..).zip(addresses.iter().cloned()))
        .request_timeout_ms(1000);
    let (_stop, shutdown) = watch::channel(());
    let node = d_engine::open(config, shutdown).await.unwrap().start().await.unwrap();
    let ClientError::Unavailable { why } = node.put("a", "b").await.unwrap_err() else { panic!("not unavailable") };
    assert!(why.contains("node 2 cannot be reached") && why.contains("node 3 cannot be reached"), "{why}");
    node.shutdown().await.unwrap();
}
