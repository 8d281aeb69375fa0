//! Leadership transfer (§3.10).

use crate::node::{Node, Out, append, id, membership, millis};
use d_engine_core::MemberKind::{Learner, Voter};
use d_engine_raft::{Answer, Body, Input, Rejection, Role};

fn transfer(node: &mut Node, to: u64) -> Out {
    node.input(Input::Transfer { id: 1, to })
}

fn orders(out: &Out) -> Vec<u64> {
    out.messages().iter().filter(|(_, body)| matches!(body, Body::TimeoutNow { .. })).map(|(to, _)| *to).collect()
}

/// §3.10, 1: the leader stops taking requests.
#[test]
fn a_leader_that_hands_over_takes_no_proposals_and_goes_on_reading() {
    let mut node = Node::leader(3, &[]);
    transfer(&mut node, 2);
    assert_eq!(node.propose(5).rejections(), [&Rejection::HandingOver]);
    node.input(Input::Read { id: 6, by_lease: false });
    assert_eq!(node.accepts(2, 2).answers(), [&Answer::ReadReady { id: 6, index: 2 }]);
}

/// §3.10, 2: the target is brought up to date first.
#[test]
fn the_target_is_told_once_it_has_the_whole_log() {
    let mut node = Node::leader(3, &[]);
    node.propose(1);
    assert_eq!(orders(&transfer(&mut node, 2)), []);
    assert_eq!(orders(&node.accepts(3, 3)), []);
    assert_eq!(orders(&node.accepts(2, 3)), [2]);
    assert_eq!(orders(&node.accepts(2, 3)), [], "once");
}

/// §3.10, 3: the target campaigns at once, without a pre-vote, and says that it was sent.
#[test]
fn the_target_campaigns_at_once_and_with_the_leaders_word() {
    let mut node = Node::with_log(3, &[]);
    node.append(2, 1, append(id(1, 1), &[], 1));
    node.hear(2, 1, Body::TimeoutNow { session: 1 });
    assert_eq!((node.role(), node.status().term), (Role::Candidate, 2));
    let out = node.persist();
    assert!(out.asked().len() == 2 && out.asked().iter().all(|(_, ask)| ask.transfer), "{out:?}");
}

/// §3.10: an order that is late or not the leader's is ignored.
#[test]
fn an_order_of_another_term_stream_or_sender_is_ignored() {
    let mut node = Node::with_log(3, &[]);
    node.append(2, 4, append(id(1, 1), &[], 1));
    for (from, term, session) in [(2, 3, 1), (2, 4, 9), (3, 4, 1)] {
        node.hear(from, term, Body::TimeoutNow { session });
        assert_eq!(
            (node.role(), node.status().term),
            (Role::Follower, 4),
            "from {from}, term {term}, stream {session}"
        );
    }
    node.hear(2, 4, Body::TimeoutNow { session: 1 });
    assert_eq!(node.role(), Role::Candidate);
}

/// §3.10: after an election timeout the leader goes on.
#[test]
fn a_target_that_does_not_take_over_within_an_election_timeout_is_given_up() {
    let mut node = Node::leader(3, &[]);
    transfer(&mut node, 2);
    let end = node.now + node.config.election_timeout_max;
    let mut out = Out(Vec::new());
    while node.now < end {
        assert_eq!(node.propose(9).rejections(), [&Rejection::HandingOver]);
        node.accepts(3, 2);
        out = node.timeout();
    }
    assert_eq!(
        out.refusals(),
        [
            "leadership was not transferred to node 2: it did not take over within an election timeout; this node goes on leading"
        ]
    );
    assert!(matches!(node.propose(10).answers()[..], [Answer::Accepted { id: 10, .. }]));
}

/// §3.10: the new leader's first word is the answer.
#[test]
fn a_transfer_is_answered_when_another_one_leads() {
    let mut node = Node::leader(3, &[]);
    transfer(&mut node, 2);
    let out = node.append(2, 3, append(id(2, 2), &[], 0));
    assert_eq!((out.answers(), node.status().leader), (vec![&Answer::Transferred { id: 1 }], Some(2)));
}

