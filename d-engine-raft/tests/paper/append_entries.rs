//! Figure 2, "AppendEntries RPC", receiver's side, and idempotence (§3.5, §3.7).

use crate::node::{Node, append, id, millis};
use d_engine_raft::{AppendOutcome, Role};

const fn accepted(matched: u64) -> AppendOutcome {
    AppendOutcome::Accepted { matched }
}

/// Figure 2, AppendEntries 1: reply false if term < currentTerm; §3.3.
#[test]
fn entries_of_an_older_term_are_refused_and_the_sender_learns_the_newer_one() {
    let mut node = Node::with_log(3, &[1, 3]);
    let out = node.append(2, 2, append(id(3, 3), &[2], 3));
    assert_eq!((out.outcomes(), out.terms()), (vec![AppendOutcome::Stale], vec![3]));
    assert_eq!((node.status().last, node.status().commit, node.status().leader), (id(3, 3), 0, None));
    assert!(out.writes().is_empty());
}

/// Figure 2, AppendEntries 2: reply false if the log has no entry at prevLogIndex.
#[test]
fn entries_behind_a_gap_are_refused() {
    let mut node = Node::with_log(3, &[1]);
    let out = node.append(2, 1, append(id(1, 5), &[1], 6));
    assert_eq!(out.outcomes(), [AppendOutcome::Rejected { prev: 5, hint: id(1, 2) }]);
    assert_eq!((node.status().last, node.status().commit), (id(1, 2), 0));
}

/// Figure 2, AppendEntries 2: ... whose term matches prevLogTerm.
#[test]
fn entries_behind_an_entry_of_another_term_are_refused() {
    let mut node = Node::with_log(3, &[1, 2, 2]);
    let out = node.append(2, 4, append(id(3, 4), &[4], 5));
    assert_eq!(out.outcomes(), [AppendOutcome::Rejected { prev: 4, hint: id(2, 4) }]);
    assert_eq!((node.status().last, node.status().commit), (id(2, 4), 0));
    assert!(out.writes().iter().all(|write| write.replace_from.is_none()), "a refusal truncates nothing");
}

/// §3.5: a refusal may skip all entries of a conflicting term.
#[test]
fn a_refusal_skips_whole_terms() {
    let mut node = Node::with_log(3, &[1, 1, 4, 4, 4, 4]);
    let out = node.append(2, 5, append(id(3, 7), &[5], 0));
    assert_eq!(out.outcomes(), [AppendOutcome::Rejected { prev: 7, hint: id(1, 3) }], "term 4 cannot match term 3");
}

/// Figure 2, AppendEntries 3: delete a conflicting entry and all that follow it.
#[test]
fn a_conflicting_entry_goes_with_all_that_follow_it() {
    let mut node = Node::with_log(3, &[1, 2, 2, 2]);
    let out = node.store(2, 3, append(id(1, 2), &[3], 0));
    let cut: Vec<_> = out.writes().iter().filter_map(|write| write.replace_from).collect();
    assert_eq!((cut, node.status().last), (vec![3], id(3, 3)));
    assert_eq!(node.disk.log.iter().map(|entry| entry.term).collect::<Vec<_>>(), [1, 1, 3]);
}

/// Figure 2, AppendEntries 3: without a conflict nothing is deleted.
#[test]
fn a_message_that_ends_in_the_middle_of_the_log_deletes_nothing() {
    let mut node = Node::with_log(3, &[1, 1, 1, 1]);
    let out = node.append(2, 1, append(id(1, 2), &[1], 0));
    assert_eq!((out.outcomes(), out.writes().len()), (vec![accepted(3)], 0), "its end, not the log's");
    assert_eq!(node.status().last, id(1, 5));
}

/// A heartbeat says nothing about what stands behind `prev`.
#[test]
fn a_heartbeat_leaves_a_divergent_tail_and_acknowledges_its_own_end() {
    let mut node = Node::with_log(3, &[1, 2, 2]);
    let out = node.store(2, 3, append(id(1, 2), &[], 2));
    assert_eq!((out.outcomes().last(), node.status().last), (Some(&accepted(2)), id(2, 4)));
}

