//! Peers with each other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use d_engine_core::{Entry, EntryKind, LogId};
use d_engine_raft::{Append, Body, Message};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::fake::{FakeServer, facts, hello};
use crate::convert::hello_to_wire;
use crate::framing::{PREAMBLE, put_frame, read_greeting, read_preamble};
use crate::generated::v1;
use crate::generated::v1::peer_frame::Frame;
use crate::generated::v1::raft_message::Empty;
use crate::{Hello, PeerEvent, Peers};

/// A server whose peer events can be waited for.
struct Node {
    server: FakeServer,
    events: mpsc::UnboundedReceiver<PeerEvent>,
    /// Those that came together with one that was asked for.
    messages: VecDeque<(u64, Message)>,
    hello: watch::Sender<Hello>,
}

impl Node {
    async fn start(facts: Hello) -> Self {
        Self::start_at("127.0.0.1:0", facts).await
    }

    async fn start_at(address: &str, facts: Hello) -> Self {
        let (sink, events) = mpsc::unbounded_channel();
        let (hello, facts) = watch::channel(facts);
        let sink = Arc::new(move |event| drop(sink.send(event)));
        Self { server: FakeServer::start_at(address, facts, sink).await, events, messages: VecDeque::new(), hello }
    }

    fn knows(&self, node: u64, other: &Node) {
        self.server.peers.set_addresses(vec![(node, other.server.address.clone())]);
    }

    async fn next(&mut self) -> PeerEvent {
        timeout(Duration::from_secs(10), self.events.recv()).await.expect("an event comes in time").unwrap()
    }

    async fn connected(&mut self) {
        while !matches!(self.next().await, PeerEvent::Connected { .. }) {}
    }

    async fn unreachable(&mut self) -> String {
        loop {
            if let PeerEvent::Unreachable { why, .. } = self.next().await {
                return why;
            }
        }
    }

    async fn message(&mut self) -> (u64, Message) {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return message;
            }
            if let PeerEvent::Messages { from, messages } = self.next().await {
                self.messages.extend(messages.into_iter().map(|message| (from, message)));
            }
        }
    }
}

fn probe(term: u64) -> Message {
    Message { term, incarnation: 1001, group: 0, body: Body::FormationProbe }
}

#[tokio::test]
async fn messages_arrive_in_order_from_whom_the_hello_named() {
    let (mut one, mut two) = (Node::start(facts(1)).await, Node::start(facts(2)).await);
    one.knows(2, &two);
    one.connected().await;
    for term in 0..1000 {
        one.server.peers.send([(2, probe(term))]);
    }
    for term in 0..1000 {
        assert_eq!(two.message().await, (1, probe(term)));
    }
    two.knows(1, &one);
    two.server.peers.send([(1, Message { incarnation: 1002, ..probe(9) })]);
    assert_eq!(one.message().await.0, 2);
    one.server.stop().await;
    two.server.stop().await;
}

#[tokio::test]
async fn large_entries_travel() {
    let (mut one, mut two) = (Node::start(facts(1)).await, Node::start(facts(2)).await);
    one.knows(2, &two);
    one.connected().await;
    let entries = (1..=4).map(|n| Entry::new(n, 1, EntryKind::Command, vec![n as u8; 2 << 20])).collect();
    let body = Body::Append(Append {
        session: 1,
        prev: LogId::default(),
        commit: 0,
        matched: 0,
        receiver: 0,
        round: 1,
        entries,
    });
    let message = Message { body, ..probe(1) };
    for _ in 0..3 {
        one.server.peers.send([(2, message.clone())]);
    }
    for _ in 0..3 {
        assert!(two.message().await.1 == message);
    }
    one.server.stop().await;
    two.server.stop().await;
}

#[tokio::test]
async fn a_peer_that_restarts_is_found_again_quickly() {
    let (mut one, two) = (Node::start(facts(1)).await, Node::start(facts(2)).await);
    one.knows(2, &two);
    one.connected().await;
    let address = two.server.address.clone();
    two.server.kill().await;
    one.unreachable().await;
    let mut two = Node::start_at(&address, facts(2)).await;
    let since = Instant::now();
    one.server.peers.send([(2, probe(1))]);
    one.connected().await;
    assert!(since.elapsed() < Duration::from_millis(1500), "{:?}", since.elapsed());
    one.server.peers.send([(2, probe(2))]);
    while two.message().await.1 != probe(2) {}
    one.server.stop().await;
    two.server.stop().await;
}

