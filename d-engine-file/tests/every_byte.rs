//! Every byte of a small closed log, flipped, and every file cut at every place: the log is whole, or it says where it is
//! not. Never a hole, never a shorter log, never other bytes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Content, content, long_entry, now, tiny};
use d_engine_core::{EntryKind, Error, HardState, LogId, LogStore, MetaStore, Result, StorageEngine};
use d_engine_file::vfs::Vfs;
use d_engine_file::vfs::sim::SimDisk;
use d_engine_file::{Compression, FileStorageEngine, FileStorageOptions};

fn open(disk: &SimDisk, options: &FileStorageOptions) -> Result<FileStorageEngine> {
    FileStorageEngine::open_on(Arc::new(disk.clone()), "data", options)
}

fn state() -> HardState {
    HardState::new(3, Some(2), None)
}

/// A closed log that was truncated, replaced, purged and compressed in part, and whose last segments were others before.
fn written() -> (SimDisk, Content) {
    let disk = SimDisk::new();
    let mut options = tiny();
    for round in 0..2 {
        let engine = open(&disk, &options).unwrap();
        engine.meta_store().save_hard_state(&state()).unwrap();
        let log = engine.log_store();
        let first = log.last_index() + 1;
        for index in first..first + 16 {
            now(log.persist_entries(vec![long_entry(index, 1 + round, 900)])).unwrap();
        }
        now(log.truncate(first + 14)).unwrap();
        let noop = d_engine_core::Entry::new(first + 12, 2 + round, EntryKind::Noop, b"");
        now(log.replace_from(first + 12, vec![noop])).unwrap();
        now(log.flush()).unwrap();
        now(log.purge(LogId::new(1 + round, first + 9))).unwrap();
        options.compression = Compression::Lz4;
        let zeros = |index| d_engine_core::Entry::new(index, 2 + round, EntryKind::Command, [0; 3000]);
        now(log.persist_entries((first + 13..first + 16).map(zeros).collect())).unwrap();
    }
    let shown = content(&open(&disk, &options).unwrap().log_store());
    (disk, shown)
}

/// What is seen of a damaged disk: the whole content, or an error.
fn look(disk: &SimDisk) -> Result<Content> {
    let engine = open(disk, &tiny())?;
    let log = engine.log_store();
    let entries = now(log.get_entries(log.purged().index + 1..=u64::MAX));
    if entries.is_err() {
        assert!(matches!(log.verify(), Err(Error::Corrupt { .. })), "verifying finds what reading finds");
    }
    assert_eq!(engine.meta_store().load_hard_state()?, Some(state()));
    Ok((log.purged(), entries?))
}

/// Opens a copy with one change; says whether it was noticed.
fn damaged(disk: &SimDisk, expected: &Content, what: &str, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> bool {
    let copy = disk.after_kill();
    copy.damage(path, change).unwrap();
    match look(&copy) {
        Ok(shown) => {
            assert_eq!(shown, *expected, "{} {what}", path.display());
            false
        }
        Err(Error::Corrupt { .. } | Error::Unsupported { .. }) => true,
        Err(other) => panic!("{} {what}: {other}", path.display()),
    }
}

fn bytes(disk: &SimDisk, path: &Path) -> Vec<u8> {
    let file = disk.open(path).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn files(disk: &SimDisk) -> Vec<(PathBuf, usize)> {
    disk.paths().into_iter().map(|path| (path.clone(), bytes(disk, &path).len())).filter(|(_, len)| *len > 0).collect()
}

#[test]
fn every_byte_flipped_leaves_the_log_whole_or_is_noticed() {
    let (disk, expected) = written();
    let segments = files(&disk).iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "wal")).count();
    assert!(segments >= 3, "{segments} segments");
    let mut rng = fastrand::Rng::with_seed(1);
    let (mut noticed, mut flips) = (0, 0);
    for (path, len) in files(&disk) {
        let good = bytes(&disk, &path);
        // What a spare file holds counts for nothing.
        let counts = u64::from(path.extension().is_some_and(|extension| extension != "old"));
        // Of long stretches of zeros, which count for nothing, a few.
        let plain = |at: usize| good[at.saturating_sub(64)..(at + 64).min(len)].iter().all(|byte| *byte == 0);
        for at in (0..len).filter(|at| at % 32 == 0 || !plain(*at)) {
            let bit = 1u8 << rng.u8(..8);
            noticed += u64::from(damaged(&disk, &expected, &format!("byte {at} ^ {bit}"), &path, |b| b[at] ^= bit));
            flips += counts;
        }
    }
    assert!(noticed > flips / 8, "{noticed} of {flips} flips were noticed");
}

#[test]
fn every_cut_of_a_file_is_noticed_or_concerns_no_content() {
    let (disk, expected) = written();
    for (path, len) in files(&disk) {
        let counts = path.extension().is_none_or(|extension| extension == "wal");
        for cut in (0..len).filter(|cut| cut % 61 == 0 || len - cut < 3) {
            let noticed = damaged(&disk, &expected, &format!("cut at {cut}"), &path, |bytes| bytes.truncate(cut));
            assert!(noticed || !counts, "{} cut at {cut}", path.display());
        }
    }
}

#[test]
fn every_zeroed_sector_leaves_the_log_whole_or_is_noticed() {
    let (disk, expected) = written();
    for (path, len) in files(&disk) {
        for at in (0..len).step_by(512) {
            let end = (at + 512).min(len);
            damaged(&disk, &expected, &format!("sector at {at}"), &path, |bytes| bytes[at..end].fill(0));
        }
    }
}
