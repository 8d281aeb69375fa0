//! Every directory that cannot be opened is refused with one clear error, and nothing in it is changed.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{content, entries, image, long_entry, now, open, scratch, segments, small, try_open};
use d_engine_core::{Error, HardState, KvStore, LogId, LogStore, MetaStore, StorageEngine, WriteBatch, checksum};
use d_engine_file::{FileKvStore, FileStorageEngine, inspect};
use rustix::mount::{self, MountFlags, UnmountFlags};

/// Everything in a directory: names, kinds, bytes.
fn tree(dir: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.push((path.clone(), None));
                dirs.push(path);
            } else {
                found.push((path.clone(), Some(fs::read(&path).unwrap())));
            }
        }
    }
    found.sort();
    found
}

/// The error of opening; nothing below the directory has changed, and looking at it changes nothing either.
#[track_caller]
fn refused(dir: &Path) -> Error {
    let before = tree(dir);
    let error = try_open(dir).expect_err("the directory opens");
    assert_eq!(tree(dir), before, "a refused open changes nothing");
    let seen = inspect(dir);
    assert_eq!(tree(dir), before, "looking changes nothing");
    if matches!(error, Error::Corrupt { .. } | Error::Unsupported { .. }) {
        let damage = seen.unwrap().damage;
        assert!(!damage.is_empty(), "what opening refuses is seen: {error}");
        let kind = |error: &Error| std::mem::discriminant(error);
        assert!(damage.iter().any(|found| kind(found) == kind(&error)), "{error} is not among {damage:?}");
    }
    error
}

