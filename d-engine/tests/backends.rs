//! A node on every combination of a log and a machine's data, which are independent choices, and snapshots that travel
//! between them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use d_engine::file::{FileKvStore, FileStorageEngine};
use d_engine::mem::MemKvStore;
use d_engine::sled::{SledKvStore, SledStorageEngine};
use d_engine::{KvStateMachine, KvStore, Node, NodeBuilder, NodeConfig, StorageEngine};
use d_engine_test_suite::snapshot_matrix;
use tokio::sync::watch;

async fn start(dir: &Path, log: impl StorageEngine, data: impl KvStore) -> Node {
    let (_, shutdown) = watch::channel(());
    let node = NodeBuilder::new(NodeConfig::new(1, dir), shutdown)
        .storage_engine(Arc::new(log))
        .state_machine(Arc::new(KvStateMachine::new(data).unwrap()))
        .start()
        .await
        .unwrap();
    node.wait_ready(Duration::from_secs(30)).await.unwrap();
    node
}

/// Writes, restarts and reads twice over.
async fn writes_survive<L: StorageEngine, D: KvStore>(log: impl Fn(&Path) -> L, data: impl Fn(&Path) -> D) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for round in 0..3 {
        let node = start(dir, log(&dir.join("log")), data(&dir.join("data"))).await;
        for key in 0..round * 10 {
            let got = node.get(format!("key {key}")).await.unwrap();
            assert_eq!(got.value.as_deref(), Some(key.to_string().as_bytes()), "round {round}");
        }
        for key in round * 10..round * 10 + 10 {
            node.put(format!("key {key}"), key.to_string()).await.unwrap();
        }
        node.shutdown().await.unwrap();
    }
}

fn file_log(dir: &Path) -> FileStorageEngine {
    FileStorageEngine::open(dir).unwrap()
}

fn file_data(dir: &Path) -> FileKvStore {
    FileKvStore::open(dir).unwrap()
}

fn sled_log(dir: &Path) -> SledStorageEngine {
    SledStorageEngine::open(dir).unwrap()
}

fn sled_data(dir: &Path) -> SledKvStore {
    SledKvStore::open(dir).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn file_log_and_sled_data() {
    writes_survive(file_log, sled_data).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sled_log_and_file_data() {
    writes_survive(sled_log, file_data).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sled_log_and_sled_data() {
    writes_survive(sled_log, sled_data).await;
}

#[test]
fn a_snapshot_of_any_storage_is_a_snapshot_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let (file, sled) = (file_data(&dir.path().join("file")), sled_data(&dir.path().join("sled")));
    let mem = MemKvStore::new();
    #[cfg(feature = "rocksdb")]
    let rocksdb = rocksdb::rocksdb_data(&dir.path().join("rocksdb"));
    let stores: &[(&str, &dyn KvStore)] = &[
        ("file", &file),
        ("mem", &mem),
        #[cfg(feature = "rocksdb")]
        ("rocksdb", &rocksdb),
        ("sled", &sled),
    ];
    snapshot_matrix(stores).unwrap();
}

/// With the feature `rocksdb`, which is not among those that the tests switch on by themselves.
#[cfg(feature = "rocksdb")]
mod rocksdb {
    use d_engine::rocksdb::{RocksKvStore, RocksStorageEngine};

    use super::*;

    fn rocksdb_log(dir: &Path) -> RocksStorageEngine {
        RocksStorageEngine::open(dir).unwrap()
    }

    pub(crate) fn rocksdb_data(dir: &Path) -> RocksKvStore {
        RocksKvStore::open(dir).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn file_log_and_rocksdb_data() {
        writes_survive(file_log, rocksdb_data).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rocksdb_log_and_file_data() {
        writes_survive(rocksdb_log, file_data).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rocksdb_log_and_rocksdb_data() {
        writes_survive(rocksdb_log, rocksdb_data).await;
    }
}
