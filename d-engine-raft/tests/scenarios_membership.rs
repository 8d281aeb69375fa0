//! Membership changes, snapshots and purges where they meet.

#![allow(clippy::unwrap_used, reason = "tests")]

mod world;

use d_engine_core::LogId;
use d_engine_raft::simulator::World;
use d_engine_raft::{Body, Change, NodeId, Role};
use world::*;

fn voters(world: &World) -> Vec<NodeId> {
    let leader = world.leader().unwrap();
    world.status(leader).unwrap().membership.voters().collect()
}

#[test]
fn one_to_three_to_five_to_three_to_one_voters_under_load_with_kills() {
    for seed in 0..5 {
        let (mut world, _) = formed(seed, 1);
        for size in 2..=5 {
            let node = add_learner(&mut world);
            write(&mut world, MINUTE).unwrap();
            change(&mut world, &Change::Promote { node });
            let victim = 1 + (seed + size) % size;
            world.crash(victim, None).unwrap();
            world.restart(victim).unwrap();
            write(&mut world, MINUTE).unwrap();
        }
        for keep in [vec![2, 3, 4], vec![3]] {
            change(&mut world, &Change::SetVoters { voters: keep.clone() });
            write(&mut world, MINUTE).unwrap();
            assert_eq!(voters(&world), keep, "seed {seed}");
        }
        world.settle().unwrap();
    }
}

#[test]
fn a_leader_that_removed_itself_and_stepped_down_too_early_still_campaigns() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 2);
        let other = others(&world, leader)[0];
        // The removal reaches the leader's own disk only.
        world.set_filter(|_, _, message| entries_term(message).is_none());
        let last = world.status(leader).unwrap().last;
        world.change(leader, Change::Remove { node: leader }).unwrap();
        assert!(world.run_until(MINUTE, |world| holds(world, leader, last.term, last.index + 1)).unwrap());
        world.crash(leader, Some(0)).unwrap();
        world.run_for(FAILOVER).unwrap();
        world.restart(leader).unwrap();
        world.clear_filter();
        let leads = |world: &World| world.leader() == Some(other) && world.members() == [other];
        assert!(world.run_until(MINUTE, leads).unwrap(), "seed {seed}: nobody can win");
        world.settle().unwrap();
    }
}

#[test]
fn a_leader_that_removes_itself_under_load_leads_until_the_change_commits() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 3);
        for _ in 0..20 {
            world.propose(leader).unwrap();
        }
        let request = world.change(leader, Change::Remove { node: leader }).unwrap();
        assert!(world.run_until(FAILOVER, |world| done(world, request)).unwrap(), "seed {seed}");
        assert_ne!(world.role(leader), Some(Role::Leader));
        world.settle().unwrap();
        assert!(!world.members().contains(&leader));
    }
}

#[test]
fn a_removed_node_does_not_depose_the_leader() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 3);
        let removed = others(&world, leader)[0];
        world.split(&[removed]);
        change(&mut world, &Change::Remove { node: removed });
        world.heal();
        let term = world.status(leader).unwrap().term;
        world.run_for(MINUTE).unwrap();
        assert_eq!((world.leader(), world.status(leader).unwrap().term), (Some(leader), term), "seed {seed}");
    }
}

#[test]
fn a_node_replaced_under_the_same_id_inherits_nothing() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 3);
        let [wiped, other] = others(&world, leader)[..] else { unreachable!() };
        write(&mut world, MINUTE).unwrap();
        let old = world.incarnation(wiped);
        world.crash(wiped, None).unwrap();
        world.wipe(wiped);
        world.restart(wiped).unwrap();
        assert!(world.run_until(MINUTE, |world| world.incarnation(wiped).is_some_and(|it| Some(it) != old)).unwrap());
        let incarnation = world.incarnation(wiped).unwrap();
        // The new directory hears nothing yet, so it holds nothing.
        world.cut(leader, wiped);
        change(&mut world, &Change::Replace { old: wiped, node: wiped, incarnation, address: "new".into() });
        let promoted = world.change(leader, Change::Promote { node: wiped }).unwrap();
        world.run_for(millis(300)).unwrap();
        assert!(!done(&world, promoted), "seed {seed}: promoted on what its predecessor had acknowledged");
        let peers = world.status(leader).unwrap().peers;
        assert_eq!(peers.iter().find(|peer| peer.node == wiped).unwrap().matched, 0);
        world.heal();
        change(&mut world, &Change::Promote { node: wiped });
        world.crash(other, None).unwrap();
        assert!(write(&mut world, MINUTE).is_some(), "the replacement counts");
        world.settle().unwrap();
    }
}

