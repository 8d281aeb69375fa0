//! Leases, elections and changes that need a director: each scenario also runs with the rule broken, and must notice.

#![allow(clippy::unwrap_used, reason = "tests")]

mod world;

use d_engine_raft::simulator::{Violation, World};
use d_engine_raft::{Change, Mutant, NodeId, Role};
use world::*;

type Checked = Result<(), Box<Violation>>;

/// Every seed holds as it is, and some seed breaks with the rule broken.
fn notices(mutant: Mutant, scenario: impl Fn(World) -> Checked, nodes: u64) {
    for seed in 0..20 {
        scenario(broken(seed, nodes, Mutant::None)).unwrap_or_else(|violation| panic!("{violation:?}"));
    }
    let found = (0..20).filter(|seed| scenario(broken(*seed, nodes, mutant)).is_err()).count();
    assert!(found > 0, "{mutant:?} is not noticed");
}

/// A node that does not hear the leader challenges it, and from then on the leader hears nobody. `meanwhile` happens to
/// the third node while the request for votes travels.
fn challenge(mut world: World, meanwhile: impl Fn(&mut World, NodeId) -> Checked) -> Checked {
    let leader = form(&mut world);
    let [challenger, third] = others(&world, leader)[..] else { unreachable!() };
    world.cut(leader, challenger);
    world.run_until(MINUTE, |world| world.role(challenger) == Some(Role::PreCandidate))?;
    world.cut(challenger, leader);
    world.cut(third, leader);
    meanwhile(&mut world, third)?;
    world.run_until(FAILOVER * 2, |world| world.leader() == Some(challenger))?;
    let request = world.propose(challenger)?;
    world.run_until(FAILOVER, |world| done(world, request))?;
    // Must not be answered from the old leader's state.
    world.read(leader)?;
    world.run_for(millis(100))
}

#[test]
fn a_voter_that_hears_the_leader_refuses_its_challenger_so_that_leases_hold() {
    notices(Mutant::NoStickiness, |world| challenge(world, |_, _| Ok(())), 3);
}

#[test]
fn a_voter_restarted_inside_a_lease_is_asked_at_once_and_refuses() {
    let restart = |world: &mut World, node| {
        world.crash(node, None)?;
        world.restart(node)
    };
    notices(Mutant::VoteAtStartInsideLease, |world| challenge(world, restart), 3);
}

#[test]
fn a_change_before_the_first_commit_of_a_term_is_refused() {
    notices(Mutant::ChangeBeforeOwnTermCommit, two_leaders_change_at_once, 4);
}

/// The bug of 2015: two leaders each change one voter of a configuration that neither knows to be replaced.
fn two_leaders_change_at_once(mut world: World) -> Checked {
    elect(&mut world, 1, |_, _, _| true);
    assert!(world.run_until(MINUTE, |world| (1..=4).all(|node| world.applied(node) >= 2))?);
    world.set_filter(|_, _, message| !is_campaign(message) && entries_term(message).is_none());
    let (term, index) = world.status(1).map(|status| (status.term, status.last.index + 1)).unwrap();
    world.change(1, Change::Remove { node: 4 })?;
    assert!(world.run_until(MINUTE, |world| holds(world, 1, term, index))?);
    world.crash(1, Some(0))?;
    elect(&mut world, 2, |_, to, message| entries_term(message).is_none() || to == 4);
    world.change(2, Change::Remove { node: 3 })?;
    world.run_for(millis(200))?;
    world.crash(2, None)?;
    world.crash(4, None)?;
    world.restart(1)?;
    world.clear_filter();
    if world.run_until(FAILOVER * 2, |world| world.leader() == Some(1))? {
        world.propose(1)?;
    }
    world.restart(2)?;
    world.restart(4)?;
    world.settle()
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
