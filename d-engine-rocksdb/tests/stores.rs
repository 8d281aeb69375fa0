//! What is special to this backend: its directories, damage that it names, installs that are interrupted, old views.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use d_engine_core::{
    Direction, Entry, EntryKind, Error, HardState, KeyRange, KvStore, LogId, LogStore, MetaStore, StorageEngine,
    WriteBatch,
};
use d_engine_rocksdb::{RocksKvStore, RocksLogStore, RocksStorageEngine};

fn entries(range: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    range.map(|index| Entry::new(index, 1, EntryKind::Command, format!("entry {index}"))).collect()
}

fn open(dir: &Path) -> Arc<RocksLogStore> {
    RocksStorageEngine::open(dir).unwrap().log_store()
}

/// The files below `dir` with this ending.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let listed = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    listed.filter(|path| path.to_string_lossy().ends_with(ending)).collect()
}

/// Opens the log through RocksDB itself and changes it behind the store's back.
fn meddle(dir: &Path, change: impl FnOnce(&rocksdb::DB)) {
    let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), dir.join("rocksdb"), ["entries", "meta"]).unwrap();
    change(&db);
    db.flush_wal(true).unwrap();
}

async fn log_of_nine(dir: &Path) {
    let log = open(dir);
    log.persist_entries(entries(1..=9)).await.unwrap();
    log.flush().await.unwrap();
}

fn damaged<T: std::fmt::Debug>(result: Result<T, Error>, index: u64) -> bool {
    matches!(&result, Err(Error::Corrupt { indexes: Some(range), .. }) if range.contains(&index))
}

#[tokio::test]
async fn a_missing_entry_is_damage_and_never_a_hole() {
    let dir = tempfile::tempdir().unwrap();
    log_of_nine(dir.path()).await;
    meddle(dir.path(), |db| db.delete_cf(db.cf_handle("entries").unwrap(), 5u64.to_be_bytes()).unwrap());
    let log = open(dir.path());
    assert!(damaged(log.entry(5).await, 5));
    assert!(damaged(log.get_entries(4..=6).await, 5));
    assert!(log.summary().await.is_err());
    assert_eq!(log.get_entries(6..=9).await.unwrap(), entries(6..=9));
}

#[tokio::test]
async fn a_log_without_its_first_entry_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    log_of_nine(dir.path()).await;
    meddle(dir.path(), |db| db.delete_cf(db.cf_handle("entries").unwrap(), 1u64.to_be_bytes()).unwrap());
    assert!(damaged(RocksStorageEngine::open(dir.path()), 1));
}

#[tokio::test]
async fn changed_bytes_of_an_entry_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    log_of_nine(dir.path()).await;
    meddle(dir.path(), |db| {
        let family = db.cf_handle("entries").unwrap();
        let mut bytes = db.get_cf(family, 4u64.to_be_bytes()).unwrap().unwrap();
        bytes[30] ^= 1;
        db.put_cf(family, 4u64.to_be_bytes(), bytes).unwrap();
        let third = db.get_cf(family, 3u64.to_be_bytes()).unwrap().unwrap();
        db.put_cf(family, 7u64.to_be_bytes(), third).unwrap();
    });
    let log = open(dir.path());
    assert!(damaged(log.entry(4).await, 4));
    assert!(damaged(log.entry(7).await, 7), "a sound entry in another's place");
    assert_eq!(log.entry(5).await.unwrap(), entries(5..=5).pop());
}

/// Takes `cut` bytes from the end of the only write-ahead file, and changes one so far before its new end.
fn rot(dir: &Path, before_end: usize, cut: usize) {
    let [log] = &files(&dir.join("rocksdb"), ".log")[..] else { panic!("one write-ahead file") };
    let mut bytes = fs::read(log).unwrap();
    bytes.truncate(bytes.len() - cut);
    let at = bytes.len() - before_end;
    bytes[at] ^= 1;
    fs::write(log, bytes).unwrap();
}

/// What an unsynced write, which says that all before it was synced, takes in the write-ahead log.
const WITNESS: usize = 7 + 12 + 2 + 16;

