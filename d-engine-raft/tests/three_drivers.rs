//! The smallest cluster elects, commits, reads and fails over.

mod common;

use bytes::Bytes;
use common::Cluster;
use d_engine_raft::{Append, Body, Input, Message, Rejection, Role};

#[test]
fn three_empty_nodes_form_a_cluster_and_commit() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    cluster.event(leader, Input::Propose { id: 1, command: Bytes::from_static(b"one") });
    let at = cluster.accepted[0].1.index;
    assert_eq!(cluster.applied[&leader], [(at, Bytes::from_static(b"one"))]);
    cluster.tick();
    cluster.tick();
    assert!((1..=3).all(|node| cluster.applied[&node] == cluster.applied[&leader]));
}

#[test]
fn followers_refuse_proposals_and_serve_reads() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let follower = 1 + leader % 3;
    cluster.event(follower, Input::Propose { id: 1, command: Bytes::new() });
    assert_eq!(cluster.rejected, [(1, Rejection::NotLeader { leader: Some(leader) })]);
    cluster.event(leader, Input::Propose { id: 2, command: Bytes::from_static(b"x") });
    let written = cluster.accepted[0].1.index;
    cluster.event(follower, Input::Read { id: 3, by_lease: false });
    assert_eq!(cluster.ready, [(3, written)]);
    assert_eq!(cluster.applied[&follower].len(), 1, "the reply tells the follower what is committed");
}

#[test]
fn the_others_go_on_without_the_leader() {
    let mut cluster = Cluster::new(3);
    let first = cluster.leader();
    cluster.event(first, Input::Propose { id: 1, command: Bytes::from_static(b"kept") });
    cluster.down.push(first);
    let second = cluster.leader();
    assert_ne!(first, second);
    cluster.event(second, Input::Propose { id: 2, command: Bytes::from_static(b"new") });
    let values: Vec<_> = cluster.applied[&second].iter().map(|(_, data)| data.clone()).collect();
    assert_eq!(values, [Bytes::from_static(b"kept"), Bytes::from_static(b"new")]);
}

#[test]
fn one_node_serves_alone() {
    let mut cluster = Cluster::new(1);
    cluster.settle();
    cluster.event(1, Input::Propose { id: 1, command: Bytes::from_static(b"x") });
    cluster.event(1, Input::Read { id: 2, by_lease: false });
    assert_eq!(cluster.applied[&1].len(), 1);
    assert_eq!(cluster.ready.len(), 1);
}

#[test]
fn a_follower_that_has_lost_what_it_acknowledged_says_so_and_stops() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let follower = 1 + leader % 3;
    cluster.event(leader, Input::Propose { id: 1, command: Bytes::from_static(b"x") });
    let status = cluster.nodes[&leader].status(cluster.now);
    let append = Append {
        session: 9,
        prev: status.last,
        commit: status.commit,
        matched: status.last.index + 5,
        receiver: common::incarnation(follower),
        round: 0,
        entries: Vec::new(),
    };
    let incarnation = status.identity.incarnation;
    let message = Message { term: status.term, incarnation, group: 0, body: Body::Append(append) };
    cluster.event(follower, Input::Message { from: leader, message });
    let status = cluster.nodes[&follower].status(cluster.now);
    assert_eq!(status.role, Role::Failed);
    assert!(status.failure.unwrap().contains("acknowledged entries up to"));
}
