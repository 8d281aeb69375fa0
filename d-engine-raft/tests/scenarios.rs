//! Scenarios that break implementations of Raft, by hand.
//!
//! `D_ENGINE_MUTANT=CommitOldTermByCounting` breaks a rule on purpose and shows which scenarios notice.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use d_engine_raft::simulator::Outcome;
use d_engine_raft::{AppendOutcome, Body, Role};

mod world;

use world::*;

#[test]
fn figure_8_an_entry_of_an_old_term_does_not_commit_by_counting() {
    for seed in 0..10 {
        let mut world = calm(seed, 5);
        elect(&mut world, 1, |_, _, _| true);
        assert!(world.run_until(MINUTE, |world| (1..=5).all(|node| world.applied(node) >= 2)).unwrap());
        // (a) The leader S1 gets its entry to S2 only.
        let term = world.status(1).unwrap().term;
        let index = world.status(1).unwrap().last.index + 1;
        world.set_filter(move |_, to, message| !is_campaign(message) && (entries_term(message).is_none() || to == 2));
        world.propose(1).unwrap();
        assert!(world.run_until(MINUTE, |world| (1..=2).all(|node| holds(world, node, term, index))).unwrap());
        // (b) S1 crashes; S3, S4 and itself elect S5, which writes another entry at that index, for itself alone.
        world.crash(1, Some(0)).unwrap();
        elect(&mut world, 5, |_, _, message| entries_term(message).is_none());
        let other_term = world.status(5).unwrap().term;
        assert!(world.run_until(MINUTE, |world| holds(world, 5, other_term, index)).unwrap());
        // (c) S5 crashes; S1 leads again and brings its old entry to a majority, but nothing of its new term.
        world.crash(5, Some(0)).unwrap();
        world.restart(1).unwrap();
        elect(&mut world, 1, move |_, to, message| entries_term(message).is_none_or(|t| t == term && to == 3));
        assert!(world.run_until(MINUTE, |world| holds(world, 3, term, index)).unwrap());
        world.run_for(millis(300)).unwrap();
        let holders = (1..=3).filter(|node| holds(&world, *node, term, index)).count();
        assert_eq!(holders, 3, "a majority of five holds the old entry");
        assert!((world.committed().len() as u64) < index, "seed {seed}: committed by counting an old term");
        // (d) S1 crashes; S5 may win and overwrite it.
        world.crash(1, Some(0)).unwrap();
        world.restart(5).unwrap();
        elect(&mut world, 5, |_, _, _| true);
        assert!(world.run_until(MINUTE, |world| world.committed().len() as u64 > index).unwrap());
        assert_eq!(world.committed()[index as usize - 1].term, other_term);
        world.settle().unwrap();
    }
}

#[test]
fn late_and_duplicate_appends_do_not_shorten_a_longer_log() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 3);
        let follower = others(&world, leader)[0];
        let seen = Rc::new(RefCell::new((Vec::new(), Vec::new())));
        let tap = Rc::clone(&seen);
        world.set_filter(move |from, to, message| {
            if from == leader && to == follower && entries_term(message).is_some() {
                tap.borrow_mut().0.push(message.clone());
            }
            if let (Body::AppendReply(reply), true) = (&message.body, from == follower) {
                tap.borrow_mut().1.push(reply.outcome);
            }
            true
        });
        for _ in 0..10 {
            write(&mut world, MINUTE).unwrap();
        }
        world.run_for(millis(300)).unwrap();
        let length = world.durable_log(follower).len();
        let late = seen.borrow().0[1].clone();
        let Body::Append(append) = &late.body else { unreachable!() };
        let end = append.end();
        assert!((end as usize) < length, "the message ends in the middle of the log");
        seen.borrow_mut().1.clear();
        for _ in 0..2 {
            world.inject(leader, follower, late.clone());
        }
        world.run_for(millis(20)).unwrap();
        assert_eq!(world.durable_log(follower).len(), length, "seed {seed}");
        let answered = seen.borrow().1.iter().filter(|o| **o == AppendOutcome::Accepted { matched: end }).count();
        assert_eq!(
            answered,
            2,
            "the end of the message is acknowledged, not the end of the log: {:?}",
            seen.borrow().1
        );
        world.settle().unwrap();
    }
}

#[test]
fn acknowledged_writes_survive_a_loss_of_power_of_all_nodes() {
    for seed in 0..50 {
        let (mut world, _) = formed(seed, if seed % 2 == 0 { 3 } else { 5 });
        let request = write(&mut world, MINUTE).unwrap();
        let Outcome::Done(index) = world.outcome(request) else { unreachable!() };
        let entry = world.committed()[index as usize - 1].clone();
        for node in 1..=world.size() {
            world.crash(node, Some(0)).unwrap();
        }
        for node in 1..=world.size() {
            world.restart(node).unwrap();
        }
        world.settle().unwrap();
        for node in 1..=world.size() {
            assert_eq!(world.durable_log(node)[index as usize - 1], entry, "seed {seed} node {node}");
        }
    }
}

