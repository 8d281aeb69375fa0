//! `log inspect` and `log check` show what a stopped node has on its disk, damage included, and change nothing.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Ran, Server, run};
use serde_json::Value;

/// The data directory of a node that has written a few keys and stopped.
fn stopped() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(dir.path());
    for key in 0..5 {
        server.run(&["put", &format!("key {key}"), "value"]).ok();
    }
    assert_eq!(server.terminate(), 0);
    dir
}

fn look(what: &str, dir: &Path, more: &[&str]) -> Ran {
    let before = image(dir);
    let ran = run(&[&["log", what, dir.to_str().unwrap()], more].concat());
    assert_eq!(image(dir), before, "log {what} changed the directory");
    ran
}

/// Every file below with its bytes and the time of its last change.
fn image(dir: &Path) -> Vec<(PathBuf, Vec<u8>, std::time::SystemTime)> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let changed = fs::metadata(&path).unwrap().modified().unwrap();
                files.push((path.clone(), fs::read(&path).unwrap(), changed));
            }
        }
    }
    files.sort();
    files
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap()
}

fn first_segment(dir: &Path) -> PathBuf {
    dir.join("log/wal/0000000000000001.wal")
}

#[test]
fn a_sound_directory_is_shown_in_all_formats_and_checked() {
    let dir = stopped();
    let table = look("inspect", dir.path(), &[]).ok();
    for part in ["hard state", "voted for node 1", "SEGMENT", "active", "at 1: 1=", "log uuid"] {
        assert!(table.contains(part), "{part:?} is not in {table}");
    }
    let shown = json(&look("inspect", dir.path(), &["-o", "json"]));
    let last = shown["log"]["last"]["index"].as_u64().unwrap();
    assert!(last >= 6, "{shown}");
    assert_eq!((&shown["segments"][0]["first"], &shown["segments"][0]["last"]), (&1.into(), &last.into()));
    assert_eq!(shown["segments"][0]["end"], shown["segments"][0]["synced"]);
    assert_eq!(shown["hard_state"]["identity"]["formed"], true);
    assert_eq!(shown["damage"], Value::Array(vec![]));
    let plain = look("inspect", dir.path(), &["-o", "plain"]).ok();
    assert!(plain.lines().any(|line| line.starts_with("segment\t1\tactive\t")), "{plain}");

    assert!(look("check", dir.path(), &[]).ok().contains("is sound"));
    assert_eq!(look("check", dir.path(), &["-o", "plain"]).ok(), format!("sound\t1..={last}"));
    assert_eq!(json(&look("check", dir.path(), &["-o", "json"]))["sound"], true);
    let log = dir.path().join("log");
    assert!(look("check", &log, &[]).ok().contains("is sound"), "the directory of the log itself will do");
}

#[test]
fn damage_is_shown_with_its_place_and_entries_and_the_check_fails() {
    let dir = stopped();
    let segment = first_segment(dir.path());
    let mut bytes = fs::read(&segment).unwrap();
    bytes[4096 + 90] ^= 1;
    fs::write(&segment, bytes).unwrap();

    let shown = look("inspect", dir.path(), &["-o", "json"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    let shown = json(&shown);
    assert_eq!(shown["damage"][0]["kind"], "corrupt");
    assert_eq!(shown["damage"][0]["first"], 1);
    assert!(shown["damage"][0]["place"].as_str().unwrap().contains("0000000000000001.wal offset 4096"), "{shown}");
    assert_eq!(shown["hard_state"]["voted_for"], 1, "what is sound is shown");
    assert!(look("inspect", dir.path(), &[]).ok().contains("DAMAGE"));

    let checked = look("check", dir.path(), &[]).failed(1, "is damaged in one place");
    assert!(
        checked.err.contains("entries 1..=") && checked.err.contains("never put an older copy back"),
        "{checked:?}"
    );
    assert_eq!(json(&look("check", dir.path(), &["-o", "json"]))["sound"], false);
}

#[test]
fn a_directory_without_its_state_files_is_shown_as_far_as_it_goes() {
    for name in ["log_state", "hard_state"] {
        let dir = stopped();
        fs::remove_file(dir.path().join("log").join(name)).unwrap();
        let shown = look("inspect", dir.path(), &["-o", "json"]);
        let shown = json(&shown);
        assert!(shown["damage"][0]["place"].as_str().unwrap().contains(&format!("{name} is missing")), "{shown}");
        assert!(shown["segments"][0]["last"].as_u64().unwrap() >= 6, "{shown}");
        look("check", dir.path(), &[]).failed(1, "is missing");
    }
}

#[test]
fn a_running_node_and_a_directory_of_something_else_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(dir.path());
    server.run(&["put", "k", "v"]).ok();
    let path = dir.path().to_str().unwrap();
    run(&["log", "inspect", path]).failed(1, "belongs to a node that runs");
    run(&["log", "check", path, "-o", "json"]);
    server.run(&["put", "k", "w"]).ok();

    let other = tempfile::tempdir().unwrap();
    look("inspect", other.path(), &[]).failed(1, "holds no log of the file engine");
    let nowhere = other.path().join("nowhere");
    run(&["log", "check", nowhere.to_str().unwrap()]).failed(1, "nowhere");
}

/// A directory of another engine is shown through the traits of a copy.
#[cfg(any(feature = "rocksdb", feature = "sled"))]
fn shows_a_directory_of<E: d_engine::storage::StorageEngine>(name: &str, open: impl FnOnce(&std::path::Path) -> E) {
    use d_engine::storage::{LogStore, MetaStore};
    use d_engine::{Entry, EntryKind, HardState};

    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.meta_store().save_hard_state(&HardState::new(7, Some(2), None)).unwrap();
    let entries = (1..=5).map(|index| Entry::new(index, 7, EntryKind::Noop, b"")).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(engine.log_store().persist_entries(entries)).unwrap();
    run(&["log", "check", "--engine", name, dir.path().to_str().unwrap()]).failed(1, "belongs to a node that runs");
    drop(engine);
    let shown = json(&look("inspect", dir.path(), &["--engine", name, "-o", "json"]));
    assert_eq!((&shown["hard_state"]["term"], &shown["log"]["last"]["index"]), (&7.into(), &5.into()));
    assert_eq!(look("check", dir.path(), &["--engine", name, "-o", "plain"]).ok(), "sound\t1..=5");
}

#[cfg(feature = "sled")]
#[test]
fn a_directory_of_sled_is_shown_through_the_traits_of_a_copy() {
    shows_a_directory_of("sled", |dir| d_engine::sled::SledStorageEngine::open(dir).unwrap());
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_directory_of_rocksdb_is_shown_through_the_traits_of_a_copy() {
    shows_a_directory_of("rocksdb", |dir| d_engine::rocksdb::RocksStorageEngine::open(dir).unwrap());
}
