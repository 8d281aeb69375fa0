//! What is special to this backend: failures poison, damage that can be seen is reported, sled lets go in time.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use d_engine_core::{
    Entry, EntryKind, Error, HardState, KvStore, LogId, LogStore, MetaStore, StorageEngine, WriteBatch,
};
use d_engine_sled::{SledKvStore, SledLogStore, SledStorageEngine};

fn entries(range: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    range.map(|index| Entry::new(index, 1, EntryKind::Command, format!("entry {index}"))).collect()
}

fn open(dir: &Path) -> Arc<SledLogStore> {
    SledStorageEngine::open(dir).unwrap().log_store()
}

/// Makes the next sync fail: among the files of large values there is one that cannot be opened.
fn break_syncs(dir: &Path) {
    std::os::unix::fs::symlink("itself", dir.join("sled/blobs/itself")).unwrap();
}

fn mend_syncs(dir: &Path) {
    std::fs::remove_file(dir.join("sled/blobs/itself")).unwrap();
}

fn is_poisoned<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Poisoned { .. }))
}

#[tokio::test]
async fn a_failed_sync_poisons_the_log_until_it_is_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SledStorageEngine::open(dir.path()).unwrap();
    let (log, meta) = (engine.log_store(), engine.meta_store());
    drop(engine);
    log.persist_entries(entries(1..=3)).await.unwrap();
    break_syncs(dir.path());
    assert!(matches!(log.flush().await, Err(Error::Io { .. })));

    mend_syncs(dir.path());
    assert!(is_poisoned(log.flush().await), "a failed sync is not tried again");
    assert!(is_poisoned(log.persist_entries(entries(4..=4)).await));
    assert!(is_poisoned(log.truncate(2).await));
    assert!(is_poisoned(log.replace_from(2, entries(2..=2)).await));
    assert!(is_poisoned(log.purge(LogId::new(1, 1)).await));
    assert!(is_poisoned(log.reset().await));
    assert!(is_poisoned(meta.save_hard_state(&HardState::new(1, None, None))));
    assert_eq!(log.get_entries(1..=9).await.unwrap(), entries(1..=3), "reads go on");

    drop((log, meta));
    let log = open(dir.path());
    log.persist_entries(entries(log.last_index() + 1..=9)).await.unwrap();
    log.flush().await.unwrap();
}

#[test]
fn a_failed_sync_poisons_the_data_until_it_is_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledKvStore::open(dir.path()).unwrap();
    let put = |store: &SledKvStore| {
        let mut batch = WriteBatch::new();
        batch.put("key", "value");
        store.write(batch)
    };
    put(&store).unwrap();
    break_syncs(dir.path());
    assert!(matches!(store.replace_all(&mut std::iter::empty()), Err(Error::Io { .. })));
    mend_syncs(dir.path());
    assert!(is_poisoned(put(&store)));
    assert!(is_poisoned(store.flush()));
    assert!(is_poisoned(store.replace_all(&mut std::iter::empty())));
    assert_eq!(store.get(b"key").unwrap(), Some(Bytes::from_static(b"value")));
    drop(store);
    put(&SledKvStore::open(dir.path()).unwrap()).unwrap();
}

/// Changes the log behind the store's back, through sled.
fn meddle(dir: &Path, change: impl FnOnce(&sled::Tree)) {
    let db = sled::open(dir.join("sled")).unwrap();
    change(&db.open_tree("log").unwrap());
    db.flush().unwrap();
    drop(db);
    // sled's threads may hold the lock for a moment longer; opening answers `Locked` then.
    while matches!(SledStorageEngine::open(dir), Err(Error::Locked { .. })) {
        std::thread::yield_now();
    }
}

fn key(index: u64) -> Vec<u8> {
    [&[1; 1][..], &0u64.to_be_bytes(), &index.to_be_bytes()].concat()
}

async fn log_of_nine(dir: &Path) {
    let log = open(dir);
    log.persist_entries(entries(1..=9)).await.unwrap();
}

