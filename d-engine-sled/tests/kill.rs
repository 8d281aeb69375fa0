//! A process that is killed at any moment has lost nothing that it acknowledged.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use bytes::Bytes;
use d_engine_core::{
    Direction, Entry, EntryKind, KeyRange, KvStore, LogId, LogStore, Result, StorageEngine, WriteBatch,
};
use d_engine_sled::{SledKvStore, SledStorageEngine};

const DIR: &str = "D_ENGINE_SLED_KILLED_CHILD";

/// Starts one of the tests below as the child that will be killed; without the variable they do nothing.
fn start(test: &str, dir: &Path) -> (Child, std::io::Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

/// Runs the child until it has said so many things, kills it, and passes on all that it said.
fn kill_after(test: &str, dir: &Path, count: u32, mut note: impl FnMut(&str, u64)) {
    let (mut child, mut lines) = start(test, dir);
    let mut left = count;
    let mut each = |line: &str| {
        if let Some((word, Ok(number))) = line.split_once(' ').map(|(word, number)| (word, number.parse())) {
            note(word, number);
            left = left.saturating_sub(1);
        }
        left > 0
    };
    while each(&lines.next().expect("the child goes on until it is killed").unwrap()) {}
    child.kill().unwrap();
    child.wait().unwrap();
    // What it had still said before it died counts as well; the last line may be cut.
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    for line in &rest[..rest.len().saturating_sub(1)] {
        each(line);
    }
}

/// On a line of its own: the test harness may have begun one.
fn say(word: &str, number: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{word} {number}").unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// The bytes of an entry follow from its index, so that the parent can check them.
fn written(index: u64) -> Entry {
    let data: Vec<u8> = (0..(index * 131) % 5000).map(|i| (i ^ index) as u8).collect();
    Entry::new(index, 1 + index / 1000, EntryKind::Command, data)
}

#[test]
fn child_that_writes_a_log() {
    let Ok(dir) = std::env::var(DIR) else { return };
    runtime().block_on(write_log(Path::new(&dir))).unwrap();
}

/// Appends, flushes and purges for ever, and says what is durable.
async fn write_log(dir: &Path) -> Result<()> {
    let log = SledStorageEngine::open(dir)?.log_store();
    loop {
        let first = log.last_index() + 1;
        let batch: Vec<_> = (first..first + 1 + first % 5).map(written).collect();
        log.persist_entries(batch).await?;
        if first.is_multiple_of(3) {
            log.flush().await?;
            say("flushed", log.last_index());
        }
        let last = log.last_index();
        if first.is_multiple_of(50) && last > log.purged().index + 40 {
            log.purge(written(last - 40).id()).await?;
            say("purged", last - 40);
        }
    }
}

#[test]
fn kill_9_at_random_moments_loses_no_acknowledged_entry() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = fastrand::Rng::with_seed(9);
    let (mut flushed, mut purged) = (0, 0);
    for round in 0..8 {
        kill_after("child_that_writes_a_log", dir.path(), rng.u32(1..150), |word, number| match word {
            "flushed" => flushed = number,
            "purged" => purged = number,
            _ => {}
        });
        let log = SledStorageEngine::open(dir.path()).unwrap().log_store();
        assert!(log.last_index() >= flushed, "round {round}: {} of {flushed} acknowledged", log.last_index());
        assert!(log.purged().index >= purged, "round {round}");
        let first = log.purged().index + 1;
        let entries = runtime().block_on(log.get_entries(first..=u64::MAX)).unwrap();
        let expected: Vec<Entry> = (first..=log.last_index()).map(written).collect();
        assert_eq!(entries, expected, "round {round}");
        assert_eq!(log.purged(), LogId::new(if first > 1 { written(first - 1).term } else { 0 }, first - 1));
    }
    assert!(flushed > 100, "the child made progress: {flushed}");
}

/// The whole content of one generation.
fn content(generation: u64) -> impl Iterator<Item = (Bytes, Bytes)> {
    let value = Bytes::from(generation.to_string());
    (0..200 + generation % 100).map(move |key| (Bytes::from(format!("key {key:05}")), value.clone()))
}

fn shown(store: &SledKvStore) -> Vec<(Bytes, Bytes)> {
    store.scan(KeyRange::ALL, usize::MAX, Direction::Forward).unwrap()
}

#[test]
fn child_that_replaces_its_data() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = SledKvStore::open(Path::new(&dir)).unwrap();
    let first = store.get(b"key 00000").unwrap().map_or(0, |value| number(&value));
    for generation in first + 1.. {
        store.replace_all(&mut content(generation).map(Ok)).unwrap();
        say("replaced", generation);
    }
}

fn number(value: &Bytes) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

#[test]
fn kill_9_leaves_the_old_content_or_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = fastrand::Rng::with_seed(7);
    let mut replaced = 0;
    for round in 0..8 {
        kill_after("child_that_replaces_its_data", dir.path(), rng.u32(1..25), |_, number| replaced = number);
        let store = SledKvStore::open(dir.path()).unwrap();
        let found = shown(&store);
        let generation = number(&found[0].1);
        assert!(generation == replaced || generation == replaced + 1, "round {round}: {generation}, said {replaced}");
        assert_eq!(found, content(generation).collect::<Vec<_>>(), "round {round}");
    }
}

#[test]
fn child_that_is_killed_inside_a_replace() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = SledKvStore::open(Path::new(&dir)).unwrap();
    let mut left = 5000;
    let mut pairs = std::iter::from_fn(|| {
        if left == 0 {
            // What has been written so far is as durable as it can be made before the end.
            store.flush().unwrap();
            say("inside", 1);
            std::thread::park();
        }
        left -= 1;
        Some(Ok((Bytes::from(format!("{:05}", 5000 - left)), Bytes::from_static(b"new"))))
    });
    store.replace_all(&mut pairs).unwrap();
}

#[test]
fn an_interrupted_replace_leaves_the_old_content_and_no_garbage() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledKvStore::open(dir.path()).unwrap();
    let mut batch = WriteBatch::new();
    content(1).for_each(|(key, value)| batch.put(key, value));
    store.write(batch).unwrap();
    drop(store);
    kill_after("child_that_is_killed_inside_a_replace", dir.path(), 1, |_, _| {});
    assert_eq!(data_trees(dir.path()), 2, "the interrupted content is there");
    let store = SledKvStore::open(dir.path()).unwrap();
    assert_eq!(shown(&store), content(1).collect::<Vec<_>>());
    store.replace_all(&mut content(2).map(Ok)).unwrap();
    assert_eq!(shown(&store), content(2).collect::<Vec<_>>());
    drop(store);
    assert_eq!(data_trees(dir.path()), 1);
}

/// The generations that are there, seen by sled itself.
fn data_trees(dir: &Path) -> usize {
    let db = sled::open(dir.join("sled")).unwrap();
    db.tree_names().iter().filter(|name| name.starts_with(b"data-")).count()
}