#[test]
fn a_leader_whose_write_never_completes_does_not_count_itself() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 3);
        let away = others(&world, leader)[0];
        world.split(&[away]);
        world.stall_disk(leader);
        let before = world.committed().len();
        let request = world.propose(leader).unwrap();
        world.run_for(millis(450)).unwrap();
        assert_eq!(world.committed().len(), before, "seed {seed}: one disk of three holds the entry");
        assert!(!done(&world, request));
        world.settle().unwrap();
    }
}

#[test]
fn a_single_voter_whose_write_never_completes_commits_nothing() {
    let (mut world, leader) = formed(1, 1);
    world.stall_disk(leader);
    let before = world.committed().len();
    let request = world.propose(leader).unwrap();
    world.run_for(Duration::from_secs(10)).unwrap();
    assert_eq!(world.committed().len(), before);
    assert!(!done(&world, request));
    world.settle().unwrap();
}

#[test]
fn a_deposed_leader_cannot_commit() {
    for seed in 0..20 {
        let (mut world, old) = formed(seed, 5);
        world.split(&[old]);
        let lost = world.propose(old).unwrap();
        let request = write_elsewhere(&mut world, old).expect("the majority elects and commits");
        assert!(done(&world, request) && !done(&world, lost));
        world.heal();
        world.settle().unwrap();
        assert_eq!(world.outcome(lost), Outcome::Replaced, "seed {seed}");
    }
}

#[test]
fn an_isolated_leader_answers_no_read() {
    for seed in 0..20 {
        let (mut world, old) = formed(seed, 3);
        world.split(&[old]);
        let read = world.read(old).unwrap();
        write_elsewhere(&mut world, old).expect("the majority elects and commits");
        world.run_for(FAILOVER).unwrap();
        assert!(!done(&world, read), "seed {seed}: a stale read");
    }
}

#[test]
fn a_leader_that_hears_nobody_is_replaced() {
    for seed in 0..20 {
        let (mut world, old) = formed(seed, 3);
        for other in others(&world, old) {
            world.cut(other, old);
        }
        write_elsewhere(&mut world, old).unwrap_or_else(|| panic!("seed {seed}: a deaf leader keeps its office"));
        world.heal();
        world.settle().unwrap();
    }
}

#[test]
fn a_follower_that_hears_nobody_does_not_disturb_the_leader() {
    for seed in 0..20 {
        let (mut world, leader) = formed(seed, 3);
        let term = world.status(leader).unwrap().term;
        let deaf = others(&world, leader)[0];
        for other in others(&world, deaf) {
            world.cut(other, deaf);
        }
        world.run_for(MINUTE).unwrap();
        assert_eq!((world.leader(), world.status(leader).unwrap().term), (Some(leader), term), "seed {seed}");
        world.heal();
        world.run_for(FAILOVER).unwrap();
        assert_eq!((world.leader(), world.status(leader).unwrap().term), (Some(leader), term), "seed {seed}");
    }
}

#[test]
fn someone_wins_although_one_is_refused_for_its_term_and_the_other_for_its_log() {
    for seed in 0..20 {
        let mut world = calm(seed, 3);
        elect(&mut world, 1, |_, _, _| true);
        assert!(world.run_until(MINUTE, |world| (1..=3).all(|node| world.applied(node) >= 2)).unwrap());
        let term = world.status(1).unwrap().term;
        // Node 2 enters the next term alone: its pre-vote is granted, its request for votes is lost.
        world.pause(1);
        world.set_filter(|from, _, message| match message.body {
            Body::PreVote { .. } => from == 2,
            Body::RequestVote(_) => false,
            _ => true,
        });
        assert!(world.run_until(MINUTE, |world| world.status(2).unwrap().term > term).unwrap());
        // Node 3 stays in the old term and gets a longer log there.
        world.set_filter(|from, to, _| from != 2 && to != 2);
        world.resume(1).unwrap();
        let index = world.status(1).unwrap().last.index + 1;
        world.propose(1).unwrap();
        let got_it = world.run_until(MINUTE, |world| holds(world, 3, term, index)).unwrap();
        assert!(got_it, "seed {seed}: the old leader still reaches node 3");
        world.crash(1, Some(0)).unwrap();
        world.clear_filter();
        let wins = world.run_until(FAILOVER * 2, |world| world.leader().is_some_and(|leader| leader != 1)).unwrap();
        assert!(wins, "seed {seed}: nodes 2 and 3 refuse each other for ever");
        assert_eq!(world.leader(), Some(3));
    }
}

#[test]
fn a_leader_that_reaches_one_bridge_node_only_is_replaced() {
    for seed in 0..20 {
        let (mut world, old) = formed(seed, 5);
        for other in others(&world, old).into_iter().skip(1) {
            world.cut(other, old);
            world.cut(old, other);
        }
        write_elsewhere(&mut world, old).unwrap_or_else(|| panic!("seed {seed}: four connected nodes do not elect"));
        world.heal();
        world.settle().unwrap();
    }
}

