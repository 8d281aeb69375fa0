//! Figure 2, "Rules for Servers": all servers, followers, candidates, leaders; commit (§3.6.2), crashes of followers
//! (§3.7), writing in parallel (§10.2.1).

use crate::node::{Node, append, id, millis};
use bytes::Bytes;
use d_engine_core::EntryKind;
use d_engine_raft::{Answer, AppendOutcome, AppendReply, Body, Input, Rejection, Role};

/// Figure 2, all servers: while commitIndex > lastApplied, apply, in order.
#[test]
fn what_is_committed_is_applied_in_order_and_once() {
    let mut node = Node::with_log(3, &[1, 1, 1]);
    assert_eq!(node.append(2, 1, append(id(1, 4), &[], 2)).applies(), Some(2));
    assert_eq!(node.append(2, 1, append(id(1, 4), &[], 2)).applies(), None);
    assert_eq!(node.append(2, 1, append(id(1, 4), &[], 4)).applies(), Some(4));
    node.input(Input::Applied { index: 4 });
    assert_eq!((node.status().applied, node.status().commit), (4, 4));
}

/// Figure 2, all servers: a newer term in a request or an answer makes a follower; §3.3.
#[test]
fn a_newer_term_makes_a_follower_of_a_candidate_and_of_a_leader() {
    let stale = AppendReply { session: 1, round: 0, outcome: AppendOutcome::Stale };
    for body in [
        Body::Append(append(id(1, 1), &[], 0)),
        Body::AppendReply(stale),
        Body::VoteReply { granted: false },
        Body::ReadIndex { nonce: 1, counter: 1 },
    ] {
        let mut candidate = Node::with_log(3, &[]);
        candidate.campaign();
        candidate.hear(3, 9, body.clone());
        assert_eq!((candidate.role(), candidate.status().term), (Role::Follower, 9), "{body:?}");
        let mut leader = Node::leader(3, &[]);
        leader.hear(3, 9, body.clone());
        assert_eq!((leader.role(), leader.status().term), (Role::Follower, 9), "{body:?}");
        leader.persist();
        assert_eq!((leader.disk.hard_state.term, leader.disk.hard_state.voted_for), (9, None));
    }
}

/// §3.4: a higher term in an answer is never a grant.
#[test]
fn a_vote_of_another_term_is_not_counted() {
    let mut node = Node::with_log(3, &[]);
    node.campaign();
    node.persist();
    node.hear(2, 3, Body::VoteReply { granted: true });
    assert_eq!((node.role(), node.status().term), (Role::Follower, 3), "the candidate was of term 2");
    let mut late = Node::with_log(3, &[]);
    late.campaign();
    late.persist();
    late.campaign();
    late.persist();
    assert_eq!(late.status().term, 3);
    late.hear(2, 2, Body::VoteReply { granted: true });
    assert_eq!((late.role(), late.status().bad_messages.stale), (Role::Candidate, 1), "a vote of the election before");
}

/// Figure 2, followers: no word from a leader and no vote granted for an election timeout.
#[test]
fn a_follower_that_hears_nobody_campaigns() {
    let mut node = Node::with_log(3, &[]);
    node.timeout();
    assert_eq!(node.role(), Role::PreCandidate);
}

/// Figure 2, followers: heartbeats and a granted vote restart the timer; a refused vote does not.
#[test]
fn heartbeats_and_a_granted_vote_restart_the_election_timer_and_a_refusal_does_not() {
    let mut node = Node::with_log(3, &[2]);
    let due = node.raft.poll_timeout().unwrap();
    assert!(!node.votes_for(2, 9, id(1, 1)));
    assert_eq!(node.raft.poll_timeout(), Some(due));
    assert!(node.votes_for(3, 9, id(2, 2)));
    assert!(node.raft.poll_timeout().unwrap() >= node.now + node.config.election_timeout_min);
    node.wait(millis(400));
    node.append(3, 9, append(id(2, 2), &[], 0));
    assert!(node.raft.poll_timeout().unwrap() >= node.now + node.config.election_timeout_min);
    assert_eq!(node.role(), Role::Follower);
}

