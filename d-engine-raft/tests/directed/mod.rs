//! Scenarios for rules whose breach needs a director: the tests run them, and so does `cargo xtask mutants`.
#![allow(dead_code, clippy::unwrap_used, reason = "a part of several programs, none of which is a product")]

use d_engine_raft::simulator::{Violation, World};
use d_engine_raft::{Change, Mutant, NodeId, Role};

use crate::world::*;

pub(crate) type Checked = Result<(), Box<Violation>>;

/// Seeds that each scenario runs with.
const SEEDS: u64 = 20;

/// What a breach of one rule leads to.
pub(crate) struct Directed {
    pub(crate) breaks: Mutant,
    pub(crate) name: &'static str,
    pub(crate) nodes: u64,
    pub(crate) run: fn(World) -> Checked,
}

/// Every rule whose breach random seeds do not find.
pub(crate) const DIRECTED: [Directed; 3] = [
    Directed {
        breaks: Mutant::NoStickiness,
        name: "a_voter_that_hears_the_leader_refuses_its_challenger_so_that_leases_hold",
        nodes: 3,
        run: a_challenger_of_a_leader_that_is_heard,
    },
    Directed {
        breaks: Mutant::VoteAtStartInsideLease,
        name: "a_voter_restarted_inside_a_lease_is_asked_at_once_and_refuses",
        nodes: 3,
        run: a_challenger_asks_a_voter_that_has_just_started,
    },
    Directed {
        breaks: Mutant::ChangeBeforeOwnTermCommit,
        name: "a_change_before_the_first_commit_of_a_term_is_refused",
        nodes: 4,
        run: two_leaders_change_at_once,
    },
];

impl Directed {
    /// The first seed that notices the breach, with the steps it took to get there.
    pub(crate) fn first_find(&self) -> Option<(u64, u64, Box<Violation>)> {
        let mut steps = 0;
        (0..SEEDS).find_map(|seed| {
            let violation = (self.run)(broken(seed, self.nodes, self.breaks)).err()?;
            steps += violation.step;
            Some((seed, steps, violation))
        })
    }
}

/// Every seed holds as it is, and some seed breaks with the rule broken.
pub(crate) fn notices(mutant: Mutant, scenario: impl Fn(World) -> Checked, nodes: u64) {
    for seed in 0..SEEDS {
        scenario(broken(seed, nodes, Mutant::None)).unwrap_or_else(|violation| panic!("{violation:?}"));
    }
    let found = (0..SEEDS).filter(|seed| scenario(broken(*seed, nodes, mutant)).is_err()).count();
    assert!(found > 0, "{mutant:?} is not noticed");
}

fn a_challenger_of_a_leader_that_is_heard(world: World) -> Checked {
    challenge(world, |_, _| Ok(()))
}

fn a_challenger_asks_a_voter_that_has_just_started(world: World) -> Checked {
    challenge(world, |world, node| {
        world.crash(node, None)?;
        world.restart(node)
    })
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
