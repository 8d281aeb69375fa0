//! Disks that are full, and disks that hang.

#![allow(clippy::unwrap_used, reason = "tests")]

mod world;

use std::time::Duration;

use d_engine_raft::simulator::{Outcome, World};
use d_engine_raft::{NodeId, Role};
use world::*;

/// Two election timeouts of at most a second.
const TWO_TIMEOUTS: Duration = Duration::from_millis(2_000);

fn read(world: &mut World, node: NodeId) -> bool {
    let request = world.read(node).unwrap();
    world.run_until(millis(300), |world| done(world, request)).unwrap()
}

#[test]
fn a_leader_with_a_full_disk_hands_over_and_reads_go_on() {
    for seed in 0..20 {
        let (mut world, old) = formed(seed, 3);
        let term = world.status(old).unwrap().term;
        world.fill_disk_space(old);
        let request = world.propose(old).unwrap();
        assert!(
            world.run_until(TWO_TIMEOUTS, |world| world.leader().is_some_and(|it| it != old)).unwrap(),
            "seed {seed}"
        );
        let next = world.leader().unwrap();
        assert_eq!(world.status(next).unwrap().term, term + 1, "seed {seed}: by one election");
        assert!(write(&mut world, TWO_TIMEOUTS).is_some(), "seed {seed}: the others have space");
        let third = others(&world, next).into_iter().find(|node| *node != old).unwrap();
        assert!(read(&mut world, next) && read(&mut world, third), "seed {seed}: reads go on");
        assert_eq!(world.leader(), Some(next));
        world.free_disk_space(old).unwrap();
        assert!(
            world.run_until(FAILOVER, |world| done(world, request)).unwrap(),
            "seed {seed}: what it took is not lost"
        );
        assert!(world.status(old).unwrap().full.is_none() && read(&mut world, old), "seed {seed}: it serves again");
        world.settle().unwrap();
    }
}

#[test]
fn with_every_disk_full_reads_are_served_and_writes_refused_until_there_is_space() {
    for seed in 0..20 {
        let (mut world, leader) = formed(seed, 3);
        (1..=3).for_each(|node| world.fill_disk_space(node));
        let waits = world.propose(leader).unwrap();
        world.run_for(FAILOVER * 2).unwrap();
        assert_eq!(world.leader(), Some(leader), "seed {seed}: nobody can take over, so it stays for the reads");
        for _ in 0..20 {
            for node in 1..=3 {
                assert!(read(&mut world, node), "seed {seed}: node {node} serves no read");
            }
            let refused = world.propose(leader).unwrap();
            world.run_for(millis(100)).unwrap();
            assert_eq!(world.outcome(refused), Outcome::Rejected, "seed {seed}: refused at once, not taken and lost");
        }
        let status = world.status(leader).unwrap();
        assert_eq!(status.full.as_deref(), Some("the simulated disk is full"));
        assert!(!done(&world, waits), "seed {seed}");
        (1..=3).for_each(|node| world.free_disk_space(node).unwrap());
        assert!(world.run_until(FAILOVER, |world| done(world, waits)).unwrap(), "seed {seed}: it waited, in order");
        assert!(write(&mut world, FAILOVER).is_some(), "seed {seed}: service returns by itself");
        world.settle().unwrap();
    }
}

#[test]
fn a_minority_of_full_disks_costs_nothing_and_catches_up() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 5);
        let full = [others(&world, leader)[0], others(&world, leader)[1]];
        full.iter().for_each(|node| world.fill_disk_space(*node));
        for _ in 0..20 {
            assert!(write(&mut world, millis(500)).is_some(), "seed {seed}");
        }
        assert_eq!(world.leader(), Some(leader));
        full.iter().for_each(|node| world.free_disk_space(*node).unwrap());
        let last = world.status(leader).unwrap().last.index;
        let caught_up = |world: &World| full.iter().all(|node| world.applied(*node) >= last);
        assert!(world.run_until(FAILOVER, caught_up).unwrap(), "seed {seed}");
        world.settle().unwrap();
    }
}

#[test]
fn a_crash_while_the_disk_is_full_loses_nothing_that_was_acknowledged() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 3);
        let full = others(&world, leader)[0];
        world.fill_disk_space(full);
        let request = write(&mut world, MINUTE).unwrap();
        world.crash(full, Some(0)).unwrap();
        world.crash(leader, None).unwrap();
        world.restart(full).unwrap();
        world.restart(leader).unwrap();
        world.settle().unwrap();
        assert!(done(&world, request), "seed {seed}");
    }
}

#[test]
fn a_leader_whose_disk_hangs_has_handed_over_within_two_election_timeouts() {
    for seed in 0..20 {
        let (mut world, old) = formed(seed, 3);
        world.stall_disk(old);
        world.propose(old).unwrap();
        let handed = world.run_until(TWO_TIMEOUTS, |world| world.leader().is_some_and(|it| it != old)).unwrap();
        assert!(handed, "seed {seed}: {:?} of the old leader", world.role(old));
        assert!(write(&mut world, FAILOVER).is_some(), "seed {seed}");
        assert_ne!(world.role(old), Some(Role::Leader));
        world.release_disk(old).unwrap();
        world.settle().unwrap();
    }
}

/// Of three, one is dead and one is full: nobody can be elected, and nobody raises terms for nothing.
#[test]
fn a_voter_whose_entries_wait_for_space_does_not_make_terms_climb() {
    for seed in 0..10 {
        let (mut world, full) = formed(seed, 3);
        world.fill_disk_space(full);
        world.propose(full).unwrap();
        assert!(world.run_until(MINUTE, |world| world.leader().is_some_and(|leader| leader != full)).unwrap());
        write(&mut world, MINUTE).unwrap();
        let (second, before) = (world.leader().unwrap(), world.status(full).unwrap().term);
        world.crash(second, Some(0)).unwrap();
        let elected = world.run_until(MINUTE, |world| world.leader().is_some_and(|leader| leader != second)).unwrap();
        let after = (1..=3).filter_map(|node| world.status(node)).map(|status| status.term).max().unwrap();
        assert!(elected || after <= before + 2, "seed {seed}: terms {before} to {after} in a minute, nobody elected");
    }
}