/// §3.10: only a voter can lead.
#[test]
fn a_transfer_to_nobody_is_refused_in_words() {
    let mut node = Node::with_members(&membership(&[(1, Voter), (2, Voter), (4, Learner)]), &[]);
    assert_eq!(transfer(&mut node, 2).refusals(), ["this node does not lead"]);
    node.lead_and_commit();
    let stranger = transfer(&mut node, 9).refusals();
    assert_eq!(stranger, ["leadership was not transferred to node 9: it is not a voter of this cluster"]);
    let learner = transfer(&mut node, 4).refusals();
    assert_eq!(learner, ["leadership was not transferred to node 4: it is not a voter of this cluster"]);
    assert_eq!(transfer(&mut node, 1).answers(), [&Answer::Transferred { id: 1 }], "to itself: done");
    transfer(&mut node, 2);
    let second = transfer(&mut node, 2).refusals();
    assert_eq!(second, ["leadership was not transferred to node 2: another transfer is under way"]);
}

/// §3.10: a node that is no voter does not campaign, whoever asks it to.
#[test]
fn a_learner_that_is_told_to_campaign_does_not() {
    let mut node = Node::with_members(&membership(&[(1, Learner), (2, Voter), (3, Voter)]), &[]);
    node.append(2, 1, append(id(1, 1), &[], 1));
    node.hear(2, 1, Body::TimeoutNow { session: 1 });
    assert_eq!((node.role(), node.status().term), (Role::Follower, 1));
}

/// A full disk: leadership goes to a voter that can write; writes are refused with the cause, reads go on.
#[test]
fn a_leader_with_a_full_disk_hands_over_and_refuses_writes_with_the_cause() {
    let mut node = Node::leader(3, &[]);
    let out = node.input(Input::StorageFull { why: "12 bytes left on /data".into() });
    assert_eq!(orders(&out).len(), 1, "to one that has everything");
    let words = "the disk of the leader is full: 12 bytes left on /data. Reads go on; writes are taken again once there is space";
    assert_eq!(node.propose(1).refusals(), [words]);
    assert_eq!(node.change(2, d_engine_raft::Change::Remove { node: 3 }).refusals(), [words]);
    node.input(Input::Read { id: 3, by_lease: false });
    assert!(matches!(node.accepts(2, 2).answers()[..], [Answer::ReadReady { id: 3, index: 2 }]));
    assert_eq!(node.status().full.as_deref(), Some("12 bytes left on /data"));
    node.input(Input::StorageFreed);
    node.wait(node.config.election_timeout_max);
    assert_eq!(node.status().full, None);
}

/// A full disk: whoever has one does not campaign; its vote for itself could not be written.
#[test]
fn a_node_with_a_full_disk_does_not_campaign() {
    let mut node = Node::with_log(3, &[]);
    node.input(Input::StorageFull { why: "full".into() });
    assert_eq!(node.wait(millis(10_000)).messages(), []);
    node.append(2, 1, append(id(1, 1), &[], 1));
    node.hear(2, 1, Body::TimeoutNow { session: 1 });
    assert_eq!(node.role(), Role::Follower);
    node.input(Input::StorageFreed);
    node.timeout();
    assert_eq!(node.role(), Role::PreCandidate);
}

/// A failed disk: the node is out until it is restarted, and says so to everybody who asks.
#[test]
fn a_node_whose_disk_failed_takes_no_part_and_says_why() {
    let mut node = Node::leader(3, &[]);
    node.input(Input::Read { id: 1, by_lease: false });
    let out = node.input(Input::StorageFailed { why: "sync of /data failed".into() });
    assert_eq!(out.rejections().len(), 1, "whoever waited is told");
    let words = ["this node does not take part: sync of /data failed"];
    assert_eq!(node.propose(2).refusals(), words);
    assert_eq!(node.input(Input::Read { id: 3, by_lease: false }).refusals(), words);
    assert_eq!(node.change(4, d_engine_raft::Change::Remove { node: 3 }).refusals(), words);
    assert_eq!(transfer(&mut node, 2).refusals(), words);
    assert_eq!(node.ask_vote(2, 9, id(9, 9)).0.len() + node.append(2, 9, append(id(9, 9), &[], 9)).0.len(), 0);
    assert_eq!(node.input(Input::Persisted { seq: 99 }).0.len(), 0, "a sync that succeeds later changes nothing");
    assert_eq!((node.raft.poll_timeout(), node.role()), (None, Role::Failed));
    assert_eq!(node.status().failure.as_deref(), Some("sync of /data failed"));
}
