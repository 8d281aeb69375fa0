//! The file key-value store on disks that fail, and with damaged files.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use d_engine_core::{Direction, Error, KeyRange, KvStore, Result, WriteBatch, WriteOp};
use d_engine_file::FileKvStore;
use d_engine_file::vfs::Vfs;
use d_engine_file::vfs::sim::{Operation, SimDisk};

type Content = BTreeMap<Bytes, Bytes>;

fn open(disk: &SimDisk) -> Result<FileKvStore> {
    FileKvStore::open_on(Arc::new(disk.clone()), "data")
}

fn content(store: &FileKvStore) -> Content {
    store.scan(KeyRange::ALL, usize::MAX, Direction::Forward).unwrap().into_iter().collect()
}

fn put(store: &FileKvStore, key: &'static str, value: &'static str) {
    let mut batch = WriteBatch::new();
    batch.put(key, value);
    store.write(batch).unwrap();
}

fn random_batch(rng: &mut fastrand::Rng) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for _ in 0..rng.usize(1..5) {
        let key = vec![b'k', rng.u8(..12)];
        if rng.u8(..4) == 0 {
            batch.delete(key);
        } else {
            batch.put(key, vec![rng.u8(..); rng.usize(..900)]);
        }
    }
    batch
}

fn apply(content: &mut Content, batch: &WriteBatch) {
    for op in &batch.ops {
        match op {
            WriteOp::Put(key, value) => content.insert(key.clone(), value.clone()),
            WriteOp::Delete(key) => content.remove(key),
        };
    }
}

/// Runs calls until the power goes or they end; returns every state that a crash may leave.
fn run(store: &FileKvStore, rng: &mut fastrand::Rng, calls: u32) -> Vec<Content> {
    let mut model = content(store);
    let mut possible = vec![model.clone()];
    for _ in 0..calls {
        match rng.u8(..8) {
            0..5 => {
                let batch = random_batch(rng);
                apply(&mut model, &batch);
                store.write(batch).unwrap();
                possible.push(model.clone());
            }
            5..7 => {
                if store.flush().is_err() {
                    return possible;
                }
                possible = vec![model.clone()];
            }
            _ => {
                let new: Content = (0..rng.u8(..9)).map(|n| (vec![b'r', n].into(), vec![n; 300].into())).collect();
                possible.push(new.clone());
                if store.replace_all(&mut new.clone().into_iter().map(Ok)).is_err() {
                    return possible;
                }
                model = new;
                possible = vec![model.clone()];
            }
        }
    }
    possible
}

#[test]
fn a_power_cut_at_any_operation_leaves_a_prefix_with_all_that_was_flushed() {
    for seed in 0..1500 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut disk = SimDisk::default();
        let mut possible = vec![Content::new()];
        for round in 0..5 {
            disk.burn_after(rng.u64(1..40));
            match open(&disk) {
                Ok(store) => {
                    let shown = content(&store);
                    assert!(possible.contains(&shown), "seed {seed}, round {round}: shown {shown:?}");
                    possible = run(&store, &mut rng, 12);
                    // Before the store is dropped, which would flush it.
                    disk = if rng.bool() { disk.after_power_cut(rng.u64(..)) } else { disk.after_kill() };
                }
                Err(error) => {
                    assert!(disk.is_dead(), "seed {seed}, round {round}: {error}");
                    disk = disk.after_power_cut(rng.u64(..));
                }
            }
        }
        let shown = content(&open(&disk).unwrap());
        assert!(possible.contains(&shown), "seed {seed}: shown at last {shown:?}");
    }
}

#[test]
fn what_open_shows_is_durable() {
    for seed in 0..500 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::default();
        let store = open(&disk).unwrap();
        disk.burn_after(rng.u64(1..40));
        run(&store, &mut rng, 20);
        let killed = disk.after_kill();
        let store = open(&killed).unwrap();
        let shown = content(&store);
        let after_cut = content(&open(&killed.after_power_cut(rng.u64(..))).unwrap());
        assert_eq!(after_cut, shown, "seed {seed}");
    }
}

#[test]
fn a_failed_checkpoint_is_an_error_and_the_old_one_remains() {
    type Break = fn(&SimDisk);
    let breaks: [Break; 3] =
        [|d| d.fail(Operation::Write, 0, 1), |d| d.fail(Operation::Sync, 0, 1), |d| d.set_full(true)];
    for break_disk in breaks {
        let disk = SimDisk::default();
        let store = open(&disk).unwrap();
        put(&store, "a", "1");
        store.flush().unwrap();
        let old = content(&store);

        put(&store, "b", "2");
        break_disk(&disk);
        store.flush().unwrap_err();
        assert_eq!(content(&open(&disk.after_kill()).unwrap()), old);

        break_disk(&disk);
        store.replace_all(&mut std::iter::empty()).unwrap_err();
        assert_eq!(content(&store).len(), 2, "a failed replace_all changes nothing");
        assert_eq!(disk.list(Path::new("data")).unwrap(), ["checkpoint"], "no temporary file stays");

        disk.set_full(false);
        store.flush().unwrap();
        assert_eq!(content(&open(&disk.after_kill()).unwrap()), content(&store));
    }
}

