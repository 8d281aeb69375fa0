//! Linearizable reads: read index (§6.4), leader leases (§6.4.1), asked at a follower.

use std::time::Duration;

use crate::node::{Node, Out, append, config, id, millis};
use d_engine_core::LogId;
use d_engine_raft::{Answer, AppendOutcome, AppendReply, Body, Config, Input, Rejection, Role};

fn read(node: &mut Node, id: u64) -> Out {
    node.input(Input::Read { id, by_lease: false })
}

fn read_by_lease(node: &mut Node, id: u64) -> Out {
    node.input(Input::Read { id, by_lease: true })
}

fn ready(out: &Out) -> Vec<(u64, u64)> {
    let ready = |answer: &&Answer| match answer {
        Answer::ReadReady { id, index } => Some((*id, *index)),
        _ => None,
    };
    out.answers().iter().filter_map(ready).collect()
}

fn rounds(out: &Out) -> Vec<u64> {
    out.heartbeats().iter().map(|(_, append)| append.round).collect()
}

fn echo(node: &mut Node, from: u64, round: u64) -> Out {
    let reply = AppendReply { session: 1, round, outcome: AppendOutcome::Pending };
    let term = node.status().term;
    node.hear(from, term, Body::AppendReply(reply))
}

/// §6.4, 1: before a leader has committed in its term it does not know the read index.
#[test]
fn a_read_waits_for_the_leaders_no_op() {
    let mut node = Node::with_log(3, &[1]);
    node.lead();
    let out = read(&mut node, 1);
    assert_eq!((ready(&out), rounds(&out)), (vec![], vec![]));
    node.persist();
    node.accepts(2, 2);
    let out = node.accepts(2, 3);
    assert_eq!(ready(&out), [], "and for a round of its own");
    let round = rounds(&out)[0];
    assert_eq!(ready(&echo(&mut node, 3, round)), [(1, 3)]);
}

/// §6.4, 2 and 3: the read index is the commit index; a round of heartbeats confirms that the leader still leads.
#[test]
fn a_read_is_answered_once_a_majority_has_echoed_its_round() {
    let mut node = Node::leader(5, &[]);
    let out = read(&mut node, 1);
    assert_eq!((ready(&out), rounds(&out)), (vec![], vec![1, 1, 1, 1]), "at once, to everybody");
    assert!(out.writes().is_empty(), "reads are not written");
    assert_eq!(ready(&echo(&mut node, 2, 1)), [], "two of five");
    assert_eq!(ready(&echo(&mut node, 2, 1)), [], "counted once");
    assert_eq!(ready(&echo(&mut node, 3, 1)), [(1, 2)]);
}

/// §6.4: a round that was sent before the read arrived proves nothing about it.
#[test]
fn a_read_waits_for_the_next_round_never_for_one_already_sent() {
    let mut node = Node::leader(3, &[]);
    read(&mut node, 1);
    let late = read(&mut node, 2);
    assert_eq!(rounds(&late), [], "one round at a time");
    node.propose(9);
    node.persist();
    let out = node.accepts(2, 3);
    assert_eq!(ready(&out), [(1, 2)], "only the first, with the index of its own time");
    assert_eq!(rounds(&out), [2, 2]);
    assert_eq!(ready(&echo(&mut node, 3, 1)), [], "a late echo of the first round");
    assert_eq!(ready(&echo(&mut node, 3, 2)), [(2, 3)]);
}

/// §6.4: many reads share a round.
#[test]
fn reads_that_wait_together_are_answered_by_one_round() {
    let mut node = Node::leader(3, &[]);
    read(&mut node, 1);
    (2..100).for_each(|id| drop(read(&mut node, id)));
    let out = echo(&mut node, 2, 1);
    assert_eq!(rounds(&out), [2, 2]);
    assert_eq!(ready(&echo(&mut node, 2, 2)).len(), 98);
}

/// §6.4: a leader alone in its cluster needs nobody's confirmation.
#[test]
fn the_only_voter_answers_reads_by_itself() {
    let mut node = Node::with_log(1, &[]);
    node.campaign();
    node.persist();
    node.persist();
    assert_eq!(ready(&read(&mut node, 1)), [(1, 2)]);
}