/// Figure 2, candidates: increment the term, vote for oneself, restart the timer, ask everybody.
#[test]
fn a_candidate_votes_for_itself_durably_and_then_asks_everybody() {
    let mut node = Node::with_log(3, &[1]);
    let out = node.campaign();
    assert_eq!(out.asked(), [], "its own vote is a promise too");
    let state = out.writes()[0].hard_state.unwrap();
    assert_eq!((state.term, state.voted_for), (2, Some(1)));
    let asked = node.persist();
    assert_eq!(
        asked.asked().iter().map(|(to, ask)| (*to, ask.last)).collect::<Vec<_>>(),
        [(2, id(1, 2)), (3, id(1, 2))]
    );
    assert!(node.raft.poll_timeout().unwrap() >= node.now + node.config.election_timeout_min);
    assert!(!node.votes_for(2, 2, id(9, 9)), "the vote of this term is given");
}

/// Figure 2, candidates: a majority of all servers, each counted once; §3.4.
#[test]
fn a_majority_of_all_servers_elects() {
    let mut node = Node::with_log(5, &[]);
    node.campaign();
    node.hear(2, 2, Body::VoteReply { granted: true });
    node.hear(3, 2, Body::VoteReply { granted: true });
    assert_eq!(node.role(), Role::Candidate, "its own vote is not on disk: two of five");
    node.persist();
    assert_eq!(node.role(), Role::Leader);
    let mut twice = Node::with_log(5, &[]);
    twice.campaign();
    twice.persist();
    (0..9).for_each(|_| drop(twice.hear(2, 2, Body::VoteReply { granted: true })));
    assert_eq!(twice.role(), Role::Candidate, "one voter, however often it answers");
}

/// Figure 2, candidates: AppendEntries of a leader of this term make a follower.
#[test]
fn a_candidate_follows_the_leader_of_its_term() {
    let mut node = Node::with_log(3, &[]);
    node.campaign();
    node.persist();
    let out = node.append(3, 2, append(id(1, 1), &[], 0));
    assert_eq!((node.role(), node.status().leader, out.outcomes().len()), (Role::Follower, Some(3), 1));
}

/// Figure 2, candidates: the election timeout elapses: start another election; §3.4, split votes.
#[test]
fn a_split_vote_is_followed_by_another_election_in_a_new_term() {
    let mut node = Node::with_log(3, &[]);
    node.campaign();
    node.persist();
    node.hear(2, 2, Body::VoteReply { granted: false });
    assert_eq!(node.role(), Role::Candidate, "one of two others may still grant");
    node.lead();
    assert_eq!((node.role(), node.status().term), (Role::Leader, 3));
}

/// Figure 2, leaders: heartbeats upon election and during idle periods.
#[test]
fn a_leader_speaks_at_once_and_in_every_heartbeat_interval() {
    let mut node = Node::with_log(3, &[]);
    let first: Vec<_> = node.lead().heartbeats().iter().map(|(to, _)| *to).collect();
    assert_eq!(first, [2, 3]);
    node.persist();
    node.accepts(2, 1);
    node.accepts(2, 2);
    for _ in 0..3 {
        node.accepts(3, 1);
        assert_eq!(node.raft.poll_timeout(), Some(node.now + node.config.heartbeat_interval));
        let out = node.timeout();
        assert!(out.heartbeats().iter().any(|(to, _)| *to == 2), "{out:?}");
    }
}

/// Figure 2, leaders: a command is appended and answered by its application.
#[test]
fn a_command_is_appended_and_its_application_is_the_answer() {
    let mut node = Node::leader(3, &[]);
    let out = node.propose(7);
    assert_eq!(out.answers(), [&Answer::Accepted { id: 7, at: id(2, 3) }]);
    assert_eq!(out.writes()[0].entries[0].id(), id(2, 3));
    assert_eq!(out.applies(), None);
    node.persist();
    assert_eq!(node.accepts(2, 3).applies(), Some(3));
}

/// Figure 2, leaders: whoever does not lead says who does; §6.2.
#[test]
fn a_follower_takes_no_command_and_names_the_leader() {
    let mut node = Node::with_log(3, &[]);
    assert_eq!(node.propose(1).rejections(), [&Rejection::NotLeader { leader: None }]);
    node.append(3, 2, append(id(1, 1), &[], 0));
    assert_eq!(node.propose(2).rejections(), [&Rejection::NotLeader { leader: Some(3) }]);
    assert_eq!(node.status().last, id(1, 1));
}

/// Figure 2, leaders: last log index >= nextIndex: send the entries from nextIndex on.
#[test]
fn entries_go_to_everybody_who_lacks_them() {
    let mut node = Node::leader(3, &[]);
    assert_eq!(node.propose(1).entries(), [(2, id(2, 2), 3), (3, id(2, 2), 3)]);
    assert_eq!(node.propose(2).entries(), [(2, id(2, 3), 4), (3, id(2, 3), 4)], "without waiting for the first");
}

