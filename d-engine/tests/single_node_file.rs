//! One file-backed node: the embedded default.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use bytes::Bytes;
use d_engine::{ClientError, KvCommand, NodeConfig, Range, StartupError};
use tokio::sync::watch;

#[tokio::test]
async fn what_was_answered_is_there_after_a_drop_and_after_a_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let node = d_engine::start(dir.path()).await.unwrap();
    for i in 0..100u32 {
        node.put(format!("key{i:03}"), format!("value{i}")).await.unwrap();
    }
    assert!(node.delete("key007").await.unwrap().existed);
    drop(node);

    let node = d_engine::start(dir.path()).await.unwrap();
    assert_eq!(node.get("key042").await.unwrap().value.unwrap(), "value42");
    assert_eq!(node.get("key007").await.unwrap().value, None);
    let page = node.range(Range::prefix("key09")).await.unwrap();
    assert_eq!(page.records.len(), 10);
    let swapped = node.cas("key042", Some(Bytes::from("value42")), Some(Bytes::from("new"))).await.unwrap();
    assert!(swapped.succeeded);
    let digest = node.digest().await.unwrap();
    node.shutdown().await.unwrap();

    let again = d_engine::start(dir.path()).await.unwrap();
    assert_eq!(again.digest().await.unwrap().digest, digest.digest);
    assert_eq!(again.get("key042").await.unwrap().value.unwrap(), "new");
    // The old handle is a handle of a node that has ended.
    assert_eq!(node.get("key042").await.unwrap_err(), ClientError::ShuttingDown);
    assert_eq!(node.put("a", "b").await.unwrap_err(), ClientError::ShuttingDown);
    again.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_directory_in_use_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let node = d_engine::start(dir.path()).await.unwrap();
    let error = d_engine::start(dir.path()).await.unwrap_err();
    assert!(matches!(error, StartupError::Locked { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("is in use by another process") && text.contains(dir.path().to_str().unwrap()), "{text}");
    node.put("still", "serving").await.unwrap();
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_directory_of_another_node_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    d_engine::start(dir.path()).await.unwrap().shutdown().await.unwrap();
    let (_stop, shutdown) = watch::channel(());
    let builder = d_engine::open(NodeConfig::for_dir(dir.path()).id(7), shutdown).await.unwrap();
    let text = builder.start().await.unwrap_err().to_string();
    assert!(text.contains("belongs to node 1, but this node's id is 7"), "{text}");
    // Refusing changed nothing and left the directory free.
    d_engine::start(dir.path()).await.unwrap().shutdown().await.unwrap();
}

#[tokio::test]
async fn the_watch_ends_the_node_and_so_does_its_sender() {
    for drops in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (stop, shutdown) = watch::channel(());
        let node = d_engine::open(NodeConfig::for_dir(dir.path()), shutdown).await.unwrap().start().await.unwrap();
        node.wait_ready(Duration::from_secs(10)).await.unwrap();
        if !drops {
            stop.send(()).unwrap();
        }
        drop(stop);
        let ended = async {
            while node.put("a", "b").await != Err(ClientError::ShuttingDown) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the node ends");
        node.shutdown().await.unwrap();
        d_engine::start(dir.path()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_each_get_their_own_answer() {
    let dir = tempfile::tempdir().unwrap();
    let node = d_engine::start(dir.path()).await.unwrap();
    let writers: Vec<_> = (0..50u32)
        .map(|writer| {
            let node = node.clone();
            tokio::spawn(async move {
                let mut last = 0;
                for i in 0..40u32 {
                    let written = node.put(format!("{writer}"), format!("{i}")).await.unwrap();
                    assert!(written.index > last);
                    last = written.index;
                    let got = node.get(format!("{writer}")).await.unwrap();
                    assert_eq!(got.value.unwrap(), format!("{i}"), "a caller reads its own write");
                    assert!(got.index >= last);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(node.status().failure, None);
    assert!(node.status().sync_micros_p50.is_some());
}

#[tokio::test]
async fn shape_and_size_are_checked_before_anything_is_proposed() {
    let dir = tempfile::tempdir().unwrap();
    let node = d_engine::start(dir.path()).await.unwrap();
    let last = node.status().last;
    let large = Bytes::from(vec![0; (1 << 20) + 1]);
    for error in [
        node.put("key", large.clone()).await.unwrap_err(),
        node.put("", "value").await.unwrap_err(),
        node.propose(vec![0u8; 64 << 20]).await.unwrap_err(),
        // Applied, it would stop every replica: a command that seems to come from a newer version.
        node.propose("garbage").await.unwrap_err(),
        node.propose(KvCommand::Put { key: "key".into(), value: large }.encode()).await.unwrap_err(),
        node.read("garbage").await.unwrap_err(),
    ] {
        assert!(matches!(error, ClientError::Rejected { .. }), "{error}");
    }
    assert_eq!(node.status().last, last);
}