/// §6.4: whoever is deposed refuses the reads that wait.
#[test]
fn a_deposed_leader_refuses_the_reads_that_wait() {
    let mut node = Node::leader(3, &[]);
    read(&mut node, 1);
    read(&mut node, 2);
    let out = node.append(3, 5, append(id(2, 2), &[], 0));
    assert_eq!(out.rejections().len(), 2);
    assert_eq!(ready(&echo(&mut node, 2, 1)), [], "an echo that comes now is late");
}

/// §6.4: answers of the term before do not confirm a leader of this one.
#[test]
fn an_echo_of_an_older_term_confirms_nothing() {
    let mut node = Node::leader(3, &[]);
    node.append(3, 3, append(id(2, 2), &[], 2));
    node.persist();
    node.lead_and_commit();
    read(&mut node, 1);
    let reply = AppendReply { session: 1, round: 1, outcome: AppendOutcome::Pending };
    assert_eq!(ready(&node.hear(2, 2, Body::AppendReply(reply))), []);
    assert_eq!(ready(&echo(&mut node, 2, 1)).len(), 1);
}

/// Rule of this implementation: reads that wait are bounded.
#[test]
fn a_leader_that_cannot_confirm_refuses_further_reads_at_once() {
    let disk = Node::with_log(3, &[]).disk;
    let mut node = Node::start(Config { max_pending_reads: 3, ..config() }, disk, LogId::default());
    node.lead_and_commit();
    (0..3).for_each(|id| assert!(read(&mut node, id).answers().is_empty()));
    assert_eq!(read(&mut node, 3).rejections(), [&Rejection::Busy]);
}

/// A follower of node 2 in term 1 with three entries, of which two are committed.
fn follower() -> Node {
    let mut node = Node::with_log(3, &[1, 1]);
    node.append(2, 1, append(id(1, 3), &[], 2));
    node
}

fn questions(out: &Out) -> Vec<(u64, u64)> {
    let question = |(_, body): &(u64, &Body)| match body {
        Body::ReadIndex { nonce, counter } => Some((*nonce, *counter)),
        _ => None,
    };
    out.messages().iter().filter_map(question).collect()
}

/// §6.4: followers ask the leader for the read index and serve the read themselves.
#[test]
fn a_follower_asks_the_leader_once_for_all_who_wait() {
    let mut node = follower();
    let asked = questions(&read(&mut node, 1));
    let [(nonce, counter)] = asked[..] else { panic!("{asked:?}") };
    assert_eq!(questions(&read(&mut node, 2)), [], "one question at a time");
    let out = node.hear(2, 1, Body::ReadIndexReply { nonce, counter, index: Some(3) });
    assert_eq!(ready(&out), [(1, 3)]);
    assert_eq!((node.status().commit, out.applies()), (3, Some(3)), "what the leader says is committed");
    assert_eq!(questions(&out), [(nonce, counter + 1)], "the next question, for the second read");
}

/// §6.4: a leader answers a forwarded read after a round that began when it arrived.
#[test]
fn a_forwarded_read_counts_from_its_arrival_at_the_leader() {
    let mut node = Node::leader(3, &[]);
    read(&mut node, 1);
    node.hear(2, 2, Body::ReadIndex { nonce: 7, counter: 1 });
    node.hear(2, 2, Body::ReadIndex { nonce: 7, counter: 1 });
    let replies = |out: &Out| {
        let mut replies = out.messages();
        replies.retain(|(_, body)| matches!(body, Body::ReadIndexReply { .. }));
        replies.iter().map(|(to, body)| (*to, (*body).clone())).collect::<Vec<_>>()
    };
    assert_eq!(replies(&echo(&mut node, 3, 1)), []);
    let answer = Body::ReadIndexReply { nonce: 7, counter: 1, index: Some(2) };
    assert_eq!(replies(&echo(&mut node, 3, 2)), [(2, answer)], "asked twice, answered once");
}

/// §6.4: answers to questions of an earlier life, or to older ones, are dropped.
#[test]
fn an_answer_to_another_question_is_dropped() {
    let mut node = follower();
    let (nonce, counter) = questions(&read(&mut node, 1))[0];
    node.persist();
    node.restart();
    node.append(2, 1, append(id(1, 3), &[], 2));
    let (new_nonce, same_counter) = questions(&read(&mut node, 1))[0];
    assert!(new_nonce != nonce && same_counter == counter, "the id is used again, the nonce is not");
    assert_eq!(ready(&node.hear(2, 1, Body::ReadIndexReply { nonce, counter, index: Some(2) })), []);
    let other = Body::ReadIndexReply { nonce: new_nonce, counter: counter + 1, index: Some(2) };
    assert_eq!(ready(&node.hear(2, 1, other)), []);
    let ours = Body::ReadIndexReply { nonce: new_nonce, counter, index: Some(2) };
    assert_eq!(ready(&node.hear(2, 1, ours)), [(1, 2)]);
}

