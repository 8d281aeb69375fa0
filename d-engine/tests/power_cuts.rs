//! The power goes while an archive is saved, restored, or a directory recovered: on a file system that really loses it.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]
#![cfg(all(feature = "file", feature = "test-suite"))]

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use d_engine::archive::{Archive, SaveOptions, save};
use d_engine::{Ext4, Node, NodeConfig, Restore, SnapshotSource, StartupError, Survivor, file_stores, restore};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const CUTS: u32 = 24;
const WITHIN: Duration = Duration::from_secs(30);

/// A disk; `None`, and a word about it, where none can be made.
fn disk(test: &str) -> Option<Ext4> {
    match Ext4::make() {
        Ok(disk) => Some(disk),
        Err(why) => {
            // To the stream itself: the test harness hides what passing tests print with macros.
            let _ = writeln!(std::io::stderr().lock(), "law {test}: not checked, {why}");
            assert!(std::env::var_os("CI").is_none(), "{test} is not checked: {why}");
            None
        }
    }
}

async fn start(dir: &Path) -> Node {
    let (_, shutdown) = watch::channel(());
    let node = d_engine::open(NodeConfig::new(1, dir), shutdown).await.unwrap().start().await.unwrap();
    node.wait_ready(WITHIN).await.unwrap();
    node
}

/// Starts the node in `dir`, which must be whole, and gives the digest of its state.
async fn digest_in(dir: &Path) -> [u8; 32] {
    let node = start(dir).await;
    let digest = node.digest().await.unwrap().digest;
    node.shutdown().await.unwrap();
    digest
}

/// Whether a start is refused because of a marker.
async fn is_marked(dir: &Path) -> bool {
    let (_, shutdown) = watch::channel(());
    let opened = d_engine::open(NodeConfig::new(1, dir), shutdown).await.map(|_| ());
    matches!(opened, Err(StartupError::HalfMade { .. } | StartupError::Replaced { .. }))
}

/// A node with some data, in a directory that stays.
async fn node_with_data(dir: &Path) -> Node {
    let node = start(dir).await;
    for n in 0..40 {
        node.put(format!("k{n:03}"), vec![b'v'; 20_000]).await.unwrap();
    }
    node
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}

/// Moments of a work that takes so long, and, as `None`, the one right after its end.
fn moments(takes: Duration) -> impl Iterator<Item = Option<Duration>> {
    let within = (0..CUTS).map(move |cut| Some(takes.mul_f64(f64::from(cut) / f64::from(CUTS))));
    within.chain([None])
}