#[test]
fn an_inherited_joint_configuration_is_left() {
    for seed in 0..10 {
        let (mut world, _) = formed(seed, 3);
        let learners = [add_learner(&mut world), add_learner(&mut world)];
        world.run_for(FAILOVER).unwrap();
        let leader = world.leader().unwrap();
        let last = world.status(leader).unwrap().last;
        let new = vec![leader, learners[0], learners[1]];
        world.change(leader, Change::SetVoters { voters: new.clone() }).unwrap();
        let everywhere = |world: &World| (1..=5).all(|node| holds(world, node, last.term, last.index + 1));
        assert!(world.run_until(MINUTE, everywhere).unwrap());
        world.crash(leader, None).unwrap();
        let settled = |world: &World| {
            world.leader().is_some_and(|leader| {
                let membership = world.status(leader).unwrap().membership;
                !membership.is_joint() && membership.voters().eq(new.iter().copied())
            })
        };
        assert!(world.run_until(MINUTE, settled).unwrap(), "seed {seed}: the joint configuration stays");
        world.restart(leader).unwrap();
        world.settle().unwrap();
    }
}

#[test]
fn a_fully_purged_leader_brings_a_brand_new_learner_up_without_a_write() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 3);
        for _ in 0..10 {
            write(&mut world, MINUTE).unwrap();
        }
        let node = world.join().unwrap();
        assert!(world.run_until(MINUTE, |world| world.incarnation(node).is_some()).unwrap());
        world.cut(leader, node);
        let learner = learner(&world, node);
        change(&mut world, &learner);
        world.run_for(FAILOVER).unwrap();
        purge(&mut world, leader);
        world.heal();
        let applied = world.applied(leader);
        assert!(world.run_until(MINUTE, |world| world.applied(node) >= applied).unwrap(), "seed {seed}");
        assert!(world.snapshot(node).is_some());
        world.settle().unwrap();
    }
}

/// A follower whose uncommitted entries conflict with the snapshot that its leader sends; `at`: everything up to there is
/// committed elsewhere.
fn conflicting(seed: u64) -> (World, NodeId, NodeId, LogId) {
    let (mut world, old) = formed(seed, 3);
    world.split(&[old]);
    for _ in 0..8 {
        world.propose(old).unwrap();
    }
    write_elsewhere(&mut world, old).unwrap();
    for _ in 0..3 {
        write(&mut world, MINUTE).unwrap();
    }
    let leader = world.leader().unwrap();
    world.run_for(FAILOVER).unwrap();
    purge(&mut world, leader);
    let at = world.snapshot(leader).unwrap();
    assert!(world.durable_log(old).iter().any(|entry| entry.index == at.index && entry.term != at.term));
    (world, leader, old, at)
}

#[test]
fn a_snapshot_replaces_a_conflicting_log_whatever_step_a_crash_interrupts() {
    for seed in 0..3 {
        for crash_after in 0..40 {
            for survive in [Some(0), None] {
                let (mut world, _, follower, at) = conflicting(seed);
                world.heal();
                assert!(world.run_until(MINUTE, |world| world.is_receiving(follower)).unwrap());
                world.run_steps(crash_after).unwrap();
                world.crash(follower, survive).unwrap();
                world.restart(follower).unwrap();
                assert!(
                    world.run_until(MINUTE, |world| world.applied(follower) >= at.index).unwrap(),
                    "seed {seed}, crash after {crash_after} steps"
                );
                world.settle().unwrap();
            }
        }
    }
}

