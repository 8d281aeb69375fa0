//! The client: finds the leader and follows it.

mod watch;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::command::KvWatch;
use d_engine_core::{KvAnswer, KvOutcome, KvQuery, KvRequest, LogId};
use tokio::time::{Instant, sleep};

use crate::channel::{endpoint, host_and_port};
use crate::convert::mode_to_wire;
use crate::generated::v1;
use crate::generated::v1::request::Op;
use crate::kv::{SessionCalls, half_way_to};
use crate::peer::lock;
use crate::{
    ClientError, Connection, Digest, Download, KeyValue, KvCalls, NodeStatus, Operated, Operation, ReadMode, Reply,
    Result, WatchStream, answer_of, outcome_of,
};
use watch::WatchChannels;

/// Settings of a [`Client`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientOptions {
    /// Time for one call with everything in it, a year at most; 5 s.
    pub timeout: Duration,
    /// Whether writes of the key-value store go through a session, opened at the first one; yes.
    pub sessions: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5), sessions: true }
    }
}

impl ClientOptions {
    /// Sets the time for one call.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Writes without a session: one entry of the log less for a program that writes once, and a write whose connection
    /// breaks is `Unknown` at once.
    #[must_use]
    pub fn without_session(mut self) -> Self {
        self.sessions = false;
        self
    }
}

/// A client of the built-in key-value store and of any state machine. Cheap to clone; clones share connections.
///
/// It dials when it is first used, finds the leader and follows it. It sends again what certainly had no effect, elsewhere
/// or a little later, until a call's time is over. Its key-value writes go through a session, opened at the first one: they
/// are sent again also when their fate is not known, and applied once. What is not known when the time is over is
/// [`ClientError::Unknown`]. Calls that run at the same time share one stream, so many tasks with clones of one client are
/// faster than many clients.
///
/// ```no_run
/// # async fn doc() -> Result<(), d_engine_net::ClientError> {
/// use d_engine_net::{Client, Put, Watch};
///
/// let client = Client::new(["10.0.0.1:9081", "10.0.0.2:9081", "10.0.0.3:9081"])?;
/// let mut changes = client.watch(Watch::prefix("service/")).await?;
/// let lease = client.lease_grant(std::time::Duration::from_secs(10)).await?;
/// client.put_with(Put::new("service/a", "10.0.0.7:80").lease(lease.id)).await?;
/// println!("{:?}", changes.next().await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    key_value: KeyValue,
    /// What puts the client's session into its writes.
    sessions: Option<Arc<SessionCalls>>,
}

struct Shared {
    options: ClientOptions,
    endpoints: Vec<Connection>,
    /// Index of the endpoint to try when the preferred one fails.
    next: AtomicUsize,
    /// Where calls begin: the node that answered last.
    preferred: RwLock<Connection>,
    /// Nodes that are no endpoints, by address: leaders that others named, and those asked for by name.
    others: Mutex<HashMap<String, Connection>>,
    watch_channels: WatchChannels,
}