/// Figure 2, leaders: on success update nextIndex and matchIndex; on inconsistency decrement and try again.
#[test]
fn a_refusal_moves_the_leader_back_and_an_acknowledgement_forward() {
    let mut node = Node::with_log(3, &[1, 1, 1]);
    node.lead();
    node.persist();
    let out = node.reply(2, AppendOutcome::Rejected { prev: 4, hint: id(1, 2) });
    assert_eq!(out.heartbeats().iter().map(|(to, append)| (*to, append.prev)).collect::<Vec<_>>(), [(2, id(1, 2))]);
    assert_eq!(node.matched(2), 0, "a refusal acknowledges nothing");
    assert_eq!(node.accepts(2, 2).entries(), [(2, id(1, 2), 4), (2, id(1, 4), 5)], "one term in a message");
    assert_eq!(node.matched(2), 2);
}

/// §3.5: a refusal that came late cannot move an acknowledged match back.
#[test]
fn a_late_refusal_does_not_move_what_is_known_to_match() {
    let mut node = Node::leader(3, &[]);
    node.propose(1);
    node.persist();
    node.accepts(2, 3);
    let out = node.reply(2, AppendOutcome::Rejected { prev: 2, hint: id(1, 1) });
    assert_eq!((out.messages().len(), node.matched(2)), (0, 3));
}

/// §3.5: acknowledgements may overtake each other; the older one takes nothing back.
#[test]
fn an_older_acknowledgement_that_comes_late_does_not_move_the_match_back() {
    let mut node = Node::leader(3, &[]);
    node.propose(1);
    node.propose(2);
    node.accepts(2, 4);
    node.accepts(2, 3);
    assert_eq!((node.matched(2), node.propose(3).entries()[0]), (4, (2, id(2, 4), 5)));
}

/// Figure 2, leaders: a majority of matchIndex >= N and log[N].term == currentTerm: commit N.
#[test]
fn an_entry_commits_once_a_majority_holds_it() {
    let mut node = Node::leader(5, &[]);
    node.propose(1);
    node.persist();
    assert_eq!(node.accepts(2, 3).applies(), None, "two of five");
    assert_eq!(node.accepts(3, 3).applies(), Some(3));
    assert_eq!(node.status().commit, 3);
}

/// §3.6.2, Figure 8 (c): an entry of an older term does not commit by counting; it commits with one of the leader's own.
#[test]
fn an_entry_of_an_older_term_commits_with_one_of_the_leaders_own() {
    let mut node = Node::with_log(5, &[2]);
    node.lead();
    node.persist();
    for from in 2..=5 {
        node.accepts(from, 2);
    }
    assert_eq!(node.status().commit, 0, "all five hold it, and it may still be overwritten");
    node.accepts(2, 3);
    assert_eq!(node.status().commit, 0);
    node.accepts(3, 3);
    assert_eq!(node.status().commit, 3);
}

/// §3.6.2, §6.4: a new leader appends a no-op.
#[test]
fn a_leader_opens_its_term_with_a_no_op() {
    let mut node = Node::with_log(3, &[1]);
    let out = node.lead();
    let entry = &out.writes()[0].entries[0];
    assert_eq!((entry.id(), entry.kind, entry.data.len()), (id(2, 3), EntryKind::Noop, 0));
}

/// Figure 3, Leader Append-Only: nothing makes a leader overwrite or delete what it has.
#[test]
fn a_leader_only_appends() {
    let mut node = Node::leader(3, &[]);
    let mut out = node.append(2, 2, append(id(1, 1), &[2, 2], 3));
    out.0.extend(node.append(2, 1, append(id(1, 1), &[1], 3)).0);
    out.0.extend(node.reply(2, AppendOutcome::Rejected { prev: 2, hint: id(1, 1) }).0);
    assert!(out.writes().iter().all(|write| write.replace_from.is_none() && write.purge.is_none()), "{out:?}");
    assert_eq!((node.role(), node.status().last), (Role::Leader, id(2, 2)));
}

