//! Figure 2, "RequestVote RPC", receiver's side (§3.4, §3.6.1), and pre-votes (§9.6).

use crate::node::{Node, append, id, millis};
use d_engine_core::LogId;
use d_engine_raft::{Body, Role, VoteRequest};

/// Figure 2, RequestVote 1: reply false if term < currentTerm.
#[test]
fn a_vote_in_an_older_term_is_refused_and_the_asker_learns_the_newer_one() {
    let mut node = Node::with_log(3, &[3]);
    let out = node.ask_vote(2, 2, id(9, 9));
    assert_eq!((out.votes(), out.terms(), out.writes().len()), (vec![false], vec![3], 0));
}

/// Figure 2, RequestVote 2: votedFor is null or the candidate.
#[test]
fn one_vote_in_a_term_first_come_first_served() {
    let mut node = Node::with_log(5, &[]);
    assert!(node.votes_for(2, 2, id(1, 1)));
    assert!(!node.votes_for(3, 2, id(9, 9)), "however good its log is");
    assert!(node.votes_for(2, 2, id(1, 1)), "asked again, answered again");
    assert!(node.votes_for(3, 3, id(1, 1)), "a new term, a new vote");
}

/// Figure 2, RequestVote 2: the candidate's log is at least as up-to-date; §3.6.1.
#[test]
fn logs_are_compared_by_the_last_term_and_then_by_length() {
    let vote = |terms: &[u64], last: LogId| Node::with_log(3, terms).votes_for(2, 9, last);
    assert!(vote(&[1, 2], id(2, 3)), "equal");
    assert!(vote(&[1, 2], id(2, 4)), "longer");
    assert!(!vote(&[1, 2, 2], id(2, 3)), "shorter");
    assert!(vote(&[1, 1, 1, 1], id(2, 2)), "shorter, of a newer term");
    assert!(!vote(&[1, 2], id(1, 99)), "longer, of an older term");
}

/// §3.6.1: entries that are not committed count too, and so does what is not yet on disk.
#[test]
fn entries_that_wait_for_the_disk_count_for_the_comparison() {
    let mut node = Node::with_log(3, &[]);
    node.append(2, 1, append(id(1, 1), &[1], 0));
    node.wait(millis(2_000));
    assert!(!node.votes_for(3, 9, id(1, 1)));
}

/// §3.6.1: a refusal for the log is no vote: the term is adopted, the vote stays free.
#[test]
fn a_candidate_with_a_bad_log_takes_the_term_and_not_the_vote() {
    let mut node = Node::with_log(3, &[2]);
    assert!(!node.votes_for(2, 7, id(1, 9)));
    assert_eq!(node.status().term, 7);
    assert!(node.votes_for(3, 7, id(2, 2)));
}

/// §3.4: whoever follows a leader of this term gives no vote in it.
#[test]
fn a_follower_of_this_terms_leader_gives_no_vote_in_this_term() {
    let mut node = Node::with_log(3, &[]);
    node.append(2, 2, append(id(1, 1), &[], 0));
    node.wait(node.config.election_timeout_min);
    assert!(!node.votes_for(3, 2, id(9, 9)));
}

/// §4.2.3: a voter that hears a leader neither votes nor adopts the challenger's term.
#[test]
fn a_voter_that_hears_a_leader_ignores_challengers() {
    let mut node = Node::with_log(3, &[]);
    node.append(2, 2, append(id(1, 1), &[], 0));
    node.persist();
    let due = node.raft.poll_timeout();
    node.wait(millis(499));
    let out = node.ask_vote(3, 9, id(9, 9));
    assert_eq!((out.votes(), out.terms(), out.writes().len()), (vec![false], vec![2], 0));
    assert_eq!((node.status().term, node.status().leader, node.raft.poll_timeout()), (2, Some(2), due));
    node.wait(millis(1));
    assert!(node.votes_for(3, 9, id(9, 9)), "it has been silent for the minimum election timeout");
}

/// §4.2.3, §6.4.1: before a restart it may have heard one.
#[test]
fn a_voter_that_has_just_started_counts_as_having_heard_a_leader() {
    let mut node = Node::with_log(3, &[]);
    node.now = millis(499);
    assert!(!node.votes_for(2, 9, id(9, 9)));
    node.now = millis(500);
    assert!(node.votes_for(2, 9, id(9, 9)));
}