/// Waits for a moment; whether the work is done by then.
async fn wait_for<T>(work: &JoinHandle<T>, moment: Option<Duration>) -> bool {
    match moment {
        Some(moment) => tokio::time::sleep(moment).await,
        None => {
            while !work.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    work.is_finished()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_loses_power_is_whole_or_refused() {
    let Some(mut disk) = disk("a restore that loses power is whole or refused") else { return };
    let dir = tempfile::tempdir().unwrap();
    let node = node_with_data(&dir.path().join("source")).await;
    let archive = dir.path().join("archive");
    save(node.fetch_snapshot(false).await.unwrap(), &archive, SaveOptions::default(), |_, _| {}).await.unwrap();
    let digest = node.digest().await.unwrap().digest;
    node.shutdown().await.unwrap();
    let restored = |target: &Path| {
        let (archive, target) = (archive.clone(), target.to_path_buf());
        async move {
            let request = Restore::new(1, [(1, "127.0.0.1:9081")]);
            restore(Archive::open(&archive).unwrap(), target, request, file_stores).await
        }
    };
    let started = Instant::now();
    restored(&disk.dir().join("first")).await.unwrap();
    let (mut whole, mut marked) = (0, 0);
    for (turn, moment) in moments(started.elapsed()).enumerate() {
        let target = disk.dir().join(format!("t{turn}"));
        let work = tokio::spawn(restored(&target));
        let was_done = wait_for(&work, moment).await;
        disk.cut().unwrap();
        let result = work.await.unwrap();
        disk.remount().unwrap();
        if target.join("RESTORING").exists() {
            assert!(!was_done, "turn {turn}: a restore that was done is marked");
            assert!(is_marked(&target).await && restored(&target).await.is_err());
            marked += 1;
        } else if std::fs::read_dir(&target).is_ok_and(|mut names| names.next().is_some()) {
            assert_eq!(digest_in(&target).await, digest, "turn {turn}");
            whole += 1;
        } else {
            assert!(!was_done, "turn {turn}: a restore that was done is gone: {result:?}");
        }
    }
    eprintln!("{CUTS} power cuts: {whole} whole, {marked} marked");
    assert!(whole > 0 && marked > 0, "{whole} whole, {marked} marked");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_loses_power_is_whole_or_not_there() {
    let Some(mut disk) = disk("an archive that loses power is whole or not there") else { return };
    let dir = tempfile::tempdir().unwrap();
    let node = node_with_data(&dir.path().join("source")).await;
    let saved = |source: Box<dyn SnapshotSource>, target: &Path| {
        let target = target.to_path_buf();
        tokio::spawn(async move { save(source, target, SaveOptions::default(), |_, _| {}).await.map(|_| ()) })
    };
    let source = async || node.fetch_snapshot(false).await.unwrap();
    let started = Instant::now();
    saved(source().await, &disk.dir().join("first")).await.unwrap().unwrap();
    for (turn, moment) in moments(started.elapsed()).enumerate() {
        let target = disk.dir().join(format!("a{turn}"));
        let work = saved(source().await, &target);
        let was_done = wait_for(&work, moment).await;
        disk.cut().unwrap();
        let result = work.await.unwrap();
        disk.remount().unwrap();
        match target.exists() {
            true => drop(Archive::open(&target).unwrap()),
            false => assert!(!was_done, "turn {turn}: an archive that was saved is gone: {result:?}"),
        }
    }
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_loses_power_leaves_the_old_directory_or_the_new_one() {
    let Some(mut disk) = disk("a recovery that loses power leaves one of two directories") else { return };
    let dir = tempfile::tempdir().unwrap();
    let source_dir = dir.path().join("source");
    let node = node_with_data(&source_dir).await;
    let digest = node.digest().await.unwrap().digest;
    node.shutdown().await.unwrap();
    drop(node);
    let recovered = |dir: &Path| {
        let dir = dir.to_path_buf();
        async move { Survivor::open(&dir, file_stores).await?.force_new_cluster().await }
    };
    let first = disk.dir().join("first");
    copy(&source_dir, &first);
    let started = Instant::now();
    recovered(&first).await.unwrap();
    let (mut replaced, mut new) = (0, 0);
    for (turn, moment) in moments(started.elapsed()).enumerate() {
        let target = disk.dir().join(format!("n{turn}"));
        copy(&source_dir, &target);
        std::process::Command::new("sync").status().unwrap();
        let work = tokio::spawn(recovered(&target));
        let was_done = wait_for(&work, moment).await;
        disk.cut().unwrap();
        let result = work.await.unwrap();
        disk.remount().unwrap();
        if target.join("REPLACED").exists() {
            assert!(!was_done && is_marked(&target).await, "turn {turn}: {result:?}");
            recovered(&target).await.unwrap();
            replaced += 1;
        }
        let node = start(&target).await;
        assert_eq!(node.digest().await.unwrap().digest, digest, "turn {turn}");
        if let Ok(recovered) = &result {
            let is_new = node.status().cluster == recovered.cluster;
            assert!(is_new || !was_done, "turn {turn}: a recovery that was done is undone");
            new += u32::from(is_new);
        }
        node.shutdown().await.unwrap();
        drop(node);
        // The disk is small.
        std::fs::remove_dir_all(&target).unwrap();
    }
    eprintln!("{CUTS} power cuts: {replaced} between the two, {new} new");
    assert!(new > 0, "no recovery came to its end");
}
