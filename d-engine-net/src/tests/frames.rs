//! Messages that are too large for the wire.

use std::sync::Arc;
use std::time::Duration;

use d_engine_core::{Entry, EntryKind, LogId};
use d_engine_raft::{Append, Body, Message};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::fake::{FakeServer, facts, hello};
use crate::{FRAME_LEN_MAX, PeerEvent};

fn probe(term: u64) -> Message {
    Message { term, incarnation: 1001, group: 0, body: Body::FormationProbe }
}

#[tokio::test]
async fn a_message_that_no_frame_can_carry_is_dropped_and_the_stream_goes_on() {
    let (told, mut tells) = mpsc::unbounded_channel();
    let (brought, mut brings) = mpsc::unbounded_channel();
    let one = FakeServer::start_at("127.0.0.1:0", hello(1), Arc::new(move |event| drop(told.send(event)))).await;
    let two = FakeServer::start_at("127.0.0.1:0", hello(2), Arc::new(move |event| drop(brought.send(event)))).await;
    one.peers.set_addresses(vec![(facts(2).node, two.address.clone())]);
    assert_eq!(tells.recv().await, Some(PeerEvent::Connected { to: 2 }));
    let entries = vec![Entry::new(1, 1, EntryKind::Command, vec![0; FRAME_LEN_MAX])];
    let body = Body::Append(Append {
        session: 1,
        prev: LogId::default(),
        commit: 0,
        matched: 0,
        receiver: 0,
        round: 1,
        entries,
    });
    one.peers.send([(2, Message { body, ..probe(1) })]);
    one.peers.send([(2, probe(2))]);
    let mut brought = None;
    while !matches!(brought, Some(PeerEvent::Messages { .. })) {
        brought = timeout(Duration::from_secs(10), brings.recv()).await.expect("the next message comes in time");
    }
    assert_eq!(brought, Some(PeerEvent::Messages { from: 1, messages: vec![probe(2)] }));
    assert!(tells.try_recv().is_err(), "the stream did not break");
    one.stop().await;
    two.stop().await;
}
