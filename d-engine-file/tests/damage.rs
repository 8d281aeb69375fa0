//! A torn tail is cut; damage before it refuses to open, says where, and changes nothing.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::path::Path;

use common::{content, copy_of_open, entries, entry, image, long_entry, now, open, scratch, segments, try_open};
use d_engine_core::{Error, HardState, LogId, LogStore, MetaStore, StorageEngine};
use d_engine_file::FileStorageEngine;

const FIRST_BATCH: usize = 4096;
/// Header, one record and an entry's own header, without its data.
const BATCH_OVERHEAD: usize = 72 + 48;

fn patch(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn refuses(dir: &Path) -> Error {
    let before = image(dir);
    let error = try_open(dir).unwrap_err();
    assert_eq!(image(dir), before, "a refused open changes nothing");
    error
}

#[test]
fn a_torn_tail_is_cut_at_every_byte_and_the_next_append_survives() {
    let dir = scratch();
    let log = open(dir.path());
    now(log.persist_entries(entries(1..=3, 1))).unwrap();
    now(log.flush()).unwrap();
    now(log.persist_entries(vec![entry(4, 1)])).unwrap();
    let killed = copy_of_open(dir.path());
    let start = 2 * FIRST_BATCH;
    let end = start + BATCH_OVERHEAD + entry(4, 1).data.len();
    for cut in start..=end {
        let torn = copy_of_open(killed.path());
        patch(&segments(torn.path())[0], |bytes| bytes[cut..].fill(0));
        {
            let log = open(torn.path());
            let expected = if cut == end { 4 } else { 3 };
            assert_eq!(content(&log).1, entries(1..=expected, 1), "cut at {cut}");
            now(log.persist_entries(vec![entry(expected + 1, 2)])).unwrap();
            now(log.flush()).unwrap();
            let again = copy_of_open(torn.path());
            assert_eq!(open(again.path()).last_index(), expected + 1, "cut at {cut}");
        }
        assert_eq!(content(&open(torn.path())).1.last(), Some(&entry(if cut == end { 5 } else { 4 }, 2)));
    }
}

#[test]
fn a_cut_batch_does_not_come_back_behind_one_of_its_length() {
    let dir = scratch();
    let log = open(dir.path());
    now(log.persist_entries(vec![entry(1, 1)])).unwrap();
    now(log.persist_entries(vec![entry(2, 1)])).unwrap();
    let torn = copy_of_open(dir.path());
    patch(&segments(torn.path())[0], |bytes| bytes[FIRST_BATCH] ^= 1);
    {
        let log = open(torn.path());
        assert_eq!(log.last_index(), 0);
        now(log.persist_entries(vec![entry(1, 1)])).unwrap();
    }
    assert_eq!(content(&open(torn.path())).1, entries(1..=1, 1));
}

#[test]
fn any_flipped_bit_before_the_synced_position_refuses_to_open() {
    let dir = scratch();
    let log = open(dir.path());
    now(log.persist_entries(entries(1..=2, 1))).unwrap();
    now(log.flush()).unwrap();
    now(log.persist_entries(vec![entry(3, 1)])).unwrap();
    let killed = copy_of_open(dir.path());
    let length = 72 + 2 * 48 + 2 * entry(1, 1).data.len();
    let damaged = copy_of_open(killed.path());
    let segment = segments(damaged.path()).remove(0);
    let good = fs::read(&segment).unwrap();
    for bit in (0..FIRST_BATCH * 8).step_by(97).chain(FIRST_BATCH * 8..(FIRST_BATCH + length) * 8) {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        fs::write(&segment, bad).unwrap();
        match try_open(damaged.path()) {
            Err(Error::Corrupt { place, indexes }) => {
                assert!(place.contains(&segment.display().to_string()), "{place}");
                assert!(place.contains("never put an older copy back"), "{place}");
                if bit >= FIRST_BATCH * 8 {
                    assert!(place.contains("offset 4096"), "{place}");
                    assert!(indexes.unwrap().contains(&1));
                }
            }
            other => panic!("bit {bit}: {other:?}"),
        }
    }
    assert!(matches!(refuses(damaged.path()), Error::Corrupt { .. }));
}

#[test]
fn damage_in_a_closed_log_is_never_taken_for_a_torn_tail() {
    let dir = scratch();
    {
        let log = open(dir.path());
        now(log.persist_entries(entries(1..=1, 1))).unwrap();
    }
    let segment = segments(dir.path()).remove(0);
    let good = fs::read(&segment).unwrap();
    for at in FIRST_BATCH..FIRST_BATCH + BATCH_OVERHEAD + entry(1, 1).data.len() {
        patch(&segment, |bytes| bytes[at] ^= 0x10);
        assert!(matches!(try_open(dir.path()), Err(Error::Corrupt { .. })), "byte {at}");
        fs::write(&segment, &good).unwrap();
    }
    patch(&segment, |bytes| bytes[FIRST_BATCH..].fill(0));
    assert!(matches!(refuses(dir.path()), Error::Corrupt { .. }));
    patch(&segment, |bytes| bytes.truncate(FIRST_BATCH));
    assert!(matches!(refuses(dir.path()), Error::Corrupt { .. }));
    fs::remove_file(&segment).unwrap();
    assert!(matches!(refuses(dir.path()), Error::Corrupt { .. }));
}

/// A log of several segments, all but the last of which are sealed.
fn sealed() -> (tempfile::TempDir, Vec<std::path::PathBuf>) {
    let dir = scratch();
    {
        let log = open(dir.path());
        for i in 1..=100 {
            now(log.persist_entries(vec![long_entry(i, 1, 1000)])).unwrap();
        }
    }
    let all = segments(dir.path());
    assert!(all.len() >= 3);
    (dir, all)
}

#[test]
fn damage_in_a_sealed_segment_is_found_by_the_read_that_meets_it_and_by_verifying() {
    let (dir, all) = sealed();
    let good = open(dir.path()).verify().unwrap();
    assert_eq!((good.segments, good.batches, good.entries), (all.len() as u64, 100, 100));
    let first = 11;
    patch(&all[1], |bytes| bytes[2 * FIRST_BATCH + 500] ^= 1);
    let log = open(dir.path());
    assert_eq!(log.last_index(), 100);
    for read in [now(log.get_entries(1..=100)).map(|_| ()), now(log.entry(first)).map(|_| ()), log.verify().map(|_| ())]
    {
        match read {
            Err(Error::Corrupt { place, indexes }) => {
                assert!(place.contains("0000000000000002.wal offset 8"), "{place}");
                assert!(place.contains("never put an older copy back"), "{place}");
                assert!(indexes.unwrap().contains(&first));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(now(log.get_entries(first + 1..=100)).unwrap().len() as u64, 100 - first);
    // A header that nothing reads any more is damage all the same.
    patch(&all[1], |bytes| bytes[2 * FIRST_BATCH + 500] ^= 1);
    patch(&all[1], |bytes| bytes[2 * FIRST_BATCH + 70] ^= 1);
    assert_eq!(now(log.get_entries(1..=100)).unwrap().len(), 100);
    assert!(matches!(log.verify(), Err(Error::Corrupt { .. })));
}

#[test]
fn a_damaged_seal_or_a_missing_segment_refuses_to_open() {
    let (dir, all) = sealed();
    let pristine = fs::read(&all[1]).unwrap();
    patch(&all[1], |bytes| bytes[FIRST_BATCH + 100] ^= 1);
    let refused = refuses(dir.path()).to_string();
    assert!(refused.contains("0000000000000002.wal offset 4096"), "{refused}");
    fs::remove_file(&all[1]).unwrap();
    assert!(refuses(dir.path()).to_string().contains("missing"));
    fs::write(&all[1], b"").unwrap();
    assert!(matches!(refuses(dir.path()), Error::Corrupt { .. }));
    fs::write(&all[1], fs::read(&all[0]).unwrap()).unwrap();
    assert!(matches!(refuses(dir.path()), Error::Corrupt { .. }), "a misplaced segment does not validate");
    fs::write(&all[1], &pristine[..pristine.len() - 1]).unwrap();
    assert!(matches!(refuses(dir.path()), Error::Corrupt { .. }), "a segment that was cut");
    fs::write(&all[1], pristine).unwrap();
    assert_eq!(content(&open(dir.path())).1.len(), 100);
}

#[test]
fn damage_of_an_open_log_is_an_error_of_the_read_that_meets_it() {
    let dir = scratch();
    let log = open(dir.path());
    for i in 1..=20 {
        now(log.persist_entries(vec![long_entry(i, 1, 500)])).unwrap();
    }
    patch(&segments(dir.path())[0], |bytes| bytes[FIRST_BATCH + BATCH_OVERHEAD + 5] ^= 1);
    match now(log.entry(1)) {
        Err(Error::Corrupt { indexes, .. }) => assert_eq!(indexes, Some(1..=1)),
        other => panic!("{other:?}"),
    }
    assert!(now(log.get_entries(1..=20)).is_err());
    assert_eq!(now(log.get_entries(2..=20)).unwrap().len(), 19);
}

#[test]
fn a_missing_or_unreadable_state_file_is_never_an_empty_store() {
    for name in ["hard_state", "log_state", "wal"] {
        let dir = scratch();
        {
            let engine = FileStorageEngine::open(dir.path()).unwrap();
            engine.meta_store().save_hard_state(&HardState::new(3, Some(1), None)).unwrap();
            now(engine.log_store().persist_entries(entries(1..=1, 1))).unwrap();
        }
        if name != "wal" {
            patch(&dir.path().join(name), |bytes| bytes.fill(0));
            assert!(matches!(refuses(dir.path()), Error::Corrupt { .. }), "{name} zeroed");
            fs::remove_file(dir.path().join(name)).unwrap();
            assert!(matches!(refuses(dir.path()), Error::Corrupt { .. }), "{name} removed");
        } else {
            fs::remove_dir_all(dir.path().join(name)).unwrap();
            assert!(matches!(try_open(dir.path()), Err(Error::Corrupt { .. })), "{name} removed");
        }
    }
}

#[test]
fn a_state_file_that_was_cut_or_grew_is_refused_though_it_holds_a_whole_older_state() {
    for name in ["hard_state", "log_state"] {
        let dir = scratch();
        {
            let engine = FileStorageEngine::open(dir.path()).unwrap();
            for term in 3..=4 {
                engine.meta_store().save_hard_state(&HardState::new(term, Some(1), None)).unwrap();
            }
            now(engine.log_store().persist_entries(entries(1..=1, 1))).unwrap();
        }
        let good = fs::read(dir.path().join(name)).unwrap();
        for len in [0, 4096, 8192, 12288, 16383, 16385, 20480] {
            patch(&dir.path().join(name), |bytes| bytes.resize(len, 0));
            let refused = refuses(dir.path()).to_string();
            assert!(refused.contains(name) && refused.contains(&format!("{len} bytes")), "{refused}");
            fs::write(dir.path().join(name), &good).unwrap();
        }
        assert_eq!(open(dir.path()).last_index(), 1);
    }
}

#[test]
fn advice_on_damage_names_the_entries_first_and_never_sends_for_a_copy() {
    let dir = scratch();
    {
        let log = open(dir.path());
        now(log.persist_entries(entries(1..=2, 1))).unwrap();
    }
    patch(&segments(dir.path())[0], |bytes| bytes[FIRST_BATCH] ^= 1);
    let refused = refuses(dir.path()).to_string();
    let (found, advice) = refused.split_once("; ").unwrap();
    assert!(found.contains("entries 1..=1"), "{refused}");
    assert!(advice.starts_with("the files are left as they are"), "{refused}");
    for wrong in ["rejoin", "learner", "bring", "restore", "remove it"] {
        assert!(!refused.contains(wrong), "{refused}");
    }
}

#[test]
fn a_hard_state_that_becomes_unreadable_is_an_error() {
    let dir = scratch();
    let meta = FileStorageEngine::open(dir.path()).unwrap().meta_store();
    meta.save_hard_state(&HardState::new(3, Some(1), None)).unwrap();
    patch(&dir.path().join("hard_state"), |bytes| bytes.fill(0xff));
    assert!(matches!(meta.load_hard_state(), Err(Error::Corrupt { .. })));
}

#[test]
fn a_newer_format_is_refused_by_name_and_untouched() {
    let dir = scratch();
    drop(open(dir.path()));
    patch(&dir.path().join("log_state"), |bytes| {
        for slot in bytes.chunks_exact_mut(4096).filter(|slot| slot[0] != 0) {
            slot[12] = 2;
            let sum = d_engine_core::checksum(&[&slot[12..]]);
            slot[8..12].copy_from_slice(&sum.to_le_bytes());
        }
    });
    match refuses(dir.path()) {
        Error::Unsupported { what } => assert!(what.contains("log_state") && what.contains("version 2"), "{what}"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_purge_that_was_interrupted_is_completed_by_the_next_open() {
    let dir = scratch();
    let log = open(dir.path());
    for i in 1..=100 {
        now(log.persist_entries(vec![long_entry(i, 1, 1000)])).unwrap();
    }
    let old = segments(dir.path());
    let first = (old[0].file_name().unwrap().to_owned(), fs::read(&old[0]).unwrap());
    now(log.purge(LogId::new(1, 80))).unwrap();
    let killed = copy_of_open(dir.path());
    // The first segment had not been removed yet.
    fs::write(killed.path().join("wal").join(&first.0), &first.1).unwrap();
    assert_eq!(content(&open(killed.path())), content(&log));
    assert!(!killed.path().join("wal").join(&first.0).exists());
}

#[test]
fn a_log_at_rest_notes_that_it_is_durable_and_then_knows_damage_in_its_last_batch() {
    let dir = scratch();
    let log = open(dir.path());
    let state = || fs::read(dir.path().join("log_state")).unwrap();
    let before = state();
    now(log.persist_entries(entries(1..=1, 1))).unwrap();
    now(log.flush()).unwrap();
    let patience = std::time::Instant::now();
    while state() == before {
        assert!(patience.elapsed().as_secs() < 30, "the position of the flush was never noted");
        std::thread::yield_now();
    }
    let killed = copy_of_open(dir.path());
    patch(&segments(killed.path())[0], |bytes| bytes[FIRST_BATCH + BATCH_OVERHEAD] ^= 1);
    assert!(matches!(refuses(killed.path()), Error::Corrupt { .. }));
}
