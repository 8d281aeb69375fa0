//! A node whose storage or state machine fails stops taking part, says why, and promises nothing more.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use d_engine::mem::{MemKvStore, MemStorageEngine};
use d_engine::storage::{LogStore, MetaStore, StorageEngine};
use d_engine::{
    ClientError, Entry, Error, KvCommand, KvStateMachine, LogId, Node, NodeBuilder, NodeConfig, SnapshotChecksum,
    SnapshotMetadata, StateMachine, Watch, WatchSink, Watcher,
};
use tokio::sync::watch;

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Error,
    Panic,
    /// No space for entries.
    Full,
}

/// Works until told otherwise.
struct Trap {
    fault: Fault,
    sprung: AtomicBool,
}

impl Trap {
    fn new(fault: Fault) -> Arc<Self> {
        Arc::new(Self { fault, sprung: AtomicBool::new(false) })
    }

    fn step(&self) -> Result<(), Error> {
        match self.fault {
            _ if !self.sprung.load(Ordering::SeqCst) => Ok(()),
            Fault::Full => Ok(()),
            Fault::Error => Err(Error::corrupt("the third plate of the drive")),
            Fault::Panic => panic!("the drive is on fire"),
        }
    }
}

impl Trap {
    fn room(&self) -> Result<(), Error> {
        let is_full = self.fault == Fault::Full && self.sprung.load(Ordering::SeqCst);
        if is_full { Err(Error::NoSpace { doing: "appending to the log".into() }) } else { Ok(()) }
    }
}

struct Log {
    inner: Arc<dyn LogStore>,
    trap: Arc<Trap>,
}

#[async_trait]
impl LogStore for Log {
    async fn persist_entries(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.trap.room()?;
        self.inner.persist_entries(entries).await
    }
    async fn entry(&self, index: u64) -> Result<Option<Entry>, Error> {
        self.inner.entry(index).await
    }
    async fn get_entries(&self, range: RangeInclusive<u64>) -> Result<Vec<Entry>, Error> {
        self.inner.get_entries(range).await
    }
    async fn purge(&self, up_to: LogId) -> Result<(), Error> {
        self.inner.purge(up_to).await
    }
    async fn truncate(&self, from_index: u64) -> Result<(), Error> {
        self.inner.truncate(from_index).await
    }
    async fn flush(&self) -> Result<(), Error> {
        self.trap.step()?;
        self.inner.flush().await
    }
    async fn reset(&self) -> Result<(), Error> {
        self.inner.reset().await
    }
    fn last_index(&self) -> u64 {
        self.inner.last_index()
    }
    fn purged(&self) -> LogId {
        self.inner.purged()
    }
}

struct Machine {
    inner: KvStateMachine,
    trap: Arc<Trap>,
}

#[async_trait]
impl StateMachine for Machine {
    fn start(&self) -> Result<(), Error> {
        self.inner.start()
    }
    fn stop(&self) -> Result<(), Error> {
        self.inner.stop()
    }
    fn is_running(&self) -> bool {
        self.inner.is_running()
    }
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.inner.get(key)
    }
    async fn apply_chunk(&self, chunk: Vec<Entry>) -> Result<(), Error> {
        self.trap.step()?;
        self.inner.apply_chunk(chunk).await
    }
    fn len(&self) -> usize {
        self.inner.len()
    }
    fn last_applied(&self) -> LogId {
        self.inner.last_applied()
    }
    fn snapshot_metadata(&self) -> Option<SnapshotMetadata> {
        None
    }
    async fn generate_snapshot_data(&self, dir: PathBuf, last_included: LogId) -> Result<SnapshotChecksum, Error> {
        self.inner.generate_snapshot_data(dir, last_included).await
    }
    async fn apply_snapshot_from_file(&self, metadata: &SnapshotMetadata, path: PathBuf) -> Result<(), Error> {
        self.inner.apply_snapshot_from_file(metadata, path).await
    }
    fn flush(&self) -> Result<(), Error> {
        self.inner.flush()
    }
    async fn reset(&self) -> Result<(), Error> {
        self.inner.reset().await
    }
    fn read_at(&self, query: Bytes) -> Result<(Bytes, LogId), Error> {
        self.inner.read_at(query)
    }
    fn watch(&self, request: Bytes, sink: Box<dyn WatchSink>) -> Result<(), Error> {
        self.inner.watch(request, sink)
    }
    fn end_watches(&self) {
        self.inner.end_watches();
    }
}

