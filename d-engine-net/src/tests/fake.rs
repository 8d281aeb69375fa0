//! A node without consensus: a map, and whatever behaviour a test wants.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::command::{KeySpan, KvRange};
use d_engine_core::{KvAnswer, KvCommand, KvOutcome, KvQuery, KvRecord, KvReject, LogId};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

use crate::peer::lock;
use crate::{
    ClientError, Hello, MemberStatus, NodeService, NodeStatus, PeerSink, Peers, ReadMode, Reason, Reply, Result,
    SnapshotAnswer, SnapshotOffer, SnapshotSink, TransferProgress, serve,
};

pub(super) const VALUE_LEN_MAX: usize = 1 << 20;

#[derive(Default)]
pub(super) struct FakeNode {
    map: Mutex<(BTreeMap<Bytes, KvRecord>, u64)>,
    /// Answers everything while set.
    pub(super) error: Mutex<Option<ClientError>>,
    /// Never answers proposals while set.
    pub(super) silent: Mutex<bool>,
    /// Refuses typed calls while set, as a node with a machine of its own does.
    pub(super) foreign: Mutex<bool>,
    /// Answers commands in no known language while set.
    pub(super) garbled: Mutex<bool>,
    pub(super) arrived: Notify,
    pub(super) proposals: AtomicUsize,
    pub(super) forwarded: AtomicUsize,
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

impl FakeNode {
    pub(super) fn fail_with(&self, error: impl Into<Option<ClientError>>) {
        *lock(&self.error) = error.into();
    }

    fn apply(&self, command: KvCommand) -> KvOutcome {
        let mut state = lock(&self.map);
        let (map, revision) = &mut *state;
        match command {
            KvCommand::Put { key, value } => {
                *revision += 1;
                map.insert(key.clone(), KvRecord::new(key, value, *revision, *revision, 1));
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
        let outcome = match KvCommand::decode_bytes(command) {
            Ok(command) => self.apply(command),
            Err(error) => KvOutcome::Rejected(KvReject::Malformed { why: error.to_string() }),
        };
        let response = if *lock(&self.garbled) { Bytes::from_static(b"!") } else { outcome.encode() };
        Ok(Reply { at: LogId::new(7, index), response })
    }

    async fn read(&self, query: Bytes, mode: ReadMode) -> Result<Reply> {
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

    fn check_key_value(&self) -> Result<()> {
        let why = "a machine of its own".to_owned();
        if *lock(&self.foreign) { Err(Reason::Unsupported { why }.into()) } else { Ok(()) }
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
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let node = Arc::new(FakeNode::default());
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
