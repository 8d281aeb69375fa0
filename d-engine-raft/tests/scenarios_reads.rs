//! Linearizable reads when leaders sleep, are deposed, or have clocks that run differently. A stale answer breaks a law.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::RefCell;
use std::rc::Rc;

use d_engine_raft::simulator::{Violation, World};
use d_engine_raft::{Body, Message, Mutant, Role};

mod world;

use world::*;

type Checked = Result<(), Box<Violation>>;

/// Every seed holds as it is, and some seed breaks with the rule broken.
fn notices(mutant: Mutant, nodes: u64, scenario: impl Fn(World) -> Checked) {
    for seed in 0..20 {
        scenario(broken(seed, nodes, Mutant::None)).unwrap_or_else(|violation| panic!("{violation:?}"));
    }
    let found = (0..20).filter(|seed| scenario(broken(*seed, nodes, mutant)).is_err()).count();
    assert!(found > 0, "{mutant:?} is not noticed");
}

/// The leader falls asleep between a heartbeat and its answers; the others elect and write; it wakes up, and finds the old
/// answers and a question in its inbox.
#[test]
fn a_leader_that_slept_past_its_lease_does_not_answer_from_it() {
    notices(Mutant::LeaseFromConfirmation, 3, |mut world| {
        let old = form(&mut world);
        let is_asleep = Rc::new(RefCell::new(false));
        let seen = Rc::clone(&is_asleep);
        world.set_filter(move |from, _, message| {
            let is_heartbeat = matches!(&message.body, Body::Append(append) if append.entries.is_empty());
            *seen.borrow_mut() |= from == old && is_heartbeat;
            true
        });
        *is_asleep.borrow_mut() = false;
        world.run_until(FAILOVER, |_| *is_asleep.borrow())?;
        world.pause(old);
        world.clear_filter();
        world.run_until(FAILOVER * 2, |world| world.leader().is_some_and(|leader| leader != old))?;
        let next = world.leader().unwrap();
        // Before the new leader's first word arrives, the old one wakes up.
        world.cut(next, old);
        let request = world.propose(next)?;
        assert!(world.run_until(FAILOVER, |world| done(world, request))?, "the others elect and commit");
        let stale = world.read(old)?;
        world.resume(old)?;
        world.run_for(millis(3))?;
        assert!(!done(&world, stale), "answered from a lease that has ended");
        world.heal();
        world.settle()
    });
}

/// Echoes of rounds that a deposed leader had sent arrive when it has been deposed and is asked.
#[test]
fn late_echoes_of_old_rounds_confirm_no_read_after_a_deposition() {
    let scenario = |mut world: World| {
        let old = form(&mut world);
        let caught: Rc<RefCell<Vec<(u64, Message)>>> = Rc::default();
        let tap = Rc::clone(&caught);
        world.set_filter(move |from, to, message| {
            let is_echo = to == old && matches!(message.body, Body::AppendReply(_));
            if is_echo {
                tap.borrow_mut().push((from, message.clone()));
            }
            !is_echo
        });
        world.read(old)?;
        world.run_for(millis(150))?;
        world.split(&[old]);
        world.run_until(FAILOVER * 2, |world| world.leader().is_some_and(|leader| leader != old))?;
        if world.role(old) == Some(Role::Leader) {
            let next = world.leader().unwrap();
            let request = world.propose(next)?;
            world.run_until(FAILOVER, |world| done(world, request))?;
        }
        world.heal();
        world.set_filter(move |from, to, _| from != old && to != old);
        let asked = world.read(old)?;
        for (from, message) in caught.take() {
            world.inject(from, old, message);
        }
        world.run_for(millis(20))?;
        assert!(!done(&world, asked), "confirmed by what was said before it was asked");
        world.clear_filter();
        world.settle()
    };
    for seed in 0..20 {
        scenario(calm(seed, 3)).unwrap_or_else(|violation| panic!("{violation:?}"));
    }
}

/// A read joins a round that is under way: its echoes were given before the read came, and before a newer leader's write.
#[test]
fn a_read_that_comes_while_a_round_is_under_way_is_not_confirmed_by_it() {
    let scenario = |mut world: World| {
        let old = form(&mut world);
        let caught: Rc<RefCell<Vec<(u64, Message)>>> = Rc::default();
        let tap = Rc::clone(&caught);
        world.set_filter(move |from, to, message| {
            let is_echo = to == old && matches!(message.body, Body::AppendReply(_));
            if is_echo {
                tap.borrow_mut().push((from, message.clone()));
            }
            !is_echo
        });
        world.read(old)?;
        world.run_for(millis(20))?;
        world.pause(old);
        world.run_until(FAILOVER * 2, |world| world.leader().is_some_and(|leader| leader != old))?;
        let next = world.leader().unwrap();
        for other in others(&world, old) {
            world.cut(other, old);
        }
        let request = world.propose(next)?;
        assert!(world.run_until(FAILOVER, |world| done(world, request))?);
        // What the new leader said before the cut has not arrived; the old one sleeps with an empty inbox.
        let late = world.read(old)?;
        world.resume(old)?;
        world.heal();
        for (from, message) in caught.take() {
            world.inject(from, old, message);
        }
        world.run_for(millis(10))?;
        assert!(!done(&world, late));
        world.clear_filter();
        world.settle()
    };
    for seed in 0..20 {
        scenario(calm(seed, 3)).unwrap_or_else(|violation| panic!("{violation:?}"));
    }
}

#[test]
fn clocks_that_differ_by_a_tenth_each_way_break_no_lease_within_that_bound() {
    for fast in 1..=3 {
        for seed in 0..15 {
            let mut world = broken(seed, 3, Mutant::None);
            world.assume_clock_drift(100_000);
            let leader = form(&mut world);
            (1..=3).for_each(|node| world.set_clock_rate(node, if node == fast { 1_100 } else { 900 }));
            assert!(world.run_until(FAILOVER, |world| world.status(leader).unwrap().lease_until.is_some()).unwrap());
            for _ in 0..4 {
                let Some(leader) = world.leader() else { break };
                world.split(&[leader]);
                for _ in 0..60 {
                    // A second leader's write, and then an answer of the first one's lease, would break linearizability.
                    world.read(leader).unwrap();
                    let other = others(&world, leader).into_iter().find(|node| world.role(*node) == Some(Role::Leader));
                    other.map(|other| world.propose(other).unwrap());
                    world.run_for(millis(20)).unwrap();
                }
                world.heal();
                assert!(write(&mut world, MINUTE).is_some(), "seed {seed}, node {fast} is fast");
            }
            world.settle().unwrap();
        }
    }
}

#[test]
fn clocks_that_differ_by_more_than_is_assumed_are_what_the_bound_is_for() {
    let broken = (0..15).filter(|seed| {
        let mut world = broken(*seed, 3, Mutant::None);
        world.assume_clock_drift(0);
        let leader = form(&mut world);
        (1..=3).for_each(|node| world.set_clock_rate(node, if node == leader { 700 } else { 1_300 }));
        let run = |world: &mut World| -> Checked {
            world.run_until(FAILOVER, |world| world.status(leader).unwrap().lease_until.is_some())?;
            world.run_for(millis(700))?;
            world.split(&[leader]);
            for _ in 0..200 {
                world.read(leader)?;
                let other = others(world, leader).into_iter().find(|node| world.role(*node) == Some(Role::Leader));
                if let Some(other) = other {
                    world.propose(other)?;
                }
                world.run_for(millis(5))?;
            }
            Ok(())
        };
        run(&mut world).is_err()
    });
    assert!(broken.count() > 0, "no lease was broken: the test above could not fail");
}
