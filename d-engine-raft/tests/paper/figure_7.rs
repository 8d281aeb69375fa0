//! Figure 7 of the paper (Figure 3.6): a leader brings every log that can be in line with its own (§3.5).

use std::time::Duration;

use crate::node::{CLUSTER, Node, append, config, incarnation};
use d_engine_core::{Entry, HardState, Identity, LogId, LogSummary};
use d_engine_raft::{Action, Body, Boot, Config, Input, Message, Raft, Restored};

/// The leader's log at the top of the figure; index 1 holds the configuration here, so everything is one further.
const LEADER: &[u64] = &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
/// The followers' logs.
const FOLLOWERS: [(&str, &[u64]); 6] = [
    ("a: one entry is missing", &[1, 1, 1, 4, 4, 5, 5, 6, 6]),
    ("b: many entries are missing", &[1, 1, 1, 4]),
    ("c: an entry too many", &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6]),
    ("d: entries of a newer term too many", &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7]),
    ("e: missing and too many", &[1, 1, 1, 4, 4, 4, 4]),
    ("f: missing and too many, of several terms", &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]),
];

/// Node 2 with this log, in `term`.
fn follower(terms: &[u64], term: u64) -> Raft {
    let mut log = LogSummary::new(LogId::default());
    Node::with_log(3, terms).disk.log.iter().for_each(|entry| log.push(entry).unwrap());
    let identity = Identity::unformed(2, incarnation(2)).form(CLUSTER);
    let hard_state = Some(HardState::new(term, Some(1), Some(identity)));
    let boot = Boot { seed: 2, incarnation: 0, cluster: 0 };
    let restored = Restored { hard_state, log, ..Restored::default() };
    Raft::new(Config { node: 2, ..config() }, restored, boot, Duration::ZERO).unwrap()
}

/// Fills in what the core leaves to the driver.
fn filled(log: &[Entry], action: Action) -> Option<(u64, Message)> {
    match action {
        Action::Send { to, message } => Some((to, message)),
        Action::SendEntries { to, term, mut append, last, .. } => {
            append.entries = log[append.prev.index as usize..last as usize].to_vec();
            Some((to, Message { term, incarnation: incarnation(1), group: 0, body: Body::Append(append) }))
        }
        _ => None,
    }
}

/// Lets the leader and node 2 talk until both are silent; the number of AppendEntries that it took.
fn talk(leader: &mut Node, follower: &mut Raft, first: Vec<Action>, disk: &mut Vec<Entry>) -> usize {
    let mut appends = 0;
    let mut said = first;
    while !said.is_empty() {
        let log: Vec<_> = leader.disk.log.clone();
        for action in said.drain(..) {
            let Some((2, message)) = filled(&log, action) else { continue };
            appends += usize::from(matches!(message.body, Body::Append(_)));
            follower.handle(leader.now, Input::Message { from: 1, message });
        }
        while let Some(action) = follower.poll_action() {
            match action {
                Action::Write(write) => {
                    if let Some(from) = write.replace_from {
                        disk.retain(|entry| entry.index < from);
                    }
                    disk.extend(write.entries);
                    follower.handle(leader.now, Input::Persisted { seq: write.seq });
                }
                Action::Send { to: 1, message } => said.extend(leader.input(Input::Message { from: 2, message }).0),
                _ => {}
            }
        }
    }
    appends
}

/// Figure 7: every follower ends with the leader's log, after messages as few as its log has terms that differ.
#[test]
fn every_log_of_figure_7_is_brought_in_line() {
    for (name, terms) in FOLLOWERS {
        let mut leader = Node::with_log(3, LEADER);
        leader.append(3, 7, append(LogId::new(1, 1), &[], 0));
        leader.persist();
        leader.now += leader.config.election_timeout_max;
        let first = leader.lead().0;
        assert_eq!(leader.status().term, 8);
        leader.persist();
        let mut node = follower(terms, 8);
        let mut disk = Node::with_log(3, terms).disk.log;
        let appends = talk(&mut leader, &mut node, first, &mut disk);
        assert_eq!(disk, leader.disk.log, "{name}");
        assert_eq!((leader.matched(2), node.status(leader.now).last), (12, LogId::new(8, 12)), "{name}");
        assert_eq!(leader.status().commit, 12, "{name}: two of three hold the no-op");
        assert!(appends <= 2 + 3 + 5, "{name}: {appends} messages");
    }
}

/// §3.5: a conflict of a hundred terms costs a message a term at most, not one an entry.
#[test]
fn a_conflict_of_many_terms_heals_in_few_round_trips() {
    let divergent: Vec<u64> = (1..=100).flat_map(|term| [2 * term; 20]).collect();
    let own: Vec<u64> = (1..=100).flat_map(|term| [2 * term + 1; 20]).collect();
    let mut leader = Node::with_log(3, &own);
    let first = leader.lead().0;
    leader.persist();
    let mut node = follower(&divergent, leader.status().term);
    let mut disk = Node::with_log(3, &divergent).disk.log;
    let appends = talk(&mut leader, &mut node, first, &mut disk);
    assert_eq!(disk, leader.disk.log);
    assert!(appends <= 2 * 101 + 2, "{appends} messages for 100 terms of 20 entries");
}