#[tokio::test]
async fn a_missing_entry_is_damage_and_never_a_hole() {
    let dir = tempfile::tempdir().unwrap();
    log_of_nine(dir.path()).await;
    meddle(dir.path(), |log| assert!(log.remove(key(5)).unwrap().is_some()));
    let log = open(dir.path());
    assert!(matches!(log.entry(5).await, Err(Error::Corrupt { indexes: Some(range), .. }) if range == (5..=5)));
    assert!(matches!(log.get_entries(4..=6).await, Err(Error::Corrupt { .. })));
    assert!(matches!(log.summary().await, Err(Error::Corrupt { .. })));
    assert_eq!(log.get_entries(6..=9).await.unwrap(), entries(6..=9));
}

#[tokio::test]
async fn a_log_without_its_first_entry_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    log_of_nine(dir.path()).await;
    meddle(dir.path(), |log| assert!(log.remove(key(1)).unwrap().is_some()));
    assert!(matches!(SledStorageEngine::open(dir.path()), Err(Error::Corrupt { .. })));
}

#[tokio::test]
async fn changed_bytes_of_an_entry_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    log_of_nine(dir.path()).await;
    meddle(dir.path(), |log| {
        let mut bytes = log.get(key(4)).unwrap().unwrap().to_vec();
        bytes[30] ^= 1;
        log.insert(key(4), bytes).unwrap();
        let third = log.get(key(3)).unwrap().unwrap();
        log.insert(key(7), third).unwrap();
    });
    let log = open(dir.path());
    assert!(matches!(log.entry(4).await, Err(Error::Corrupt { .. })));
    assert!(matches!(log.entry(7).await, Err(Error::Corrupt { .. })), "a sound entry in another's place");
    assert_eq!(log.entry(5).await.unwrap(), entries(5..=5).pop());
}

#[tokio::test]
async fn an_unreadable_hard_state_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let meta = SledStorageEngine::open(dir.path()).unwrap().meta_store();
    meta.save_hard_state(&HardState::new(3, Some(1), None)).unwrap();
    drop(meta);
    let db = sled::open(dir.path().join("sled")).unwrap();
    db.open_tree("meta").unwrap().insert("hard_state", b"damaged").unwrap();
    drop(db);
    let error = loop {
        match SledStorageEngine::open(dir.path()) {
            Err(Error::Locked { .. }) => std::thread::yield_now(),
            Err(error) => break error,
            Ok(_) => panic!("it opened"),
        }
    };
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
}

#[test]
fn a_directory_of_another_kind_or_without_its_files_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(SledKvStore::open(dir.path()).unwrap());
    assert!(matches!(SledStorageEngine::open(dir.path()), Err(Error::Unsupported { .. })));
    std::fs::remove_file(dir.path().join("sled/db")).unwrap();
    assert!(matches!(SledKvStore::open(dir.path()), Err(Error::Corrupt { .. })));
}

#[tokio::test]
async fn an_open_right_after_the_last_handle_is_gone_finds_everything() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let log = open(dir.path());
        assert_eq!(log.last_index(), round * 50);
        log.persist_entries(entries(round * 50 + 1..=round * 50 + 50)).await.unwrap();
    }
}

#[tokio::test]
async fn purged_entries_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.persist_entries(entries(1..=5000)).await.unwrap();
    log.purge(LogId::new(1, 4990)).await.unwrap();
    log.reset().await.unwrap();
    log.persist_entries(entries(1..=3)).await.unwrap();
    drop(log);
    meddle(dir.path(), |log| assert_eq!(log.len(), 4, "three entries and the state"));
    assert_eq!(open(dir.path()).get_entries(1..=9).await.unwrap(), entries(1..=3));
}

#[test]
fn sled_does_not_promise_to_survive_a_loss_of_power() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!SledStorageEngine::open(dir.path()).unwrap().survives_power_loss());
}
