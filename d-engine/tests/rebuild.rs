//! New clusters from archives and from surviving directories, through the library, on storage of one's own.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![cfg(all(feature = "file", feature = "mem", feature = "sled"))]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use d_engine::archive::{Archive, SaveOptions, save};
use d_engine::command::{KvRequest, SessionHeader};
use d_engine::file::{FileKvStore, FileStorageEngine};
use d_engine::sled::{SledKvStore, SledStorageEngine};
use d_engine::storage::{LogStore, MetaStore};
use d_engine::{
    ClientError, Entry, EntryKind, Error, HardState, KvCommand, KvStateMachine, LogId, Node, NodeBuilder, NodeConfig,
    NodeStores, Reason, RebuildError, Restore, SnapshotContent, StartupError, StateMachine, StorageEngine, Survivor,
    Watch, Watched, file_stores, restore,
};
use tokio::sync::watch;

const WITHIN: Duration = Duration::from_secs(30);

async fn archive_of(node: &Node, path: &Path) -> Archive {
    let source = node.fetch_snapshot(false).await.unwrap();
    save(source, path, SaveOptions::default(), |_, _| {}).await.unwrap()
}

/// An archive with two keys, and the digest of the state in it.
async fn small_archive(dir: &Path) -> (PathBuf, [u8; 32]) {
    let node = d_engine::start(dir.join("source")).await.unwrap();
    node.put("a", "1").await.unwrap();
    node.put("b", "2").await.unwrap();
    let path = dir.join("archive");
    archive_of(&node, &path).await;
    let digest = node.digest().await.unwrap().digest;
    node.shutdown().await.unwrap();
    (path, digest)
}