impl Client {
    /// A client that begins with `endpoints` (`host:port` or `http://host:port`), and learns the leader's address.
    ///
    /// # Errors
    /// No endpoint is given, or one is no address.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Result<Self> {
        Self::with_options(endpoints, ClientOptions::default())
    }

    /// [`Client::new`] with settings.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_options(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        mut options: ClientOptions,
    ) -> Result<Self> {
        // A deadline is a point in time, which a longer time from now might not have.
        options.timeout = options.timeout.min(TIMEOUT_MAX);
        let mut connections = Vec::new();
        for address in endpoints {
            let address = address.into();
            endpoint(&address).map_err(ClientError::malformed)?;
            connections.push(Connection::new(address));
        }
        let Some(first) = connections.first().cloned() else {
            return Err(ClientError::malformed("no endpoint is given; name at least one node as host:port"));
        };
        let watch_channels = WatchChannels::new(connections.iter().map(|connection| connection.address().to_owned()));
        let shared = Shared {
            options,
            endpoints: connections,
            next: AtomicUsize::new(1),
            preferred: RwLock::new(first),
            others: Mutex::default(),
            watch_channels,
        };
        let shared = Arc::new(shared);
        let sessions = shared.options.sessions.then(|| Arc::new(SessionCalls::new(shared.clone(), true)));
        let calls: Arc<dyn KvCalls> = match &sessions {
            Some(sessions) => sessions.clone(),
            None => shared.clone(),
        };
        Ok(Self { shared, key_value: KeyValue::new(calls), sessions })
    }

    /// Closes the session of this client and its clones, if one is open; the next write opens another. A client that is
    /// dropped leaves its session to be evicted.
    pub async fn close_session(&self) -> Result<()> {
        match &self.sessions {
            Some(sessions) => sessions.close().await,
            None => Ok(()),
        }
    }

    /// Proposes a command to any state machine.
    pub async fn propose(&self, command: Bytes) -> Result<Reply> {
        let propose = v1::Propose { command, forwarded: false, key_value: false };
        self.shared.propose(propose, Instant::now() + self.shared.options.timeout).await
    }

    /// Asks any state machine.
    pub async fn read(&self, query: Bytes, mode: ReadMode) -> Result<Reply> {
        self.shared.read(query, mode).await
    }

    /// What the first node that answers knows.
    pub async fn status(&self) -> Result<NodeStatus> {
        self.shared.call(|connection, deadline, _| async move { connection.status(half_way_to(deadline)).await }).await
    }

    /// What the node at `endpoint` knows.
    pub async fn status_of(&self, endpoint: &str) -> Result<NodeStatus> {
        let connection = self.shared.connection(endpoint);
        let deadline = Instant::now() + self.shared.options.timeout;
        retry_once(|| connection.status(deadline)).await
    }

    /// The digest of the state that the node at `endpoint` has applied.
    pub async fn digest_of(&self, endpoint: &str) -> Result<Digest> {
        let connection = self.shared.connection(endpoint);
        let deadline = Instant::now() + self.shared.options.timeout;
        let reply = retry_once(|| connection.read(KvQuery::Digest.encode(), ReadMode::Local, deadline)).await?;
        Digest::from_answer(answer_of(reply)?)
    }

    /// Changes the membership or moves leadership; [`Operation::MakeSnapshot`] is for one node, see
    /// [`make_snapshot_of`](Client::make_snapshot_of).
    pub async fn operate(&self, operation: Operation) -> Result<Operated> {
        self.shared
            .call(|connection, deadline, pass_on| {
                let operation = operation.clone();
                async move { connection.operate(operation, !pass_on, deadline).await }
            })
            .await
    }

    /// Makes a snapshot of the state of the node at `endpoint`, and answers when it is durable.
    pub async fn make_snapshot_of(&self, endpoint: &str) -> Result<Operated> {
        let deadline = Instant::now() + self.shared.options.timeout;
        self.shared.connection(endpoint).operate(Operation::MakeSnapshot, true, deadline).await
    }
}

