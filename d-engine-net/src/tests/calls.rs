//! Client and connection against the pipeline.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::fake::{FakeServer, VALUE_LEN_MAX};
use crate::peer::lock;
use crate::{
    COMMAND_LEN_MAX, Client, ClientError, ClientOptions, Connection, LeaderHint, NodeService as _, Range, ReadMode,
    Reason,
};

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// A client that sends every write once, and nothing else.
fn plain(endpoints: &[&str]) -> Client {
    Client::with_options(endpoints.iter().copied(), ClientOptions::default().without_session()).unwrap()
}

fn hasty(endpoints: &[&str]) -> Client {
    let options = ClientOptions::default().timeout(Duration::from_millis(300)).without_session();
    Client::with_options(endpoints.iter().copied(), options).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn lead_to(address: &str) -> ClientError {
    ClientError::NotLeader { leader: Some(LeaderHint { node: 2, address: address.to_owned() }) }
}

/// An address at which nobody listens.
async fn dead_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn every_operation_goes_there_and_back() {
    let server = FakeServer::start().await;
    let client = plain(&[&server.address]);
    let written = client.put("k", "v").await.unwrap();
    assert_eq!((written.index, written.revision), (1, 1));
    let got = client.get("k").await.unwrap();
    assert_eq!((got.value, got.index, got.revision), (Some(bytes("v")), 1, 1));
    assert_eq!(got.record.unwrap().create_revision, 1);
    assert_eq!(client.get_local("none").await.unwrap().value, None);
    let swapped = client.cas("k", Some(bytes("other")), None).await.unwrap();
    assert_eq!((swapped.succeeded, swapped.current), (false, Some(bytes("v"))));
    let swapped = client.cas("k", Some(bytes("v")), Some(bytes("w"))).await.unwrap();
    assert_eq!((swapped.succeeded, swapped.revision), (true, 2));
    client.put("l", Bytes::new()).await.unwrap();
    let listed = client.range(Range::all().limit(1)).await.unwrap();
    assert_eq!((listed.records.len(), listed.more, &listed.records[0].value[..]), (1, true, &b"w"[..]));
    let listed = client.range(Range::prefix("l")).await.unwrap();
    assert_eq!((listed.records.len(), listed.more), (1, false));
    let deleted = client.delete("k").await.unwrap();
    assert_eq!((deleted.existed, deleted.revision), (true, 4));
    assert!(!client.delete("k").await.unwrap().existed);
    assert_eq!(client.status().await.unwrap(), server.node.status());
    assert_eq!(client.status_of(&server.address).await.unwrap(), server.node.status());
    let digest = client.digest_of(&server.address).await.unwrap();
    assert_eq!((digest.digest, digest.keys, digest.revision), ([3; 32], 1, 4));
    server.stop().await;
}

#[tokio::test]
async fn every_error_of_a_node_reaches_the_caller() {
    let server = FakeServer::start().await;
    let connection = Connection::new(&server.address);
    let errors = [
        ClientError::NotLeader { leader: None },
        lead_to("x:1"),
        ClientError::Busy,
        ClientError::Unknown,
        Reason::TooLarge { len: 2, limit: 1 }.into(),
        ClientError::unavailable("no quorum"),
        ClientError::ShuttingDown,
    ];
    for error in errors {
        server.node.fail_with(error.clone());
        assert_eq!(connection.propose(bytes("c"), false, soon()).await, Err(error.clone()));
        assert_eq!(connection.read(bytes("q"), ReadMode::Linearizable, soon()).await, Err(error));
    }
    server.stop().await;
}

#[tokio::test]
async fn concurrent_calls_share_one_stream_and_find_their_own_answers() {
    let server = FakeServer::start().await;
    let client = plain(&[&server.address]);
    let calls = (0..500).map(|n| {
        let client = client.clone();
        async move {
            client.put(format!("{n}"), format!("value {n}")).await.unwrap();
            let value = client.get(format!("{n}")).await.unwrap().value;
            assert_eq!(value, Some(format!("value {n}").into()));
        }
    });
    futures_util::future::join_all(calls).await;
    server.stop().await;
}

#[tokio::test]
async fn wrong_requests_are_refused_with_the_limit() {
    let server = FakeServer::start().await;
    let client = plain(&[&server.address]);
    let refused = |reason: Reason| Some(ClientError::from(reason));
    assert_eq!(client.put("", "v").await.err(), refused(Reason::EmptyKey));
    let (len, limit) = (65_537, 65_536);
    assert_eq!(client.put(vec![1; 65_537], "v").await.err(), refused(Reason::KeyTooLarge { len, limit }));
    let (len, limit) = (VALUE_LEN_MAX as u64 + 1, VALUE_LEN_MAX as u64);
    let value = vec![1; VALUE_LEN_MAX + 1];
    assert_eq!(client.put("k", value.clone()).await.err(), refused(Reason::ValueTooLarge { len, limit }));
    client.put("k", value[1..].to_vec()).await.unwrap();
    assert_eq!(client.get("k").await.unwrap().value.unwrap().len(), VALUE_LEN_MAX);
    let (len, limit) = (COMMAND_LEN_MAX as u64 + 1, COMMAND_LEN_MAX as u64);
    let command = Bytes::from(vec![0; COMMAND_LEN_MAX + 1]);
    assert_eq!(client.propose(command).await.err(), refused(Reason::TooLarge { len, limit }));
    assert!(matches!(
        client.propose(bytes("no command")).await.map(|reply| reply.at.index),
        Ok(index) if index > 0
    ));
    server.stop().await;
}

#[tokio::test]
async fn a_machine_of_another_language_is_given_only_plain_commands() {
    let server = FakeServer::start().await;
    *lock(&server.node.foreign) = true;
    let client = plain(&[&server.address]);
    let refused = client.put("k", "v").await.unwrap_err();
    assert!(matches!(refused, ClientError::Rejected { why: Reason::Unsupported { .. } }), "{refused}");
    assert_eq!(server.node.proposals.load(Ordering::Relaxed), 0);
    client.propose(bytes("a command of its own")).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_stream_holds_only_so_many_bytes_of_requests_that_wait() {
    let server = FakeServer::start().await;
    *lock(&server.node.silent) = true;
    let connection = Connection::new(&server.address);
    let largest = Bytes::from(vec![0; COMMAND_LEN_MAX]);
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let (connection, command) = (connection.clone(), largest.clone());
            tokio::spawn(async move { connection.propose(command, false, soon()).await })
        })
        .collect();
    while server.node.proposals.load(Ordering::Relaxed) < waiting.len() {
        server.node.arrived.notified().await;
    }
    assert_eq!(connection.propose(bytes("one more"), false, soon()).await, Err(ClientError::Busy));
    assert!(connection.status(soon()).await.is_ok(), "what holds nothing is served");
    server.stop().await;
    for call in waiting {
        assert_eq!(call.await.unwrap(), Err(ClientError::Unknown));
    }
}