#[tokio::test]
async fn a_peer_that_dials_us_is_dialled_at_once() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let mut one = Node::start(facts(1)).await;
    one.server.peers.set_addresses(vec![(2, address.clone())]);
    for _ in 0..4 {
        one.unreachable().await;
    }
    let two = Node::start_at(&address, facts(2)).await;
    two.knows(1, &one);
    one.connected().await;
    one.server.stop().await;
    two.server.stop().await;
}

/// Why a node with `remote` facts refuses, or is refused by, node 1; dialled as node 2.
async fn refusal(remote: Hello) -> String {
    let (mut one, two) = (Node::start(facts(1)).await, Node::start(remote).await);
    one.knows(2, &two);
    let why = one.unreachable().await;
    one.server.stop().await;
    two.server.stop().await;
    why
}

#[tokio::test]
async fn incompatible_peers_are_refused_by_name() {
    let cases = [
        (Hello { cluster: 0xbad, ..facts(2) }, "belongs to cluster"),
        (facts(3), "dialled node 2 and reached node 3"),
        (Hello { protocol_min: 7, protocol_max: 8, ..facts(2) }, "speaks protocol versions"),
        (Hello { election_timeout_min_ms: 200, ..facts(2) }, "election_timeout_min"),
        (Hello { clock_drift_ppm: 7, ..facts(2) }, "clock_drift_ppm"),
        (Hello { incarnation: 5, ..facts(1) }, "two nodes claim the id 1"),
        (facts(1), "reached itself"),
    ];
    for (remote, text) in cases {
        let why = refusal(remote).await;
        assert!(why.contains(text), "{why}");
    }
}

#[tokio::test]
async fn a_node_without_a_cluster_is_welcome_until_it_joins_another_one() {
    let unformed = Hello { cluster: 0, ..facts(2) };
    let (mut one, mut two) = (Node::start(facts(1)).await, Node::start(unformed.clone()).await);
    two.knows(1, &one);
    two.connected().await;
    two.hello.send_replace(Hello { cluster: facts(1).cluster, ..unformed.clone() });
    two.server.peers.send([(1, probe(1))]);
    assert_eq!(one.message().await.0, 2, "it joined this one");
    two.hello.send_replace(Hello { cluster: 0xbad, ..unformed });
    let why = two.unreachable().await;
    assert!(why.contains("belongs to cluster"), "{why}");
    one.server.stop().await;
    two.server.stop().await;
}

#[tokio::test]
async fn a_second_data_directory_with_the_same_id_is_refused_while_the_first_is_connected() {
    let one = Node::start(facts(1)).await;
    let (mut two, mut other) = (Node::start(facts(2)).await, Node::start(Hello { incarnation: 77, ..facts(2) }).await);
    two.knows(1, &one);
    two.connected().await;
    other.knows(1, &one);
    let why = other.unreachable().await;
    assert!(why.contains("two nodes claim the id 2"), "{why}");
    two.server.stop().await;
    other.connected().await;
    other.server.stop().await;
    one.server.stop().await;
}

/// A connection that says what a test wants.
struct Raw(TcpStream);

impl Raw {
    async fn open(address: &str, frames: Vec<Frame>) -> Self {
        let mut bytes = PREAMBLE.to_vec();
        for frame in frames {
            put_frame(&mut bytes, frame);
        }
        let mut raw = Self::of(address, &bytes).await;
        read_preamble(&mut raw.0).await.unwrap();
        raw
    }

    async fn of(address: &str, bytes: &[u8]) -> Self {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        Self(socket)
    }

    async fn greeted(&mut self) {
        assert!(matches!(read_greeting(&mut self.0).await.unwrap(), Some(Frame::Hello(_))));
    }

    /// Why it was refused; nothing comes afterwards.
    async fn refusal(mut self) -> String {
        let Some(Frame::Refusal(v1::Refusal { why })) = read_greeting(&mut self.0).await.unwrap() else {
            panic!("not refused");
        };
        assert!(read_greeting(&mut self.0).await.unwrap_err().is_end());
        why
    }
}