#[tokio::test]
async fn rot_in_the_group_that_was_flushed_last_is_damage_also_if_nothing_was_written_since() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.persist_entries(entries(1..=5)).await.unwrap();
    log.flush().await.unwrap();
    log.persist_entries(entries(6..=9)).await.unwrap();
    log.flush().await.unwrap();
    let opened = |cut| {
        let copy = tempfile::tempdir().unwrap();
        copy_all(dir.path(), copy.path());
        rot(copy.path(), if cut == 0 { WITNESS + 5 } else { 5 }, cut);
        RocksStorageEngine::open(copy.path()).map(|engine| engine.log_store().last_index())
    };
    assert!(matches!(opened(0), Err(Error::Corrupt { .. })));
    // Within the window that the README names: a loss of power took the witness, and the group has rotted besides.
    assert_eq!(opened(WITNESS).unwrap(), 5);
}

#[tokio::test]
async fn a_vote_that_rots_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let meta = RocksStorageEngine::open(dir.path()).unwrap().meta_store();
    meta.save_hard_state(&HardState::new(3, Some(1), None)).unwrap();
    let copy = tempfile::tempdir().unwrap();
    copy_all(dir.path(), copy.path());
    RocksStorageEngine::open(copy.path()).unwrap();
    let copy = tempfile::tempdir().unwrap();
    copy_all(dir.path(), copy.path());
    rot(copy.path(), WITNESS + 5, 0);
    assert!(matches!(RocksStorageEngine::open(copy.path()), Err(Error::Corrupt { .. })));
}

#[tokio::test]
async fn a_manifest_that_ends_early_never_makes_the_log_shorter() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("rocksdb");
    log_of_nine(dir.path()).await;
    let engine = RocksStorageEngine::open(dir.path()).unwrap();
    let listed = files(&own, ".sst").len();
    let big = |index: u64| Entry::new(index, 1, EntryKind::Command, vec![index as u8; 1 << 20]);
    for index in 10..=25 {
        engine.log_store().persist_entries(vec![big(index)]).await.unwrap();
    }
    // So many bytes go from memory to a file, and the write-ahead file before goes. The next one has no entries.
    engine.meta_store().save_hard_state(&HardState::new(3, Some(1), None)).unwrap();
    while files(&own, ".log").len() > 1 || files(&own, ".sst").len() <= listed {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let noted = fs::read_to_string(own.join("manifest-synced")).unwrap();
    let (name, length) = noted.split_once(' ').unwrap();
    let from: usize = length.split(' ').next().unwrap().parse().unwrap();
    let whole = fs::read(own.join(name)).unwrap();
    assert!(from < whole.len(), "the file of entries is listed after the note");
    let mut refused = 0;
    for end in (from..=whole.len()).rev().step_by(9).chain([from]) {
        let copy = tempfile::tempdir().unwrap();
        copy_all(dir.path(), copy.path());
        fs::write(copy.path().join("rocksdb").join(name), &whole[..end]).unwrap();
        match RocksStorageEngine::open(copy.path()) {
            Ok(engine) => assert_eq!(engine.log_store().get_entries(1..=99).await.unwrap().len(), 25, "ends at {end}"),
            Err(Error::Corrupt { .. }) => refused += 1,
            Err(other) => panic!("ends at {end}: {other}"),
        }
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn an_unreadable_hard_state_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let meta = RocksStorageEngine::open(dir.path()).unwrap().meta_store();
    meta.save_hard_state(&HardState::new(3, Some(1), None)).unwrap();
    drop(meta);
    meddle(dir.path(), |db| db.put_cf(db.cf_handle("meta").unwrap(), "hard_state", b"damaged").unwrap());
    assert!(matches!(RocksStorageEngine::open(dir.path()), Err(Error::Corrupt { .. })));
}

#[test]
fn a_directory_of_another_kind_or_a_newer_format_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    drop(RocksKvStore::open(dir.path()).unwrap());
    let error = RocksStorageEngine::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, Error::Unsupported { what } if what.contains("data 1") && what.contains("log 1")),
        "{error}"
    );
    fs::write(dir.path().join("FORMAT"), "d-engine-rocksdb data 2\n").unwrap();
    let error = RocksKvStore::open(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::Unsupported { what } if what.contains("data 2")), "{error}");
}

