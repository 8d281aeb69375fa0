//! A failed write or sync poisons the store; a full disk that is noticed in time does not.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;

use common::{content, entries, entry, long_entry, now, small};
use d_engine_core::{Entry, EntryKind, Error, HardState, LogId, LogStore, MetaStore, StorageEngine};
use d_engine_file::vfs::sim::{Operation, SimDisk};
use d_engine_file::{FileStorageEngine, FileStorageOptions};

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
    disk.fail(Operation::Sync, 0, 1);
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
    let cut = disk.after_power_cut(1);
    assert_eq!(content(&open(&cut).log_store()).1, entries(1..=3, 1));
    now(log.persist_entries(entries(4..=4, 1))).unwrap();
}

#[test]
fn a_failed_write_refuses_every_later_one_and_shows_nothing_of_itself() {
    let disk = SimDisk::default();
    let log = open(&disk).log_store();
    now(log.persist_entries(entries(1..=2, 1))).unwrap();
    disk.fail(Operation::Write, 0, 1);
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
    disk.fail(Operation::Sync, 0, 1);
    assert!(matches!(meta.save_hard_state(&HardState::new(2, Some(1), None)), Err(Error::Io { .. })));
    assert!(matches!(meta.save_hard_state(&HardState::new(2, Some(1), None)), Err(Error::Poisoned { .. })));
    drop(meta);
    let shown = open(&disk).meta_store().load_hard_state().unwrap();
    let cut = disk.after_power_cut(1);
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
    let cut = disk.after_power_cut(1);
    assert_eq!(content(&open(&cut).log_store()), content(&log));
}

#[test]
fn on_a_full_disk_there_is_still_room_for_a_leaders_no_op_and_a_change_of_members() {
    let disk = SimDisk::default();
    let options = FileStorageOptions::default();
    let log = FileStorageEngine::open_on(Arc::new(disk.clone()), "data", &options).unwrap().log_store();
    disk.set_full(true);
    let mut index = 1;
    for len in [5000, 10] {
        while now(log.persist_entries(vec![long_entry(index, 1, len)])).is_ok() {
            now(log.flush()).unwrap();
            index += 1;
        }
    }
    for _ in 0..4 {
        let refused = now(log.persist_entries(vec![entry(index, 1)]));
        assert!(index > 100 && matches!(refused, Err(Error::NoSpace { .. })), "{index}: {refused:?}");
        for kind in [EntryKind::Noop, EntryKind::Membership] {
            now(log.persist_entries(vec![Entry::new(index, 2, kind, b"")])).unwrap();
            now(log.flush()).unwrap();
            index += 1;
        }
        now(log.truncate(index - 1)).unwrap();
        index -= 1;
    }
}

#[test]
fn a_full_disk_that_a_purge_frees_takes_writes_again() {
    let disk = SimDisk::default();
    let log = open(&disk).log_store();
    disk.set_capacity(Some(200 << 10));
    let mut index = 1;
    while now(log.persist_entries(vec![long_entry(index, 1, 1000)])).is_ok() {
        index += 1;
    }
    now(log.flush()).unwrap();
    for round in 0..20 {
        now(log.purge(LogId::new(1, index - 1 - round % 2))).unwrap();
        let from = index;
        while now(log.persist_entries(vec![long_entry(index, 1, 1000)])).is_ok() {
            index += 1;
        }
        assert!(index > from + 10, "round {round}: {from}..{index}");
        assert!(disk.used() <= 200 << 10);
    }
    let shown = content(&log);
    drop(log);
    assert_eq!(content(&open(&disk).log_store()), shown);
}

#[test]
fn one_failing_operation_of_any_kind_at_any_place_never_loses_what_was_flushed() {
    let kinds =
        [Operation::Write, Operation::Sync, Operation::Open, Operation::Rename, Operation::Remove, Operation::SyncDir];
    for (kind, place) in kinds.iter().flat_map(|kind| (0..45).map(move |place| (*kind, place))) {
        let disk = SimDisk::default();
        let log = open(&disk).log_store();
        disk.fail(kind, place, 1);
        let mut flushed = (LogId::default(), 0);
        for index in 1..=60 {
            let written = now(log.persist_entries(vec![long_entry(index, 1, 1500)]));
            if written.is_err() || now(log.flush()).is_err() {
                break;
            }
            flushed.1 = index;
            if index % 9 == 0 && now(log.purge(LogId::new(1, index - 4))).is_err() {
                break;
            }
            flushed.0 = log.purged();
        }
        drop(log);
        let images = [disk.after_kill(), disk.after_power_cut(place), disk.after_power_cut(place + 1000)];
        for image in images {
            let log = open(&image).log_store();
            let (purged, entries) = content(&log);
            assert!(log.last_index() >= flushed.1, "{kind:?} {place}: {flushed:?} was flushed");
            assert!(purged >= flushed.0, "{kind:?} {place}: {flushed:?} was purged");
            assert!(entries.iter().all(|entry| *entry == long_entry(entry.index, 1, 1500)), "{kind:?} {place}");
            log.verify().unwrap();
        }
    }
}

#[test]
fn a_read_that_fails_is_an_error_of_that_call_alone() {
    let disk = SimDisk::default();
    let log = open(&disk).log_store();
    now(log.persist_entries((1..=20).map(|index| long_entry(index, 1, 1000)).collect())).unwrap();
    disk.fail(Operation::Read, 0, 2);
    assert!(matches!(now(log.entry(1)), Err(Error::Io { .. })));
    assert!(matches!(now(log.get_entries(1..=20)), Err(Error::Io { .. })));
    assert_eq!(now(log.get_entries(1..=20)).unwrap().len(), 20);
    now(log.persist_entries(entries(21..=21, 1))).unwrap();
    drop(log);
    disk.fail(Operation::Read, 3, 1);
    let failed = FileStorageEngine::open_on(Arc::new(disk.clone()), "data", &small());
    assert!(matches!(failed, Err(Error::Io { .. })), "unread is not empty: {failed:?}");
    assert_eq!(open(&disk).log_store().last_index(), 21);
}
