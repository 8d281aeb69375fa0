//! What a disk may do to a node: crashes between its steps, failed syncs, late completions.

#![allow(clippy::unwrap_used, reason = "tests")]

mod world;

use d_engine_raft::Role;
use d_engine_raft::simulator::World;
use world::*;

#[test]
fn a_voter_that_crashes_at_any_step_of_its_vote_gives_no_second_one_in_that_term() {
    let mut asked_again = 0;
    for seed in 0..4 {
        for steps in 0..16 {
            for survive in [0, 1, 4, 5] {
                asked_again += usize::from(is_asked_twice_in_a_term(seed, steps, survive));
            }
        }
    }
    assert!(asked_again > 30, "the second candidate was of the same term in {asked_again} runs only");
}

/// The voter crashes after so many steps of an election, with so many unsynced steps of its disk done, and is asked by
/// another candidate; whether that was in the same term. Two leaders of a term would break Election Safety.
fn is_asked_twice_in_a_term(seed: u64, steps: u64, survive: usize) -> bool {
    let (mut world, second) = formed(seed, 3);
    let [first, voter] = others(&world, second)[..] else { unreachable!() };
    world.crash(second, None).unwrap();
    world.set_filter(move |from, _, message| !is_campaign(message) || from == first);
    assert!(world.run_until(MINUTE, |world| world.role(first) == Some(Role::Candidate)).unwrap());
    let term = world.status(first).unwrap().term;
    world.run_steps(steps).unwrap();
    world.crash(voter, Some(survive)).unwrap();
    world.pause(first);
    if world.role(first) == Some(Role::Leader) {
        return false;
    }
    world.restart(voter).unwrap();
    world.restart(second).unwrap();
    elect(&mut world, second, |_, _, _| true);
    let is_same = world.status(second).unwrap().term == term;
    world.resume(first).unwrap();
    world.settle().unwrap();
    is_same
}

#[test]
fn a_leader_whose_sync_failed_once_stays_out_until_it_is_restarted() {
    for seed in 0..10 {
        let (mut world, old) = formed(seed, 3);
        let lost = world.propose(old).unwrap();
        world.fail_sync(old).unwrap();
        let request = write_elsewhere(&mut world, old).expect("the others go on");
        world.run_for(FAILOVER * 4).unwrap();
        let status = world.status(old).unwrap();
        assert_eq!(status.role, Role::Failed, "seed {seed}: its disk works again, and what it lost is not known");
        assert!(status.failure.is_some_and(|why| why.contains("failed to sync")));
        let refused = world.propose(old).unwrap();
        world.run_for(millis(5)).unwrap();
        assert!(done(&world, request) && !done(&world, refused) && !done(&world, lost));
        world.crash(old, Some(0)).unwrap();
        world.restart(old).unwrap();
        let applied = world.committed().len() as u64;
        assert!(
            world.run_until(MINUTE, |world| world.applied(old) >= applied).unwrap(),
            "seed {seed}: it serves again"
        );
        world.settle().unwrap();
    }
}

#[test]
fn a_follower_whose_sync_failed_acknowledges_nothing_any_more() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 3);
        let [failed, away] = others(&world, leader)[..] else { unreachable!() };
        world.split(&[away]);
        world.fail_sync(failed).unwrap();
        let before = world.committed().len();
        let request = world.propose(leader).unwrap();
        world.run_for(FAILOVER).unwrap();
        assert_eq!((world.committed().len(), done(&world, request)), (before, false), "seed {seed}");
        world.heal();
        assert!(write(&mut world, MINUTE).is_some(), "seed {seed}: the two others are a quorum");
        world.settle().unwrap();
    }
}

/// Entries that were durable are replaced; the disk has not written those that replace them.
#[test]
fn a_durable_index_does_not_vouch_for_what_replaces_its_entry() {
    for seed in 0..10 {
        let mut world = calm(seed, 5);
        let (first, second, slow, other) = (1, 2, 3, 4);
        elect(&mut world, first, |_, _, _| true);
        assert!(world.run_until(MINUTE, |world| (1..=5).all(|node| world.applied(node) >= 2)).unwrap());
        world.run_for(millis(200)).unwrap();
        world
            .set_filter(move |_, to, message| !is_campaign(message) && (entries_term(message).is_none() || to == slow));
        let last = world.status(first).unwrap().last;
        for _ in 0..5 {
            world.propose(first).unwrap();
        }
        assert!(world.run_until(MINUTE, |world| holds(world, slow, last.term, last.index + 5)).unwrap());
        world.crash(first, Some(0)).unwrap();
        // The next leader finds the place where the logs agree, and sends nothing yet.
        elect(&mut world, second, |_, _, message| entries_term(message).is_none());
        for _ in 0..3 {
            world.propose(second).unwrap();
        }
        world.run_for(millis(300)).unwrap();
        world.stall_disk(slow);
        world.set_filter(move |_, to, message| entries_term(message).is_none() || to == slow || to == other);
        let replaced = |world: &World| world.status(slow).unwrap().last == world.status(second).unwrap().last;
        assert!(
            world.run_until(millis(500), replaced).unwrap(),
            "seed {seed}: other entries are on their way to its disk"
        );
        let before = world.committed().len();
        // Counted before they are durable, they would break the law of the durable quorum.
        world.run_for(millis(200)).unwrap();
        assert_eq!(world.committed().len(), before, "seed {seed}: two of five hold them");
        world.release_disk(slow).unwrap();
        assert!(world.run_until(millis(500), |world| world.committed().len() > before).unwrap(), "seed {seed}");
        world.clear_filter();
        world.restart(first).unwrap();
        world.settle().unwrap();
    }
}