async fn node(disk: Arc<Trap>, machine: Arc<Trap>) -> Node {
    let engine = MemStorageEngine::new();
    let log: Arc<dyn LogStore> = Arc::new(Log { inner: engine.log_store(), trap: disk });
    let meta: Arc<dyn MetaStore> = engine.meta_store();
    let (_, shutdown) = watch::channel(());
    let inner = KvStateMachine::new(MemKvStore::new()).unwrap();
    let node = NodeBuilder::new(NodeConfig::for_dir("unused").request_timeout_ms(5000), shutdown)
        .storage_parts(log, meta)
        .state_machine(Arc::new(Machine { inner, trap: machine }))
        .start()
        .await
        .unwrap();
    node.wait_ready(Duration::from_secs(20)).await.unwrap();
    node
}

fn put() -> Bytes {
    KvCommand::Put { key: "key".into(), value: "value".into() }.encode()
}

async fn check_failed(node: &Node, mut watcher: Watcher, cause: &str) {
    let begun = std::time::Instant::now();
    assert_eq!(node.propose(put()).await.unwrap_err(), ClientError::Unknown, "its fate is not known");
    let why = loop {
        match node.propose(put()).await.unwrap_err() {
            ClientError::Unavailable { why } => break why,
            // The driver has not heard of a panic yet.
            ClientError::Unknown => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(why.contains(cause), "{why}");
    let error = node.read_key("key").await.unwrap_err();
    let ClientError::Unavailable { why } = &error else { panic!("{error:?}") };
    assert!(why.contains(cause), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(4), "no caller waits for its deadline");
    let status = node.status();
    assert_eq!(status.role, "failed");
    assert!(status.failure.unwrap().contains(cause));
    let ended = async {
        loop {
            match watcher.next().await {
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(20), ended).await.expect("no watch stays open and silent");
    assert!(matches!(&ended, ClientError::Unavailable { why } if why.contains(cause)), "{ended}");
    let error = node.shutdown().await.unwrap_err().to_string();
    assert!(error.contains(cause), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_stops_the_node_and_names_the_cause() {
    for (fault, cause) in [(Fault::Error, "the third plate"), (Fault::Panic, "the drive is on fire")] {
        let trap = Trap::new(fault);
        let node = node(trap.clone(), Trap::new(Fault::Error)).await;
        node.propose(put()).await.unwrap();
        let watcher = node.watch(Watch::all()).await.unwrap();
        trap.sprung.store(true, Ordering::SeqCst);
        check_failed(&node, watcher, cause).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_apply_stops_the_node_and_names_the_cause() {
    for (fault, cause) in [(Fault::Error, "the third plate"), (Fault::Panic, "the drive is on fire")] {
        let trap = Trap::new(fault);
        let node = node(Trap::new(Fault::Error), trap.clone()).await;
        node.propose(put()).await.unwrap();
        let watcher = node.watch(Watch::all()).await.unwrap();
        trap.sprung.store(true, Ordering::SeqCst);
        check_failed(&node, watcher, cause).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_with_the_cause_serves_reads_and_recovers_by_itself() {
    let trap = Trap::new(Fault::Full);
    let node = node(trap.clone(), Trap::new(Fault::Error)).await;
    node.propose(put()).await.unwrap();
    trap.sprung.store(true, Ordering::SeqCst);
    let waiting = node.propose(put());
    let refused = async {
        // A write that comes before the disk is known to be full waits with the first.
        loop {
            let write = tokio::time::timeout(Duration::from_millis(100), node.propose(put())).await;
            if let Ok(Err(ClientError::Unavailable { why })) = write {
                break why;
            }
        }
    };
    let (waited, why) = tokio::join!(waiting, async {
        let why = tokio::time::timeout(Duration::from_secs(4), refused).await.expect("writes are refused");
        assert!(node.read_key("key").await.is_ok(), "reads go on");
        trap.sprung.store(false, Ordering::SeqCst);
        why
    });
    assert!(why.contains("full") && why.contains("appending to the log"), "{why}");
    assert!(waited.is_ok(), "what waited for space is written: {waited:?}");
    node.propose(put()).await.unwrap();
    node.shutdown().await.unwrap();
}