#[track_caller]
fn refused_as_corrupt(dir: &Path, said: &[&str]) {
    match refused(dir) {
        Error::Corrupt { place, .. } => {
            for part in said {
                assert!(place.contains(part), "{part:?} is not in {place}");
            }
            assert!(place.contains("never put an older copy back"), "{place}");
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused_as_newer(dir: &Path, file: &str) {
    match refused(dir) {
        Error::Unsupported { what } => {
            assert!(what.contains(file), "{file} is not in {what}");
            assert!(what.contains("use the build that wrote it") || what.contains("newer version wrote it"), "{what}");
        }
        other => panic!("{other:?}"),
    }
}

/// A closed directory with a vote and a log of several segments.
fn used() -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = scratch();
    {
        let engine = FileStorageEngine::open_with(dir.path(), &small()).unwrap();
        engine.meta_store().save_hard_state(&HardState::new(3, Some(1), None)).unwrap();
        let log = engine.log_store();
        for index in 1..=100 {
            now(log.persist_entries(vec![long_entry(index, 1, 1000)])).unwrap();
        }
    }
    let all = segments(dir.path());
    assert!(all.len() >= 4, "{} segments", all.len());
    (dir, all)
}

fn patch(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Changes every slot of a slot file and corrects its checksum.
fn patch_slots(path: &Path, change: impl Fn(&mut [u8])) {
    patch(path, |bytes| {
        for slot in bytes.chunks_exact_mut(4096).filter(|slot| slot[0] != 0) {
            change(slot);
            let sum = checksum(&[&slot[12..]]);
            slot[8..12].copy_from_slice(&sum.to_le_bytes());
        }
    });
}

/// Changes the header page of a segment and corrects its checksum, which is seeded with the page's own log and number.
fn patch_header(path: &Path, change: impl FnOnce(&mut [u8])) {
    patch(path, |bytes| {
        change(&mut bytes[..4096]);
        let sum = checksum(&[&bytes[16..40], &bytes[12..4096]]);
        bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    });
}

#[test]
fn a_path_that_is_no_directory_is_named() {
    let dir = scratch();
    let file = dir.path().join("file");
    fs::write(&file, b"something else").unwrap();
    for path in [file.clone(), file.join("below")] {
        match try_open(&path).unwrap_err() {
            Error::Io { doing, .. } => assert!(doing.contains(path.to_str().unwrap()), "{doing}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fs::read(&file).unwrap(), b"something else");
    assert!(matches!(inspect(&file), Err(Error::Io { .. })));
    assert!(matches!(inspect(dir.path()), Err(Error::Invalid { .. })), "no directory of ours");
    assert!(matches!(inspect(dir.path().join("nowhere")), Err(Error::Io { .. })));
}

#[test]
fn state_files_of_a_newer_version_are_refused_by_name() {
    for name in ["log_state", "hard_state"] {
        let (dir, _) = used();
        patch_slots(&dir.path().join(name), |slot| slot[12] = 2);
        refused_as_newer(dir.path(), name);
    }
}

#[test]
fn a_segment_of_a_newer_version_is_refused_by_name() {
    let (dir, all) = used();
    for (path, name) in [(&all[1], "0000000000000002.wal"), (all.last().unwrap(), ".wal")] {
        let good = fs::read(path).unwrap();
        patch_header(path, |page| page[12] = 3);
        refused_as_newer(dir.path(), name);
        fs::write(path, good).unwrap();
    }
    assert_eq!(content(&open(dir.path())).1.len(), 100);
}

#[test]
fn a_checkpoint_of_a_newer_version_is_refused_by_name() {
    let dir = scratch();
    {
        let store = FileKvStore::open(dir.path()).unwrap();
        let mut batch = WriteBatch::new();
        batch.put("k", "v");
        store.write(batch).unwrap();
        store.flush().unwrap();
    }
    let checkpoint =
        tree(dir.path()).into_iter().find(|(_, bytes)| bytes.as_ref().is_some_and(|b| b.len() > 16)).unwrap().0;
    let before = fs::read(&checkpoint).unwrap();
    patch(&checkpoint, |bytes| {
        bytes[8] = 2;
        let sum = checksum(&[&bytes[..36]]);
        bytes[36..40].copy_from_slice(&sum.to_le_bytes());
    });
    let newer = tree(dir.path());
    match FileKvStore::open(dir.path()).unwrap_err() {
        Error::Unsupported { what } => {
            assert!(what.contains(checkpoint.file_name().unwrap().to_str().unwrap()), "{what}");
            assert!(what.contains("version 2"), "{what}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(tree(dir.path()), newer, "a refused open changes nothing");
    fs::write(&checkpoint, before).unwrap();
    assert_eq!(FileKvStore::open(dir.path()).unwrap().get(b"k").unwrap().as_deref(), Some(&b"v"[..]));
}

#[test]
fn a_segment_of_another_log_is_named_as_such() {
    let (dir, all) = used();
    let (_other, others) = used();
    for (mine, other) in [(&all[1], &others[1]), (all.last().unwrap(), others.last().unwrap())] {
        let good = fs::read(mine).unwrap();
        fs::copy(other, mine).unwrap();
        refused_as_corrupt(dir.path(), &["it belongs to another log", mine.file_name().unwrap().to_str().unwrap()]);
        fs::write(mine, good).unwrap();
    }
    let good = fs::read(&all[1]).unwrap();
    fs::copy(&all[0], &all[1]).unwrap();
    refused_as_corrupt(dir.path(), &["0000000000000002.wal", "its header is the one of segment 1 of this log"]);
    fs::write(&all[1], good).unwrap();
    assert_eq!(content(&open(dir.path())).1.len(), 100);
}

#[test]
fn a_state_file_of_another_log_does_not_take_this_one_over() {
    let (dir, _) = used();
    let (other, _) = used();
    fs::copy(other.path().join("log_state"), dir.path().join("log_state")).unwrap();
    refused_as_corrupt(dir.path(), &["it belongs to another log"]);
}

#[test]
fn a_copy_that_lacks_segments_is_never_a_shorter_log() {
    let (dir, all) = used();
    let last = all.len() - 1;
    for lacking in [0, 1, last - 1, last] {
        let bytes = fs::read(&all[lacking]).unwrap();
        fs::remove_file(&all[lacking]).unwrap();
        let name = all[lacking].file_name().unwrap().to_str().unwrap();
        refused_as_corrupt(dir.path(), &[name, "the segment is missing"]);
        if lacking == 1 {
            let missing = inspect(dir.path()).unwrap().damage;
            match &missing[..] {
                [Error::Corrupt { indexes: Some(indexes), .. }] => {
                    assert!(*indexes.start() > 1 && indexes.end() < &100, "{indexes:?}");
                }
                other => panic!("{other:?}"),
            }
        }
        fs::write(&all[lacking], bytes).unwrap();
    }
    let bytes = all.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>();
    all.iter().for_each(|path| fs::remove_file(path).unwrap());
    refused_as_corrupt(dir.path(), &["0000000000000001.wal", "the segment is missing"]);
    all.iter().zip(bytes).for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    assert_eq!(content(&open(dir.path())).1.len(), 100);
}

#[test]
fn a_copy_that_lacks_any_other_file_is_never_a_new_directory() {
    for name in ["log_state", "hard_state", "wal"] {
        let (dir, _) = used();
        let path = dir.path().join(name);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap()
        } else {
            fs::remove_file(&path).unwrap()
        }
        refused_as_corrupt(dir.path(), &[name, "is missing"]);
    }
    let (dir, _) = used();
    fs::remove_file(dir.path().join("hard_state")).unwrap();
    fs::remove_file(dir.path().join("log_state")).unwrap();
    refused_as_corrupt(dir.path(), &["log_state is missing"]);
}

#[test]
fn a_segment_that_was_cut_short_is_refused_wherever_it_stands() {
    let (dir, all) = used();
    for path in [&all[1], all.last().unwrap()] {
        let good = fs::read(path).unwrap();
        for len in [0, 100, 4096, good.len() - 1] {
            fs::write(path, &good[..len]).unwrap();
            refused_as_corrupt(dir.path(), &[path.file_name().unwrap().to_str().unwrap()]);
        }
        fs::write(path, good).unwrap();
    }
}

/// A file system of the test's own; `None` where it cannot be mounted, which is said. No program does it: a process that
/// starts has the locks of all tests beside it for a moment.
struct Mount(tempfile::TempDir);

impl Mount {
    fn tmpfs(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        match mount::mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), size.as_c_str()) {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                // Never where it is known to work.
                assert!(std::env::var("CI").is_err() || !rustix::process::geteuid().is_root(), "{error}");
                common::note("not checked: file systems can be mounted by root only");
                None
            }
        }
    }

    fn remount(&self, flags: MountFlags) {
        mount::mount_remount(self.0.path(), flags, c"").unwrap();
    }

    fn place(&self) -> PathBuf {
        self.0.path().join("place")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = mount::unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_read_only_file_system_is_an_error_of_the_system_and_can_still_be_looked_at() {
    let Some(mount) = Mount::tmpfs(64 << 20) else { return };
    let place = mount.place();
    {
        let log = open(&place);
        now(log.persist_entries(entries(1..=3, 1))).unwrap();
    }
    mount.remount(MountFlags::RDONLY);
    match refused(&place) {
        Error::Io { doing, source } => {
            assert_eq!(source.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
            assert!(doing.contains(place.to_str().unwrap()), "{doing}");
        }
        other => panic!("{other:?}"),
    }
    let seen = inspect(&place).unwrap();
    assert!(seen.damage.is_empty(), "{:?}", seen.damage);
    assert_eq!(seen.log.unwrap().last, LogId::new(1, 3));
    // A directory that is not there cannot be made.
    match try_open(&mount.0.path().join("new")).unwrap_err() {
        Error::Io { doing, .. } => assert!(doing.contains("new"), "{doing}"),
        other => panic!("{other:?}"),
    }
    mount.remount(MountFlags::empty());
    assert_eq!(content(&open(&place)).1, entries(1..=3, 1));
}

/// Takes all the space there is.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    for size in [1 << 20, 4096] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

#[test]
fn a_disk_that_is_full_at_the_first_open_is_no_space_and_leaves_nothing_half_made() {
    let Some(mount) = Mount::tmpfs(4 << 20) else { return };
    fill(&mount.0.path().join("filler"));
    let place = mount.place();
    match try_open(&place) {
        Err(Error::NoSpace { doing }) => assert!(doing.contains(place.to_str().unwrap()), "{doing}"),
        // The directory itself may not fit.
        Err(Error::Io { source, .. }) => assert_eq!(source.kind(), std::io::ErrorKind::StorageFull),
        other => panic!("{other:?}"),
    }
    fs::remove_file(mount.0.path().join("filler")).unwrap();
    let log = open(&place);
    now(log.persist_entries(entries(1..=3, 1))).unwrap();
    assert_eq!(content(&log).1, entries(1..=3, 1));
}

#[test]
fn a_disk_that_is_full_at_a_later_open_costs_nothing_that_was_there() {
    let Some(mount) = Mount::tmpfs(4 << 20) else { return };
    let place = mount.place();
    {
        let log = open(&place);
        now(log.persist_entries(entries(1..=3, 1))).unwrap();
    }
    // Without its last sync noted, the end has to be written anew, for which there is no space.
    let copy = mount.0.path().join("copy");
    let log = open(&place);
    now(log.persist_entries(entries(4..=6, 1))).unwrap();
    fs::create_dir_all(copy.join("wal")).unwrap();
    for (path, bytes) in content_of(&place) {
        fs::write(copy.join(path.strip_prefix(&place).unwrap()), bytes).unwrap();
    }
    drop(log);
    fill(&mount.0.path().join("filler"));
    let before = content_of(&copy);
    match try_open(&copy) {
        Err(Error::NoSpace { doing }) => assert!(doing.contains(copy.to_str().unwrap()), "{doing}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(content_of(&copy), before, "segments and state are as they were");
    fs::remove_file(mount.0.path().join("filler")).unwrap();
    assert_eq!(content(&open(&copy)).1, entries(1..=6, 1));
}

/// Segments and state files with their bytes: what counts.
fn content_of(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    image(dir).into_iter().filter(|(path, _)| !path.to_string_lossy().ends_with(".tmp")).collect()
}

#[test]
fn a_directory_that_is_open_is_locked_and_not_looked_at() {
    let dir = scratch();
    let log = open(dir.path());
    now(log.persist_entries(entries(1..=3, 1))).unwrap();
    assert!(matches!(try_open(dir.path()), Err(Error::Locked { .. })));
    assert!(matches!(inspect(dir.path()), Err(Error::Locked { .. })));
    drop(log);
    assert_eq!(inspect(dir.path()).unwrap().log.unwrap().last.index, 3);
}