#[tokio::test]
async fn malformed_frames_end_the_connection_and_nothing_else() {
    let mut one = Node::start(facts(1)).await;
    let address = one.server.address.clone();
    let greeting = || Frame::Hello(hello_to_wire(&facts(2), 1));
    let early = Raw::open(&address, vec![Frame::Refusal(v1::Refusal::default())]).await.refusal().await;
    assert!(early.contains("not a Hello"), "{early}");

    let short = v1::Hello { cluster: Bytes::from_static(b"short"), ..hello_to_wire(&facts(2), 1) };
    let short = Raw::open(&address, vec![Frame::Hello(short)]).await.refusal().await;
    assert!(short.contains("5 bytes instead of 16"), "{short}");

    let body = Some(v1::raft_message::Body::Formation(Bytes::from_static(b"no entry")));
    let bad = v1::RaftMessage { body, ..Default::default() };
    let batch = Frame::Messages(v1::MessageBatch { messages: vec![bad] });
    let mut raw = Raw::open(&address, vec![greeting(), batch]).await;
    raw.greeted().await;
    let bad = raw.refusal().await;
    assert!(bad.contains("malformed"), "{bad}");

    let mut raw = Raw::open(&address, vec![greeting(), Frame::Hello(hello_to_wire(&facts(3), 1))]).await;
    raw.greeted().await;
    let impostor = raw.refusal().await;
    assert!(impostor.contains("became another"), "{impostor}");

    let good = v1::RaftMessage { body: Some(v1::raft_message::Body::FormationProbe(Empty {})), ..Default::default() };
    let good = Frame::Messages(v1::MessageBatch { messages: vec![v1::RaftMessage { term: 4, ..good }] });
    let mut bytes = Vec::new();
    put_frame(&mut bytes, good);
    bytes.extend_from_slice(&[0xff; 100]);
    let mut raw = Raw::open(&address, vec![greeting()]).await;
    raw.greeted().await;
    raw.0.write_all(&bytes).await.unwrap();
    assert_eq!(one.message().await.1.term, 4, "what came before counts");
    let long = raw.refusal().await;
    assert!(long.contains("4294967295 bytes"), "{long}");

    let mut other = PREAMBLE;
    other[7] = 9;
    let mut raw = Raw::of(&address, &other).await;
    read_preamble(&mut raw.0).await.unwrap();
    let newer = raw.refusal().await;
    assert!(newer.contains("version 9"), "{newer}");

    let mut two = Node::start(facts(2)).await;
    two.knows(1, &one);
    two.connected().await;
    two.server.peers.send([(1, probe(5))]);
    assert_eq!(one.message().await.1.term, 5);
    one.server.stop().await;
    two.server.stop().await;
}

#[tokio::test]
async fn peers_that_are_no_members_any_more_are_not_dialled() {
    let (mut one, mut two) = (Node::start(facts(1)).await, Node::start(facts(2)).await);
    one.knows(2, &two);
    one.connected().await;
    one.server.peers.set_addresses(Vec::new());
    one.server.peers.send([(2, probe(1))]);
    one.knows(2, &two);
    one.connected().await;
    one.server.peers.send([(2, probe(2))]);
    assert_eq!(two.message().await.1.term, 2, "what was sent in between is lost");
    one.server.stop().await;
    two.server.stop().await;
}

#[tokio::test]
async fn a_changed_address_is_dialled_anew() {
    let (mut one, two) = (Node::start(facts(1)).await, Node::start(facts(2)).await);
    one.knows(2, &two);
    one.connected().await;
    two.server.kill().await;
    let moved = Node::start(facts(2)).await;
    one.knows(2, &moved);
    one.connected().await;
    one.server.stop().await;
    moved.server.stop().await;
}

#[tokio::test]
async fn shutdown_joins_links_that_are_connected_and_links_that_are_not() {
    let two = Node::start(facts(2)).await;
    let peers = Peers::start(hello(1), Arc::new(|_| {}));
    let hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let swallowing = hole.local_addr().unwrap().to_string();
    peers.set_addresses(vec![(2, two.server.address.clone()), (3, "127.0.0.1:1".to_owned()), (4, swallowing)]);
    let since = Instant::now();
    peers.shutdown().await;
    two.server.stop().await;
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}