#[test]
fn a_second_open_finds_the_directory_locked() {
    let dir = tempfile::tempdir().unwrap();
    let (log, data) = (dir.path().join("log"), dir.path().join("data"));
    let first = (RocksStorageEngine::open(&log).unwrap(), RocksKvStore::open(&data).unwrap());
    assert!(matches!(RocksStorageEngine::open(&log), Err(Error::Locked { .. })));
    assert!(matches!(RocksKvStore::open(&data), Err(Error::Locked { .. })));
    drop(first);
    RocksStorageEngine::open(&log).unwrap();
    RocksKvStore::open(&data).unwrap();
}

#[tokio::test]
async fn a_store_whose_files_are_missing_does_not_begin_anew() {
    for missing in ["CURRENT", "MANIFEST", ".sst"] {
        let dir = tempfile::tempdir().unwrap();
        log_of_nine(dir.path()).await;
        let own = dir.path().join("rocksdb");
        let listed = fs::read_dir(&own).unwrap().map(|entry| entry.unwrap().path());
        listed.filter(|path| path.to_string_lossy().contains(missing)).for_each(|path| fs::remove_file(path).unwrap());
        let opened = RocksStorageEngine::open(dir.path());
        let Ok(engine) = opened else {
            assert!(matches!(opened, Err(Error::Corrupt { .. })), "{missing}: {opened:?}");
            continue;
        };
        let read = engine.log_store().get_entries(1..=9).await;
        assert!(matches!(read, Err(Error::Corrupt { .. })), "{missing}: {read:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    drop(RocksKvStore::open(dir.path()).unwrap());
    fs::remove_file(dir.path().join("GENERATION")).unwrap();
    assert!(matches!(RocksKvStore::open(dir.path()), Err(Error::Corrupt { .. })));
}

#[test]
fn a_store_without_its_label_is_left_as_it_is() {
    for installs in [0, 3] {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksKvStore::open(dir.path()).unwrap();
        for round in 0..installs {
            let pair = (Bytes::from_static(b"k"), Bytes::from(vec![round]));
            store.replace_all(&mut [Ok(pair)].into_iter()).unwrap();
        }
        let mut batch = WriteBatch::new();
        batch.put(Bytes::from_static(b"kept"), Bytes::from_static(b"v"));
        store.write(batch).unwrap();
        drop(store);
        let label = std::fs::read(dir.path().join("FORMAT")).unwrap();
        fs::remove_file(dir.path().join("FORMAT")).unwrap();
        assert!(matches!(RocksKvStore::open(dir.path()), Err(Error::Corrupt { .. })), "{installs} installs");
        fs::write(dir.path().join("FORMAT"), label).unwrap();
        let store = RocksKvStore::open(dir.path()).unwrap();
        assert_eq!(store.get(b"kept").unwrap().as_deref(), Some(&b"v"[..]), "{installs} installs");
    }
}

#[tokio::test]
async fn a_log_of_many_files_survives_reopening_and_purging() {
    let dir = tempfile::tempdir().unwrap();
    let big = |index: u64| Entry::new(index, 1, EntryKind::Command, vec![index as u8; 256 << 10]);
    let log = open(dir.path());
    for index in 1..=200 {
        log.persist_entries(vec![big(index)]).await.unwrap();
    }
    drop(log);
    let log = open(dir.path());
    assert_eq!(log.last_index(), 200);
    log.purge(LogId::new(1, 150)).await.unwrap();
    log.replace_from(180, vec![big(180), big(181)]).await.unwrap();
    drop(log);
    let log = open(dir.path());
    assert_eq!((log.purged(), log.last_index()), (LogId::new(1, 150), 181));
    assert_eq!(log.get_entries(151..=999).await.unwrap(), (151..=181).map(big).collect::<Vec<_>>());
    assert!(matches!(log.entry(150).await, Err(Error::Compacted { first: 151 })));
}

fn put(store: &RocksKvStore, key: &str, value: &str) {
    let mut batch = WriteBatch::new();
    batch.put(key.to_owned(), value.to_owned());
    store.write(batch).unwrap();
}

fn content(generation: u64) -> Vec<(Bytes, Bytes)> {
    (0..1000).map(|key| (Bytes::from(format!("{key:05}")), Bytes::from(generation.to_string()))).collect()
}

fn shown(store: &RocksKvStore) -> Vec<(Bytes, Bytes)> {
    store.scan(KeyRange::ALL, usize::MAX, Direction::Forward).unwrap()
}

fn generations(dir: &Path) -> usize {
    let listed = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    listed.filter(|name| name.to_string_lossy().starts_with("generation-")).count()
}

#[test]
fn a_view_keeps_the_old_content_and_its_files_go_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksKvStore::open(dir.path()).unwrap();
    store.replace_all(&mut content(1).into_iter().map(Ok)).unwrap();
    let viewed = store.with_view(&mut |view| {
        put(&store, "00000", "changed");
        store.replace_all(&mut content(2).into_iter().map(Ok))?;
        store.replace_all(&mut content(3).into_iter().map(Ok))?;
        assert_eq!(view.get(b"00000")?.as_deref(), Some(&b"1"[..]));
        assert_eq!(view.scan(KeyRange::ALL, usize::MAX, Direction::Forward)?, content(1));
        assert_eq!(generations(dir.path()), 2, "the one that counts and the one that is viewed");
        Ok(())
    });
    assert!(viewed.unwrap());
    assert_eq!(generations(dir.path()), 1);
    assert_eq!(shown(&store), content(3));
    drop(store);
    assert_eq!(shown(&RocksKvStore::open(dir.path()).unwrap()), content(3));
}

#[test]
fn what_an_interrupted_install_left_is_removed_at_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksKvStore::open(dir.path()).unwrap();
    store.replace_all(&mut content(1).into_iter().map(Ok)).unwrap();
    drop(store);
    fs::create_dir_all(dir.path().join("generation-0000000000000007/sorted")).unwrap();
    fs::write(dir.path().join("generation-0000000000000007/sorted/00000000.sst"), "half a file").unwrap();
    let store = RocksKvStore::open(dir.path()).unwrap();
    assert_eq!(generations(dir.path()), 1);
    assert_eq!(shown(&store), content(1));
}

