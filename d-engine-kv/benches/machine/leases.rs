//! What a hundred thousand leases cost the leader.

use std::hint::black_box;
use std::time::{Duration, Instant};

use d_engine_core::command::{KvPut, LeaseChoice};
use d_engine_core::{KvCommand, StateMachine};

use crate::figures::{Figures, Target, median};
use crate::replica::{CHUNK, Replica, SMALL, Store, key};

const LEASES: u64 = 100_000;
const TTL: Duration = Duration::from_secs(60);
/// Each lease is kept alive once in this time.
const INTERVAL: Duration = Duration::from_secs(20);
/// A leader's machine is told the time so often, and applies what has come meanwhile.
const TICK: Duration = Duration::from_millis(10);
/// Leases that end together.
const ENDING: u64 = 10_000;

/// A leader with so many leases, each with a key.
fn leader(leases: u64, now: Duration) -> Replica {
    let mut replica = Replica::new(Store::Mem);
    replica.machine.leadership(true, now);
    for first in (1..=leases).step_by(CHUNK) {
        let grant = |id| {
            let attach = KvPut::new(key(id), SMALL).lease(LeaseChoice::Attach(id));
            [KvCommand::LeaseGrant { id, ttl_ms: TTL.as_millis() as u64 }, KvCommand::PutWith(attach)]
        };
        let commands: Vec<_> = (first..leases.min(first + CHUNK as u64 - 1) + 1).flat_map(grant).collect();
        let chunk = commands.iter().map(|command| replica.entry(command)).collect();
        replica.apply(chunk);
    }
    assert!(replica.machine.due(now).is_empty());
    replica
}

/// Processor time per time while every lease is kept alive by an entry of its own, in per cent of one core.
fn kept_alive(replica: &mut Replica, now: &mut Duration) -> f64 {
    let per_tick = LEASES * TICK.as_millis() as u64 / INTERVAL.as_millis() as u64;
    let mut spent = Duration::ZERO;
    for first in (1..=LEASES).step_by(per_tick as usize) {
        *now += TICK;
        let keep = |id| KvCommand::LeaseKeepAlive { ids: vec![id] };
        // Not in the order of granting.
        let chunk = (first..first + per_tick).map(|n| replica.entry(&keep(1 + n * 7_919 % LEASES))).collect();
        let began = Instant::now();
        replica.apply(chunk);
        replica.machine.leadership(true, *now);
        let due = replica.machine.due(*now);
        spent += began.elapsed();
        assert!(due.is_empty(), "every lease is kept alive in time");
    }
    100.0 * spent.as_secs_f64() / INTERVAL.as_secs_f64()
}

pub(crate) fn measure(figures: &Figures) {
    let mut now = Duration::from_secs(1);
    let mut replica = leader(LEASES, now);
    let shares = (0..5).map(|_| kept_alive(&mut replica, &mut now)).collect();
    figures.tell("100,000 leases kept alive every 20 s", median(shares), "% of a core", Target::Below(10.0));

    let looks = (0..1_000).map(|_| {
        now += Duration::from_micros(1);
        let began = Instant::now();
        black_box(replica.machine.due(now));
        began.elapsed().as_secs_f64() * 1e6
    });
    figures.tell("a look at them with nothing due", median(looks.collect()), "µs", Target::Below(10.0));

    let mut replica = leader(ENDING, now);
    // Behind a long gap nothing ends at once: keep-alives may have waited as long.
    now += 2 * TTL;
    assert!(replica.machine.due(now).is_empty());
    let began = Instant::now();
    let due = replica.machine.due(now + TICK);
    let took = began.elapsed();
    figures.tell("entries for 10,000 leases that end together", due.len() as f64, "entries", Target::Below(2.0));
    figures.tell("their proposal", took.as_secs_f64() * 1e3, "ms", Target::None);
    let expiry = KvCommand::decode_bytes(due[0].clone()).unwrap();
    let chunk = vec![replica.entry(&expiry)];
    let began = Instant::now();
    replica.apply(chunk);
    figures.tell("their end", began.elapsed().as_secs_f64() * 1e3, "ms", Target::None);
    assert_eq!(replica.machine.len(), 0, "their keys have gone with them");
}
