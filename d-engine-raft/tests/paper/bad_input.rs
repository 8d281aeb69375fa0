//! What no honest and current sender says: dropped, counted by kind, and without effect. Requests beyond a limit: refused
//! in words.

use bytes::Bytes;

use crate::node::{CLUSTER, Node, append, entries, id, incarnation, voters};
use d_engine_core::{Entry, EntryKind, LogId};
use d_engine_raft::{Append, AppendOutcome, AppendReply, BadMessages, Body, Input, Message, Role, Status, VoteRequest};

/// A voter, a candidate and a leader of term 2, with the entries 1.1 and 1.2.
fn nodes() -> [Node; 3] {
    let mut follower = Node::with_log(3, &[1]);
    follower.append(2, 2, append(id(1, 2), &[], 1));
    let mut candidate = Node::with_log(3, &[1]);
    candidate.campaign();
    let mut leader = Node::with_log(3, &[1]);
    leader.lead();
    [follower, candidate, leader].map(|mut node| {
        node.persist();
        node
    })
}

/// The message changes nothing at any of them but one count.
fn is_dropped(from: u64, message: &Message, count: impl Fn(&BadMessages) -> u64) {
    for mut node in nodes() {
        let before = node.status();
        let out = node.input(Input::Message { from, message: message.clone() });
        let after = node.status();
        assert_eq!(count(&after.bad_messages), count(&before.bad_messages) + 1, "{:?}: {message:?}", before.role);
        assert_eq!(without_count(after), without_count(before), "{message:?}");
        assert!(out.0.is_empty(), "{message:?}: {out:?}");
    }
}

fn without_count(mut status: Status) -> Status {
    status.bad_messages = BadMessages::default();
    status
}

fn from_member(node: u64, term: u64, body: Body) -> Message {
    Message { term, incarnation: incarnation(node), group: 0, body }
}

/// Rule 16: `group` is in every message.
#[test]
fn a_message_of_another_group_is_dropped() {
    let message = Message { group: 1, ..from_member(2, 9, Body::VoteReply { granted: true }) };
    is_dropped(2, &message, |bad| bad.other_group);
}

#[test]
fn a_message_from_this_node_itself_is_dropped() {
    is_dropped(1, &from_member(1, 9, Body::Append(append(id(1, 2), &[9], 3))), |bad| bad.impossible);
}

#[test]
fn numbers_that_nobody_counts_to_are_dropped() {
    let vote = Body::RequestVote(VoteRequest { last: id(u64::MAX, u64::MAX), transfer: true });
    is_dropped(2, &from_member(2, u64::MAX, vote), |bad| bad.impossible);
    let far = Append { prev: LogId::new(1, u64::MAX), ..append(id(1, 2), &[], 3) };
    is_dropped(2, &from_member(2, 3, Body::Append(far)), |bad| bad.impossible);
}

/// A well-formed message of the leader that `node` follows, with these entries instead.
fn malformed(entries: Vec<Entry>) {
    let mut node = Node::with_log(3, &[1]);
    node.append(2, 2, append(id(1, 2), &[], 1));
    node.persist();
    let out = node.append(2, 2, Append { entries: entries.clone(), ..append(id(1, 2), &[], 9) });
    let status = node.status();
    assert_eq!((status.bad_messages.malformed, status.last, status.commit), (1, id(1, 2), 1), "{entries:?}");
    assert!(out.writes().is_empty() && out.outcomes().is_empty(), "{entries:?}: {out:?}");
}

#[test]
fn entries_that_do_not_follow_each_other_are_dropped() {
    malformed(entries(4, &[2]));
    malformed(entries(2, &[2]));
    malformed(vec![entries(3, &[2])[0].clone(), entries(5, &[2])[0].clone()]);
    malformed(vec![entries(4, &[2])[0].clone(), entries(3, &[2])[0].clone()]);
}

#[test]
fn entries_of_two_terms_of_the_future_or_below_the_entry_before_are_dropped() {
    malformed(entries(3, &[1, 2]));
    malformed(entries(3, &[3]));
    malformed(entries(3, &[0]));
}

#[test]
fn a_membership_that_cannot_be_read_is_dropped() {
    let unreadable = |index| Entry::new(index, 2, EntryKind::Membership, b"no membership");
    malformed(vec![unreadable(3)]);
    malformed(vec![entries(3, &[2])[0].clone(), unreadable(4)]);
}

/// Election Safety is the sender's promise; a second leader of one term is not believed.
#[test]
fn entries_of_a_second_leader_of_the_term_are_dropped() {
    let mut node = Node::with_log(3, &[1]);
    node.append(2, 2, append(id(1, 2), &[2], 3));
    node.persist();
    let before = node.status();
    let out = node.append(3, 2, append(id(1, 1), &[2], 2));
    assert_eq!((out.0.len(), node.status().bad_messages.rival_leader), (0, 1));
    assert_eq!(without_count(node.status()), without_count(before));
    let mut leader = Node::leader(3, &[]);
    leader.append(3, 2, append(id(1, 1), &[2, 2], 3));
    assert_eq!((leader.role(), leader.status().last), (Role::Leader, id(2, 2)));
    assert_eq!(leader.status().bad_messages.rival_leader, 1);
}

#[test]
fn answers_of_an_older_term_are_dropped() {
    is_dropped(2, &from_member(2, 1, Body::VoteReply { granted: true }), |bad| bad.stale);
    let reply = AppendReply { session: 1, round: 0, outcome: AppendOutcome::Accepted { matched: 2 } };
    is_dropped(2, &from_member(2, 1, Body::AppendReply(reply)), |bad| bad.stale);
}