/// Figure 2, AppendEntries 4: append what is not in the log yet.
#[test]
fn only_entries_that_are_not_there_yet_are_written() {
    let mut node = Node::with_log(3, &[1, 1]);
    let out = node.store(2, 1, append(id(1, 1), &[1, 1, 1], 0));
    let written: Vec<_> = out.writes().iter().flat_map(|write| &write.entries).map(|entry| entry.index).collect();
    assert_eq!((written, out.outcomes().last()), (vec![4], Some(&accepted(4))));
}

/// §3.7: AppendEntries is idempotent.
#[test]
fn the_same_message_again_changes_nothing_and_is_acknowledged_again() {
    let mut node = Node::with_log(3, &[]);
    let message = append(id(1, 1), &[1, 1], 2);
    node.store(2, 1, message.clone());
    let again = node.append(2, 1, message);
    assert_eq!((again.outcomes(), again.writes().len()), (vec![accepted(3)], 0));
    assert_eq!((node.status().last, node.status().commit), (id(1, 3), 2));
}

/// §3.7: ... also when it arrives behind newer ones.
#[test]
fn an_older_message_that_arrives_late_takes_nothing_away() {
    let mut node = Node::with_log(3, &[]);
    let first = append(id(1, 1), &[1], 1);
    node.store(2, 1, first.clone());
    node.store(2, 1, append(id(1, 2), &[1, 1], 3));
    assert_eq!(node.append(2, 1, first).outcomes(), [accepted(2)]);
    assert_eq!((node.status().last, node.status().commit), (id(1, 4), 3));
}

/// Figure 2, AppendEntries 5: commitIndex = leaderCommit where the log reaches it.
#[test]
fn a_follower_commits_what_the_leader_has_committed() {
    let mut node = Node::with_log(3, &[]);
    node.append(2, 1, append(id(1, 1), &[1, 1, 1], 3));
    assert_eq!(node.status().commit, 3);
}

/// Figure 2, AppendEntries 5: at most the last new entry.
#[test]
fn a_follower_does_not_commit_behind_the_end_of_the_message() {
    let mut node = Node::with_log(3, &[1, 1, 1]);
    node.append(2, 2, append(id(1, 2), &[], 4));
    assert_eq!(node.status().commit, 2, "entries 3 and 4 may differ from the leader's");
    node.append(2, 2, append(id(1, 2), &[2], 4));
    assert_eq!(node.status().commit, 3);
}

/// §3.5: what is refused still comes from the leader: nobody campaigns against it.
#[test]
fn a_refused_message_restarts_the_election_timer_too() {
    let mut node = Node::with_log(3, &[1]);
    for _ in 0..20 {
        node.wait(millis(400));
        node.append(2, 1, append(id(1, 9), &[1], 0));
    }
    assert_eq!((node.role(), node.status().leader), (Role::Follower, Some(2)));
}

/// A completion of entries that were overwritten meanwhile does not vouch for their replacements.
#[test]
fn a_late_completion_does_not_acknowledge_replaced_entries() {
    let mut node = Node::with_log(3, &[]);
    node.append(2, 1, append(id(1, 1), &[1, 1, 1], 0));
    let first = node.pending.last().unwrap().seq;
    node.append(3, 2, append(id(1, 1), &[], 0));
    node.append(2, 3, append(id(1, 1), &[3, 3, 3], 4));
    let out = node.input(d_engine_raft::Input::Persisted { seq: first });
    assert_eq!((out.outcomes(), node.status().persisted), (vec![], 1), "entries 2 to 4 are others now");
    assert_eq!(out.applies(), None, "nor is anything applied on their account");
    let out = node.persist();
    assert_eq!((out.outcomes().last(), out.applies()), (Some(&accepted(4)), Some(4)));
}

/// Promises of an older term die with it.
#[test]
fn an_acknowledgement_that_waits_for_the_disk_is_dropped_when_the_term_changes() {
    let mut node = Node::with_log(3, &[]);
    node.append(2, 1, append(id(1, 1), &[1, 1], 0));
    node.append(3, 2, append(id(1, 1), &[2], 0));
    let out = node.persist();
    assert_eq!(out.outcomes(), [accepted(2)], "only to the new leader");
    assert_eq!((out.terms(), out.messages()[0].0), (vec![2], 3));
}