#[test]
fn an_install_that_fails_leaves_the_old_content_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksKvStore::open(dir.path()).unwrap();
    put(&store, "key", "old");
    let unsorted = [("b", ""), ("a", "")].map(|(key, value)| Ok((Bytes::from(key), Bytes::from(value))));
    assert!(matches!(store.replace_all(&mut unsorted.into_iter()), Err(Error::Invalid { .. })));
    let mut broken = content(1).into_iter().map(Ok).chain([Err(Error::corrupt("the snapshot"))]);
    assert!(matches!(store.replace_all(&mut broken), Err(Error::Corrupt { .. })));
    assert_eq!(generations(dir.path()), 1);
    assert_eq!(store.get(b"key").unwrap().as_deref(), Some(&b"old"[..]));
    put(&store, "key", "new");
    store.replace_all(&mut std::iter::empty()).unwrap();
    assert_eq!(shown(&store), []);
}

#[test]
fn a_damaged_file_of_data_is_an_error_of_the_read_and_never_a_shorter_answer() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksKvStore::open(dir.path()).unwrap();
    store.replace_all(&mut content(1).into_iter().map(Ok)).unwrap();
    drop(store);
    let [file] = &files(&dir.path().join("generation-0000000000000002"), ".sst")[..] else { panic!("one file") };
    let mut bytes = fs::read(file).unwrap();
    for byte in &mut bytes[100..200] {
        *byte ^= 0x55;
    }
    fs::write(file, bytes).unwrap();
    let opened = RocksKvStore::open(dir.path());
    let Ok(store) = opened else {
        assert!(matches!(opened, Err(Error::Corrupt { .. })), "{opened:?}");
        return;
    };
    let read = store.scan(KeyRange::ALL, usize::MAX, Direction::Forward);
    assert!(matches!(read, Err(Error::Corrupt { .. })), "{read:?}");
}

#[test]
fn what_is_flushed_survives_without_a_clean_end_and_a_generation_needs_no_flush() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let store = RocksKvStore::open(dir.path()).unwrap();
    store.replace_all(&mut content(1).into_iter().map(Ok)).unwrap();
    put(&store, "flushed", "yes");
    store.flush().unwrap();
    put(&store, "not flushed", "perhaps");
    copy_all(dir.path(), copy.path());
    let copied = RocksKvStore::open(copy.path()).unwrap();
    assert_eq!(copied.get(b"flushed").unwrap().as_deref(), Some(&b"yes"[..]));
    assert_eq!(copied.get(b"00999").unwrap().as_deref(), Some(&b"1"[..]));
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
