//! Leases, elections and changes that need a director: each scenario also runs with the rule broken, and must notice.

#![allow(clippy::unwrap_used, reason = "tests")]

mod directed;
mod world;

use d_engine_raft::simulator::World;
use d_engine_raft::{Change, Mutant, Role};
use directed::{DIRECTED, notices};
use world::*;

/// Every seed holds as it is, and some seed breaks with the rule broken.
fn a_director_notices(mutant: Mutant) {
    let directed = DIRECTED.iter().find(|directed| directed.breaks == mutant).unwrap();
    notices(mutant, directed.run, directed.nodes);
}

#[test]
fn a_voter_that_hears_the_leader_refuses_its_challenger_so_that_leases_hold() {
    a_director_notices(Mutant::NoStickiness);
}

#[test]
fn a_voter_restarted_inside_a_lease_is_asked_at_once_and_refuses() {
    a_director_notices(Mutant::VoteAtStartInsideLease);
}

#[test]
fn a_change_before_the_first_commit_of_a_term_is_refused() {
    a_director_notices(Mutant::ChangeBeforeOwnTermCommit);
}

#[test]
fn a_lease_ends_when_leadership_is_handed_over() {
    let scenario = |mut world: World| {
        let leader = form(&mut world);
        let to = others(&world, leader)[0];
        world.transfer(leader, to)?;
        world.run_until(FAILOVER, |world| world.role(to) == Some(Role::Candidate))?;
        world.split(&[leader]);
        assert!(world.run_until(FAILOVER, |world| world.leader() == Some(to))?);
        let request = world.propose(to)?;
        world.run_until(FAILOVER, |world| done(world, request))?;
        world.read(leader)?;
        world.run_for(millis(100))
    };
    notices(Mutant::LeaseSurvivesTransfer, scenario, 3);
}

#[test]
fn an_isolated_leader_answers_reads_inside_its_lease_only() {
    for seed in 0..20 {
        let mut world = broken(seed, 3, Mutant::None);
        let leader = form(&mut world);
        assert!(world.run_until(FAILOVER, |world| world.status(leader).unwrap().lease_until.is_some()).unwrap());
        world.run_for(millis(150)).unwrap();
        world.split(&[leader]);
        let inside = world.read(leader).unwrap();
        world.run_for(millis(5)).unwrap();
        assert!(done(&world, inside), "seed {seed}: a lease needs no messages");
        world.run_for(millis(520)).unwrap();
        let outside = world.read(leader).unwrap();
        world.run_for(FAILOVER).unwrap();
        assert!(!done(&world, outside), "seed {seed}: the lease has ended");
    }
}

/// Seed 302112: the leader demotes itself, the other voter restarts with that entry, which has not committed, and is the
/// only voter of its newest configuration. The leader's lease goes on.
#[test]
fn a_voter_that_may_be_the_only_one_waits_for_the_lease_after_a_restart() {
    let held = (0..20).filter(|seed| {
        let mut world = broken(*seed, 2, Mutant::None);
        let leader = form(&mut world);
        let other = others(&world, leader)[0];
        world.run_for(millis(200)).unwrap();
        let last = world.status(leader).unwrap().last;
        world.set_filter(move |from, _, _| from == leader);
        world.change(leader, Change::SetVoters { voters: vec![other] }).unwrap();
        assert!(world.run_until(FAILOVER, |world| holds(world, other, last.term, last.index + 1)).unwrap());
        world.crash(other, None).unwrap();
        world.restart(other).unwrap();
        let has_lease = |world: &World| {
            let until = world.status(leader).and_then(|status| status.lease_until);
            until.is_some() && world.role(leader) == Some(Role::Leader)
        };
        world.run_for(millis(60)).unwrap();
        has_lease(&world) && world.leader() == Some(leader)
    });
    assert_eq!(held.count(), 20, "a second leader inside the lease of the first");
}
