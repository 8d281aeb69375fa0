//! Membership changes that meet crashes, snapshots and late messages.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::RefCell;
use std::rc::Rc;

use d_engine_raft::simulator::World;
use d_engine_raft::{AppendOutcome, Body, Change, Message};

mod world;

use world::*;

#[test]
fn a_promoted_learner_that_has_not_heard_of_it_is_counted() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 2);
        let other = others(&world, leader)[0];
        let learner = add_learner(&mut world);
        world.run_for(millis(300)).unwrap();
        let last = world.status(leader).unwrap().last;
        // The promotion reaches the two voters and not the learner.
        world.set_filter(move |_, to, message| entries_term(message).is_none() || to != learner);
        let promoted = world.change(leader, Change::Promote { node: learner }).unwrap();
        assert!(world.run_until(FAILOVER, |world| done(world, promoted)).unwrap(), "seed {seed}: two of three hold it");
        world.crash(leader, None).unwrap();
        let elected = world.run_until(FAILOVER * 2, |world| world.leader() == Some(other)).unwrap();
        assert!(elected, "seed {seed}: without the vote of the learner nobody leads");
        assert_eq!(world.status(learner).unwrap().last.index, last.index, "it still does not know");
        world.clear_filter();
        assert!(write(&mut world, FAILOVER).is_some(), "seed {seed}");
        world.restart(leader).unwrap();
        world.settle().unwrap();
    }
}

#[test]
fn a_configuration_that_never_committed_does_not_survive_a_snapshot() {
    for seed in 0..10 {
        let (mut world, old) = formed(seed, 3);
        let committed = world.status(old).unwrap().membership;
        world.split(&[old]);
        let gone = others(&world, old)[0];
        world.change(old, Change::Remove { node: gone }).unwrap();
        world.run_for(millis(100)).unwrap();
        assert_ne!(world.status(old).unwrap().membership, committed, "it is in force where it was appended");
        write_elsewhere(&mut world, old).unwrap();
        for _ in 0..5 {
            write(&mut world, MINUTE).unwrap();
        }
        let leader = world.leader().unwrap();
        world.run_for(FAILOVER).unwrap();
        purge(&mut world, leader);
        let at = world.snapshot(leader).unwrap().index;
        world.heal();
        assert!(
            world.run_until(MINUTE, |world| world.purged(old).index >= at).unwrap(),
            "seed {seed}: no snapshot came"
        );
        assert_eq!(world.status(old).unwrap().membership, committed, "seed {seed}");
        world.settle().unwrap();
    }
}

#[test]
fn a_snapshot_at_every_point_around_a_change_holds_the_configuration_of_its_point() {
    for steps in 0..60 {
        let (mut world, _) = formed(steps % 5, 3);
        let learners = [add_learner(&mut world), add_learner(&mut world)];
        world.run_for(FAILOVER).unwrap();
        let leader = world.leader().unwrap();
        let kept = others(&world, leader)[0];
        world.change(leader, Change::SetVoters { voters: vec![kept, learners[0], learners[1]] }).unwrap();
        world.run_steps(steps * 4).unwrap();
        for node in [leader, kept] {
            world.make_snapshot(node).unwrap();
        }
        world.run_steps(40).unwrap();
        for node in [leader, kept] {
            world.crash(node, None).unwrap();
            world.restart(node).unwrap();
        }
        world.settle().unwrap_or_else(|violation| panic!("after {steps} × 4 steps: {violation:?}"));
        let leader = world.leader().unwrap();
        assert!(!world.status(leader).unwrap().membership.is_joint());
    }
}

/// Acknowledgements of before a node was removed are still under way when the same node, with the same directory, is a
/// member again.
#[test]
fn acknowledgements_from_before_a_removal_do_not_count_for_the_member_that_came_back() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 3);
        let node = others(&world, leader)[0];
        let late: Rc<RefCell<Vec<Message>>> = Rc::default();
        let tap = Rc::clone(&late);
        world.set_filter(move |from, to, message| {
            let is_ack = matches!(
                &message.body,
                Body::AppendReply(reply) if matches!(reply.outcome, AppendOutcome::Accepted { .. })
            );
            if from == node && to == leader && is_ack {
                tap.borrow_mut().push(message.clone());
            }
            true
        });
        for _ in 0..5 {
            write(&mut world, MINUTE).unwrap();
        }
        world.run_for(millis(300)).unwrap();
        let acknowledged = world.status(leader).unwrap().last.index;
        change(&mut world, &Change::Remove { node });
        world.cut(leader, node);
        let again = learner(&world, node);
        change(&mut world, &again);
        assert_eq!(world.leader(), Some(leader));
        let acks = late.take();
        assert!(acks.iter().any(|ack| matches!(
            &ack.body,
            Body::AppendReply(reply) if reply.outcome == AppendOutcome::Accepted { matched: acknowledged }
        )));
        acks.into_iter().for_each(|ack| world.inject(node, leader, ack));
        world.run_for(millis(50)).unwrap();
        let peers = world.status(leader).unwrap().peers;
        assert_eq!(peers.iter().find(|peer| peer.node == node).unwrap().matched, 0, "seed {seed}: of an older stream");
        world.heal();
        change(&mut world, &Change::Promote { node });
        world.settle().unwrap();
    }
}

#[test]
fn a_dead_node_is_replaced_while_another_one_restarts() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 3);
        let [dead, restarting] = others(&world, leader)[..] else { unreachable!() };
        let fresh = world.join().unwrap();
        assert!(world.run_until(MINUTE, |world| world.incarnation(fresh).is_some()).unwrap());
        world.crash(dead, None).unwrap();
        let Change::AddLearner { node, incarnation, address } = learner(&world, fresh) else { unreachable!() };
        let request = world.change(leader, Change::Replace { old: dead, node, incarnation, address }).unwrap();
        world.crash(restarting, None).unwrap();
        world.run_for(millis(300)).unwrap();
        assert!(!done(&world, request), "seed {seed}: one of two voters is a minority");
        world.restart(restarting).unwrap();
        let replaced = |world: &World| world.members().contains(&fresh) && !world.members().contains(&dead);
        assert!(world.run_until(MINUTE, replaced).unwrap(), "seed {seed}");
        change(&mut world, &Change::Promote { node: fresh });
        let restarting = world.leader().filter(|it| *it != fresh).unwrap_or(restarting);
        world.crash(restarting, None).unwrap();
        assert!(write(&mut world, MINUTE).is_some(), "seed {seed}: the new one counts");
        world.restart(restarting).unwrap();
        world.settle().unwrap();
    }
}