/// §4.2.3: a leader protects itself.
#[test]
fn a_leader_does_not_give_way_to_a_challenger() {
    let mut node = Node::leader(3, &[]);
    let out = node.ask_vote(3, 9, id(9, 9));
    assert_eq!((out.votes(), node.role(), node.status().term), (vec![false], Role::Leader, 2));
}

/// §3.10, §4.2.3: an election that the leader asked for passes.
#[test]
fn a_challenger_that_the_leader_has_sent_gets_the_vote() {
    let mut node = Node::with_log(3, &[]);
    node.append(2, 2, append(id(1, 1), &[], 0));
    node.hear(3, 3, Body::RequestVote(VoteRequest { last: id(1, 1), transfer: true }));
    assert_eq!(node.persist().votes(), [true]);
}

fn pre_vote(node: &mut Node, from: u64, next_term: u64, last: LogId) -> bool {
    let term = next_term - 1;
    let out = node.hear(from, term, Body::PreVote { next_term, round: 4, last });
    assert!(out.writes().is_empty(), "a pre-vote promises nothing");
    out.pre_votes() == [true]
}

/// §9.6: a pre-vote changes nobody's term or vote.
#[test]
fn a_pre_vote_changes_no_term_and_no_vote() {
    let mut node = Node::with_log(3, &[]);
    let before = node.status();
    assert!(pre_vote(&mut node, 2, 9, id(1, 1)));
    assert!(pre_vote(&mut node, 3, 9, id(1, 1)), "it is a promise to nobody");
    assert_eq!(node.status(), before);
}

/// §9.6: granted where the vote would be.
#[test]
fn a_pre_vote_needs_a_good_log_a_newer_term_and_no_living_leader() {
    let mut node = Node::with_log(3, &[3]);
    assert!(!pre_vote(&mut node, 2, 9, id(2, 9)), "its log");
    assert!(!pre_vote(&mut node, 2, 3 - 1, id(3, 9)), "its term");
    assert!(pre_vote(&mut node, 2, 4, id(3, 2)));
    node.append(2, 3, append(id(3, 2), &[], 0));
    assert!(!pre_vote(&mut node, 3, 4, id(3, 2)), "a leader lives");
    node.wait(node.config.election_timeout_min);
    assert!(pre_vote(&mut node, 3, 4, id(3, 2)));
}

/// §9.6: no campaign without a quorum of pre-votes of this very round.
#[test]
fn a_campaign_begins_with_a_quorum_of_pre_votes_of_this_round() {
    let mut node = Node::with_log(5, &[]);
    let out = node.timeout();
    assert_eq!((node.role(), node.status().term), (Role::PreCandidate, 1), "the term waits");
    let Some((_, Body::PreVote { next_term: 2, round, last })) = out.messages().pop() else { panic!("{out:?}") };
    assert_eq!((*last, out.messages().len(), out.writes().len()), (id(1, 1), 4, 0));
    let (now, old) = (*round, *round - 1);
    let say = |round, granted| Body::PreVoteReply { round, granted };
    for from in [2, 3, 4] {
        node.hear(from, 1, say(old, true));
    }
    node.hear(2, 1, say(now, true));
    node.hear(2, 1, say(now, true));
    assert_eq!(node.role(), Role::PreCandidate, "two of five, counted once each");
    node.hear(3, 1, say(now, true));
    assert_eq!((node.role(), node.status().term), (Role::Candidate, 2));
}

/// §9.6: a refusal of a newer term is news; a grant is not.
#[test]
fn only_a_refused_pre_vote_teaches_a_newer_term() {
    let mut node = Node::with_log(5, &[]);
    let out = node.timeout();
    let Some((_, Body::PreVote { round, .. })) = out.messages().pop() else { panic!("{out:?}") };
    let round = *round;
    node.hear(2, 8, Body::PreVoteReply { round, granted: true });
    assert_eq!((node.role(), node.status().term), (Role::PreCandidate, 1));
    node.hear(3, 8, Body::PreVoteReply { round, granted: false });
    assert_eq!((node.role(), node.status().term), (Role::Follower, 8));
}
