//! Every image that a crash leaves is the log after a prefix of its write calls, with all that was flushed.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;

use common::{Content, Model, content, long_entry, now, small, tiny};
use d_engine_core::{Entry, LogStore, StorageEngine};
use d_engine_file::vfs::sim::{Operation, SimDisk};
use d_engine_file::{Compression, FileLogStore, FileStorageEngine, FileStorageOptions};

/// One of the ways to run a log, chosen by the seed.
fn options(seed: u64) -> FileStorageOptions {
    let mut options = if seed.is_multiple_of(3) { small() } else { tiny() };
    if seed.is_multiple_of(4) {
        options.compression = Compression::Lz4;
    }
    options.spare_segments_max = (seed % 5) as usize;
    options
}

fn open(disk: &SimDisk, options: &FileStorageOptions) -> d_engine_core::Result<Arc<FileLogStore>> {
    Ok(FileStorageEngine::open_on(Arc::new(disk.clone()), "data", options)?.log_store())
}

/// The seed to look at, if one is asked for.
fn one_seed() -> Option<u64> {
    std::env::var("D_ENGINE_SEED").ok().and_then(|seed| seed.parse().ok())
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    one_seed().map_or(0..default, |seed| seed..seed + 1)
}

/// The states that a crash may leave, and the ways to look for others.
struct History {
    seed: u64,
    rng: fastrand::Rng,
    options: FileStorageOptions,
    model: Model,
    possible: Vec<Content>,
    images: u64,
}

impl History {
    fn new(seed: u64) -> Self {
        let model = Model::default();
        let possible = vec![model.content()];
        Self { seed, rng: fastrand::Rng::with_seed(seed), options: options(seed), model, possible, images: 0 }
    }

    /// Opens the disk; what it shows must be possible, and is from then on the only possible state.
    fn open(&mut self, disk: &SimDisk) -> Option<Arc<FileLogStore>> {
        match open(disk, &self.options) {
            Ok(log) => {
                let (purged, entries) = self.check(&log);
                self.model = Model { purged, entries };
                self.possible = vec![self.model.content()];
                Some(log)
            }
            Err(error) => {
                assert!(disk.is_dead(), "seed {}: {error}", self.seed);
                None
            }
        }
    }

    /// Opens an image beside the history.
    fn look_at(&mut self, image: &SimDisk) {
        let log = open(image, &self.options).unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        self.check(&log);
        self.images += 1;
    }

    fn look_at_a_cut_of(&mut self, disk: &SimDisk) {
        let image = disk.after_power_cut(self.rng.u64(..));
        self.look_at(&image);
    }