#[test]
fn a_snapshot_is_installed_only_in_a_term_that_is_durable() {
    for seed in 0..10 {
        let (mut world, _, follower, at) = conflicting(seed);
        world.stall_disk(follower);
        world.heal();
        world.run_for(FAILOVER).unwrap();
        assert!(world.applied(follower) < at.index, "seed {seed}: installed before the disk knows the term");
        world.crash(follower, Some(0)).unwrap();
        world.restart(follower).unwrap();
        assert!(world.run_until(MINUTE, |world| world.applied(follower) >= at.index).unwrap());
        world.settle().unwrap();
    }
}

#[test]
fn a_learner_that_forgot_its_welcome_in_a_crash_is_welcomed_again() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 1);
        let node = world.join().unwrap();
        assert!(world.run_until(MINUTE, |world| world.incarnation(node).is_some()).unwrap());
        world.set_filter(|_, _, message| entries_term(message).is_none());
        let learner = learner(&world, node);
        change(&mut world, &learner);
        world.stall_disk(node);
        world.run_for(millis(300)).unwrap();
        world.crash(node, Some(0)).unwrap();
        world.clear_filter();
        world.restart(node).unwrap();
        let applied = world.applied(leader);
        assert!(world.run_until(MINUTE, |world| world.applied(node) >= applied).unwrap(), "seed {seed}: left outside");
        world.settle().unwrap();
    }
}

#[test]
fn a_voter_whose_log_is_fully_purged_compares_with_its_snapshot() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 3);
        let [behind, purged] = others(&world, leader)[..] else { unreachable!() };
        world.split(&[behind]);
        for _ in 0..5 {
            write(&mut world, MINUTE).unwrap();
        }
        world.run_for(FAILOVER).unwrap();
        purge(&mut world, purged);
        assert!(world.durable_log(purged).is_empty());
        world.crash(leader, None).unwrap();
        world.heal();
        assert!(world.run_until(MINUTE, |world| world.leader().is_some_and(|it| it != leader)).unwrap());
        assert_eq!(world.leader(), Some(purged), "seed {seed}: the shorter log won");
        world.restart(leader).unwrap();
        world.settle().unwrap();
    }
}

#[test]
fn a_transfer_to_a_dead_target_under_constant_reads_is_given_up() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 3);
        let dead = others(&world, leader)[0];
        world.crash(dead, None).unwrap();
        world.transfer(leader, dead).unwrap();
        for _ in 0..30 {
            let read = world.read(leader).unwrap();
            world.run_for(millis(50)).unwrap();
            assert!(done(&world, read), "seed {seed}: reads go on");
        }
        assert_eq!(world.leader(), Some(leader));
        let request = world.propose(leader).unwrap();
        assert!(world.run_until(FAILOVER, |world| done(world, request)).unwrap(), "proposals are taken again");
    }
}

#[test]
fn a_delayed_timeout_now_of_an_older_term_is_ignored() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 3);
        let target = others(&world, leader)[0];
        let caught = std::rc::Rc::new(std::cell::RefCell::new(None));
        let tap = std::rc::Rc::clone(&caught);
        world.set_filter(move |_, _, message| {
            let is_order = matches!(message.body, Body::TimeoutNow { .. });
            if is_order {
                tap.borrow_mut().replace(message.clone());
            }
            !is_order
        });
        world.transfer(leader, target).unwrap();
        world.run_for(FAILOVER).unwrap();
        world.clear_filter();
        world.split(&[leader]);
        write_elsewhere(&mut world, leader).unwrap();
        world.heal();
        world.settle().unwrap();
        let (now, term) = (world.leader().unwrap(), world.status(target).unwrap().term);
        let order = caught.borrow_mut().take().unwrap();
        world.inject(leader, target, order);
        world.run_for(FAILOVER).unwrap();
        assert_eq!((world.leader(), world.status(target).unwrap().term), (Some(now), term), "seed {seed}");
    }
}
