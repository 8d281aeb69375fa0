//! What a node's callers, its server and its own threads share, and how a call becomes an answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use d_engine_core::{Error, KvAnswer, KvQuery, KvRequest, LogId, StateMachine};
use d_engine_net::{ClientError, LeaderHint, ReadMode, Reason, Reply, Result};
use d_engine_raft::{NodeId, Rejection};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::NodeConfig;
use crate::clock::Clock;
use crate::disk::SyncLatencies;
use crate::inbox::{Applied, Inbox, NoAnswer, NotTaken, Place, Refusal};
use crate::key_value::check_is_for_callers;
use crate::local_router::LocalRouter;
use crate::machine_handle::MachineHandle;
use crate::place::PlaceInCluster;
use crate::published::Published;
use crate::snapshot_store::SnapshotStore;

/// How long a call waits before it asks again, unless an election ends earlier.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

pub(crate) struct Shared {
    pub(crate) config: NodeConfig,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) published: Arc<Published>,
    pub(crate) applied: Arc<AtomicU64>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) latencies: Arc<SyncLatencies>,
    pub(crate) route: Route,
    /// Peers that cannot be reached, with the reasons.
    pub(crate) unreachable: Mutex<BTreeMap<NodeId, String>>,
    pub(crate) snapshots: Arc<SnapshotStore>,
    pub(crate) place: Mutex<PlaceInCluster>,
    pub(crate) is_removed: AtomicBool,
    /// Tasks of the node itself; they end with it.
    tasks: Mutex<JoinSet<()>>,
    /// Given up at the end, so that the machine's directory is free although handles of the node remain.
    machine: MachineHandle,
    open: AtomicBool,
    speaks_key_value: AtomicU8,
}

/// How a call reaches the leader.
pub(crate) enum Route {
    /// There are no other nodes to reach.
    Nowhere,
    /// Within the process.
    InProcess(LocalRouter),
    /// Over the network; set once the server runs.
    #[cfg(feature = "server")]
    Network(std::sync::OnceLock<Arc<crate::network::Network>>),
}

/// What one attempt of a call came to.
pub(crate) enum Attempt<T> {
    Done(T),
    /// Without effect, because this node does not lead.
    NotLeader,
}

