//! Membership changes and leadership transfer on the smallest cluster.

mod common;

use bytes::Bytes;
use common::{Cluster, incarnation};
use d_engine_raft::{Change, ChangeError, Input, Rejection, Role};

fn change(cluster: &mut Cluster, id: u64, change: Change) {
    let leader = cluster.leader();
    cluster.event(leader, Input::ChangeMembership { id, base: None, change });
    for _ in 0..30 {
        cluster.tick();
    }
}

fn learner(node: u64) -> Change {
    Change::AddLearner { node, incarnation: incarnation(node), address: format!("n{node}:1") }
}

fn voters(cluster: &mut Cluster) -> Vec<u64> {
    let leader = cluster.leader();
    cluster.nodes[&leader].status(cluster.now).membership.voters().collect()
}

#[test]
fn one_node_grows_to_three_and_shrinks_again() {
    let mut cluster = Cluster::new(1);
    cluster.leader();
    for node in [2, 3] {
        cluster.join(node);
        change(&mut cluster, node, learner(node));
        change(&mut cluster, 10 + node, Change::Promote { node });
    }
    assert_eq!(cluster.rejected, []);
    assert_eq!(cluster.done, [2, 12, 3, 13]);
    assert_eq!(voters(&mut cluster), [1, 2, 3]);
    let leader = cluster.leader();
    cluster.down.push(leader);
    let next = cluster.leader();
    cluster.event(next, Input::Propose { id: 20, command: Bytes::from_static(b"still here") });
    assert!(cluster.applied[&next].iter().any(|(_, data)| data == "still here"));
    cluster.down.clear();
    change(&mut cluster, 30, Change::SetVoters { voters: vec![next] });
    assert_eq!(voters(&mut cluster), [next]);
}

#[test]
fn several_voters_change_at_once_through_a_joint_configuration() {
    let mut cluster = Cluster::new(3);
    cluster.leader();
    for node in [4, 5] {
        cluster.join(node);
        change(&mut cluster, node, learner(node));
    }
    change(&mut cluster, 9, Change::SetVoters { voters: vec![3, 4, 5] });
    assert_eq!(cluster.done, [4, 5, 9]);
    assert_eq!(voters(&mut cluster), [3, 4, 5]);
    assert!([3, 4, 5].contains(&cluster.leader()), "a leader that is no voter any more has stepped down");
}

#[test]
fn a_leader_that_removes_itself_leads_until_the_change_commits() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    cluster.event(leader, Input::ChangeMembership { id: 1, base: None, change: Change::Remove { node: leader } });
    assert_eq!(cluster.done, [1]);
    assert_ne!(cluster.nodes[&leader].status(cluster.now).role, Role::Leader);
    let next = cluster.leader();
    assert_ne!(next, leader);
    assert!(!voters(&mut cluster).contains(&leader));
}

#[test]
fn a_learner_that_has_nothing_is_not_promoted() {
    let mut cluster = Cluster::new(1);
    let leader = cluster.leader();
    cluster.event(leader, Input::ChangeMembership { id: 1, base: None, change: learner(2) });
    cluster.event(leader, Input::ChangeMembership { id: 2, base: None, change: Change::Promote { node: 2 } });
    assert!(matches!(cluster.rejected[..], [(2, Rejection::Change(ChangeError::NotCaughtUp { node: 2, .. }))]));
}

#[test]
fn a_second_change_waits_for_the_first() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    cluster.down = (1..=3).filter(|node| *node != leader).collect();
    cluster.event(leader, Input::ChangeMembership { id: 1, base: None, change: learner(4) });
    cluster.event(leader, Input::ChangeMembership { id: 2, base: None, change: learner(5) });
    assert!(matches!(cluster.rejected[..], [(2, Rejection::Change(ChangeError::InProgress { .. }))]));
}

#[test]
fn leadership_is_handed_over_without_an_election_timeout() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let to = 1 + leader % 3;
    let before = cluster.now;
    cluster.event(leader, Input::Transfer { id: 1, to });
    assert_eq!(cluster.done, [1]);
    assert_eq!(cluster.now, before);
    assert_eq!(cluster.nodes[&to].status(cluster.now).role, Role::Leader);
}

#[test]
fn a_transfer_to_a_dead_voter_is_given_up_and_proposals_go_on() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let to = 1 + leader % 3;
    cluster.event(leader, Input::Propose { id: 1, command: Bytes::from_static(b"x") });
    cluster.down.push(to);
    cluster.event(leader, Input::Transfer { id: 2, to });
    cluster.event(leader, Input::Propose { id: 3, command: Bytes::from_static(b"y") });
    assert!(cluster.rejected.contains(&(3, Rejection::HandingOver)));
    for _ in 0..60 {
        cluster.tick();
    }
    assert!(cluster.rejected.iter().any(|(id, why)| *id == 2 && matches!(why, Rejection::NoTransfer { .. })));
    let leader = cluster.leader();
    let before = cluster.accepted.len();
    cluster.event(leader, Input::Propose { id: 4, command: Bytes::from_static(b"z") });
    assert_eq!(cluster.accepted.len(), before + 1);
}

