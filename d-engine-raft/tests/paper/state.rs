//! Figure 2, "State", and what a server must not forget (§3.8).

use crate::node::{Disk, Node, append, config, id, millis};
use d_engine_core::{HardState, LogId};
use d_engine_raft::{AppendOutcome, Input, Role};

/// Figure 2, state: currentTerm 0, no vote, an empty log.
#[test]
fn a_new_directory_begins_in_term_0_without_a_vote_or_a_log() {
    let mut node = Node::empty();
    let out = node.drain();
    let [write] = out.writes()[..] else { panic!("{out:?}") };
    let state = write.hard_state.unwrap();
    assert_eq!((state.term, state.voted_for, write.entries.len()), (0, None, 0));
    let status = node.status();
    assert_eq!((status.role, status.term, status.last, status.commit), (Role::Unformed, 0, LogId::default(), 0));
}

/// Figure 2, persistent state, updated before answering: votedFor; §3.8.
#[test]
fn a_vote_leaves_once_term_and_vote_are_on_disk_in_one_write() {
    let mut node = Node::with_log(3, &[]);
    let asked = node.ask_vote(2, 2, id(1, 1));
    assert_eq!(asked.votes(), [], "the disk has not spoken");
    let states: Vec<_> = asked.writes().iter().filter_map(|write| write.hard_state).collect();
    assert_eq!(states.len(), 1);
    assert_eq!((states[0].term, states[0].voted_for), (2, Some(2)));
    assert_eq!(node.persist().votes(), [true]);
}

/// Figure 2, persistent state, updated before answering: log[].
#[test]
fn entries_are_acknowledged_once_they_are_on_disk() {
    let mut node = Node::with_log(3, &[]);
    let appended = node.append(2, 1, append(id(1, 1), &[1, 1], 0));
    assert!(!appended.outcomes().contains(&AppendOutcome::Accepted { matched: 3 }));
    assert_eq!(node.persist().outcomes(), [AppendOutcome::Accepted { matched: 3 }]);
}

/// Figure 2, persistent state, updated before answering: currentTerm.
#[test]
fn a_heartbeat_of_a_new_term_is_acknowledged_once_the_term_is_on_disk() {
    let mut node = Node::with_log(3, &[]);
    assert_eq!(node.append(2, 5, append(id(1, 1), &[], 0)).outcomes(), [AppendOutcome::Pending]);
    assert_eq!(node.persist().outcomes(), [AppendOutcome::Accepted { matched: 1 }]);
    assert_eq!(node.disk.hard_state.term, 5);
}

/// §3.8: a crash before the write completes takes the promise with it.
#[test]
fn a_vote_that_was_not_persisted_is_free_after_a_crash_and_was_never_told() {
    let mut node = Node::with_log(3, &[]);
    assert_eq!(node.ask_vote(2, 2, id(1, 1)).votes(), []);
    node.restart();
    assert!(node.votes_for(3, 2, id(1, 1)));
}

/// §3.8: term and vote survive.
#[test]
fn a_vote_survives_a_restart() {
    let mut node = Node::with_log(3, &[]);
    assert!(node.votes_for(2, 2, id(1, 1)));
    node.restart();
    assert_eq!(node.status().term, 2);
    assert!(!node.votes_for(3, 2, id(1, 1)), "a second vote in one term");
    assert!(node.votes_for(2, 2, id(1, 1)), "§3.7: the same vote may be asked for again");
}

/// §3.8: the log survives.
#[test]
fn acknowledged_entries_survive_a_restart() {
    let mut node = Node::with_log(3, &[]);
    node.store(2, 1, append(id(1, 1), &[1, 1], 3));
    node.restart();
    assert_eq!(node.status().last, id(1, 3));
    assert!(!node.votes_for(3, 2, id(1, 2)), "who lacks them gets no vote");
}

/// Figure 2, volatile state: commitIndex; §3.8: it may be forgotten and is learned again.
#[test]
fn the_commit_index_is_forgotten_in_a_crash_and_learned_from_the_leader() {
    let mut node = Node::with_log(3, &[1, 1]);
    node.append(2, 1, append(id(1, 3), &[], 3));
    assert_eq!(node.status().commit, 3);
    node.restart();
    assert_eq!((node.status().commit, node.status().applied), (0, 0));
    let out = node.append(2, 1, append(id(1, 3), &[], 3));
    assert_eq!((node.status().commit, out.applies()), (3, Some(3)), "everything is applied again, from the beginning");
}

