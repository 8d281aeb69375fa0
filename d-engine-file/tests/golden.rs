//! A directory that version 1 of the formats wrote is read for ever.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};

use common::{content, entries, image, long_entry, now, scratch};
use d_engine_core::{HardState, Identity, LogId, LogStore, MetaStore, StorageEngine};
use d_engine_file::{FileStorageEngine, FileStorageOptions};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

fn state() -> HardState {
    HardState::new(5, Some(2), Some(Identity::unformed(1, 77).form(99)))
}

fn options() -> FileStorageOptions {
    let mut options = FileStorageOptions::default();
    (options.segment_bytes_min, options.segment_bytes_max) = (12 << 10, 12 << 10);
    options
}

#[test]
fn version_1_reads_as_it_was_written() {
    let dir = scratch();
    std::fs::create_dir(dir.path().join("wal")).unwrap();
    for (path, bytes) in image(&golden()) {
        std::fs::write(dir.path().join(path.strip_prefix(golden()).unwrap()), bytes).unwrap();
    }
    let engine = FileStorageEngine::open_with(dir.path(), &options()).unwrap();
    assert_eq!(engine.meta_store().load_hard_state().unwrap(), Some(state()));
    let expected = [entries(3..=4, 1), entries(5..=6, 2), vec![long_entry(7, 2, 5000)]].concat();
    assert_eq!(content(&engine.log_store()), (LogId::new(1, 2), expected));
}

#[test]
#[ignore = "writes the files of a new version"]
fn write_the_golden_files() {
    let engine = FileStorageEngine::open_with(golden(), &options()).unwrap();
    engine.meta_store().save_hard_state(&state()).unwrap();
    let log = engine.log_store();
    now(log.persist_entries(entries(1..=6, 1))).unwrap();
    now(log.replace_from(5, entries(5..=6, 2))).unwrap();
    now(log.flush()).unwrap();
    now(log.persist_entries(vec![long_entry(7, 2, 5000)])).unwrap();
    now(log.purge(LogId::new(1, 2))).unwrap();
}