impl Client {
    /// Fetches a snapshot of a node's state: from the first endpoint that makes one, in the order in which they were given.
    /// Without `local` it includes every write that was answered before the call; with it, it is what the node happens to
    /// have, which needs no quorum.
    ///
    /// # Errors
    /// `Unavailable` with what the last endpoint said.
    pub async fn download_snapshot(&self, local: bool) -> Result<Download> {
        let mut last = ClientError::unavailable("there is no endpoint");
        for endpoint in &self.shared.endpoints {
            match Download::open(endpoint.address(), local).await {
                Ok(download) => return Ok(download),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// A client is the key-value store, and more.
impl Deref for Client {
    type Target = KeyValue;

    fn deref(&self) -> &KeyValue {
        &self.key_value
    }
}

impl Shared {
    /// Nodes are asked not to pass the command on: they name the leader instead, which is then asked directly.
    async fn propose(&self, propose: v1::Propose, deadline: Instant) -> Result<Reply> {
        self.call_until(deadline, |connection, deadline, pass_on| {
            let propose = v1::Propose { forwarded: !pass_on, ..propose.clone() };
            async move { connection.call_for_reply(Op::Propose(propose), deadline).await }
        })
        .await
    }

    async fn read(&self, query: Bytes, mode: ReadMode) -> Result<Reply> {
        let read = v1::Read { query, mode: mode_to_wire(mode), at_leader: false };
        self.call(|connection, deadline, pass_on| {
            // Only the leader has a lease; another node would have to ask it.
            let read = v1::Read { at_leader: mode == ReadMode::Lease && !pass_on, ..read.clone() };
            async move { connection.call_for_reply(Op::Read(read), half_way_to(deadline)).await }
        })
        .await
    }

    /// [`call_until`](Shared::call_until) with the time for one call.
    async fn call<T, F>(&self, attempt: impl Fn(Connection, Instant, bool) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.call_until(Instant::now() + self.options.timeout, attempt).await
    }

    /// Calls until there is an answer, an error that another attempt would not change, or no time left.
    ///
    /// `attempt` gets a connection, its deadline, and whether the node may pass the request on.
    async fn call_until<T, F>(&self, deadline: Instant, attempt: impl Fn(Connection, Instant, bool) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut connection = read_lock(&self.preferred).clone();
        let mut search = Search::default();
        loop {
            let error = match attempt(connection.clone(), deadline, search.pass_on).await {
                Ok(answer) => {
                    self.prefer(&connection);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if matches!(error, ClientError::Rejected { .. }) {
                return Err(error);
            }
            let step = search.after(&error, self.endpoints.len());
            connection = match step.next {
                Next::Same => connection,
                Next::Rotate => self.rotate(&connection),
                Next::Leader(address) => self.connection(&address),
            };
            if matches!(error, ClientError::Unknown) || Instant::now() + step.pause >= deadline {
                return Err(error);
            }
            if !step.pause.is_zero() {
                sleep(step.pause).await;
            }
        }
    }

    fn prefer(&self, connection: &Connection) {
        if !read_lock(&self.preferred).is(connection) {
            *self.preferred.write().unwrap_or_else(PoisonError::into_inner) = connection.clone();
        }
    }

    /// The next endpoint, which also becomes the preferred one if `failed` was.
    fn rotate(&self, failed: &Connection) -> Connection {
        let endpoints = &self.endpoints;
        let mut next = &endpoints[self.next.fetch_add(1, Ordering::Relaxed) % endpoints.len()];
        if next.is(failed) {
            next = &endpoints[self.next.fetch_add(1, Ordering::Relaxed) % endpoints.len()];
        }
        if read_lock(&self.preferred).is(failed) {
            self.prefer(next);
        }
        next.clone()
    }

    fn connection(&self, address: &str) -> Connection {
        let address = host_and_port(address);
        if let Some(endpoint) = self.endpoints.iter().find(|endpoint| endpoint.address() == address) {
            return endpoint.clone();
        }
        let mut others = lock(&self.others);
        if others.len() >= OTHERS_MAX && !others.contains_key(address) {
            others.clear();
        }
        others.entry(address.to_owned()).or_insert_with(|| Connection::new(address)).clone()
    }
}

#[async_trait]
impl KvCalls for Shared {
    async fn propose(&self, request: KvRequest, deadline: Instant) -> Result<(LogId, KvOutcome)> {
        let propose = v1::Propose { command: request.encode(), forwarded: false, key_value: true };
        outcome_of(Shared::propose(self, propose, deadline).await?)
    }

    async fn ask(&self, query: KvQuery, mode: ReadMode) -> Result<(LogId, KvAnswer)> {
        answer_of(self.read(query.encode(), mode).await?)
    }

    async fn watch(&self, watch: KvWatch) -> Result<WatchStream> {
        self.watch_channels.watch(watch, Instant::now() + self.options.timeout).await
    }

    fn timeout(&self) -> Duration {
        self.options.timeout
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoints", &self.shared.endpoints).finish_non_exhaustive()
    }
}

/// Longest time for one call.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Connections to nodes that are no endpoints, at most.
const OTHERS_MAX: usize = 64;
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// The course of one call's attempts.
#[derive(Default)]
struct Search {
    attempts: usize,
    hints: usize,
    followed_hint: bool,
    /// The named leader cannot be reached from here: let a node that can be pass the request on.
    pass_on: bool,
}

struct Step {
    next: Next,
    pause: Duration,
}

enum Next {
    Same,
    Rotate,
    Leader(String),
}

impl Search {
    fn after(&mut self, error: &ClientError, endpoints: usize) -> Step {
        self.attempts += 1;
        let followed_hint = std::mem::take(&mut self.followed_hint);
        match error {
            ClientError::NotLeader { leader: Some(hint) } if !hint.address.is_empty() => {
                self.followed_hint = true;
                self.hints += 1;
                // The first hints are fresh; later ones say that nodes disagree, as they do during an election.
                let pause = if self.hints <= 2 { Duration::ZERO } else { self.pause() };
                Step { next: Next::Leader(hint.address.clone()), pause }
            }
            ClientError::Busy => Step { next: Next::Same, pause: self.pause() },
            ClientError::Unavailable { .. } => {
                self.pass_on |= followed_hint;
                let pause = if self.attempts < endpoints { Duration::ZERO } else { self.pause() };
                Step { next: Next::Rotate, pause }
            }
            _ => Step { next: Next::Rotate, pause: self.pause() },
        }
    }

    /// Longer after each attempt; random, so that many callers do not come back together.
    fn pause(&self) -> Duration {
        let doublings = u32::try_from(self.attempts).unwrap_or(u32::MAX).min(6);
        let longest = (PAUSE_MIN * 2_u32.pow(doublings)).min(PAUSE_MAX);
        longest.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

/// The first attempt may only find out that the node was restarted.
async fn retry_once<T, F: Future<Output = Result<T>>>(attempt: impl Fn() -> F) -> Result<T> {
    match attempt().await {
        Err(ClientError::Unavailable { .. }) => attempt().await,
        answer => answer,
    }
}

/// The connection under the lock is whole at every point.
fn read_lock<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}
