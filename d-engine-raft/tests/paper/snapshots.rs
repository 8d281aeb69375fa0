//! Snapshots (§5): what may be purged, who gets one, how one is installed.

use crate::node::{Node, append, id, incarnation, membership, millis, voters};
use d_engine_core::{LogId, MemberKind::Voter};
use d_engine_raft::{AppendOutcome, Change, Input, Role, SnapshotTask};

fn received(node: &mut Node, from: u64, term: u64, at: LogId) -> crate::node::Out {
    let membership = voters(5);
    node.input(Input::SnapshotReceived { from, term, last_included: at, membership })
}

fn installed(node: &mut Node, at: LogId) -> crate::node::Out {
    node.input(Input::SnapshotInstalled { last_included: at, ok: true })
}

/// §5.1: the log is dropped up to a snapshot that is durable, and its last id is remembered for the next comparison.
#[test]
fn the_log_is_purged_once_a_snapshot_holds_it() {
    let mut node = Node::with_log(3, &[1, 1, 1]);
    node.append(2, 1, append(id(1, 4), &[], 4));
    node.input(Input::Applied { index: 4 });
    let out = node.input(Input::SnapshotMade { last_included: id(1, 3) });
    assert_eq!(out.writes().iter().filter_map(|write| write.purge).collect::<Vec<_>>(), [id(1, 3)], "no further");
    assert_eq!((node.status().purged, node.status().last), (id(1, 3), id(1, 4)));
    let out = node.append(2, 1, append(id(1, 3), &[], 4));
    assert_eq!(out.outcomes(), [AppendOutcome::Accepted { matched: 3 }], "its id is known");
}

/// §5.1: followers that answer keep what they still need in the leader's log.
#[test]
fn a_leader_keeps_what_a_healthy_follower_lacks() {
    let mut node = Node::leader(3, &[]);
    node.config.max_entries_behind_snapshot = 100;
    let mut node = {
        let config = node.config.clone();
        let mut fresh = Node::start(config, node.disk.clone(), LogId::default());
        fresh.disk.log.truncate(2);
        fresh.lead_and_commit();
        fresh
    };
    let before = node.status().last.index;
    (0..3).for_each(|id| drop(node.propose(id)));
    node.persist();
    node.accepts(2, before + 3);
    node.input(Input::Applied { index: before + 3 });
    let at = node.status().last;
    node.input(Input::SnapshotMade { last_included: at });
    assert_eq!(node.status().purged.index, before, "node 3 lacks the three newest");
}

/// §5: a follower that needs purged entries gets the snapshot, once at a time.
#[test]
fn a_follower_that_needs_purged_entries_gets_a_snapshot() {
    let mut node = Node::behind_snapshot(id(1, 5), &voters(3), &[1]);
    node.lead();
    node.persist();
    let out = node.reply(2, AppendOutcome::Rejected { prev: 6, hint: id(1, 1) });
    let [SnapshotTask::Send { to: 2, session, term: 2 }] = out.snapshots()[..] else { panic!("{out:?}") };
    assert_eq!(node.wait(millis(300)).snapshots(), [], "one at a time");
    let out = node.input(Input::SnapshotSent { to: 2, session, installed: Some(id(1, 5)) });
    assert_eq!(out.heartbeats()[0].1.prev, id(1, 5), "it goes on behind the snapshot");
    assert_eq!(node.accepts(2, 5).entries().len(), 2);
}

/// §5: a transfer that failed is tried again with a heartbeat, not at once and for ever.
#[test]
fn a_snapshot_that_was_lost_is_sent_again_with_the_next_heartbeat() {
    let mut node = Node::behind_snapshot(id(1, 5), &voters(3), &[]);
    node.lead();
    node.persist();
    let out = node.reply(2, AppendOutcome::Rejected { prev: 5, hint: id(1, 1) });
    let [SnapshotTask::Send { session, .. }] = out.snapshots()[..] else { panic!("{out:?}") };
    let out = node.input(Input::SnapshotSent { to: 2, session, installed: None });
    assert_eq!(out.0.len(), 0);
    assert_eq!(node.timeout().snapshots().len(), 1);
}

/// §5.2: a received snapshot goes into the machine first, and then the whole log that conflicts with it is purged.
#[test]
fn a_snapshot_is_installed_before_the_log_is_purged_for_it() {
    let mut node = Node::with_log(3, &[1, 1, 1]);
    let out = received(&mut node, 2, 2, id(2, 3));
    assert_eq!(out.snapshots(), [], "the term that it came in is not durable yet");
    let out = node.persist();
    assert_eq!(out.snapshots(), [SnapshotTask::Install { last_included: id(2, 3) }]);
    assert!(node.pending.iter().all(|write| write.purge.is_none()), "the machine first");
    let out = installed(&mut node, id(2, 3));
    assert_eq!(out.writes().iter().filter_map(|write| write.purge).collect::<Vec<_>>(), [id(2, 3)]);
    let status = node.status();
    assert_eq!((status.last, status.purged, status.commit, status.applied), (id(2, 3), id(2, 3), 3, 3));
}

