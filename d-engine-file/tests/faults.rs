//! A failed write or sync poisons the store; a full disk that is noticed in time does not.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;

use common::sim::SimDisk;
use common::{content, entries, entry, long_entry, now, small};
use d_engine_core::{Error, HardState, LogId, LogStore, MetaStore, StorageEngine};
use d_engine_file::FileStorageEngine;

fn open(disk: &SimDisk) -> FileStorageEngine {
    FileStorageEngine::open_on(Arc::new(disk.clone()), "data", &small()).unwrap()
}

#[test]
fn a_failed_sync_is_never_retried_and_refuses_every_later_write() {
    let disk = SimDisk::default();
    let log = open(&disk).log_store();
    now(log.persist_entries(entries(1..=2, 1))).unwrap();
    now(log.flush()).unwrap();
    now(log.persist_entries(entries(3..=3, 1))).unwrap();
    disk.fail_next_syncs(1);
    assert!(matches!(now(log.flush()), Err(Error::Io { .. })));
    assert!(matches!(now(log.flush()), Err(Error::Poisoned { .. })));
    assert!(matches!(now(log.persist_entries(entries(4..=4, 1))), Err(Error::Poisoned { .. })));
    assert!(matches!(now(log.truncate(1)), Err(Error::Poisoned { .. })));
    assert!(matches!(now(log.purge(LogId::new(1, 1))), Err(Error::Poisoned { .. })));
    assert!(matches!(now(log.reset()), Err(Error::Poisoned { .. })));
    assert_eq!(now(log.entry(2)).unwrap(), Some(entry(2, 1)), "reads go on");
    drop(log);
    // The cache still shows entry 3: it may be shown only because opening makes it durable.
    let log = open(&disk).log_store();
    assert_eq!(content(&log).1, entries(1..=3, 1));
    let cut = disk.after_power_cut(&mut fastrand::Rng::with_seed(1));
    assert_eq!(content(&open(&cut).log_store()).1, entries(1..=3, 1));
    now(log.persist_entries(entries(4..=4, 1))).unwrap();
}

#[test]
fn a_failed_write_refuses_every_later_one_and_shows_nothing_of_itself() {
    let disk = SimDisk::default();
    let log = open(&disk).log_store();
    now(log.persist_entries(entries(1..=2, 1))).unwrap();
    disk.fail_next_writes(1);
    assert!(matches!(now(log.persist_entries(entries(3..=4, 1))), Err(Error::Io { .. })));
    assert!(matches!(now(log.persist_entries(entries(3..=4, 1))), Err(Error::Poisoned { .. })));
    assert!(matches!(now(log.flush()), Err(Error::Poisoned { .. })));
    assert_eq!(content(&log).1, entries(1..=2, 1));
    drop(log);
    assert_eq!(content(&open(&disk).log_store()).1, entries(1..=2, 1));
}

#[test]
fn a_failed_save_of_the_hard_state_refuses_every_later_one() {
    let disk = SimDisk::default();
    let meta = open(&disk).meta_store();
    meta.save_hard_state(&HardState::new(1, Some(1), None)).unwrap();
    disk.fail_next_syncs(1);
    assert!(matches!(meta.save_hard_state(&HardState::new(2, Some(1), None)), Err(Error::Io { .. })));
    assert!(matches!(meta.save_hard_state(&HardState::new(2, Some(1), None)), Err(Error::Poisoned { .. })));
    drop(meta);
    let shown = open(&disk).meta_store().load_hard_state().unwrap();
    let cut = disk.after_power_cut(&mut fastrand::Rng::with_seed(1));
    assert_eq!(open(&cut).meta_store().load_hard_state().unwrap(), shown, "what is shown is durable");
}

#[test]
fn a_full_disk_refuses_cleanly_and_writing_goes_on_once_there_is_space() {
    let disk = SimDisk::default();
    let log = open(&disk).log_store();
    disk.set_full(true);
    let mut index = 1;
    let error = loop {
        match now(log.persist_entries(vec![long_entry(index, 1, 1000)])) {
            Ok(()) => index += 1,
            Err(error) => break error,
        }
        assert!(index < 1000);
    };
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert!(matches!(now(log.persist_entries(vec![long_entry(index, 1, 1000)])), Err(Error::NoSpace { .. })));
    now(log.flush()).unwrap();
    assert_eq!(log.last_index(), index - 1);
    disk.set_full(false);
    now(log.persist_entries(vec![long_entry(index, 1, 1000)])).unwrap();
    now(log.flush()).unwrap();
    let cut = disk.after_power_cut(&mut fastrand::Rng::with_seed(1));
    assert_eq!(content(&open(&cut).log_store()), content(&log));
}

#[test]
fn one_failing_sync_at_any_place_never_loses_what_was_flushed() {
    for fail_at in 0..40 {
        let disk = SimDisk::default();
        let log = open(&disk).log_store();
        let mut flushed = 0;
        for index in 1..=60 {
            if index == fail_at {
                disk.fail_next_syncs(1);
            }
            let written = now(log.persist_entries(vec![long_entry(index, 1, 1500)]));
            if written.is_err() || now(log.flush()).is_err() {
                break;
            }
            flushed = index;
        }
        drop(log);
        let mut rng = fastrand::Rng::with_seed(fail_at);
        let cut = disk.after_power_cut(&mut rng);
        assert!(open(&cut).log_store().last_index() >= flushed, "sync {fail_at}: {flushed} entries were flushed");
    }
}
