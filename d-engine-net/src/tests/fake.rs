//! A node without consensus: a map, and whatever behaviour a test wants.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::command::{KeySpan, KvChange, KvLease, KvOpResult, KvRange, KvWatch, WatchEnd, WatchMessage};
use d_engine_core::{KvAnswer, KvCommand, KvOutcome, KvQuery, KvRecord, KvReject, KvRequest, LogId, WatchSink};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

use crate::peer::lock;
use crate::{
    ClientError, Hello, MemberStatus, NodeService, NodeStatus, PeerSink, Peers, ReadMode, Reason, Reply, Result,
    SnapshotAnswer, SnapshotHead, SnapshotOffer, SnapshotSink, SnapshotSource, TransferProgress, serve,
};

pub(super) const VALUE_LEN_MAX: usize = 1 << 20;

#[derive(Default)]
pub(super) struct FakeNode {
    map: Mutex<(BTreeMap<Bytes, KvRecord>, u64)>,
    /// Answers everything while set.
    pub(super) error: Mutex<Option<ClientError>>,
    /// What commands of sessions were answered.
    answered: Mutex<HashMap<(u64, u64), Bytes>>,
    watching: Mutex<Watching>,
    /// So many commands are applied and answered as `Unknown`.
    pub(super) doubts: AtomicUsize,
    /// Never answers proposals while set.
    pub(super) silent: Mutex<bool>,
    /// Refuses typed calls while set, as a node with a machine of its own does.
    pub(super) foreign: Mutex<bool>,
    /// Answers commands in no known language while set.
    pub(super) garbled: Mutex<bool>,
    pub(super) arrived: Notify,
    pub(super) proposals: AtomicUsize,
    pub(super) forwarded: AtomicUsize,
    pub(super) reads: AtomicUsize,
    /// Says who leads to those that ask for the leader, while set; how many did.
    pub(super) follows: Mutex<Option<ClientError>>,
    pub(super) pointed: AtomicUsize,
    /// Takes snapshots while set; what has arrived of the last one.
    pub(super) snapshot: Arc<Mutex<Option<Vec<u8>>>>,
}

/// Where a fake node puts a snapshot.
struct Pile {
    bytes: Arc<Mutex<Option<Vec<u8>>>>,
    at: LogId,
}

#[async_trait]
impl SnapshotSink for Pile {
    fn offset(&self) -> u64 {
        lock(&self.bytes).as_ref().map_or(0, |bytes| bytes.len() as u64)
    }

    async fn write(&mut self, offset: u64, chunk: Bytes) -> Result<(), String> {
        let expected = self.offset();
        match &mut *lock(&self.bytes) {
            Some(bytes) if offset == expected => {
                bytes.extend_from_slice(&chunk);
                Ok(())
            }
            _ => Err(format!("a chunk at {offset}, expected one at {expected}")),
        }
    }

    async fn finish(self: Box<Self>) -> Result<Option<LogId>, String> {
        Ok(Some(self.at))
    }
}

/// A snapshot of six bytes that a fake node gives away, two at a time, as far as it has them.
struct Given {
    bytes: Bytes,
}

#[async_trait]
impl SnapshotSource for Given {
    fn head(&self) -> SnapshotHead {
        let SnapshotOffer { metadata, digest, .. } = super::snapshots::offer();
        SnapshotHead { node: 1, metadata, digest }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        match self.bytes.len() {
            0 => Ok(None),
            1 => Err("the disk is broken".to_owned()),
            _ => Ok(Some(self.bytes.split_to(2))),
        }
    }
}

/// The history, and who follows it.
#[derive(Default)]
struct Watching {
    history: Vec<(u64, KvChange)>,
    /// Changes before this revision are not told any more.
    kept_from: u64,
    sinks: Vec<Box<dyn WatchSink>>,
}

fn told(revision: u64, change: KvChange) -> Bytes {
    WatchMessage::Changes { revision, changes: vec![change], more: false }.encode()
}