/// An older round, an older life, a hand-over of another stream.
#[test]
fn answers_to_what_is_not_asked_any_more_are_dropped() {
    is_dropped(2, &from_member(2, 2, Body::PreVoteReply { round: 999, granted: true }), |bad| bad.stale);
    let answer = Body::ReadIndexReply { nonce: 77, counter: 1, index: Some(2) };
    is_dropped(2, &from_member(2, 2, answer), |bad| bad.stale);
    is_dropped(2, &from_member(2, 2, Body::TimeoutNow { session: 999 }), |bad| bad.stale);
}

#[test]
fn an_answer_of_an_older_stream_moves_nothing_and_is_counted() {
    let mut node = Node::leader(3, &[]);
    node.propose(1);
    node.persist();
    let matched = node.matched(2);
    let reply = AppendReply { session: 99, round: 0, outcome: AppendOutcome::Accepted { matched: 3 } };
    node.hear(2, 2, Body::AppendReply(reply));
    assert_eq!((node.status().bad_messages.stale, node.matched(2)), (1, matched));
}

#[test]
fn answers_of_other_directories_are_dropped() {
    let wiped = |body| Message { incarnation: 999, ..from_member(2, 2, body) };
    is_dropped(2, &wiped(Body::VoteReply { granted: true }), |bad| bad.stranger);
    is_dropped(2, &wiped(Body::PreVoteReply { round: 1, granted: true }), |bad| bad.stranger);
    let reply = AppendReply { session: 1, round: 0, outcome: AppendOutcome::Accepted { matched: 3 } };
    is_dropped(2, &wiped(Body::AppendReply(reply)), |bad| bad.stranger);
    is_dropped(9, &from_member(9, 2, Body::AppendReply(reply)), |bad| bad.stranger);
}

/// A leader counts nothing that it has not asked for.
#[test]
fn acknowledgements_of_what_was_never_sent_are_dropped() {
    let mut node = Node::leader(3, &[]);
    node.propose(1);
    node.persist();
    node.accepts(2, 99);
    assert_eq!((node.status().bad_messages.impossible, node.matched(2), node.status().commit), (1, 2, 2));
    let reply = AppendReply { session: 1, round: 99, outcome: AppendOutcome::Accepted { matched: 3 } };
    node.hear(2, 2, Body::AppendReply(reply));
    assert_eq!((node.status().bad_messages.impossible, node.matched(2)), (2, 2));
}

/// An unformed node takes no part in anything.
#[test]
fn an_empty_directory_votes_for_nobody_and_takes_nothing() {
    let mut node = Node::empty();
    node.drain();
    node.persist();
    let before = node.status();
    let prevote = Body::PreVote { next_term: 9, round: 1, last: id(9, 9) };
    let request = Body::RequestVote(VoteRequest { last: id(9, 9), transfer: true });
    for body in [prevote, request, Body::Append(append(id(1, 1), &[1], 2)), Body::TimeoutNow { session: 1 }] {
        assert_eq!(node.hear(2, 9, body).0.len(), 0);
    }
    assert_eq!(node.status().bad_messages.unformed, 4);
    assert_eq!(without_count(node.status()), without_count(before));
    let stranger = node.hear(2, 2, Body::Welcome { cluster: CLUSTER, receiver: 999 });
    assert_eq!((stranger.0.len(), node.status().identity.cluster), (0, 0), "meant for another directory");
}

/// A formation entry that is none, or that leaves this directory out.
#[test]
fn a_formation_without_this_directory_is_dropped() {
    let mut node = Node::empty();
    node.drain();
    node.persist();
    let forged = Entry::new(1, 1, EntryKind::Membership, b"?");
    node.hear(2, 1, Body::Formation(forged));
    let late = Entry::new(2, 1, EntryKind::Membership, voters(3).encode());
    node.hear(2, 1, Body::Formation(late));
    let mut others = voters(3);
    others.members.remove(0);
    let foreign = Entry::new(1, 1, EntryKind::Membership, others.encode());
    node.hear(2, 1, Body::Formation(foreign));
    let bad = node.status().bad_messages;
    assert_eq!((bad.malformed, bad.stranger, node.role()), (2, 1, Role::Unformed));
}

/// Two histories are not merged: the node stops and says what to do.
#[test]
fn a_leader_that_would_replace_committed_entries_stops_this_node_with_the_cause() {
    let mut node = Node::with_log(3, &[1, 1]);
    node.append(2, 1, append(id(1, 3), &[], 3));
    let out = node.append(3, 2, append(id(1, 2), &[2], 3));
    assert!(out.writes().iter().all(|write| write.replace_from.is_none()));
    let why = node.status().failure.unwrap();
    assert!(why.contains("wants to replace entry 3 (after 1.2), but everything up to 3 is committed here"), "{why}");
    assert!(why.contains("Stop the cluster and compare the logs"), "{why}");
}

#[test]
fn a_command_over_the_limit_is_refused_in_words() {
    let mut node = Node::leader(3, &[]);
    let limit = node.config.max_command_bytes;
    let out = node.input(Input::Propose { id: 1, command: Bytes::from(vec![0; limit + 1]) });
    assert_eq!(out.refusals(), [format!("the command has {} bytes; at most {limit} are allowed", limit + 1)]);
    assert_eq!((node.status().last, out.writes().len()), (id(2, 2), 0));
    let out = node.input(Input::Propose { id: 2, command: Bytes::from(vec![0; limit]) });
    assert_eq!(out.refusals(), [""; 0]);
}