#[test]
fn a_full_disk_is_named_and_can_be_retried() {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    put(&store, "a", "1");
    disk.set_full(true);
    assert!(matches!(store.flush(), Err(Error::NoSpace { .. })));
    disk.set_full(false);
    store.flush().unwrap();
}

#[test]
fn a_flush_without_changes_writes_nothing() {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    disk.set_full(true);
    store.flush().unwrap();
    disk.set_full(false);
    put(&store, "a", "1");
    store.flush().unwrap();
    disk.burn_after(1);
    store.flush().unwrap();
}

#[test]
fn an_unknown_outcome_poisons() {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    put(&store, "a", "1");
    // How many operations it takes until the rename is the one that fails.
    let renames_at = (1..20).find(|&n| {
        let disk = SimDisk::default();
        let store = open(&disk).unwrap();
        put(&store, "a", "1");
        disk.burn_after(n);
        matches!(store.flush(), Err(Error::Io { doing, .. }) if doing.contains("in place"))
    });
    disk.burn_after(renames_at.unwrap());
    store.flush().unwrap_err();
    assert!(matches!(store.flush(), Err(Error::Poisoned { .. })));
    assert!(matches!(store.replace_all(&mut std::iter::empty()), Err(Error::Poisoned { .. })));
}

fn checkpoint() -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let store = FileKvStore::open(dir.path()).unwrap();
    put(&store, "a", "1");
    put(&store, "b", "");
    store.flush().unwrap();
    drop(store);
    let bytes = std::fs::read(dir.path().join("checkpoint")).unwrap();
    (dir, bytes)
}

#[test]
fn every_changed_bit_and_every_cut_refuses_to_open_and_is_left_as_it_is() {
    let (dir, good) = checkpoint();
    let path = dir.path().join("checkpoint");
    let flips = (0..good.len() * 8).map(|bit| {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        bad
    });
    let cuts = (0..good.len()).map(|len| good[..len].to_vec());
    for bad in flips.chain(cuts) {
        std::fs::write(&path, &bad).unwrap();
        let error = FileKvStore::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("checkpoint"), "{error}");
        assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
        assert_eq!(std::fs::read(&path).unwrap(), bad);
    }
    std::fs::write(&path, &good).unwrap();
    assert_eq!(content(&FileKvStore::open(dir.path()).unwrap()).len(), 2);
}

#[test]
fn open_removes_an_unfinished_checkpoint_and_locks_the_directory() {
    let (dir, _) = checkpoint();
    let temporary = dir.path().join("checkpoint.tmp");
    std::fs::write(&temporary, b"half a checkp").unwrap();
    let store = FileKvStore::open(dir.path()).unwrap();
    assert!(!temporary.exists());
    assert_eq!(content(&store).len(), 2);
    assert!(matches!(FileKvStore::open(dir.path()), Err(Error::Locked { .. })));
}

/// Bytes whose release panics: the one thing a map does with them that a caller can make fail. What a write takes out of the
/// map is released behind it, but the key by which it is taken out is not.
struct Grenade;

impl AsRef<[u8]> for Grenade {
    fn as_ref(&self) -> &[u8] {
        b"armed"
    }
}

impl Drop for Grenade {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("the bytes were released");
        }
    }
}

#[test]
fn a_write_that_panics_half_way_is_never_checkpointed_nor_shown() {
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    let mut batch = WriteBatch::new();
    batch.put("armed", "kept");
    store.write(batch).unwrap();
    store.flush().unwrap();

    let mut half = WriteBatch::new();
    half.put("a", "half");
    half.delete(Bytes::from_owner(Grenade));
    half.put("c", "half");
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| store.write(half))).unwrap_err();
    assert!(matches!(store.get(b"a"), Err(Error::Poisoned { .. })));
    assert!(matches!(store.scan(KeyRange::ALL, 9, Direction::Forward), Err(Error::Poisoned { .. })));
    assert!(matches!(store.with_view(&mut |_| Ok(())), Err(Error::Poisoned { .. })));
    assert!(matches!(store.write(WriteBatch::new()), Err(Error::Poisoned { .. })));
    assert!(matches!(store.replace_all(&mut std::iter::empty()), Err(Error::Poisoned { .. })));
    assert!(matches!(store.flush(), Err(Error::Poisoned { .. })));
    drop(store);
    let before = [(Bytes::from("armed"), Bytes::from("kept"))].into();
    assert_eq!(content(&open(&disk).unwrap()), before, "dropping the store wrote no checkpoint");
}
