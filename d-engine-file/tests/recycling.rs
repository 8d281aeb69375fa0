//! Files of purged segments are written again: nobody ever sees what they held before.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{content, copy_of_open, long_entry, now, scratch, segments, tiny};
use d_engine_core::{Error, LogId, LogStore, StorageEngine};
use d_engine_file::vfs::sim::SimDisk;
use d_engine_file::{FileLogStore, FileStorageEngine};

fn open(dir: &Path) -> Arc<FileLogStore> {
    FileStorageEngine::open_with(dir, &tiny()).unwrap().log_store()
}

fn spares(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir.join("wal")).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|extension| extension == "old")).count()
}

#[test]
fn a_log_that_is_purged_as_it_grows_goes_on_in_the_files_it_has() {
    let dir = scratch();
    let log = open(dir.path());
    let mut inodes = BTreeSet::new();
    let mut used = 0;
    for index in 1..=400 {
        now(log.persist_entries(vec![long_entry(index, 1, 1000)])).unwrap();
        now(log.flush()).unwrap();
        if index > 4 {
            now(log.purge(LogId::new(1, index - 4))).unwrap();
        }
        let all = segments(dir.path());
        // One is kept, and one is the next segment already.
        assert!(all.len() <= 4 && spares(dir.path()) <= 2, "{} segments, {} spare", all.len(), spares(dir.path()));
        used = used.max(all.len());
        inodes.extend(all.iter().map(|path| path.metadata().unwrap().ino()));
    }
    assert!(used >= 2);
    let sequence = segments(dir.path()).pop().unwrap();
    let sequence = u64::from_str_radix(sequence.file_stem().unwrap().to_str().unwrap(), 16).unwrap();
    assert!(sequence > 25, "{sequence} segments were written");
    assert!(inodes.len() < sequence as usize / 2, "{} files for {sequence} segments", inodes.len());
    let copy = copy_of_open(dir.path());
    assert_eq!(content(&open(copy.path())), content(&log));
    log.verify().unwrap();
}

#[test]
fn a_spare_file_is_kept_over_a_restart_and_only_as_many_as_wanted() {
    let dir = scratch();
    let mut options = tiny();
    options.spare_segments_max = 1;
    let open = |path: &Path| FileStorageEngine::open_with(path, &options).unwrap().log_store();
    {
        let log = open(dir.path());
        for index in 1..=60 {
            now(log.persist_entries(vec![long_entry(index, 1, 1000)])).unwrap();
        }
        now(log.purge(LogId::new(1, 59))).unwrap();
    }
    let kept = spares(dir.path());
    assert!((1..=2).contains(&kept), "{kept} spare files");
    drop(open(dir.path()));
    assert!((1..=2).contains(&spares(dir.path())));
    let mut options = tiny();
    options.spare_segments_max = 0;
    drop(FileStorageEngine::open_with(dir.path(), &options).unwrap());
    assert_eq!(spares(dir.path()), 0);
}

#[test]
fn readers_beside_purges_see_their_entries_or_hear_that_they_are_gone() {
    let disk = SimDisk::new();
    let mut options = tiny();
    options.tail_cache_bytes = 0;
    options.spare_segments_max = 4;
    let log = FileStorageEngine::open_on(Arc::new(disk), "data", &options).unwrap().log_store();
    let done = AtomicBool::new(false);
    let (seen, gone) = (AtomicU64::new(0), AtomicU64::new(0));
    // The same bytes of a file belong to entries of the same length again and again.
    let written = |index| long_entry(index, 1, 1000);
    let reader = |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        while !done.load(Ordering::Acquire) {
            let first = log.purged().index + 1 + rng.u64(..10);
            match now(log.get_entries(first..=first + rng.u64(..30))) {
                Ok(entries) => {
                    for (index, entry) in (first..).zip(&entries) {
                        assert_eq!(*entry, written(index));
                    }
                    seen.fetch_add(entries.len() as u64, Ordering::Relaxed);
                }
                Err(Error::Compacted { .. }) => {
                    gone.fetch_add(1, Ordering::Relaxed);
                }
                Err(other) => panic!("seed {seed}: {other}"),
            }
        }
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3).map(|seed| scope.spawn(move || reader(seed))).collect();
        let verifier = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                log.verify().unwrap();
            }
        });
        for index in 1..=2000 {
            now(log.persist_entries(vec![written(index)])).unwrap();
            if index % 7 == 0 && index > 40 {
                now(log.purge(LogId::new(1, index - 40 + index % 30))).unwrap();
            }
        }
        done.store(true, Ordering::Release);
        for reader in readers {
            reader.join().unwrap();
        }
        verifier.join().unwrap();
    });
    assert!(seen.load(Ordering::Relaxed) > 0);
}

#[test]
fn what_a_file_held_as_another_segment_never_comes_back() {
    // The same histories, each in files that hold the leavings of the one before, cut off at every operation.
    for seed in 0..150 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut options = tiny();
        options.spare_segments_max = 3;
        let disk = SimDisk::new();
        let engine = || FileStorageEngine::open_on(Arc::new(disk.clone()), "data", &options).map(|e| e.log_store());
        let log = engine().unwrap();
        let mut index = 0;
        for term in 1..=6 {
            for _ in 0..rng.u64(5..40) {
                index += 1;
                // Each on a page of its own: a later history continues exactly where an earlier one did.
                now(log.persist_entries(vec![long_entry(index, term, 700)])).unwrap();
                now(log.flush()).unwrap();
            }
            now(log.purge(LogId::new(term, index))).unwrap();
        }
        now(log.persist_entries(vec![long_entry(index + 1, 9, 700)])).unwrap();
        now(log.flush()).unwrap();
        now(log.persist_entries(vec![long_entry(index + 2, 9, 700)])).unwrap();
        for cut in 0..4 {
            let image = disk.after_power_cut(rng.u64(..));
            let shown = FileStorageEngine::open_on(Arc::new(image), "data", &options).unwrap().log_store();
            let (purged, entries) = content(&shown);
            assert_eq!(purged, LogId::new(6, index), "seed {seed}, cut {cut}");
            assert!((1..=2).contains(&entries.len()), "seed {seed}, cut {cut}: {entries:?}");
            for (entry, index) in entries.iter().zip(index + 1..) {
                assert_eq!(*entry, long_entry(index, 9, 700), "seed {seed}, cut {cut}");
            }
        }
    }
}