fn alone() -> Restore {
    Restore::new(1, [(1, "127.0.0.1:9081")])
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

async fn start(builder: NodeBuilder) -> Node {
    let node = builder.start().await.unwrap();
    node.wait_ready(WITHIN).await.unwrap();
    node
}

fn builder(dir: &Path, engine: Arc<impl StorageEngine>, machine: Arc<KvStateMachine>) -> NodeBuilder {
    let (_, shutdown) = watch::channel(());
    NodeBuilder::new(NodeConfig::new(1, dir), shutdown).storage_engine(engine).state_machine(machine)
}

fn sled(dir: &Path) -> Result<(Arc<SledStorageEngine>, Arc<KvStateMachine>), Error> {
    let engine = SledStorageEngine::open(dir.join("log"))?;
    Ok((Arc::new(engine), Arc::new(KvStateMachine::new(SledKvStore::open(dir.join("kv"))?)?)))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_restored_on_another_backend_and_recovered_there() {
    let dir = tempfile::tempdir().unwrap();
    let (path, digest) = small_archive(dir.path()).await;
    let data = dir.path().join("sled");
    let open = |dir: &Path| sled(dir).map(|(engine, machine)| NodeStores::new(engine, machine));
    let made = restore(Archive::open(&path).unwrap(), &data, alone(), open).await.unwrap();
    let (engine, machine) = sled(&data).unwrap();
    let node = start(builder(&data, engine, machine)).await;
    assert_eq!((node.digest().await.unwrap().digest, node.status().cluster), (digest, made.cluster));
    node.put("c", "3").await.unwrap();
    node.shutdown().await.unwrap();
    drop(node);

    let survivor = Survivor::open(&data, open).await.unwrap();
    assert_eq!(survivor.membership().cluster, made.cluster);
    let recovered = survivor.force_new_cluster().await.unwrap();
    let (engine, machine) = sled(&data).unwrap();
    let node = start(builder(&data, engine, machine)).await;
    assert_eq!(node.status().cluster, recovered.cluster);
    assert_ne!(recovered.cluster, made.cluster);
    assert_eq!(node.get("c").await.unwrap().value.as_deref(), Some(&b"3"[..]));
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_leases_and_watches_go_on_in_the_restored_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let node = d_engine::start(dir.path().join("source")).await.unwrap();
    node.put("before", "1").await.unwrap();
    let session = node.propose(KvCommand::SessionOpen.encode()).await.unwrap().at.index;
    let put = KvCommand::Put { key: "once".into(), value: "x".into() };
    let header = SessionHeader { session, sequence: 1, lowest: 1 };
    let request = KvRequest::new(put, Some(header)).encode();
    let answer = node.propose(request.clone()).await.unwrap().response;
    let lease = node.lease_grant(Duration::from_secs(600)).await.unwrap().id;
    node.put_with(d_engine::Put::new("held", "x").lease(lease)).await.unwrap();
    let path = dir.path().join("archive");
    let mut archive = archive_of(&node, &path).await;
    let content = SnapshotContent::read(archive.snapshot().unwrap()).unwrap();
    assert_eq!((content.keys, content.sessions, content.leases), (3, 1, 1));
    let digest = node.digest().await.unwrap().digest;
    let revision = node.get("held").await.unwrap().revision;
    assert_eq!(content.revision, revision);
    node.shutdown().await.unwrap();

    let data = dir.path().join("restored");
    restore(archive, &data, alone(), file_stores).await.unwrap();
    let node = d_engine::start(&data).await.unwrap();
    assert_eq!(node.digest().await.unwrap().digest, digest);
    let again = node.propose(request).await.unwrap();
    assert_eq!((again.response, node.get("once").await.unwrap().revision), (answer, revision), "applied once");
    assert_eq!(node.lease_list(0, 0).await.unwrap().ids, [lease]);
    let old = node.watch(Watch::all().since(1)).await.map(|_| ());
    assert!(matches!(old, Err(ClientError::Rejected { why: Reason::Compacted { .. } })));
    let mut new = node.watch(Watch::all().since(revision + 1)).await.unwrap();
    node.lease_revoke(lease).await.unwrap();
    let seen = new.next().await.unwrap();
    assert!(matches!(&seen, Watched::Changes { changes, .. } if changes[0].key()[..] == *b"held"), "{seen:?}");
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_follow_from_archive_members_and_name_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = small_archive(dir.path()).await;
    let mut number = 0;
    let mut cluster = async |request: Restore| {
        number += 1;
        let dir = dir.path().join(format!("r{number}"));
        restore(Archive::open(&path).unwrap(), &dir, request, file_stores).await.unwrap().cluster
    };
    let three = |node| Restore::new(node, [(2, "b:2"), (1, "a:1"), (3, "c:3")]);
    let one = cluster(three(1)).await;
    assert_eq!(cluster(three(2)).await, one);
    assert_eq!(cluster(Restore::new(3, [(1, "a:1"), (2, "b:2"), (3, "c:3")])).await, one, "in another order");
    assert_ne!(cluster(three(1).cluster_name("second")).await, one);
    assert_ne!(cluster(Restore::new(1, [(1, "a:1"), (2, "b:2"), (3, "c:4")])).await, one);
    let archive = Archive::open(&path).unwrap();
    assert_ne!(one, archive.head().metadata.cluster, "never the old cluster's");
}

/// What happens to a restore at one of its steps.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    Install,
    FlushMachine,
    Purge,
    HardState,
    StopMachine,
}

const STEPS: [Step; 5] = [Step::Install, Step::FlushMachine, Step::Purge, Step::HardState, Step::StopMachine];

#[derive(Clone, Copy)]
enum End {
    Fails,
    Dies,
}

impl End {
    fn at<T>(self, here: bool, go_on: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        match self {
            _ if !here => go_on(),
            Self::Fails => Err(Error::backend("the test's disk is broken")),
            // Nothing below unwinds into tidying up, as if the process were gone.
            Self::Dies => panic!("the process dies here"),
        }
    }
}

/// File stores that end at one step.
struct Ends<T> {
    inner: T,
    step: Step,
    end: End,
}

struct EndingEngine {
    log: Arc<Ends<Arc<d_engine::file::FileLogStore>>>,
    meta: Arc<Ends<Arc<d_engine::file::FileMetaStore>>>,
}

impl StorageEngine for EndingEngine {
    type LogStore = Ends<Arc<d_engine::file::FileLogStore>>;
    type MetaStore = Ends<Arc<d_engine::file::FileMetaStore>>;

    fn log_store(&self) -> Arc<Self::LogStore> {
        Arc::clone(&self.log)
    }

    fn meta_store(&self) -> Arc<Self::MetaStore> {
        Arc::clone(&self.meta)
    }
}

#[async_trait]
impl LogStore for Ends<Arc<d_engine::file::FileLogStore>> {
    async fn persist_entries(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.inner.persist_entries(entries).await
    }
    async fn entry(&self, index: u64) -> Result<Option<Entry>, Error> {
        self.inner.entry(index).await
    }
    async fn get_entries(&self, range: std::ops::RangeInclusive<u64>) -> Result<Vec<Entry>, Error> {
        self.inner.get_entries(range).await
    }
    async fn purge(&self, up_to: LogId) -> Result<(), Error> {
        self.end.at(self.step == Step::Purge, || Ok(()))?;
        self.inner.purge(up_to).await
    }
    async fn truncate(&self, from_index: u64) -> Result<(), Error> {
        self.inner.truncate(from_index).await
    }
    async fn flush(&self) -> Result<(), Error> {
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

impl MetaStore for Ends<Arc<d_engine::file::FileMetaStore>> {
    fn save_hard_state(&self, state: &HardState) -> Result<(), Error> {
        self.end.at(self.step == Step::HardState, || self.inner.save_hard_state(state))
    }
    fn load_hard_state(&self) -> Result<Option<HardState>, Error> {
        self.inner.load_hard_state()
    }
}

#[async_trait]
impl StateMachine for Ends<KvStateMachine> {
    fn start(&self) -> Result<(), Error> {
        self.inner.start()
    }
    fn stop(&self) -> Result<(), Error> {
        self.end.at(self.step == Step::StopMachine, || self.inner.stop())
    }
    fn is_running(&self) -> bool {
        self.inner.is_running()
    }
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.inner.get(key)
    }
    async fn apply_chunk(&self, chunk: Vec<Entry>) -> Result<(), Error> {
        self.inner.apply_chunk(chunk).await
    }
    fn len(&self) -> usize {
        self.inner.len()
    }
    fn last_applied(&self) -> LogId {
        self.inner.last_applied()
    }
    fn snapshot_metadata(&self) -> Option<d_engine::SnapshotMetadata> {
        self.inner.snapshot_metadata()
    }
    async fn generate_snapshot_data(&self, dir: PathBuf, at: LogId) -> Result<d_engine::SnapshotChecksum, Error> {
        self.inner.generate_snapshot_data(dir, at).await
    }
    async fn apply_snapshot_from_file(
        &self,
        metadata: &d_engine::SnapshotMetadata,
        path: PathBuf,
    ) -> Result<(), Error> {
        self.end.at(self.step == Step::Install, || Ok(()))?;
        self.inner.apply_snapshot_from_file(metadata, path).await
    }
    fn flush(&self) -> Result<(), Error> {
        self.end.at(self.step == Step::FlushMachine, || self.inner.flush())
    }
    async fn reset(&self) -> Result<(), Error> {
        self.inner.reset().await
    }
}

fn ending(dir: &Path, step: Step, end: End) -> Result<NodeStores, Error> {
    let engine = FileStorageEngine::open(dir.join("log"))?;
    let log = Arc::new(Ends { inner: engine.log_store(), step, end });
    let meta = Arc::new(Ends { inner: engine.meta_store(), step, end });
    let machine = Ends { inner: KvStateMachine::new(FileKvStore::open(dir.join("kv"))?)?, step, end };
    Ok(NodeStores::new(Arc::new(EndingEngine { log, meta }), Arc::new(machine)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_at_any_step_leaves_the_directory_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = small_archive(dir.path()).await;
    let (absent, empty) = (dir.path().join("absent"), dir.path().join("empty"));
    std::fs::create_dir(&empty).unwrap();
    for step in STEPS {
        for target in [&absent, &empty] {
            let open = move |dir: &Path| ending(dir, step, End::Fails);
            let failed = restore(Archive::open(&path).unwrap(), target, alone(), open).await;
            assert!(failed.unwrap_err().to_string().contains("broken"));
        }
        assert!(!absent.exists() && names(&empty).is_empty());
    }
    restore(Archive::open(&path).unwrap(), &empty, alone(), file_stores).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_dies_at_any_step_leaves_a_directory_that_nobody_takes() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = small_archive(dir.path()).await;
    for (number, step) in STEPS.into_iter().enumerate() {
        let target = dir.path().join(format!("t{number}"));
        let open = move |dir: &Path| ending(dir, step, End::Dies);
        restore(Archive::open(&path).unwrap(), &target, alone(), open).await.unwrap_err();
        assert!(names(&target).contains("RESTORING"));
        let again = restore(Archive::open(&path).unwrap(), &target, alone(), file_stores).await;
        assert!(matches!(again, Err(RebuildError::Startup(StartupError::HalfMade { .. }))));
        let (_, shutdown) = watch::channel(());
        let opened = d_engine::open(NodeConfig::new(1, &target), shutdown).await.map(|_| ());
        assert!(matches!(opened, Err(StartupError::HalfMade { .. })));
        let engine = Arc::new(FileStorageEngine::open(target.join("log")).unwrap());
        let machine = Arc::new(KvStateMachine::new(FileKvStore::open(target.join("kv")).unwrap()).unwrap());
        let started = builder(&target, engine, machine).start().await;
        assert!(matches!(started, Err(StartupError::HalfMade { .. })), "also with stores of one's own");
        let recovered = Survivor::open(&target, file_stores).await;
        assert!(matches!(recovered, Err(RebuildError::Startup(StartupError::HalfMade { .. }))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_applies_the_whole_log_in_the_new_directory_and_nothing_in_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("n1");
    let node = d_engine::start(&data).await.unwrap();
    node.put("a", "1").await.unwrap();
    let before = node.digest().await.unwrap();
    node.shutdown().await.unwrap();
    drop(node);
    // Entries that this node holds and does not know to be committed.
    let applied = {
        let engine = FileStorageEngine::open(data.join("log")).unwrap();
        let log = engine.log_store();
        let last = log.entry(log.last_index()).await.unwrap().unwrap();
        let put = |n: u64| {
            let command = KvCommand::Put { key: format!("late{n}").into(), value: "x".into() };
            Entry::new(last.index + n, last.term, EntryKind::Command, command.encode())
        };
        log.persist_entries((1..=3).map(put).collect()).await.unwrap();
        log.flush().await.unwrap();
        last.index
    };
    let survivor = Survivor::open(&data, file_stores).await.unwrap();
    assert_eq!((survivor.node(), survivor.last().index, survivor.applied().index), (1, applied + 3, applied));
    let recovered = survivor.force_new_cluster().await.unwrap();
    assert_eq!((recovered.applied, recovered.at.index), (3, applied + 3));
    assert_eq!(names(dir.path()).len(), 2, "the new directory, and the old one");

    let old = KvStateMachine::new(FileKvStore::open(recovered.old.join("kv")).unwrap()).unwrap();
    assert_eq!((old.last_applied().index, old.get(b"late1").unwrap()), (applied, None));
    drop(old);
    let node = d_engine::start(&data).await.unwrap();
    assert_eq!(node.status().cluster, recovered.cluster);
    assert_eq!(node.status().members.len(), 1);
    for key in ["a", "late1", "late2", "late3"] {
        assert!(node.get(key).await.unwrap().value.is_some(), "{key}");
    }
    node.shutdown().await.unwrap();
    drop(node);

    // Given up again: the old directory goes on where it was, once its mark is gone.
    assert!(matches!(d_engine::start(&recovered.old).await, Err(StartupError::Replaced { .. })));
    std::fs::remove_file(recovered.old.join("REPLACED")).unwrap();
    let (_, shutdown) = watch::channel(());
    let builder = d_engine::open(NodeConfig::new(1, &recovered.old), shutdown).await.unwrap();
    let node = start(builder).await;
    assert_ne!(node.digest().await.unwrap().digest, before.digest, "alone, it may commit what it holds");
    node.shutdown().await.unwrap();
}
