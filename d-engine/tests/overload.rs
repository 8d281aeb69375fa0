//! Calls that nobody can serve yet are bounded, and those that ended make room.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use d_engine::mem::{MemKvStore, MemStorageEngine};
use d_engine::{ClientError, KvStateMachine, LocalRouter, Node, NodeBuilder, NodeConfig};
use tokio::sync::watch;

/// One of three founders, alone: it never knows a leader.
async fn alone(set: impl FnOnce(&mut NodeConfig)) -> Node {
    let mut config = NodeConfig::new(1, "unused")
        .peers((1..=3).map(|node| (node, format!("in-process:{node}"))))
        .advertise("in-process:1")
        .allow_unsafe_voters(true);
    set(&mut config);
    let (_, shutdown) = watch::channel(());
    NodeBuilder::new(config, shutdown)
        .storage_engine(Arc::new(MemStorageEngine::new()))
        .state_machine(Arc::new(KvStateMachine::new(MemKvStore::new()).unwrap()))
        .in_process(&LocalRouter::new())
        .start()
        .await
        .unwrap()
}

/// Calls wait for a leader; returns once `count` of them do.
async fn waiting(node: &Node, count: usize, value: &'static str) -> Vec<tokio::task::JoinHandle<()>> {
    let mut calls = Vec::new();
    for _ in 0..count {
        let node = node.clone();
        let (began, begun) = tokio::sync::oneshot::channel();
        calls.push(tokio::spawn(async move {
            let mut call = std::pin::pin!(node.put("key", value));
            // Everything up to the first wait happens in the first poll.
            assert!(poll_once(call.as_mut()).await.is_none(), "no leader is known");
            began.send(()).unwrap();
            let error = call.await.unwrap_err();
            assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
        }));
        begun.await.unwrap();
    }
    calls
}

/// Polls once.
async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_for_a_leader_are_bounded_in_number_and_make_room_when_they_end() {
    let node = alone(|config| {
        config.limits.max_inflight_proposals = 2;
        config.limits.request_timeout_ms = 1000;
    })
    .await;
    let calls = waiting(&node, 2, "value").await;
    assert_eq!(node.put("key", "value").await.unwrap_err(), ClientError::Busy, "told at once");
    for call in calls {
        call.await.unwrap();
    }
    let error = node.put("key", "value").await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_for_a_leader_are_bounded_in_bytes() {
    const VALUE: &str = "a value of some length";
    let node = alone(|config| {
        config.limits.max_value_bytes = VALUE.len();
        // The largest command, and less than one more.
        config.limits.max_inflight_bytes = 2 * VALUE.len() + (1 << 16) + 64;
        config.limits.request_timeout_ms = 1000;
    })
    .await;
    let key = "k".repeat(1 << 15);
    let call = {
        let (node, key) = (node.clone(), key.clone());
        tokio::spawn(async move { node.put(key, VALUE).await })
    };
    // One large command fits, a second does not: whichever came first, one of them is told.
    let other = node.put(key.clone() + &key[1..], VALUE).await.unwrap_err();
    let first = call.await.unwrap().unwrap_err();
    assert!([&other, &first].contains(&&ClientError::Busy), "{first}, {other}");
    assert!([&other, &first].iter().any(|error| matches!(error, ClientError::Unavailable { .. })), "{first}, {other}");
}