#[test]
fn two_of_three_elect_after_the_leader_paused() {
    for seed in 0..20 {
        let (mut world, old) = formed(seed, 3);
        world.pause(old);
        write_elsewhere(&mut world, old).unwrap_or_else(|| panic!("seed {seed}: they wait for a leader that is gone"));
        world.resume(old).unwrap();
        world.settle().unwrap();
    }
}

#[test]
fn a_follower_that_restarts_within_a_term_serves_again_in_it() {
    for seed in 0..20 {
        let (mut world, leader) = formed(seed, 3);
        let term = world.status(leader).unwrap().term;
        let follower = others(&world, leader)[0];
        let before = world.read(follower).unwrap();
        world.crash(follower, None).unwrap();
        write(&mut world, MINUTE).unwrap();
        world.restart(follower).unwrap();
        let after = world.read(follower).unwrap();
        assert!(world.run_until(FAILOVER, |world| !matches!(world.outcome(after), Outcome::Unknown)).unwrap());
        assert_eq!(world.outcome(before), Outcome::Unknown, "answers to an earlier life are dropped");
        world.run_for(FAILOVER).unwrap();
        let again = world.read(follower).unwrap();
        assert!(world.run_until(millis(500), |world| done(world, again)).unwrap(), "seed {seed}");
        assert_eq!(world.status(follower).unwrap().term, term, "its restart costs no election");
    }
}

#[test]
fn formation_survives_a_crash_after_every_step() {
    for step in 0..120 {
        for node in 1..=3 {
            for survive in [Some(0), Some(1), Some(2), Some(3), None] {
                let mut world = calm(step, 3);
                world.run_steps(step).unwrap();
                world.crash(node, survive).unwrap();
                world.restart(node).unwrap();
                world.settle().unwrap_or_else(|v| panic!("step {step}, node {node}, survive {survive:?}: {v:?}"));
            }
        }
    }
}

#[test]
fn formation_survives_a_loss_of_power_after_every_step() {
    for step in 0..120 {
        for survive in [Some(0), Some(1), Some(3), None] {
            let mut world = calm(1_000 + step, 3);
            world.run_steps(step).unwrap();
            for node in 1..=3 {
                world.crash(node, survive).unwrap();
            }
            for node in [2, 3, 1] {
                world.run_for(millis(30)).unwrap();
                world.restart(node).unwrap();
            }
            world.settle().unwrap_or_else(|v| panic!("step {step}, survive {survive:?}: {v:?}"));
        }
    }
}

#[test]
fn a_wiped_node_under_the_same_id_is_not_counted_and_told_so() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 3);
        let [wiped, other] = others(&world, leader)[..] else { unreachable!() };
        world.crash(wiped, None).unwrap();
        world.wipe(wiped);
        world.restart(wiped).unwrap();
        world.crash(other, None).unwrap();
        let before = world.committed().len();
        let request = world.propose(leader).unwrap();
        world.run_for(MINUTE).unwrap();
        assert_eq!(world.committed().len(), before, "seed {seed}: a wiped disk made a quorum");
        assert!(!done(&world, request));
        let status = world.status(wiped).unwrap();
        assert_eq!(status.role, Role::Unformed);
        assert!(status.failure.is_some_and(|why| why.contains("wiped")), "the operator is told");
        world.restart(other).unwrap();
        assert!(write(&mut world, MINUTE).is_some(), "the two that remember go on");
    }
}

#[test]
fn a_leader_whose_disk_stalls_is_replaced() {
    for seed in 0..20 {
        let (mut world, old) = formed(seed, 3);
        world.stall_disk(old);
        world.propose(old).unwrap();
        write_elsewhere(&mut world, old).unwrap_or_else(|| panic!("seed {seed}: a leader without a disk stays"));
        world.settle().unwrap();
    }
}

#[test]
fn a_divergent_tail_of_many_terms_heals_in_a_bounded_time() {
    for seed in 0..5 {
        let (mut world, first) = formed(seed, 3);
        let pair = [first, others(&world, first)[0]];
        // Two nodes lead in turn, elected by the third; nobody's entries reach another disk.
        for round in 0..12 {
            let (leader, other) = (pair[round % 2], pair[1 - round % 2]);
            world.crash(other, Some(0)).unwrap();
            elect(&mut world, leader, |_, _, message| entries_term(message).is_none());
            for _ in 0..5 {
                world.propose(leader).unwrap();
            }
            world.run_for(millis(50)).unwrap();
            world.restart(other).unwrap();
        }
        world.clear_filter();
        let runs = world.durable_log(first).chunk_by(|a, b| a.term == b.term).count();
        assert!(runs >= 6, "seed {seed}: only {runs} terms in the divergent log");
        let began = world.time();
        write(&mut world, MINUTE).unwrap();
        world.settle().unwrap();
        let took = world.time() - began;
        assert!(took < Duration::from_secs(10), "seed {seed}: healing took {took:?}");
    }
}