/// What a node's callers and threads share from its start.
pub(crate) struct Parts {
    pub(crate) config: NodeConfig,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) published: Arc<Published>,
    pub(crate) applied: Arc<AtomicU64>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) latencies: Arc<SyncLatencies>,
    pub(crate) route: Route,
    pub(crate) machine: Arc<dyn StateMachine>,
    pub(crate) snapshots: Arc<SnapshotStore>,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { config, inbox, published, applied, clock, latencies, route, machine, snapshots } = parts;
        Self {
            config,
            inbox,
            published,
            applied,
            clock,
            latencies,
            route,
            unreachable: Mutex::default(),
            snapshots,
            place: Mutex::default(),
            is_removed: AtomicBool::new(false),
            tasks: Mutex::default(),
            machine: MachineHandle::new(&machine),
            open: AtomicBool::new(true),
            speaks_key_value: AtomicU8::new(0),
        }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.config.node.id
    }

    /// The server and the streams to peers, if there are any.
    #[cfg(feature = "server")]
    pub(crate) fn network(&self) -> Option<&crate::network::Network> {
        match &self.route {
            Route::Network(network) => network.get().map(AsRef::as_ref),
            _ => None,
        }
    }

    /// Whether calls are taken.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Takes no more calls.
    pub(crate) fn refuse_calls(&self) {
        self.open.store(false, Ordering::Release);
    }

    /// Starts a task that ends with the node.
    pub(crate) fn own(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended are taken out here, so that they do not pile up.
        while tasks.try_join_next().is_some() {}
        if self.is_open() {
            tasks.spawn(task);
        }
    }

    /// Ends the node's tasks.
    pub(crate) fn end_tasks(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }

    /// Gives the state machine up.
    pub(crate) fn release_machine(&self) {
        self.machine.release();
    }

    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.config.request_timeout()
    }

    /// [`propose_checked`](Shared::propose_checked) of a command from outside.
    pub(crate) async fn propose(&self, command: Bytes, forwarded: bool) -> Result<Reply> {
        self.check_command(&command)?;
        if self.speaks_key_value()? {
            let command = KvRequest::decode_bytes(command.clone())
                .map_err(|error| ClientError::malformed(error.to_string()))?
                .command;
            check_is_for_callers(&command)?;
            command.check(self.config.limits.max_value_bytes)?;
        }
        self.propose_checked(command, forwarded).await
    }

    /// [`propose_until`](Shared::propose_until) with the time for one call.
    pub(crate) async fn propose_checked(&self, command: Bytes, forwarded: bool) -> Result<Reply> {
        self.propose_until(command, forwarded, self.deadline()).await
    }

    /// Proposes a command and waits until it is applied; passes it on, once, if another node leads.
    pub(crate) async fn propose_until(&self, command: Bytes, forwarded: bool, deadline: Instant) -> Result<Reply> {
        let limit = self.config.max_command_bytes();
        if command.len() > limit {
            return Err(Reason::TooLarge { len: command.len() as u64, limit: limit as u64 }.into());
        }
        let _place = self.enter(command.len())?;
        loop {
            match self.published.leader() {
                Some(leader) if leader != self.id() && !forwarded => {
                    if let Attempt::Done(reply) = self.forward(leader, command.clone(), deadline).await? {
                        return Ok(reply);
                    }
                }
                None if !forwarded && self.published.failure().is_none() => {}
                _ => match self.propose_here(command.clone(), deadline).await? {
                    Attempt::Done(Applied { at, response }) => return Ok(Reply { at, response }),
                    Attempt::NotLeader if forwarded => return Err(self.not_leader()),
                    Attempt::NotLeader => {}
                },
            }
            self.wait_for_leader(deadline).await?;
        }
    }

    async fn propose_here(&self, command: Bytes, deadline: Instant) -> Result<Attempt<Applied>> {
        crate::budget::reached("enter", self.id(), 0);
        let (answer, gathering) = self.inbox_open()?.propose_along(command, deadline).map_err(refused)?;
        if let Some(gathering) = gathering {
            gathering.gather().await;
        }
        match answer.await {
            Ok(Ok(applied)) => {
                crate::budget::reached("answer", self.id(), applied.at.index);
                Ok(Attempt::Done(applied))
            }
            Ok(Err(Refusal::Rejected(Rejection::NotLeader { .. }))) => Ok(Attempt::NotLeader),
            Ok(Err(Refusal::Rejected(rejection))) => Err(rejected(rejection)),
            Ok(Err(Refusal::Unknown(why))) => {
                tracing::debug!(why, "the fate of a write is not known");
                Err(ClientError::Unknown)
            }
            // Taken in and not answered: it may be in the log.
            Ok(Err(Refusal::Stopping)) | Err(NoAnswer::Dropped | NoAnswer::Late) => Err(ClientError::Unknown),
        }
    }

    /// Passes a command on to the leader.
    async fn forward(&self, leader: NodeId, command: Bytes, deadline: Instant) -> Result<Attempt<Reply>> {
        let answer = match &self.route {
            Route::Nowhere => return Err(self.not_leader()),
            Route::InProcess(router) => match router.reach(self.id(), leader) {
                Some(leader) => Box::pin(leader.propose_checked(command, true)).await,
                None => return Ok(Attempt::NotLeader),
            },
            #[cfg(feature = "server")]
            Route::Network(network) => match (network.get(), self.published.address_of(leader)) {
                (Some(network), Some(address)) => network.propose(leader, address, command, deadline).await,
                _ => return Ok(Attempt::NotLeader),
            },
        };
        let _ = deadline;
        match answer {
            Ok(reply) => Ok(Attempt::Done(reply)),
            // Certainly without effect there: the next leader may be asked.
            Err(ClientError::NotLeader { .. } | ClientError::Unavailable { .. } | ClientError::ShuttingDown) => {
                Ok(Attempt::NotLeader)
            }
            Err(error) => Err(error),
        }
    }

    /// A place among the calls under way, to be held to the call's end: whatever it waits for, it holds its command.
    fn enter(&self, bytes: usize) -> Result<Place<'_>> {
        self.inbox_open()?.enter(bytes).map_err(refused)
    }

    /// Asks the state machine.
    pub(crate) async fn read(&self, query: Bytes, mode: ReadMode) -> Result<Reply> {
        self.make_fresh(query.len(), mode).await?;
        self.read_here(query)
    }

    /// Asks the state machine for a key.
    pub(crate) async fn read_bytes(&self, key: &[u8], mode: ReadMode) -> Result<Option<Bytes>> {
        self.make_fresh(key.len(), mode).await?;
        self.with_machine(|machine| machine.get_bytes(key))
    }

    /// Returns once this node's own copy is as fresh as `mode` asks for. A call of `bytes` waits meanwhile.
    pub(crate) async fn make_fresh(&self, bytes: usize, mode: ReadMode) -> Result<()> {
        if self.is_fresh(mode) {
            return Ok(());
        }
        let _place = self.enter(bytes)?;
        self.confirm_read(mode == ReadMode::Lease).await
    }

    /// Whether this node's own copy is as fresh as `mode` asks for without asking anybody.
    pub(crate) fn is_fresh(&self, mode: ReadMode) -> bool {
        match mode {
            ReadMode::Local => true,
            ReadMode::Lease => self.may_read_by_lease(),
            ReadMode::Linearizable => false,
        }
    }

    /// Whether this node's own copy is the newest, by its lease: a few loads.
    fn may_read_by_lease(&self) -> bool {
        let index = self.published.lease.read_index(&*self.clock);
        index.is_some_and(|index| self.applied() >= index) && self.is_open()
    }

    pub(crate) fn read_here(&self, query: Bytes) -> Result<Reply> {
        let (response, at) = self.with_machine(|machine| machine.read_at(query))?;
        Ok(Reply { at, response })
    }

    pub(crate) fn with_machine<T>(&self, ask: impl FnOnce(&dyn StateMachine) -> Result<T, Error>) -> Result<T> {
        let Some(answer) = self.machine.ask(ask) else { return Err(ClientError::ShuttingDown) };
        answer.map_err(|error| match error {
            Error::Unsupported { what } => Reason::Unsupported { why: what }.into(),
            Error::Invalid { why } => ClientError::malformed(why),
            other => ClientError::unavailable(format!("the state machine cannot be read: {other}")),
        })
    }

    /// Returns once everything that was answered before the call is applied here (§6.4): confirmed by a round, or by the
    /// lease if that is trusted and there is one.
    pub(crate) async fn confirm_read(&self, by_lease: bool) -> Result<()> {
        let deadline = self.deadline();
        loop {
            crate::budget::reached("enter", self.id(), 0);
            let (answer, gathering) = self.inbox_open()?.read_along(by_lease, deadline).map_err(refused)?;
            if let Some(gathering) = gathering {
                gathering.gather().await;
            }
            match answer.await {
                Ok(Ok(())) => {
                    crate::budget::reached("answer", self.id(), 0);
                    return Ok(());
                }
                Ok(Err(Refusal::Rejected(Rejection::NotLeader { .. }))) => self.wait_for_leader(deadline).await?,
                Ok(Err(Refusal::Rejected(rejection))) => return Err(rejected(rejection)),
                Ok(Err(Refusal::Unknown(why))) => return Err(ClientError::unavailable(why)),
                Ok(Err(Refusal::Stopping)) | Err(NoAnswer::Dropped) => return Err(self.ended()),
                Err(NoAnswer::Late) => return Err(ClientError::unavailable(self.situation())),
            }
        }
    }

    /// Waits until another leader is known, or it is time to ask the same one again.
    ///
    /// # Errors
    /// The deadline has passed.
    pub(crate) async fn wait_for_leader(&self, deadline: Instant) -> Result<()> {
        self.inbox_open()?;
        let mut leadership = self.published.leadership();
        let again = deadline.min(Instant::now() + RETRY_INTERVAL);
        let known = async {
            let before = *leadership.borrow_and_update();
            leadership.wait_for(|now| now.leader.is_some() && *now != before).await.map(|_| ())
        };
        // A leader that is found, a node that ended, the time to ask again: the caller looks.
        let _ = tokio::time::timeout_at(again, known).await;
        if Instant::now() >= deadline { Err(ClientError::unavailable(self.situation())) } else { Ok(()) }
    }

    /// Makes a snapshot of the state and waits until it is durable; gives its last entry.
    pub(crate) async fn snapshot(&self) -> Result<LogId> {
        let _place = self.enter(0)?;
        match self.inbox_open()?.snapshot().map_err(refused)?.await {
            Ok(Ok(at)) => Ok(at),
            Ok(Err(Refusal::Rejected(rejection))) => Err(rejected(rejection)),
            Ok(Err(Refusal::Unknown(why))) => Err(ClientError::unavailable(why)),
            Ok(Err(Refusal::Stopping)) | Err(_) => Err(self.ended()),
        }
    }

    pub(crate) fn inbox_open(&self) -> Result<&Inbox> {
        if !self.is_open() {
            return Err(self.ended());
        }
        self.removed().map_or(Ok(&*self.inbox), |why| Err(ClientError::unavailable(why)))
    }

    /// Why nobody answers any more.
    pub(crate) fn ended(&self) -> ClientError {
        match self.published.failure() {
            Some(why) => ClientError::unavailable(format!("node {} takes part no more: {why}", self.id())),
            None => ClientError::ShuttingDown,
        }
    }

    pub(crate) fn not_leader(&self) -> ClientError {
        let leader = self.published.leader().filter(|leader| *leader != self.id());
        ClientError::NotLeader {
            leader: leader
                .map(|node| LeaderHint { node, address: self.published.address_of(node).unwrap_or_default() }),
        }
    }

    /// Why a call found nobody to serve it, in plain words.
    pub(crate) fn situation(&self) -> String {
        let status = self.published.status();
        let within = self.config.limits.request_timeout_ms;
        let mut text = match status.leader {
            _ if status.failure.is_some() => {
                format!("node {} takes part no more: {}", status.node, status.failure.unwrap_or_default())
            }
            _ if self.trouble().is_some() => self.trouble().unwrap_or_default(),
            _ if !status.identity.formed && self.config.cluster.join.is_some() => {
                format!("node {} belongs to no cluster yet; it waits to be added to one", status.node)
            }
            _ if !status.identity.formed => format!(
                "node {} belongs to no cluster yet; founders that have not answered: {}",
                status.node,
                list(status.waiting_for)
            ),
            Some(leader) if leader == status.node => {
                let silent =
                    status.peers.iter().filter(|peer| peer.silent_for.is_none_or(|time| time > RETRY_INTERVAL * 4));
                format!(
                    "node {leader} leads in term {}, but no quorum has confirmed it within {within} ms; silent: {}",
                    status.term,
                    list(silent.map(|peer| peer.node))
                )
            }
            Some(leader) => format!("node {leader} leads, but has not answered within {within} ms"),
            None => format!(
                "no leader is known after {within} ms (term {}); a majority of the voters {} must run and reach each other",
                status.term,
                list(status.membership.voters())
            ),
        };
        for (node, why) in self.unreachable.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            text.push_str(&format!("; node {node} cannot be reached: {why}"));
        }
        text
    }

    /// Refuses typed calls unless the state machine answers key-value queries.
    ///
    /// # Errors
    /// `Rejected` for a machine of one's own.
    pub(crate) fn check_key_value(&self) -> Result<()> {
        if self.speaks_key_value()? {
            return Ok(());
        }
        let why = "this node's state machine is not the built-in key-value machine; use Node::propose and Node::read";
        Err(Reason::Unsupported { why: why.into() }.into())
    }

    /// Whether the state machine is the built-in one, or one that answers its queries. It is asked once.
    fn speaks_key_value(&self) -> Result<bool> {
        const YES: u8 = 1;
        const NO: u8 = 2;
        match self.speaks_key_value.load(Ordering::Relaxed) {
            YES => return Ok(true),
            NO => return Ok(false),
            _ => {}
        }
        let question = KvQuery::Get { key: Bytes::from_static(b"?") }.encode();
        let Some(answer) = self.machine.ask(|machine| machine.read_at(question)) else {
            return Err(ClientError::ShuttingDown);
        };
        // Any error is an answer in another language: a machine that knows none of these bytes may call them damaged.
        let speaks = answer.is_ok_and(|(answer, _)| matches!(KvAnswer::decode_bytes(answer), Ok(KvAnswer::Get { .. })));
        self.speaks_key_value.store(if speaks { YES } else { NO }, Ordering::Relaxed);
        Ok(speaks)
    }

    /// Index of the last applied entry.
    pub(crate) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }
}

pub(crate) fn refused(why: NotTaken) -> ClientError {
    match why {
        NotTaken::Busy => ClientError::Busy,
        NotTaken::Closed => ClientError::ShuttingDown,
    }
}

pub(crate) fn rejected(rejection: Rejection) -> ClientError {
    match rejection {
        Rejection::NotLeader { .. } => ClientError::NotLeader { leader: None },
        Rejection::Busy | Rejection::HandingOver => ClientError::Busy,
        Rejection::TooLarge { bytes, limit } => Reason::TooLarge { len: bytes as u64, limit: limit as u64 }.into(),
        other => ClientError::unavailable(other.to_string()),
    }
}

fn list(nodes: impl IntoIterator<Item = NodeId>) -> String {
    let nodes: Vec<_> = nodes.into_iter().map(|node| node.to_string()).collect();
    if nodes.is_empty() { "none".into() } else { nodes.join(", ") }
}