    fn check(&self, log: &FileLogStore) -> Content {
        let shown = content(log);
        let seed = self.seed;
        assert!(self.possible.contains(&shown), "seed {seed}: shown {}", summary(&shown));
        let summed = now(log.summary()).unwrap();
        let runs = summed.runs.iter().map(|run| (run.term, run.index));
        assert!(runs.eq(runs_of(&shown.1)), "seed {seed}: {summed:?} of {}", summary(&shown));
        if seed.is_multiple_of(7) {
            log.verify().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
        shown
    }

    /// Runs calls until the power goes or they end.
    fn run(&mut self, log: &FileLogStore, calls: u32) {
        for _ in 0..calls {
            let call = self.model.random_call(&mut self.rng);
            let durable = call.is_durable();
            self.model.apply(&call);
            self.possible.push(self.model.content());
            if call.run(log).is_err() {
                return;
            }
            if durable || self.rng.u8(..3) == 0 {
                if !durable && now(log.flush()).is_err() {
                    return;
                }
                self.possible = vec![self.model.content()];
            }
        }
    }
}

fn runs_of(entries: &[Entry]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for entry in entries {
        if runs.last().is_none_or(|run| run.0 != entry.term) {
            runs.push((entry.term, entry.index));
        }
    }
    runs
}

fn summary((purged, entries): &Content) -> String {
    format!("after {purged}: {:?}", entries.iter().map(|entry| entry.id().to_string()).collect::<Vec<_>>())
}

#[test]
fn a_power_cut_at_any_operation_leaves_a_prefix_with_all_that_was_flushed() {
    let mut images = 0;
    for seed in seeds(500) {
        let mut history = History::new(seed);
        let mut disk = SimDisk::default();
        for _ in 0..6 {
            let most = [5, 40, 150][history.rng.usize(..3)];
            disk.burn_after(history.rng.u64(1..most));
            if let Some(log) = history.open(&disk) {
                history.run(&log, 60);
            }
            for _ in 0..5 {
                history.look_at_a_cut_of(&disk);
            }
            let cut = disk.after_power_cut(history.rng.u64(..));
            disk = if history.rng.u8(..4) == 0 { disk.after_kill() } else { cut };
        }
        history.look_at(&disk);
        images += history.images;
    }
    assert!(images >= 15_000 || one_seed().is_some(), "{images} images");
}

#[test]
fn a_second_crash_during_recovery_at_any_operation_changes_nothing() {
    let mut images = 0;
    for seed in seeds(90) {
        let mut history = History::new(seed);
        let disk = SimDisk::default();
        disk.burn_after(history.rng.u64(30..200));
        if let Some(log) = history.open(&disk) {
            history.run(&log, 80);
        }
        let first = if history.rng.bool() { disk.after_kill() } else { disk.after_power_cut(history.rng.u64(..)) };
        for operation in 1.. {
            let second = first.after_kill();
            second.burn_after(operation);
            let opened = open(&second, &history.options);
            for _ in 0..3 {
                history.look_at_a_cut_of(&second);
            }
            history.look_at(&second.after_kill());
            if opened.is_ok() && !second.is_dead() {
                break;
            }
        }
        images += history.images;
    }
    assert!(images >= 4_000 || one_seed().is_some(), "{images} images");
}

#[test]
fn what_a_second_recovery_shows_stays_whatever_the_first_one_had_written() {
    // The first recovery finds more than the second one: a kill keeps what a power cut then takes.
    for seed in seeds(400) {
        let mut history = History::new(seed);
        let disk = SimDisk::default();
        let log = history.open(&disk).unwrap();
        history.run(&log, 40);
        let first = disk.after_kill();
        first.burn_after(history.rng.u64(1..12));
        let _ = open(&first, &history.options);
        let second = first.after_power_cut(history.rng.u64(..));
        drop(history.open(&second).unwrap());
        history.look_at(&second.after_kill());
        let log = history.open(&second).unwrap();
        history.run(&log, 5);
        history.look_at_a_cut_of(&second);
        history.look_at(&second.after_kill());
    }
}

#[test]
fn what_a_reopened_log_shows_survives_a_power_cut_right_after() {
    for seed in seeds(300) {
        let mut history = History::new(seed);
        let disk = SimDisk::default();
        let log = history.open(&disk).unwrap();
        history.run(&log, 30);
        if history.rng.bool() {
            // After a failed sync the cache shows what the disk never got.
            disk.fail(Operation::Sync, 0, 1);
            let _ = now(log.flush());
        }
        let killed = disk.after_kill();
        let reopened = history.open(&killed).unwrap();
        let shown = content(&reopened);
        assert_eq!(summary(&shown), summary(&content(&log)), "seed {seed}");
        let again = open(&killed.after_power_cut(history.rng.u64(..)), &history.options)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(summary(&content(&again)), summary(&shown), "seed {seed}");
        assert_eq!(content(&again), shown, "seed {seed}");
    }
}

#[test]
fn a_flush_holds_for_what_was_written_before_it_also_while_writes_go_on() {
    for seed in seeds(150) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::default();
        let log = open(&disk, &options(seed)).unwrap();
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
        let reopened = open(&disk.after_power_cut(rng.u64(..)), &options(seed))
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let (_, shown) = content(&reopened);
        assert!(shown.len() as u64 >= flushed, "seed {seed}: {} of {flushed} flushed entries", shown.len());
        for entry in shown {
            assert_eq!(entry, long_entry(entry.index, 1, (entry.index as usize * 997) % 3000), "seed {seed}");
        }
    }
}

/// Their segments are allocated, not written, and whoever waits for one gets it so as well.
#[test]
fn a_power_cut_beside_large_entries_leaves_all_that_was_flushed() {
    const LEN: usize = 600 << 10;
    let mut options = FileStorageOptions::default();
    options.segment_bytes_max = 4 << 20;
    for seed in seeds(12) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::default();
        let log = open(&disk, &options).unwrap();
        disk.burn_after(rng.u64(1..100));
        let mut flushed = 0;
        for index in 1..=30 {
            let written = now(log.persist_entries(vec![long_entry(index, 1, LEN)]));
            if written.is_err() || (rng.bool() && now(log.flush()).map(|()| flushed = index).is_err()) {
                break;
            }
        }
        drop(log);
        let log = open(&disk.after_power_cut(rng.u64(..)), &options).unwrap();
        assert!(log.last_index() >= flushed, "seed {seed}: {flushed} was flushed, {} is the last", log.last_index());
        let (_, entries) = content(&log);
        let expected = (1..=log.last_index()).map(|index| long_entry(index, 1, LEN));
        assert!(entries.into_iter().eq(expected), "seed {seed}");
    }
}
