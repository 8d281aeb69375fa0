//! Directories that earlier versions of the formats wrote are read for ever.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};

use common::{Content, content, entries, image, long_entry, now, scratch};
use d_engine_core::{Entry, EntryKind, HardState, Identity, LogId, LogStore, MetaStore, StorageEngine};
use d_engine_file::{Compression, FileStorageEngine, FileStorageOptions};

fn golden(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{version}"))
}

fn state() -> HardState {
    HardState::new(5, Some(2), Some(Identity::unformed(1, 77).form(99)))
}

fn options() -> FileStorageOptions {
    let mut options = FileStorageOptions::default();
    (options.segment_bytes_min, options.segment_bytes_max) = (12 << 10, 12 << 10);
    options
}

/// Reads a copy of the golden files; opening them goes on in the newest version.
#[track_caller]
fn reads(version: u32, expected: &Content) {
    let dir = scratch();
    std::fs::create_dir(dir.path().join("wal")).unwrap();
    for (path, bytes) in image(&golden(version)) {
        std::fs::write(dir.path().join(path.strip_prefix(golden(version)).unwrap()), bytes).unwrap();
    }
    for more in 0..2 {
        let engine = FileStorageEngine::open_with(dir.path(), &options()).unwrap();
        assert_eq!(engine.meta_store().load_hard_state().unwrap(), Some(state()));
        let log = engine.log_store();
        let (purged, shown) = content(&log);
        assert_eq!((purged, &shown[..shown.len() - 2 * more]), (expected.0, &expected.1[..]));
        log.verify().unwrap();
        let last = log.last_index();
        now(log.persist_entries(vec![long_entry(last + 1, 9, 5000)])).unwrap();
        now(log.persist_entries(vec![long_entry(last + 2, 9, 5000)])).unwrap();
    }
}

#[test]
fn version_1_reads_as_it_was_written() {
    let expected = [entries(3..=4, 1), entries(5..=6, 2), vec![long_entry(7, 2, 5000)]].concat();
    reads(1, &(LogId::new(1, 2), expected));
}

/// Segments that were others before, seals, and a compressed batch.
fn version_2() -> Content {
    let zeros: Vec<Entry> = (15..=17).map(|index| Entry::new(index, 3, EntryKind::Command, [0; 2000])).collect();
    let long = (10..=13).map(|index| long_entry(index, 2, 5000)).collect();
    (LogId::new(2, 9), [long, entries(14..=14, 3), zeros].concat())
}

#[test]
fn version_2_reads_as_it_was_written() {
    reads(2, &version_2());
}

#[test]
#[ignore = "writes the files of a new version"]
fn write_the_golden_files() {
    let mut options = options();
    options.compression = Compression::Lz4;
    let engine = FileStorageEngine::open_with(golden(2), &options).unwrap();
    engine.meta_store().save_hard_state(&state()).unwrap();
    let log = engine.log_store();
    now(log.persist_entries(entries(1..=6, 1))).unwrap();
    now(log.replace_from(5, entries(5..=6, 2))).unwrap();
    for index in 7..=14 {
        now(log.persist_entries(vec![long_entry(index, 2, 5000)])).unwrap();
        now(log.flush()).unwrap();
        now(log.purge(LogId::new(2, (index - 2).min(9)))).unwrap();
    }
    now(log.replace_from(14, entries(14..=14, 3))).unwrap();
    now(log.persist_entries(version_2().1.split_off(5))).unwrap();
    now(log.flush()).unwrap();
}
