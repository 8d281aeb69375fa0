//! What the suite cannot know: the files of this store, and what it answers when they are not as it left them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

use custom_storage_engine::{SqliteKvStore, SqliteStorageEngine};
use d_engine_core::{Entry, EntryKind, Error, HardState, LogStore, MetaStore, StorageEngine};

fn used() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let engine = SqliteStorageEngine::open(dir.path()).unwrap();
    engine.meta_store().save_hard_state(&HardState::new(3, Some(1), None)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let entries = (1..=20).map(|index| Entry::new(index, 1, EntryKind::Command, [7; 900])).collect();
    runtime.block_on(engine.log_store().persist_entries(entries)).unwrap();
    dir
}

#[track_caller]
fn refused(dir: &Path, part: &str) -> Error {
    let error = SqliteStorageEngine::open(dir).expect_err("it opens");
    assert!(error.to_string().contains(part), "{part:?} is not in {error}");
    error
}

#[test]
fn a_missing_file_is_damage_and_never_a_new_store() {
    let dir = used();
    let database = dir.path().join("store.db");
    let good = fs::read(&database).unwrap();
    fs::remove_file(&database).unwrap();
    assert!(matches!(refused(dir.path(), "the file is missing"), Error::Corrupt { .. }));
    assert!(!database.exists(), "nothing is made in its place");
    fs::write(&database, b"").unwrap();
    assert!(matches!(refused(dir.path(), "the file is empty"), Error::Corrupt { .. }));
    fs::write(&database, good).unwrap();
    fs::remove_file(dir.path().join("FORMAT")).unwrap();
    assert!(matches!(refused(dir.path(), "FORMAT is missing"), Error::Corrupt { .. }));
}

#[test]
fn a_directory_of_another_kind_or_version_is_unsupported() {
    let dir = used();
    assert!(matches!(SqliteKvStore::open(dir.path()), Err(Error::Unsupported { .. })));
    let format = dir.path().join("FORMAT");
    let newer = fs::read_to_string(&format).unwrap().replace(" 1\n", " 2\n");
    fs::write(&format, newer).unwrap();
    assert!(matches!(refused(dir.path(), "log 2"), Error::Unsupported { .. }));
}

#[test]
fn damage_is_named_with_its_file_and_entries() {
    let dir = used();
    let database = dir.path().join("store.db");
    let mut bytes = fs::read(&database).unwrap();
    let somewhere = bytes.windows(100).rposition(|window| window == [7; 100]).unwrap();
    bytes[somewhere] ^= 1;
    fs::write(&database, bytes).unwrap();
    match refused(dir.path(), "store.db") {
        Error::Corrupt { place, indexes } => {
            assert!(indexes.is_some() && place.contains("never put an older copy back"), "{place}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_left_beside_the_database_when_it_is_closed() {
    let dir = used();
    let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["FORMAT", "LOCK", "store.db"]);
    let engine = SqliteStorageEngine::open(dir.path()).unwrap();
    assert_eq!(engine.log_store().last_index(), 20);
    assert_eq!(engine.meta_store().load_hard_state().unwrap(), Some(HardState::new(3, Some(1), None)));
}
