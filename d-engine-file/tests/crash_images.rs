//! Every image that a crash leaves is the log after a prefix of its write calls, with all that was flushed.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;

use common::sim::SimDisk;
use common::{Content, Model, content, long_entry, now, small};
use d_engine_core::{LogStore, StorageEngine};
use d_engine_file::{FileLogStore, FileStorageEngine};

fn open(disk: &SimDisk) -> d_engine_core::Result<Arc<FileLogStore>> {
    Ok(FileStorageEngine::open_on(Arc::new(disk.clone()), "data", &small())?.log_store())
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    match std::env::var("D_ENGINE_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..default,
    }
}

/// Runs calls until the power goes or they end; returns every state that a crash may leave.
fn run(log: &FileLogStore, model: &mut Model, rng: &mut fastrand::Rng, calls: u32) -> Vec<Content> {
    let mut possible = vec![model.content()];
    for _ in 0..calls {
        let call = model.random_call(rng);
        let durable = call.is_durable();
        model.apply(&call);
        possible.push(model.content());
        if call.run(log).is_err() {
            return possible;
        }
        if durable || rng.u8(..3) == 0 {
            if !durable && now(log.flush()).is_err() {
                return possible;
            }
            possible = vec![model.content()];
        }
    }
    possible
}

#[test]
fn a_power_cut_at_any_operation_leaves_a_prefix_with_all_that_was_flushed() {
    for seed in seeds(600) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut disk = SimDisk::default();
        let mut model = Model::default();
        let mut possible = vec![model.content()];
        for round in 0..6 {
            let most = [5, 40, 150][rng.usize(..3)];
            disk.burn_after(rng.u64(1..most));
            match open(&disk) {
                Ok(log) => {
                    let shown = content(&log);
                    assert!(possible.contains(&shown), "seed {seed}, round {round}: shown {:?}", summary(&shown));
                    model = Model { purged: shown.0, entries: shown.1 };
                    possible = run(&log, &mut model, &mut rng, 60);
                }
                Err(error) => assert!(disk.is_dead(), "seed {seed}, round {round}: {error}"),
            }
            disk = if rng.u8(..4) == 0 { disk.after_kill() } else { disk.after_power_cut(&mut rng) };
        }
        let log = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let shown = content(&log);
        assert!(possible.contains(&shown), "seed {seed}: shown {:?}", summary(&shown));
    }
}

fn summary((purged, entries): &Content) -> String {
    format!("after {purged}: {:?}", entries.iter().map(|entry| entry.id().to_string()).collect::<Vec<_>>())
}

#[test]
fn what_a_reopened_log_shows_survives_a_power_cut_right_after() {
    for seed in seeds(300) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::default();
        let mut model = Model::default();
        {
            let log = open(&disk).unwrap();
            run(&log, &mut model, &mut rng, 30);
            if rng.bool() {
                // After a failed sync the cache shows what the disk never got.
                disk.fail_next_syncs(1);
                let _ = now(log.flush());
            }
            let killed = disk.after_kill();
            let shown = {
                let log = open(&killed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                let shown = content(&log);
                let cut = killed.after_power_cut(&mut rng);
                let again = open(&cut).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                assert_eq!(summary(&content(&again)), summary(&shown), "seed {seed}");
                assert_eq!(content(&again), shown, "seed {seed}");
                shown
            };
            assert_eq!(summary(&shown), summary(&content(&log)), "seed {seed}");
        }
    }
}

#[test]
fn a_flush_holds_for_what_was_written_before_it_also_while_writes_go_on() {
    for seed in seeds(150) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::default();
        let log = open(&disk).unwrap();
        disk.burn_after(rng.u64(20..200));
        let flushed = std::thread::scope(|scope| {
            let flusher = scope.spawn(|| {
                let mut flushed = 0;
                loop {
                    let last = log.last_index();
                    match now(log.flush()) {
                        Ok(()) => flushed = last,
                        Err(_) => return flushed,
                    }
                }
            });
            for index in 1.. {
                let len = (index as usize * 997) % 3000;
                if now(log.persist_entries(vec![long_entry(index, 1, len)])).is_err() {
                    break;
                }
            }
            flusher.join().unwrap()
        });
        let reopened = open(&disk.after_power_cut(&mut rng)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let (_, shown) = content(&reopened);
        assert!(shown.len() as u64 >= flushed, "seed {seed}: {} of {flushed} flushed entries", shown.len());
        for entry in shown {
            assert_eq!(entry, long_entry(entry.index, 1, (entry.index as usize * 997) % 3000), "seed {seed}");
        }
    }
}