#[tokio::test]
async fn a_timeout_without_end_is_no_fault() {
    let server = FakeServer::start().await;
    let options = ClientOptions::default().timeout(Duration::MAX);
    let client = Client::with_options([server.address.clone()], options).unwrap();
    client.put("k", "v").await.unwrap();
    client.status_of(&server.address).await.unwrap();
    client.digest_of(&server.address).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn endpoints_are_checked_before_anything_is_dialled() {
    assert!(Client::new(Vec::<String>::new()).unwrap_err().to_string().contains("no endpoint"));
    assert!(Client::new(["localhost"]).unwrap_err().to_string().contains("no port"));
    assert!(Client::new(["http://localhost:1"]).is_ok());
}

#[tokio::test]
async fn the_leader_is_found_and_then_asked_directly() {
    let (follower, leader) = (FakeServer::start().await, FakeServer::start().await);
    follower.node.fail_with(lead_to(&leader.address));
    let client = plain(&[&follower.address]);
    for _ in 0..3 {
        client.put("k", "v").await.unwrap();
    }
    assert_eq!(follower.node.proposals.load(Ordering::Relaxed), 1, "the first call finds the leader for all");
    assert_eq!(leader.node.proposals.load(Ordering::Relaxed), 3);
    assert_eq!(leader.node.forwarded.load(Ordering::Relaxed), 3, "nodes are asked to name the leader");
    follower.stop().await;
    leader.stop().await;
}

#[tokio::test]
async fn a_leader_that_cannot_be_reached_is_reached_through_another_node() {
    let follower = FakeServer::start().await;
    follower.node.fail_with(lead_to(&dead_address().await));
    let client = plain(&[&follower.address]);
    let call = tokio::spawn(async move { client.put("k", "v").await });
    while follower.node.proposals.load(Ordering::Relaxed) == follower.node.forwarded.load(Ordering::Relaxed) {
        follower.node.arrived.notified().await;
    }
    follower.node.fail_with(None);
    call.await.unwrap().unwrap();
    follower.stop().await;
}

#[tokio::test]
async fn busy_nodes_and_elections_are_waited_for() {
    for error in [ClientError::Busy, ClientError::NotLeader { leader: None }, ClientError::unavailable("no quorum")] {
        let server = FakeServer::start().await;
        server.node.fail_with(error);
        let client = plain(&[&server.address]);
        let call = tokio::spawn(async move { client.put("k", "v").await });
        while server.node.proposals.load(Ordering::Relaxed) < 2 {
            server.node.arrived.notified().await;
        }
        server.node.fail_with(None);
        call.await.unwrap().unwrap();
        server.stop().await;
    }
}

#[tokio::test]
async fn dead_endpoints_are_passed_over_and_a_dead_cluster_is_an_error_in_time() {
    let server = FakeServer::start().await;
    let (dead, other) = (dead_address().await, dead_address().await);
    let client = plain(&[&dead, &other, &server.address]);
    client.put("k", "v").await.unwrap();
    server.stop().await;
    let since = Instant::now();
    let error = hasty(&[&dead, &other]).put("k", "v").await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "nothing was sent: {error}");
    let error = hasty(&[&dead]).status_of(&dead).await.unwrap_err();
    assert!(error.to_string().contains(&dead), "{error}");
    assert!(since.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_black_hole_is_noticed_before_anything_is_sent() {
    let hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = hole.local_addr().unwrap().to_string();
    let swallow = tokio::spawn(async move {
        let mut streams = Vec::new();
        while let Ok((mut stream, _)) = hole.accept().await {
            streams.push(tokio::spawn(async move {
                let mut buffer = [0; 1024];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
            }));
        }
    });
    let error = hasty(&[&address]).put("k", "v").await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
    let server = FakeServer::start().await;
    let client = plain(&[&address, &server.address]);
    client.put("k", "v").await.unwrap();
    server.stop().await;
    swallow.abort();
}

#[tokio::test]
async fn a_write_without_an_answer_is_unknown_and_a_read_is_not() {
    let server = FakeServer::start().await;
    *lock(&server.node.silent) = true;
    let client = hasty(&[&server.address]);
    let since = Instant::now();
    assert_eq!(client.put("k", "v").await, Err(ClientError::Unknown));
    assert!(since.elapsed() >= Duration::from_millis(300) && since.elapsed() < Duration::from_secs(2));
    assert!(client.get("k").await.is_ok(), "the connection goes on");
    server.stop().await;
}

#[tokio::test]
async fn a_write_under_way_on_a_broken_connection_is_unknown_and_the_next_one_connects_anew() {
    let server = FakeServer::start().await;
    *lock(&server.node.silent) = true;
    let client = plain(&[&server.address]);
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.put("k", "v").await }
    });
    server.node.arrived.notified().await;
    let address = server.address.clone();
    server.kill().await;
    assert_eq!(call.await.unwrap(), Err(ClientError::Unknown));
    let server = FakeServer::start_at(&address, super::fake::hello(1), std::sync::Arc::new(|_| {})).await;
    client.put("k", "v").await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn shutdown_does_not_wait_for_requests_that_are_never_answered() {
    let server = FakeServer::start().await;
    *lock(&server.node.silent) = true;
    let connection = Connection::new(&server.address);
    let call = tokio::spawn(async move { connection.propose(bytes("c"), false, soon()).await });
    server.node.arrived.notified().await;
    let since = Instant::now();
    server.stop().await;
    assert!(since.elapsed() < Duration::from_secs(2));
    assert_eq!(call.await.unwrap(), Err(ClientError::Unknown));
}

