//! Elections over time: randomised timeouts (§3.4, §3.9), check-quorum (§6.2).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::node::{Node, append, config, id, millis};
use d_engine_core::LogId;
use d_engine_raft::{AppendOutcome, Body, Config, Raft, Role, StartError};

/// §3.4, §9.3: election timeouts are drawn at random from an interval, anew each time.
#[test]
fn election_timeouts_are_spread_over_their_interval() {
    let mut node = Node::with_log(3, &[]);
    let mut drawn = BTreeSet::new();
    for _ in 0..200 {
        node.append(2, 1, append(id(1, 1), &[], 0));
        drawn.insert(node.raft.poll_timeout().unwrap() - node.now);
    }
    let Config { election_timeout_min: min, election_timeout_max: max, .. } = node.config;
    let (first, last) = (*drawn.first().unwrap(), *drawn.last().unwrap());
    assert!(first >= min && last < max, "{first:?} {last:?}");
    assert!(drawn.len() > 190 && first < min + (max - min) / 10 && last > max - (max - min) / 10);
}

/// §3.4: different seeds, different timeouts.
#[test]
fn nodes_that_start_together_do_not_time_out_together() {
    let disk = Node::with_log(3, &[]).disk;
    let mut due = BTreeSet::new();
    for _ in 0..2 {
        let mut node = Node::start(config(), disk.clone(), LogId::default());
        for _ in 0..20 {
            due.insert(node.raft.poll_timeout());
            node.restart();
            node.now = Duration::ZERO;
        }
    }
    assert!(due.len() > 10);
}

/// §3.9: broadcastTime must be well below the election timeout: contradicting settings are refused by name.
#[test]
fn timeouts_that_contradict_each_other_are_refused() {
    let refusal = |config: Config| {
        let boot = d_engine_raft::Boot { seed: 1, incarnation: 1, cluster: 1 };
        match Raft::new(config, d_engine_raft::Restored::default(), boot, millis(0)) {
            Err(StartError::Config(why)) => why,
            other => panic!("{:?}", other.map(|_| ())),
        }
    };
    let slow = Config { heartbeat_interval: millis(200), ..config() };
    assert_eq!(refusal(slow), "raft.election_timeout_min_ms: must be at least 3 heartbeats: 500 ms < 3 × 200 ms");
    let fixed = Config { election_timeout_max: millis(500), ..config() };
    assert!(refusal(fixed).contains("must be more than election_timeout_min_ms: 500 ms ≤ 500 ms"));
    assert!(refusal(Config { heartbeat_interval: millis(0), ..config() }).contains("must be more than 0 ms"));
}

/// §3.4: of three candidates in a row only those with a majority lead; a term has at most one leader.
#[test]
fn a_term_without_a_majority_passes_without_a_leader() {
    let mut node = Node::with_log(3, &[]);
    for term in 2..5 {
        node.campaign();
        node.persist();
        assert_eq!((node.role(), node.status().term), (Role::Candidate, term));
        node.hear(2, term, Body::VoteReply { granted: false });
        node.hear(3, term, Body::VoteReply { granted: false });
        assert_eq!(node.role(), Role::Follower, "both have refused: nobody waits for nothing");
    }
}

/// §6.2: a leader that hears no quorum for an election timeout steps down and is silent.
#[test]
fn a_leader_that_hears_no_quorum_steps_down_and_stops_its_heartbeats() {
    let mut node = Node::leader(5, &[]);
    let began = node.now;
    let mut out = node.timeout();
    while node.role() == Role::Leader {
        node.accepts(2, 2);
        out = node.timeout();
        assert!(node.now < began + node.config.election_timeout_max * 2, "two of five are no quorum");
    }
    assert_eq!((node.role(), node.status().leader, node.status().term), (Role::Follower, None, 2));
    assert!(node.now > began + node.config.election_timeout_max, "not before an election timeout has passed");
    assert_eq!(out.heartbeats(), [], "its last breath is no heartbeat");
}

/// §6.2: any answer of a quorum keeps it, a refusal too.
#[test]
fn a_leader_that_a_quorum_answers_stays() {
    let mut node = Node::leader(5, &[]);
    for _ in 0..50 {
        node.accepts(2, 2);
        node.reply(3, AppendOutcome::Pending);
        node.timeout();
    }
    assert_eq!((node.role(), node.status().term), (Role::Leader, 2));
}

/// §3.3: a leader that was deposed learns it from anybody it talks to.
#[test]
fn a_deposed_leader_steps_down_at_the_first_answer() {
    let mut node = Node::leader(3, &[]);
    node.propose(1);
    node.hear(2, 7, {
        let outcome = AppendOutcome::Stale;
        Body::AppendReply(d_engine_raft::AppendReply { session: 1, round: 0, outcome })
    });
    assert_eq!((node.role(), node.status().term, node.status().last), (Role::Follower, 7, id(2, 3)));
    let out = node.store(2, 7, append(id(2, 2), &[7], 3));
    assert_eq!(out.outcomes().last(), Some(&AppendOutcome::Accepted { matched: 3 }));
    assert_eq!(node.disk.log[2].term, 7, "its own entry gives way");
}