impl FakeNode {
    fn tell(&self, revision: u64, change: KvChange) {
        let mut watching = lock(&self.watching);
        watching.sinks.retain_mut(|sink| sink.offer(told(revision, change.clone())));
        watching.history.push((revision, change));
    }

    /// Forgets the changes before a revision, as a node that has started anew.
    pub(super) fn keep_from(&self, revision: u64) {
        lock(&self.watching).kept_from = revision;
    }

    /// Ends every watch.
    pub(super) fn end_watches(&self, end: WatchEnd) {
        let sinks = std::mem::take(&mut lock(&self.watching).sinks);
        sinks.into_iter().for_each(|sink| sink.end(WatchMessage::Ended(end).encode()));
    }

    /// The answer to a command; the first one, to one of a session that comes again.
    fn answer(&self, request: KvRequest, index: u64) -> Bytes {
        let key = request.session.map(|header| (header.session, header.sequence));
        if let Some(answer) = key.and_then(|key| lock(&self.answered).get(&key).cloned()) {
            return answer;
        }
        let answer = self.apply(request.command, index).encode();
        if let Some(key) = key {
            lock(&self.answered).insert(key, answer.clone());
        }
        answer
    }

    pub(super) fn fail_with(&self, error: impl Into<Option<ClientError>>) {
        *lock(&self.error) = error.into();
    }

    fn apply(&self, command: KvCommand, index: u64) -> KvOutcome {
        let mut state = lock(&self.map);
        let (map, revision) = &mut *state;
        match command {
            KvCommand::Put { key, value } => {
                *revision += 1;
                let record = KvRecord::new(key.clone(), value, *revision, *revision, 1);
                map.insert(key, record.clone());
                self.tell(*revision, KvChange::Put { record, prev: None });
                KvOutcome::Put { revision: *revision }
            }
            KvCommand::Delete { key } => {
                let existed = map.remove(&key).is_some();
                *revision += u64::from(existed);
                KvOutcome::Deleted { revision: *revision, existed }
            }
            KvCommand::Cas { key, expected, value } => {
                let current = map.get(&key).map(|record| record.value.clone());
                if current != expected {
                    return KvOutcome::Cas { revision: *revision, succeeded: false, current };
                }
                *revision += 1;
                match value {
                    Some(value) => drop(map.insert(key.clone(), KvRecord::new(key, value, *revision, *revision, 1))),
                    None => drop(map.remove(&key)),
                }
                KvOutcome::Cas { revision: *revision, succeeded: true, current: None }
            }
            KvCommand::SessionOpen => KvOutcome::SessionOpened { revision: *revision, session: index, window: 4 },
            KvCommand::SessionClose { .. } => KvOutcome::SessionClosed { revision: *revision, existed: true },
            KvCommand::PutWith(_) => {
                let prev = Some(KvRecord::new("k", "before", 1, 2, 3));
                KvOutcome::Done { revision: *revision, result: KvOpResult::Put { lease: 5, prev } }
            }
            KvCommand::DeleteRange(_) => {
                let prev = vec![KvRecord::new("k", "before", 1, 2, 3)];
                KvOutcome::Done { revision: *revision, result: KvOpResult::Deleted { deleted: 1, prev } }
            }
            KvCommand::Txn(txn) => {
                let result = |_| KvOpResult::Put { lease: 0, prev: None };
                let results = txn.then.iter().map(result).collect();
                KvOutcome::Txn { revision: *revision, succeeded: true, results }
            }
            KvCommand::LeaseGrant { id, ttl_ms } => {
                KvOutcome::LeaseGranted { revision: *revision, id: id.max(1), ttl_ms }
            }
            KvCommand::LeaseRevoke { id } if id > 1_000 => KvOutcome::Rejected(KvReject::LeaseNotFound { id }),
            KvCommand::LeaseRevoke { .. } => KvOutcome::LeasesEnded { revision: *revision, leases: 1, keys: 2 },
            KvCommand::LeaseKeepAlive { ids } => KvOutcome::LeasesKept {
                revision: index,
                ttls_ms: ids.iter().map(|id| if *id > 1_000 { 0 } else { 10 }).collect(),
            },
            _ => KvOutcome::Rejected(KvReject::Malformed { why: "not known here".to_owned() }),
        }
    }
}

