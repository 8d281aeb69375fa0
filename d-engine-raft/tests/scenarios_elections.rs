//! Candidates that cannot win must not keep those that can from winning.

#![allow(clippy::unwrap_used, reason = "tests")]

mod world;

use d_engine_raft::{Body, Role};
use world::*;

#[test]
fn a_stale_candidate_with_a_higher_term_does_not_block_the_others() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 3);
        let [stale, voter] = others(&world, leader)[..] else { unreachable!() };
        let term = world.status(leader).unwrap().term;
        // While there is no leader, the candidate wins every pre-vote, and none of its requests for votes arrives.
        world.crash(leader, None).unwrap();
        world.set_filter(move |from, _, message| match message.body {
            Body::PreVote { .. } => from == stale,
            Body::RequestVote(_) => false,
            _ => true,
        });
        assert!(world.run_until(MINUTE, |world| world.status(stale).unwrap().term >= term + 5).unwrap());
        // Without it the two others elect in a lower term, and write.
        world.split(&[stale]);
        world.clear_filter();
        world.restart(leader).unwrap();
        write(&mut world, MINUTE).unwrap();
        world.run_for(millis(300)).unwrap();
        let boss = world.leader().unwrap();
        let heir = if boss == leader { voter } else { leader };
        assert!(world.status(boss).unwrap().term < world.status(stale).unwrap().term, "seed {seed}");
        // The leader dies; the candidate may say to the last one whatever it wants.
        world.crash(boss, Some(0)).unwrap();
        world.heal();
        let wins = world.run_until(FAILOVER * 2, |world| world.leader() == Some(heir)).unwrap();
        assert!(wins, "seed {seed}: nobody leads in {} s", (FAILOVER * 2).as_secs());
        assert!(world.status(heir).unwrap().term > term + 5, "in a term above the candidate's");
        write(&mut world, FAILOVER).expect("and it serves");
        world.restart(boss).unwrap();
        world.settle().unwrap();
    }
}

#[test]
fn a_candidate_whose_disk_has_no_space_is_passed_over() {
    for seed in 0..10 {
        let (mut world, leader) = formed(seed, 3);
        let [full, good] = others(&world, leader)[..] else { unreachable!() };
        world.fill_disk_space(full);
        world.propose(leader).unwrap();
        world.run_for(FAILOVER).unwrap();
        assert!(world.status(full).unwrap().full.is_some(), "seed {seed}: it has refused an entry");
        assert_eq!(world.role(full), Some(Role::Follower));
        world.crash(leader, None).unwrap();
        world.run_for(FAILOVER * 2).unwrap();
        assert_ne!(world.leader(), Some(full), "seed {seed}");
        world.restart(leader).unwrap();
        let served = world.run_until(FAILOVER * 2, |world| world.leader().is_some_and(|it| it != full)).unwrap();
        assert!(served, "seed {seed}: {leader} or {good} leads");
        world.free_disk_space(full).unwrap();
        world.settle().unwrap();
    }
}
