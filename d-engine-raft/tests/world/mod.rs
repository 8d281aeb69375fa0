//! Steps that scenarios share.
#![allow(dead_code, clippy::unwrap_used, reason = "a part of each test binary, and of tests only")]

use std::time::Duration;

use d_engine_raft::simulator::{Options, Outcome, World};
use d_engine_raft::{Body, Change, Message, Mutant, NodeId};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
/// Longer than two election timeouts.
pub(crate) const FAILOVER: Duration = Duration::from_millis(2_500);

pub(crate) fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A world without faults, and with the breach that the environment asks for.
pub(crate) fn calm(seed: u64, nodes: u64) -> World {
    let name = std::env::var("D_ENGINE_MUTANT").unwrap_or_default();
    let mutant = Mutant::ALL.iter().copied().find(|mutant| format!("{mutant:?}") == name).unwrap_or_default();
    world(seed, nodes, mutant, false)
}

/// A world without faults in which a rule is broken; leases are on.
pub(crate) fn broken(seed: u64, nodes: u64, mutant: Mutant) -> World {
    world(seed, nodes, mutant, true)
}

fn world(seed: u64, nodes: u64, mutant: Mutant, lease: bool) -> World {
    let strict = mutant == Mutant::None;
    World::new(seed, Options { nodes: Some(nodes), fault_permille: 0, mutant, strict, lease, ..Options::default() })
}

/// A formed cluster whose leader has committed its no-op everywhere.
pub(crate) fn formed(seed: u64, nodes: u64) -> (World, NodeId) {
    let mut world = calm(seed, nodes);
    let leader = form(&mut world);
    (world, leader)
}

/// Waits for a leader that has committed its no-op everywhere.
pub(crate) fn form(world: &mut World) -> NodeId {
    let ready = |world: &World| (1..=world.size()).all(|node| world.applied(node) >= 2) && world.leader().is_some();
    assert!(world.run_until(MINUTE, ready).unwrap(), "no cluster forms");
    world.leader().unwrap()
}

pub(crate) fn others(world: &World, node: NodeId) -> Vec<NodeId> {
    (1..=world.size()).filter(|other| *other != node).collect()
}

pub(crate) fn done(world: &World, request: u64) -> bool {
    matches!(world.outcome(request), Outcome::Done(_))
}

/// A client proposes, again and again, until one of its commands is acknowledged.
pub(crate) fn write(world: &mut World, limit: Duration) -> Option<u64> {
    let end = world.time() + limit;
    while world.time() < end {
        if let Some(leader) = world.leader() {
            let request = world.propose(leader).unwrap();
            if world.run_until(millis(500), |world| done(world, request)).unwrap() {
                return Some(request);
            }
        }
        world.run_for(millis(20)).unwrap();
    }
    None
}

pub(crate) fn is_campaign(message: &Message) -> bool {
    matches!(message.body, Body::PreVote { .. } | Body::RequestVote(_))
}

/// Lets only `candidate` campaign until it leads; `passes` decides about everything else.
pub(crate) fn elect(world: &mut World, candidate: NodeId, passes: impl Fn(NodeId, NodeId, &Message) -> bool + 'static) {
    world.set_filter(
        move |from, to, message| {
            if is_campaign(message) { from == candidate } else { passes(from, to, message) }
        },
    );
    assert!(world.run_until(MINUTE, |world| world.leader() == Some(candidate)).unwrap(), "{candidate} does not win");
}

pub(crate) fn entries_term(message: &Message) -> Option<u64> {
    let Body::Append(append) = &message.body else { return None };
    append.entries.first().map(|entry| entry.term)
}

pub(crate) fn holds(world: &World, node: NodeId, term: u64, index: u64) -> bool {
    world.durable_log(node).get(index as usize - 1).is_some_and(|entry| entry.term == term)
}

/// Waits for a leader other than `old`, and for a write there.
pub(crate) fn write_elsewhere(world: &mut World, old: NodeId) -> Option<u64> {
    world.run_until(FAILOVER * 2, |world| world.leader().is_some_and(|leader| leader != old)).unwrap();
    let leader = world.leader().filter(|leader| *leader != old)?;
    let request = world.propose(leader).unwrap();
    world.run_until(FAILOVER, |world| done(world, request)).unwrap().then_some(request)
}

/// A membership change at the leader, again and again until it is done.
pub(crate) fn change(world: &mut World, change: &Change) {
    let end = world.time() + MINUTE;
    while world.time() < end {
        if let Some(leader) = world.leader() {
            let request = world.change(leader, change.clone()).unwrap();
            if world.run_until(FAILOVER, |world| done(world, request)).unwrap() {
                return;
            }
        }
        world.run_for(millis(50)).unwrap();
    }
    panic!("{change:?} is never done");
}

/// Another node joins as a learner; its id.
pub(crate) fn add_learner(world: &mut World) -> NodeId {
    let node = world.join().unwrap();
    assert!(world.run_until(MINUTE, |world| world.incarnation(node).is_some()).unwrap());
    let learner = learner(world, node);
    change(world, &learner);
    node
}

pub(crate) fn learner(world: &World, node: NodeId) -> Change {
    Change::AddLearner { node, incarnation: world.incarnation(node).unwrap(), address: format!("n{node}") }
}

/// Snapshots what the node has applied, and waits until its log is purged that far.
pub(crate) fn purge(world: &mut World, node: NodeId) {
    let applied = world.applied(node);
    world.make_snapshot(node).unwrap();
    assert!(
        world.run_until(MINUTE, |world| world.purged(node).index >= applied).unwrap(),
        "node {node} does not purge"
    );
}