#[async_trait]
impl NodeService for FakeNode {
    async fn propose(&self, command: Bytes, forwarded: bool) -> Result<Reply> {
        let index = self.proposals.fetch_add(1, Ordering::Relaxed) as u64 + 1;
        self.forwarded.fetch_add(usize::from(forwarded), Ordering::Relaxed);
        self.arrived.notify_one();
        if *lock(&self.silent) {
            std::future::pending::<()>().await;
        }
        if let Some(error) = lock(&self.error).clone() {
            return Err(error);
        }
        let answer = match KvRequest::decode_bytes(command) {
            Ok(request) => self.answer(request, index),
            Err(error) => KvOutcome::Rejected(KvReject::Malformed { why: error.to_string() }).encode(),
        };
        let take_one = |doubts: usize| doubts.checked_sub(1);
        if self.doubts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take_one).is_ok() {
            return Err(ClientError::Unknown);
        }
        let response = if *lock(&self.garbled) { Bytes::from_static(b"!") } else { answer };
        Ok(Reply { at: LogId::new(7, index), response })
    }

    async fn read(&self, query: Bytes, mode: ReadMode) -> Result<Reply> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if mode == ReadMode::Linearizable
            && let Some(error) = lock(&self.error).clone()
        {
            return Err(error);
        }
        let query = KvQuery::decode_bytes(query).map_err(|error| ClientError::malformed(error.to_string()))?;
        let state = lock(&self.map);
        let (map, revision) = (&state.0, state.1);
        let answer = match query {
            KvQuery::Get { key } => KvAnswer::Get { record: map.get(&key).cloned(), revision },
            KvQuery::Range(KvRange { count_only: true, .. }) => KvAnswer::Count { count: map.len() as u64, revision },
            KvQuery::Lease { id, .. } => {
                let lease = (id <= 1_000).then(|| KvLease::new(id, 10, 9, 0));
                KvAnswer::Lease { lease, revision }
            }
            KvQuery::Leases { after, .. } => KvAnswer::Leases { ids: vec![after + 1], more: false, revision },
            KvQuery::Range(KvRange { span: KeySpan { start, end }, limit, .. }) => {
                let inside = map.range(start..).map(|(_, record)| record.clone());
                let mut records: Vec<_> =
                    inside.take_while(|record| end.as_ref().is_none_or(|end| record.key < end)).collect();
                let more = limit > 0 && records.len() > limit as usize;
                if more {
                    records.truncate(limit as usize);
                }
                KvAnswer::Range { records, more, revision }
            }
            _ => KvAnswer::Digest { digest: [3; 32], keys: map.len() as u64, revision },
        };
        Ok(Reply { at: LogId::new(7, revision), response: answer.encode() })
    }

    fn check_leads(&self) -> Result<()> {
        let Some(leader) = lock(&self.follows).clone() else { return Ok(()) };
        self.pointed.fetch_add(1, Ordering::Relaxed);
        Err(leader)
    }

    fn check_key_value(&self) -> Result<()> {
        let why = "a machine of its own".to_owned();
        if *lock(&self.foreign) { Err(Reason::Unsupported { why }.into()) } else { Ok(()) }
    }

    fn watch(&self, request: Bytes, mut sink: Box<dyn WatchSink>) -> Result<()> {
        let watch = KvWatch::decode_bytes(request).map_err(|error| ClientError::malformed(error.to_string()))?;
        let state = lock(&self.map);
        let revision = state.1;
        let mut watching = lock(&self.watching);
        if watch.from_revision != 0 && watch.from_revision < watching.kept_from {
            let end = WatchEnd::Compacted { first_revision: watching.kept_from };
            sink.end(WatchMessage::Ended(end).encode());
            return Ok(());
        }
        sink.offer(WatchMessage::Created { revision }.encode());
        for (revision, change) in &watching.history {
            if watch.from_revision != 0 && *revision >= watch.from_revision {
                sink.offer(told(*revision, change.clone()));
            }
        }
        watching.sinks.push(sink);
        Ok(())
    }

    fn status(&self) -> NodeStatus {
        let member = MemberStatus {
            node: 1,
            address: "127.0.0.1:1".to_owned(),
            kind: "voter".to_owned(),
            matched: Some(4),
            silent_for_ms: None,
            incarnation: 9,
            snapshot: Some(TransferProgress { done: 1, total: 2 }),
        };
        NodeStatus {
            node: 1,
            cluster: u128::MAX - 1,
            incarnation: 3,
            role: "leader".to_owned(),
            term: 7,
            leader: Some(1),
            commit: 4,
            applied: 3,
            persisted: 5,
            last: 6,
            members: vec![member],
            failure: Some("none really".to_owned()),
            waiting_for: vec![2, 3],
            version: "0.3.0".to_owned(),
            pid: 42,
            sync_micros_p50: Some(46),
            sync_micros_p99: None,
            purged: 2,
            snapshot: Some(3),
            receiving: Some(TransferProgress { done: 3, total: 4 }),
        }
    }

    fn max_value_len(&self) -> usize {
        VALUE_LEN_MAX
    }

    async fn take_snapshot(&self, offer: SnapshotOffer) -> Result<SnapshotAnswer, String> {
        let bytes = self.snapshot.clone();
        if lock(&bytes).is_none() {
            return Err("no place for it".to_owned());
        }
        Ok(SnapshotAnswer::Accepted(Box::new(Pile { bytes, at: offer.metadata.last_included })))
    }

    async fn fetch_snapshot(&self, local: bool) -> Result<Box<dyn SnapshotSource>> {
        if !local {
            return Err(ClientError::unavailable("no leader is known"));
        }
        let bytes = lock(&self.snapshot).clone().ok_or_else(|| ClientError::unavailable("nothing to give"))?;
        Ok(Box::new(Given { bytes: bytes.into() }))
    }
}