#[test]
fn a_client_outlives_the_runtime_it_was_first_used_in() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let servers = runtime();
    let server = servers.block_on(FakeServer::start());
    let client = plain(&[&server.address]);
    for _ in 0..2 {
        runtime().block_on(client.put("k", "v")).unwrap();
    }
    servers.block_on(server.stop());
}

#[tokio::test]
async fn a_follower_that_gets_a_lease_read_names_the_leader_which_answers_it() {
    let follower = FakeServer::start().await;
    let leader = FakeServer::start().await;
    plain(&[&leader.address]).put("k", "newest").await.unwrap();
    *lock(&follower.node.follows) = Some(lead_to(&leader.address));
    let reads = |server: &FakeServer| server.node.reads.load(Ordering::Relaxed);

    let client = plain(&[&follower.address]);
    for _ in 0..2 {
        let got = client.get_in_mode("k", ReadMode::Lease).await.unwrap();
        assert_eq!(got.value, Some(bytes("newest")));
    }
    assert_eq!((reads(&follower), reads(&leader)), (0, 2), "a follower has no lease to read by");
    assert_eq!(follower.node.pointed.load(Ordering::Relaxed), 1, "the second read goes to the leader at once");

    // Other reads are anybody's.
    let client = plain(&[&follower.address]);
    for mode in [ReadMode::Local, ReadMode::Linearizable] {
        client.get_in_mode("k", mode).await.unwrap();
    }
    assert_eq!((reads(&follower), reads(&leader)), (2, 2));

    // A leader that this client cannot reach: the follower may, and answers.
    *lock(&follower.node.follows) = Some(lead_to(&dead_address().await));
    client.get_in_mode("k", ReadMode::Lease).await.unwrap();
    assert_eq!((reads(&follower), reads(&leader)), (3, 2));
    follower.stop().await;
    leader.stop().await;
}