/// §3.7: a follower that does not answer is asked again, for ever; nothing is kept in memory for it.
#[test]
fn a_follower_that_is_down_is_tried_again_and_costs_one_message_a_heartbeat() {
    let mut node = Node::leader(3, &[]);
    node.input(Input::Unreachable { to: 3 });
    for id in 0..50 {
        node.propose(id);
        node.persist();
        node.accepts(2, 3 + id);
        let out = node.wait(node.config.heartbeat_interval);
        let to_3: Vec<_> = out.heartbeats().into_iter().filter(|(to, _)| *to == 3).collect();
        assert_eq!((to_3.len(), to_3[0].1.prev), (1, id_of_noop()), "it goes on where 3 is known to be");
        assert!(out.entries().iter().all(|(to, _, _)| *to != 3), "no entries for a node that does not answer");
    }
    node.accepts(3, 2);
    assert_eq!(node.status().role, Role::Leader);
}

fn id_of_noop() -> d_engine_core::LogId {
    id(2, 2)
}

/// §3.7: what was lost on the way is sent again.
#[test]
fn a_lost_message_is_noticed_by_the_next_one_and_sent_again() {
    let mut node = Node::leader(3, &[]);
    node.propose(1);
    node.timeout();
    let out = node.reply(2, AppendOutcome::Rejected { prev: 3, hint: id(2, 2) });
    assert_eq!(out.heartbeats()[0].1.prev, id(2, 2));
    assert_eq!(node.accepts(2, 2).entries(), [(2, id(2, 2), 3)]);
}

/// Acknowledgements of an older stream do not move progress.
#[test]
fn an_answer_of_an_older_stream_counts_as_a_sign_of_life_only() {
    let mut node = Node::leader(3, &[]);
    node.propose(1);
    node.persist();
    node.input(Input::Unreachable { to: 2 });
    let reply = AppendReply { session: 1, round: 0, outcome: AppendOutcome::Accepted { matched: 3 } };
    node.now += millis(5);
    node.hear(2, 2, Body::AppendReply(reply));
    assert_eq!((node.matched(2), node.status().commit), (2, 2));
    let silent = node.status().peers[0].silent_for;
    assert_eq!(silent, Some(millis(0)));
}

/// §10.2.1: the leader writes while its followers do, and may commit before its own disk has spoken.
#[test]
fn a_leader_sends_before_it_has_written_and_commits_without_itself() {
    let mut node = Node::leader(3, &[]);
    let out = node.propose(1);
    assert_eq!((out.entries().len(), node.pending.len()), (2, 1), "sent, and not written yet");
    assert_eq!(node.accepts(2, 3).applies(), None, "one of three holds it");
    assert_eq!(node.status().commit, 2);
    let out = node.accepts(3, 3);
    assert_eq!((node.status().commit, out.applies()), (3, None), "two hold it; here it is applied once it is durable");
    assert_eq!(node.persist().applies(), Some(3));
}

/// §10.2.1, Figure 2: a leader alone commits when its own disk has spoken.
#[test]
fn the_only_voter_commits_when_its_disk_has_spoken() {
    let mut node = Node::with_log(1, &[]);
    node.campaign();
    node.persist();
    node.persist();
    let commit = node.status().commit;
    assert_eq!((node.role(), commit), (Role::Leader, 2));
    node.propose(1);
    assert_eq!(node.status().commit, commit);
    assert_eq!(node.persist().applies(), Some(3));
}

/// Rule of this implementation: windows are bounded.
#[test]
fn a_full_window_waits_for_acknowledgements() {
    let mut node = Node::leader(3, &[]);
    let window = node.config.max_inflight_messages as u64;
    let sent: usize = (0..2 * window).map(|id| node.propose(id).entries().iter().filter(|e| e.0 == 2).count()).sum();
    assert_eq!(sent as u64, window);
    let out = node.accepts(2, 2 + window);
    assert_eq!(out.entries(), [(2, id(2, 2 + window), 2 + 2 * window)], "what waited goes in one message");
}

/// Rule of this implementation: what is not applied is bounded, and so refused at once.
#[test]
fn a_leader_whose_followers_lag_refuses_at_once_instead_of_growing() {
    let mut node = Node::leader(3, &[]);
    let command = Bytes::from(vec![0; node.config.max_command_bytes]);
    let mut taken = 0;
    for id in 0..100 {
        let out = node.input(Input::Propose { id, command: command.clone() });
        match &out.answers()[..] {
            [Answer::Accepted { .. }] => taken += 1,
            _ => assert_eq!(out.refusals(), ["too much is under way; try again"]),
        }
    }
    assert_eq!(taken, node.config.max_unapplied_bytes / node.config.max_command_bytes - 1, "with entry headers");
}