/// §6.4: a lost question is asked again; in the end the reader is told that there is no leader.
#[test]
fn a_forwarded_read_without_an_answer_is_asked_again_and_then_refused() {
    let mut node = follower();
    let first = questions(&read(&mut node, 1));
    let out = node.wait(node.config.heartbeat_interval * 2);
    assert_eq!(questions(&out), first, "the same, so that a late answer still counts");
    let end = node.now + node.config.election_timeout_max * 3;
    let mut refused = Vec::new();
    while node.now < end {
        node.append(2, 1, append(id(1, 3), &[], 2));
        refused.extend(node.wait(millis(100)).refusals());
    }
    assert_eq!(refused, ["this node does not lead"]);
    let mut lonely = Node::with_log(3, &[]);
    assert_eq!(read(&mut lonely, 1).rejections(), [&Rejection::NotLeader { leader: None }]);
}

/// A leader with leases on, with a clock drift of a tenth at most, whose no-op has committed.
fn lease_holder() -> Node {
    let disk = Node::with_log(3, &[]).disk;
    let config = Config { lease: true, clock_drift_ppm: 100_000, ..config() };
    let mut node = Node::start(config, disk, LogId::default());
    node.lead_and_commit();
    node
}

/// §6.4.1: off by default.
#[test]
fn without_the_option_there_is_no_lease() {
    let mut node = Node::leader(3, &[]);
    node.timeout();
    node.accepts(2, 2);
    assert_eq!(node.status().lease_until, None);
    assert_eq!(ready(&read_by_lease(&mut node, 1)), []);
}

/// §6.4.1: the lease begins when the confirmed round was sent, and is shorter than the election timeout by the drift.
#[test]
fn a_lease_counts_from_the_sending_of_the_confirmed_round() {
    let mut node = lease_holder();
    let out = node.timeout();
    let (sent, round) = (node.now, rounds(&out)[0]);
    assert_eq!(ready(&read_by_lease(&mut node, 1)), [], "not confirmed yet");
    node.now += millis(150);
    echo(&mut node, 2, round);
    let until = sent + node.config.election_timeout_min * 8 / 10;
    assert_eq!(node.status().lease_until, Some(until));
    node.now = until - Duration::from_micros(1);
    let out = read_by_lease(&mut node, 2);
    assert_eq!((ready(&out), out.messages().len()), (vec![(2, 2)], 0), "no message");
    assert_eq!(ready(&read(&mut node, 4)), [], "who does not trust clocks waits for a round");
    node.now = until;
    assert!(!ready(&read_by_lease(&mut node, 3)).iter().any(|(id, _)| *id == 3), "it is over");
}

/// §6.4.1: a leader that has committed nothing of its term has no read index, with a lease or without.
#[test]
fn a_lease_serves_nothing_before_the_no_op_has_committed() {
    let disk = Node::with_log(3, &[1]).disk;
    let mut node = Node::start(Config { lease: true, ..config() }, disk, LogId::default());
    node.lead();
    let round = rounds(&node.timeout())[0];
    echo(&mut node, 2, round);
    assert_eq!((node.status().lease_until, ready(&read_by_lease(&mut node, 1))), (None, vec![]));
}

/// §6.4.1, §3.10: once somebody was told to campaign there is no lease for the rest of the term.
#[test]
fn a_lease_ends_for_the_rest_of_the_term_with_a_transfer() {
    let mut node = lease_holder();
    let round = rounds(&node.timeout())[0];
    echo(&mut node, 2, round);
    assert!(node.status().lease_until.is_some());
    node.input(Input::Transfer { id: 1, to: 2 });
    assert_eq!((node.status().lease_until, ready(&read_by_lease(&mut node, 1))), (None, vec![]));
    for _ in 0..20 {
        node.accepts(2, 2);
        node.accepts(3, 2);
        node.timeout();
    }
    assert_eq!((node.role(), node.status().lease_until), (Role::Leader, None), "the order cannot be recalled");
}