/// Snapshots what the leader has applied, and purges its log.
fn snapshot(cluster: &mut Cluster, leader: u64) {
    let status = cluster.nodes[&leader].status(cluster.now);
    assert_eq!(status.applied, status.last.index);
    cluster.snapshots.insert(leader, status.last);
    cluster.event(leader, Input::SnapshotMade { last_included: status.last });
    assert_eq!(cluster.nodes[&leader].status(cluster.now).purged, status.last);
}

#[test]
fn a_fully_purged_leader_brings_a_new_learner_up_without_a_write() {
    let mut cluster = Cluster::new(1);
    let leader = cluster.leader();
    for id in 0..10 {
        cluster.event(leader, Input::Propose { id, command: Bytes::from(vec![id as u8]) });
    }
    cluster.event(leader, Input::ChangeMembership { id: 11, base: None, change: learner(2) });
    snapshot(&mut cluster, leader);
    cluster.join(2);
    (0..20).for_each(|_| cluster.tick());
    assert_eq!(cluster.applied[&2], cluster.applied[&leader]);
    change(&mut cluster, 12, Change::Promote { node: 2 });
    assert_eq!(voters(&mut cluster), [1, 2]);
}

#[test]
fn a_follower_that_was_away_gets_a_snapshot_and_then_entries() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let away = 1 + leader % 3;
    cluster.down.push(away);
    (0..20).for_each(|_| cluster.tick());
    for id in 0..10 {
        cluster.event(leader, Input::Propose { id, command: Bytes::from(vec![id as u8]) });
    }
    snapshot(&mut cluster, leader);
    cluster.event(leader, Input::Propose { id: 10, command: Bytes::from_static(b"after") });
    cluster.down.clear();
    let leader = cluster.leader();
    (0..30).for_each(|_| cluster.tick());
    assert_eq!(cluster.applied[&away], cluster.applied[&leader]);
}

fn hello(cluster: &mut Cluster, at: u64, from: u64, feature_level: u32) {
    cluster.event(at, Input::PeerHello { from, incarnation: incarnation(from), feature_level });
}

fn level(cluster: &Cluster, node: u64) -> u32 {
    cluster.nodes[&node].status(cluster.now).membership.settings.feature_level
}

#[test]
fn the_feature_level_rises_once_every_member_offers_it() {
    let mut cluster = Cluster::at_level(3, 2);
    let leader = cluster.leader();
    let others: Vec<_> = (1..=3).filter(|node| *node != leader).collect();
    assert_eq!(level(&cluster, leader), 1, "a cluster begins at the first level, whatever its founder understands");
    hello(&mut cluster, leader, others[0], 2);
    (0..20).for_each(|_| cluster.tick());
    assert_eq!(level(&cluster, leader), 1, "one member has not said what it understands");
    hello(&mut cluster, leader, others[1], 3);
    (0..20).for_each(|_| cluster.tick());
    assert!((1..=3).all(|node| level(&cluster, node) == 2), "everybody understands 2");
}

#[test]
fn a_member_that_offers_less_holds_the_feature_level_back() {
    let mut cluster = Cluster::at_level(1, 2);
    let leader = cluster.leader();
    (0..5).for_each(|_| cluster.tick());
    assert_eq!(level(&cluster, leader), 2, "the only member understands 2");
    let mut cluster = Cluster::at_level(3, 2);
    let leader = cluster.leader();
    for node in (1..=3).filter(|node| *node != leader) {
        hello(&mut cluster, leader, node, if node == 1 + leader % 3 { 1 } else { 2 });
    }
    (0..20).for_each(|_| cluster.tick());
    assert_eq!(level(&cluster, leader), 1);
}

#[test]
fn what_another_data_directory_offered_under_the_same_id_does_not_count() {
    let mut cluster = Cluster::at_level(2, 2);
    let leader = cluster.leader();
    let other = 3 - leader;
    cluster.event(leader, Input::PeerHello { from: other, incarnation: 999, feature_level: 2 });
    (0..20).for_each(|_| cluster.tick());
    assert_eq!(level(&cluster, leader), 1);
}

#[test]
fn a_directory_that_is_not_the_member_stays_out_and_says_why() {
    let mut cluster = Cluster::new(1);
    cluster.leader();
    cluster.join(2);
    let other = Change::AddLearner { node: 2, incarnation: 999, address: "n2:1".into() };
    change(&mut cluster, 1, other);
    assert_eq!((cluster.done.as_slice(), cluster.nodes[&2].leadership().1), (&[1][..], Role::Unformed));
    let status = cluster.nodes[&2].status(cluster.now);
    assert!(status.failure.is_some_and(|why| why.contains("formed without it")), "{:?}", status.waiting_for);
    assert_eq!((status.identity.cluster, status.last.index), (0, 0), "nothing of the cluster is taken in");
}
