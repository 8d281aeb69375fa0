//! The client's session, and watches over the wire.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use d_engine_core::command::WatchEnd;
use tonic::Code;

use super::fake::FakeServer;
use crate::channel::dial;
use crate::generated::v1;
use crate::generated::v1::watch_client::WatchClient;
use crate::generated::v1::watch_response::Event;
use crate::generated::v1::watch_response::ended::Why;
use crate::{Client, ClientError, Delete, Put, ReadMode, Reason, Txn, Watch, Watched, Watcher};

fn client(servers: &[&FakeServer]) -> Client {
    Client::new(servers.iter().map(|server| server.address.clone())).unwrap()
}

/// The keys that a watcher is told next.
async fn told(watcher: &mut Watcher) -> Vec<Bytes> {
    match tokio::time::timeout(Duration::from_secs(20), watcher.next()).await.expect("a change in time").unwrap() {
        Watched::Changes { changes, .. } => changes.iter().map(|change| change.key().clone()).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn writes_in_doubt_are_sent_again_and_applied_once() {
    let server = FakeServer::start().await;
    let client = client(&[&server]);
    client.put("k", "0").await.unwrap();
    server.node.doubts.store(2, Ordering::Relaxed);
    let written = client.put("k", "1").await.unwrap();
    assert_eq!(written.revision, 2);
    assert_eq!(client.get("k").await.unwrap().revision, 2, "the repetitions have changed nothing");
    let swapped = client.cas("k", Some("1".into()), Some("2".into())).await.unwrap();
    assert!(swapped.succeeded);
    client.close_session().await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn many_writers_share_one_session_within_its_window() {
    let server = FakeServer::start().await;
    let client = client(&[&server]);
    let writers: Vec<_> = (0..64)
        .map(|n: u32| {
            let client = client.clone();
            tokio::spawn(async move { client.put(format!("{n}"), "v").await })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    assert_eq!(server.node.proposals.load(Ordering::Relaxed), 65, "one opens the session");
    server.stop().await;
}

#[tokio::test]
async fn a_session_of_ones_own_is_told_what_became_of_it() {
    let server = FakeServer::start().await;
    let client = client(&[&server]);
    let session = client.session().await.unwrap();
    assert!(session.id() > 0);
    server.node.doubts.store(1, Ordering::Relaxed);
    assert_eq!(session.put("k", "v").await.unwrap().revision, 1);
    session.close().await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn typed_calls_know_leases_and_transactions_and_their_refusals() {
    let server = FakeServer::start().await;
    let client = client(&[&server]);
    let replaced = client.put_with(Put::new("k", "v").lease(5).prev()).await.unwrap();
    assert_eq!((replaced.lease, &replaced.prev.unwrap().value[..]), (5, &b"before"[..]));
    assert_eq!(client.delete_range(Delete::prefix("k").prev()).await.unwrap().deleted, 1);
    assert_eq!(client.txn(Txn::new().if_absent("k").then_put("k", "v")).await.unwrap().results.len(), 1);
    let ttl = Duration::from_millis(10);
    assert_eq!(client.lease_grant(ttl).await.unwrap().ttl, ttl);
    assert_eq!(client.lease_keep_alive(7).await.unwrap().ttl, ttl);
    let gone = Err(ClientError::from(Reason::LeaseNotFound { id: 2_000 }));
    assert_eq!(client.lease_keep_alive(2_000).await.map(|_| ()), gone);
    assert_eq!(client.lease_revoke(2_000).await.map(|_| ()), gone);
    assert_eq!(client.lease_time_to_live(2_000, false).await.unwrap().lease, None);
    assert_eq!(client.lease_list(3, 0).await.unwrap().ids, [4]);
    assert_eq!(client.count(crate::Range::all()).await.unwrap().count, 0);
    assert!(client.get_in_mode("k", ReadMode::Lease).await.is_ok(), "the mode reaches the node");
    let twice = Txn::new().then_put("k", "1").then_put("k", "2");
    assert_eq!(client.txn(twice).await, Err(Reason::DuplicateKey { key: "k".into() }.into()));
    server.stop().await;
}

#[tokio::test]
async fn a_watch_goes_on_at_another_node_when_its_own_dies() {
    let first = FakeServer::start().await;
    let second = first.start_another().await;
    let client = client(&[&first, &second]);
    let mut watcher = client.watch(Watch::all()).await.unwrap();
    client.put("a", "1").await.unwrap();
    assert_eq!(told(&mut watcher).await, ["a"]);
    first.kill().await;
    client.put("b", "1").await.unwrap();
    assert_eq!(told(&mut watcher).await, ["b"]);
    second.node.end_watches(WatchEnd::Slow { next_revision: 3 });
    client.put("c", "1").await.unwrap();
    assert_eq!(told(&mut watcher).await, ["c"]);
    let mut all = client.watch(Watch::all().since(1)).await.unwrap();
    for key in ["a", "b", "c"] {
        assert_eq!(told(&mut all).await, [key]);
    }
    second.stop().await;
}

#[tokio::test]
async fn changes_are_compacted_only_if_no_node_that_answers_keeps_them() {
    let restarted = FakeServer::start().await;
    let keeper = FakeServer::start().await;
    restarted.node.keep_from(9);
    let nodes = client(&[&restarted, &keeper]);
    client(&[&keeper]).put("a", "1").await.unwrap();
    // One of them begins at each node.
    let mut watchers = Vec::new();
    for _ in 0..2 {
        let mut watcher = nodes.watch(Watch::all().since(1)).await.unwrap();
        assert_eq!(told(&mut watcher).await, ["a"]);
        watchers.push(watcher);
    }
    // A snapshot has taken a node past its watches: they look elsewhere first.
    keeper.node.end_watches(WatchEnd::Compacted { first_revision: 9 });
    client(&[&keeper]).put("b", "1").await.unwrap();
    for watcher in &mut watchers {
        assert_eq!(told(watcher).await, ["b"]);
    }
    keeper.node.keep_from(7);
    keeper.node.end_watches(WatchEnd::Compacted { first_revision: 7 });
    for watcher in &mut watchers {
        let earliest = Reason::Compacted { first_revision: 7 };
        assert_eq!(watcher.next().await, Err(earliest.into()), "the earliest that any of them keeps");
    }
    keeper.kill().await;
    let error = nodes.watch(Watch::all().since(1)).await.unwrap_err();
    assert_eq!(error, Reason::Compacted { first_revision: 9 }.into(), "nobody else can be reached");
    restarted.stop().await;
}

#[tokio::test]
async fn a_watch_ends_with_a_reason_on_the_wire() {
    let server = FakeServer::start().await;
    let mut watches = WatchClient::new(dial(&server.address).await.unwrap());
    let open = v1::WatchRequest::default;
    for (end, why) in [
        (
            WatchEnd::Compacted { first_revision: 4 },
            Why::Compacted(v1::watch_response::Compacted { first_revision: 4 }),
        ),
        (WatchEnd::Slow { next_revision: 5 }, Why::TooSlow(v1::watch_response::TooSlow { next_revision: 5 })),
    ] {
        let mut stream = watches.open(open()).await.unwrap().into_inner();
        let created = stream.message().await.unwrap().unwrap().event;
        assert!(matches!(created, Some(Event::Created(_))));
        server.node.end_watches(end);
        let ended = stream.message().await.unwrap().unwrap().event;
        assert_eq!(ended, Some(Event::Ended(v1::watch_response::Ended { why: Some(why) })));
        assert_eq!(stream.message().await.unwrap(), None);
    }
    let mut stream = watches.open(open()).await.unwrap().into_inner();
    stream.message().await.unwrap();
    let stopping = tokio::spawn(server.stop());
    let ended = stream.message().await.unwrap().unwrap().event;
    let why = Some(Why::Stopping(v1::watch_response::Stopping {}));
    assert_eq!(ended, Some(Event::Ended(v1::watch_response::Ended { why })));
    stopping.await.unwrap();
}

#[tokio::test]
async fn a_machine_without_watches_refuses_them() {
    let server = FakeServer::start().await;
    *crate::peer::lock(&server.node.foreign) = true;
    let mut watches = WatchClient::new(dial(&server.address).await.unwrap());
    assert_eq!(watches.open(v1::WatchRequest::default()).await.unwrap_err().code(), Code::InvalidArgument);
    let error = client(&[&server]).watch(Watch::key("k")).await.unwrap_err();
    assert!(matches!(error, ClientError::Rejected { why: Reason::Unsupported { .. } }), "{error}");
    server.stop().await;
}