/// A server on a port of its own.
pub(super) struct FakeServer {
    pub(super) node: Arc<FakeNode>,
    pub(super) address: String,
    pub(super) peers: Arc<Peers>,
    stop: oneshot::Sender<()>,
    pub(super) task: JoinHandle<()>,
}

impl FakeServer {
    pub(super) async fn start() -> Self {
        Self::start_at("127.0.0.1:0", hello(1), Arc::new(|_| {})).await
    }

    pub(super) async fn start_at(address: &str, hello: watch::Receiver<Hello>, sink: PeerSink) -> Self {
        Self::start_with(address, Arc::default(), hello, sink).await
    }

    /// Another server of the same node.
    pub(super) async fn start_another(&self) -> Self {
        Self::start_with("127.0.0.1:0", self.node.clone(), hello(2), Arc::new(|_| {})).await
    }

    async fn start_with(address: &str, node: Arc<FakeNode>, hello: watch::Receiver<Hello>, sink: PeerSink) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let peers = Arc::new(Peers::start(hello, sink));
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = serve(listener, node.clone(), peers.clone(), async move { drop(stopped.await) });
        let task = tokio::spawn(async move { serving.await.unwrap() });
        Self { node, address, peers, stop, task }
    }

    /// Ends as a process should.
    pub(super) async fn stop(self) {
        self.peers.shutdown().await;
        let _ = self.stop.send(());
        self.task.await.unwrap();
    }

    /// Ends without a word to anybody.
    pub(super) async fn kill(self) {
        self.peers.shutdown().await;
        self.task.abort();
        let _ = self.task.await;
    }
}

/// The facts of a node that never change.
pub(super) fn hello(node: u64) -> watch::Receiver<Hello> {
    watch::channel(facts(node)).1
}

pub(super) fn facts(node: u64) -> Hello {
    Hello {
        cluster: 0xc1,
        election_timeout_min_ms: 500,
        clock_drift_ppm: 500,
        ..Hello::new(node, 1000 + u128::from(node))
    }
}