/// Figure 2, volatile state: lastApplied; §3.8: a state machine that is durable goes on where it stopped.
#[test]
fn a_durable_state_machine_goes_on_where_it_stopped() {
    let disk = Node::with_log(3, &[1, 1, 1]).disk;
    let mut node = Node::start(config(), disk, id(1, 3));
    assert_eq!((node.status().commit, node.status().applied), (3, 3), "what was applied was committed");
    assert_eq!(node.append(2, 1, append(id(1, 4), &[], 4)).applies(), Some(4));
}

/// Figure 2, volatile state: commitIndex increases monotonically.
#[test]
fn commit_never_goes_back() {
    let mut node = Node::with_log(3, &[1, 1]);
    node.append(2, 1, append(id(1, 3), &[], 3));
    node.append(2, 1, append(id(1, 3), &[], 1));
    assert_eq!(node.status().commit, 3);
    node.append(3, 2, append(id(1, 3), &[], 0));
    assert_eq!(node.status().commit, 3, "nor with a leader that does not know it yet");
}

/// Figure 2, persistent state: currentTerm increases monotonically.
#[test]
fn the_term_never_goes_back() {
    let mut node = Node::with_log(3, &[]);
    node.append(2, 9, append(id(1, 1), &[], 0));
    node.append(3, 4, append(id(1, 1), &[], 0));
    node.ask_vote(3, 5, id(8, 8));
    assert_eq!(node.status().term, 9);
    node.persist();
    node.restart();
    assert_eq!(node.status().term, 9);
}

/// Figure 2, volatile state on leaders: nextIndex begins behind the log, matchIndex at 0, at every election anew.
#[test]
fn a_new_leader_assumes_that_everybody_has_its_log_and_knows_that_nobody_does() {
    let mut node = Node::with_log(3, &[1, 1]);
    let out = node.lead();
    assert!(out.heartbeats().iter().all(|(_, append)| append.prev == id(1, 3)), "{out:?}");
    assert_eq!((node.matched(2), node.matched(3)), (0, 0));
    node.persist();
    node.accepts(2, 3);
    assert_eq!(node.matched(2), 3);
    node.append(3, 9, append(id(2, 4), &[], 0));
    node.persist();
    node.wait(millis(1));
    node.lead();
    assert_eq!(node.matched(2), 0, "what was known in another term may be false in this one");
}

/// Rule of this implementation: nothing is applied here that is not durable here.
#[test]
fn a_committed_entry_is_applied_once_it_is_on_this_disk_too() {
    let mut node = Node::with_log(3, &[]);
    let out = node.append(2, 1, append(id(1, 1), &[1], 2));
    assert_eq!((node.status().commit, out.applies()), (2, Some(1)));
    assert_eq!(node.persist().applies(), Some(2));
}

/// §3.8: hard state and log are one; half of it is refused in words that say why and what to do.
#[test]
fn a_directory_that_lost_half_of_its_state_does_not_start_and_says_why() {
    use d_engine_raft::{Boot, Raft, Restored};
    let whole = Node::with_log(3, &[1, 2]).disk;
    let boot = Boot { seed: 1, incarnation: 1, cluster: 1 };
    let restored = |disk: &Disk| {
        let mut log = d_engine_core::LogSummary::new(disk.purged);
        disk.log.iter().for_each(|entry| log.push(entry).unwrap());
        Restored { hard_state: Some(disk.hard_state), log, ..Restored::default() }
    };
    let refusal = |restored| Raft::new(config(), restored, boot, millis(0)).unwrap_err().to_string();
    let no_hard_state = refusal(Restored { hard_state: None, ..restored(&whole) });
    assert!(no_hard_state.contains("the hard state is missing although the log holds entries up to 2.3"));
    assert!(no_hard_state.contains("may have voted and forgotten it"), "{no_hard_state}");
    let no_log = refusal(restored(&Disk { log: Vec::new(), ..whole.clone() }));
    assert!(no_log.contains("the log is missing although this node belongs to cluster"), "{no_log}");
    assert!(no_log.contains("Do not put an older copy back"), "what not to do: {no_log}");
    let old = HardState::new(1, None, whole.hard_state.identity);
    let old = refusal(restored(&Disk { hard_state: old, ..whole.clone() }));
    assert!(old.contains("an old hard state was put back"), "{old}");
    let ahead = refusal(Restored { last_applied: id(2, 9), ..restored(&whole) });
    assert!(ahead.contains("the state machine has applied 2.9, but the log ends at 2.3"), "{ahead}");
    let mut started = Node::start(config(), whole, LogId::default());
    assert_eq!(started.input(Input::Timeout).refusals(), [""; 0], "the whole directory starts");
}
