//! The node's place on the network: peers, the server, and the way to the leader for callers of this node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{KvAnswer, KvQuery, LogId, WatchSink};
use d_engine_net::{
    ClientError, Connection, NodeService, NodeStatus, Operated, Operation, PeerEvent, PeerSink, Peers, ReadMode, Reply,
    Result, SnapshotAnswer, SnapshotOffer, SnapshotSource, serve,
};
use d_engine_raft::{Input, NodeId};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::inbox::Inbox;
use crate::shared::Shared;

pub(crate) struct Network {
    peers: Arc<Peers>,
    leaders: Mutex<BTreeMap<NodeId, Connection>>,
    stop: watch::Sender<bool>,
    server: Mutex<Option<JoinHandle<()>>>,
}

impl Network {
    /// Serves peers and callers on `listener`.
    pub(crate) fn start(listener: TcpListener, shared: &Arc<Shared>, peers: Arc<Peers>) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let service = Arc::new(Service { shared: Arc::downgrade(shared) });
        let (serving, node) = (Arc::clone(&peers), shared.id());
        let server = tokio::spawn(async move {
            let until = async move {
                // An error means that the node is gone: that is the end as well.
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            if let Err(error) = serve(listener, service, serving, until).await {
                tracing::error!(node, %error, "the server ended; this node is reached in process only");
            }
        });
        Self { peers, leaders: Mutex::default(), stop, server: Mutex::new(Some(server)) }
    }

    /// Passes a command on to the leader, who does not pass it further.
    pub(crate) async fn propose(
        &self,
        leader: NodeId,
        address: String,
        command: Bytes,
        deadline: Instant,
    ) -> Result<Reply> {
        let connection = self.connection(leader, address);
        connection.propose(command, true, deadline).await
    }

    /// Passes an operation on to the leader, who does not pass it further.
    pub(crate) async fn operate(
        &self,
        leader: NodeId,
        address: String,
        operation: Operation,
        deadline: Instant,
    ) -> Result<Operated> {
        self.connection(leader, address).operate(operation, true, deadline).await
    }

    fn connection(&self, leader: NodeId, address: String) -> Connection {
        let mut leaders = self.leaders.lock().unwrap_or_else(PoisonError::into_inner);
        match leaders.get(&leader) {
            Some(connection) if connection.address() == address => connection.clone(),
            _ => {
                let connection = Connection::new(address);
                leaders.insert(leader, connection.clone());
                connection
            }
        }
    }

    /// Ends the server and all streams.
    pub(crate) async fn shutdown(&self) {
        self.stop.send_replace(true);
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(server) = server
            && let Err(error) = server.await
            && error.is_panic()
        {
            tracing::error!("the server panicked");
        }
        self.peers.shutdown().await;
        self.leaders.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Ends the server without waiting, for a node that is dropped.
    pub(crate) fn abort(&self) {
        self.stop.send_replace(true);
        if let Some(server) = self.server.lock().unwrap_or_else(PoisonError::into_inner).take() {
            server.abort();
        }
    }
}

/// Hands what peers bring to the driver, and remembers who cannot be reached.
pub(crate) fn sink(inbox: Arc<Inbox>, shared: Weak<Shared>) -> PeerSink {
    Arc::new(move |event| match event {
        PeerEvent::Messages { from, messages } => {
            inbox.deliver(from, messages);
        }
        PeerEvent::Hello { hello } => {
            inbox.complete(Input::PeerHello {
                from: hello.node,
                incarnation: hello.incarnation,
                feature_level: hello.feature_level,
            });
            if let Some(shared) = shared.upgrade().filter(|_| hello.is_advertised) {
                shared.note_address(hello.node, hello.incarnation, hello.address);
            }
        }
        PeerEvent::Unreachable { to, why } => {
            if let Some(shared) = shared.upgrade() {
                shared.unreachable.lock().unwrap_or_else(PoisonError::into_inner).insert(to, why);
            }
            inbox.complete(Input::Unreachable { to });
        }
        PeerEvent::Connected { to } => {
            if let Some(shared) = shared.upgrade() {
                shared.unreachable.lock().unwrap_or_else(PoisonError::into_inner).remove(&to);
            }
        }
    })
}

/// The node, as its server sees it. Does not keep the node alive.
struct Service {
    shared: Weak<Shared>,
}

impl Service {
    fn shared(&self) -> Result<Arc<Shared>> {
        self.shared.upgrade().ok_or(ClientError::ShuttingDown)
    }
}

#[async_trait]
impl NodeService for Service {
    async fn propose(&self, command: Bytes, forwarded: bool) -> Result<Reply> {
        self.shared()?.propose(command, forwarded).await
    }

    async fn read(&self, query: Bytes, mode: ReadMode) -> Result<Reply> {
        self.shared()?.read(query, mode).await
    }

    async fn ask(&self, query: KvQuery, mode: ReadMode) -> Result<(LogId, KvAnswer)> {
        self.shared()?.ask_typed(query, mode).await
    }

    fn check_leads(&self) -> Result<()> {
        let shared = self.shared()?;
        let other = shared.published.leader().is_some_and(|leader| leader != shared.id());
        if other { Err(shared.not_leader()) } else { Ok(()) }
    }

    fn check_key_value(&self) -> Result<()> {
        self.shared()?.check_key_value()
    }

    fn watch(&self, request: Bytes, sink: Box<dyn WatchSink>) -> Result<()> {
        self.shared()?.begin_watch(request, sink)
    }

    fn status(&self) -> NodeStatus {
        self.shared().map(|shared| shared.status()).unwrap_or_default()
    }

    fn max_value_len(&self) -> usize {
        self.shared().map(|shared| shared.config.limits.max_value_bytes).unwrap_or_default()
    }

    async fn operate(&self, operation: Operation, forwarded: bool) -> Result<Operated> {
        self.shared()?.operate(operation, forwarded).await
    }

    async fn take_snapshot(&self, offer: SnapshotOffer) -> Result<SnapshotAnswer, String> {
        self.shared().map_err(|error| error.to_string())?.take_snapshot(offer).await
    }

    async fn fetch_snapshot(&self, local: bool) -> Result<Box<dyn SnapshotSource>> {
        self.shared()?.fetch_snapshot(local).await
    }
}
