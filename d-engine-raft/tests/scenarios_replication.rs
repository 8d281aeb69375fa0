//! Followers that lag, logs that cannot be read, messages that are filled too late.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use d_engine_raft::Body;
use d_engine_raft::simulator::World;

mod world;

use world::*;

#[test]
fn a_follower_far_behind_under_load_gets_every_entry_once() {
    for seed in 0..5 {
        let (mut world, leader) = formed(seed, 3);
        let behind = others(&world, leader)[0];
        world.split(&[behind]);
        for _ in 0..400 {
            world.propose(leader).unwrap();
            world.run_for(millis(2)).unwrap();
        }
        let got: Rc<RefCell<BTreeMap<u64, u32>>> = Rc::default();
        let tap = Rc::clone(&got);
        world.set_filter(move |_, to, message| {
            if let (Body::Append(append), true) = (&message.body, to == behind) {
                append.entries.iter().for_each(|entry| *tap.borrow_mut().entry(entry.index).or_default() += 1);
            }
            true
        });
        world.heal();
        for _ in 0..400 {
            world.propose(leader).unwrap();
            world.run_for(millis(2)).unwrap();
        }
        assert_eq!(world.leader(), Some(leader), "seed {seed}");
        let last = world.status(leader).unwrap().last.index;
        assert!(world.run_until(FAILOVER, |world| world.applied(behind) >= last).unwrap(), "seed {seed}");
        let repeated: Vec<_> = got.borrow().iter().filter(|(_, count)| **count > 1).map(|(index, _)| *index).collect();
        assert_eq!((got.borrow().len() >= 800, repeated), (true, vec![]), "seed {seed}: entries that came again");
        assert_eq!(world.durable_log(behind), world.durable_log(leader));
        world.settle().unwrap();
    }
}

/// A leader whose memory is empty, and a follower that needs what only the leader's disk has.
fn cold_leader(seed: u64) -> (World, u64, u64) {
    let (mut world, leader) = formed(seed, 3);
    let behind = others(&world, leader)[0];
    world.split(&[behind]);
    for _ in 0..30 {
        write(&mut world, MINUTE).unwrap();
    }
    for node in others(&world, behind) {
        world.crash(node, None).unwrap();
        world.restart(node).unwrap();
    }
    assert!(world.run_until(MINUTE, |world| world.leader().is_some()).unwrap());
    let leader = world.leader().unwrap();
    (world, leader, behind)
}

#[test]
fn a_read_error_on_the_leader_never_becomes_a_gap() {
    for seed in 0..10 {
        let (mut world, leader, behind) = cold_leader(seed);
        world.fail_log_reads(true);
        let before = world.durable_log(behind).len();
        world.heal();
        for _ in 0..20 {
            assert!(write(&mut world, MINUTE).is_some(), "seed {seed}: the others go on");
        }
        world.run_for(FAILOVER).unwrap();
        assert_eq!(world.durable_log(behind).len(), before, "seed {seed}: what cannot be read is not skipped");
        assert_eq!(world.leader(), Some(leader), "seed {seed}: nor is it a reason to step down");
        world.fail_log_reads(false);
        let last = world.status(leader).unwrap().last.index;
        assert!(world.run_until(FAILOVER, |world| world.applied(behind) >= last).unwrap(), "seed {seed}");
        world.settle().unwrap();
    }
}