/// §5: the configuration of a snapshot replaces what the purged log said.
#[test]
fn a_snapshot_brings_its_configuration() {
    let mut node = Node::with_log(3, &[1]);
    received(&mut node, 2, 2, id(2, 9));
    node.persist();
    assert_eq!(node.status().membership, voters(3));
    installed(&mut node, id(2, 9));
    assert_eq!(node.status().membership, voters(5));
}

/// §5.2: a snapshot of what the log holds anyway proves that it is committed; what follows it stays.
#[test]
fn a_snapshot_of_a_prefix_of_the_log_keeps_what_follows() {
    let mut node = Node::with_log(3, &[1, 1, 1]);
    let out = received(&mut node, 2, 1, id(1, 3));
    assert_eq!(out.snapshots(), [SnapshotTask::Discard { last_included: id(1, 3) }]);
    assert_eq!((node.status().commit, node.status().last, out.applies()), (3, id(1, 4), Some(3)));
}

/// §5.2: snapshots that are old, or of an older leader, are discarded.
#[test]
fn a_stale_snapshot_is_discarded() {
    let mut node = Node::with_log(3, &[1, 1, 3]);
    node.append(2, 3, append(id(3, 4), &[], 4));
    let before = node.status();
    for (from, term, at) in [(2, 2, id(2, 9)), (3, 3, id(3, 9)), (2, 3, id(1, 2))] {
        let out = received(&mut node, from, term, at);
        assert_eq!(out.snapshots(), [SnapshotTask::Discard { last_included: at }], "from {from} in {term}");
        assert_eq!((node.status().last, node.status().commit), (before.last, before.commit));
    }
}

/// §5.2: a bad file leaves the old state, and the node goes on.
#[test]
fn a_snapshot_that_cannot_be_installed_leaves_the_old_state() {
    let mut node = Node::with_log(3, &[1, 1]);
    received(&mut node, 2, 1, id(1, 9));
    node.persist();
    node.input(Input::SnapshotInstalled { last_included: id(1, 9), ok: false });
    assert_eq!((node.status().last, node.status().purged, node.role()), (id(1, 3), LogId::default(), Role::Follower));
    assert_eq!(node.append(2, 1, append(id(1, 3), &[], 3)).applies(), Some(3));
}

/// §5: nothing is applied while a snapshot goes into the machine.
#[test]
fn nothing_is_applied_while_a_snapshot_is_being_installed() {
    let mut node = Node::with_log(3, &[1, 1]);
    received(&mut node, 2, 1, id(1, 9));
    assert_eq!(node.append(2, 1, append(id(1, 3), &[], 3)).applies(), None);
}

/// §5, Figure 2: entries that a snapshot covers are acknowledged, those behind it are taken.
#[test]
fn entries_across_the_purge_boundary_are_taken_from_it_on() {
    let mut node = Node::behind_snapshot(id(2, 5), &voters(3), &[]);
    let out = node.store(2, 2, append(id(1, 3), &[2, 2, 2, 2], 7));
    assert_eq!(out.outcomes().last(), Some(&AppendOutcome::Accepted { matched: 7 }));
    assert_eq!(node.disk.log.iter().map(|entry| entry.index).collect::<Vec<_>>(), [6, 7]);
    let out = node.append(2, 2, append(id(1, 1), &[1], 7));
    assert_eq!(out.outcomes(), [AppendOutcome::Accepted { matched: 2 }], "all of it is in the snapshot");
}

/// §3.6.1, §5: a log that is all snapshot is compared by the snapshot's last id.
#[test]
fn a_voter_without_a_log_compares_with_its_snapshot() {
    let mut node = Node::behind_snapshot(id(3, 8), &voters(3), &[]);
    assert!(!node.votes_for(2, 9, id(3, 7)));
    assert!(!node.votes_for(2, 9, id(2, 99)));
    assert!(node.votes_for(2, 9, id(3, 8)));
}

/// §5: a configuration behind the snapshot wins over the snapshot's.
#[test]
fn a_restart_uses_the_newest_configuration_of_log_and_snapshot() {
    let node = Node::behind_snapshot(id(1, 5), &membership(&[(1, Voter), (2, Voter)]), &[1]);
    assert_eq!(node.status().membership.members.len(), 2);
    let mut leader = Node::leader(1, &[]);
    leader.change(1, Change::AddLearner { node: 4, incarnation: incarnation(4), address: "n4".into() });
    leader.persist();
    leader.input(Input::Applied { index: 3 });
    leader.input(Input::SnapshotMade { last_included: id(2, 2) });
    leader.persist();
    assert_eq!((leader.status().purged, leader.status().membership.members.len()), (id(2, 2), 2));
}
