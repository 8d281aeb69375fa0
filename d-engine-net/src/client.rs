//! The client: finds the leader and follows it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;
use d_engine_core::command::{KeySpan, KvRange};
use d_engine_core::{KvAnswer, KvCommand, KvOutcome, KvQuery, KvRecord, LogId};
use tokio::time::{Instant, sleep};

use crate::channel::{endpoint, host_and_port};
use crate::convert::mode_to_wire;
use crate::generated::v1;
use crate::generated::v1::request::Op;
use crate::peer::lock;
use crate::{ClientError, Connection, NodeStatus, Operated, Operation, ReadMode, Reply, Result};

/// Settings of a [`Client`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientOptions {
    /// Time for one call with everything in it, a year at most; 5 s.
    pub timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5) }
    }
}

impl ClientOptions {
    /// Sets the time for one call.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// A write was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Index of its entry.
    pub index: u64,
    /// The store's revision afterwards.
    pub revision: u64,
}

/// Answer to a get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    /// The value, if the key exists.
    pub value: Option<Bytes>,
    /// The whole record, if the key exists.
    pub record: Option<KvRecord>,
    /// Index of the last entry that the answer includes.
    pub index: u64,
    /// The store's revision.
    pub revision: u64,
}

/// A delete was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// Whether the key existed.
    pub existed: bool,
    /// Index of its entry.
    pub index: u64,
    /// The store's revision afterwards.
    pub revision: u64,
}

/// A compare-and-swap was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swapped {
    /// Whether the key had the expected value, and was changed.
    pub succeeded: bool,
    /// On failure the value that the key has instead; `None` if it does not exist, and on success.
    pub current: Option<Bytes>,
    /// Index of its entry.
    pub index: u64,
    /// The store's revision afterwards.
    pub revision: u64,
}

/// One page of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The records in the order asked for.
    pub records: Vec<KvRecord>,
    /// Whether the range has further records behind the last one.
    pub more: bool,
    /// Index of the last entry that the answer includes.
    pub index: u64,
    /// The store's revision.
    pub revision: u64,
}

/// The digest of one node's whole state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// SHA-256 over the user-visible state; equal states give equal digests.
    pub digest: [u8; 32],
    /// How many keys there are.
    pub keys: u64,
    /// The store's revision.
    pub revision: u64,
    /// The last entry that the state includes.
    pub applied: LogId,
}

/// Which records to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Range {
    /// The first key; empty: from the first one of all.
    pub start: Bytes,
    /// The end, exclusive; `None`: to the last key.
    pub end: Option<Bytes>,
    /// At most so many records; 0: the server's page of 1,000.
    pub limit: u32,
    /// From the last key down.
    pub reverse: bool,
    /// Leaves the values empty.
    pub keys_only: bool,
    /// How fresh the answer must be.
    pub mode: ReadMode,
}

impl Range {
    /// All records.
    pub fn all() -> Self {
        Self::default()
    }

    /// The records from `start` to before `end`.
    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: Some(end.into()), ..Self::default() }
    }

    /// The records whose keys begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let mut end = start.to_vec();
        // The next key that does not begin with the prefix: its last byte that is not 255, plus one.
        while let Some(last) = end.pop() {
            if let Some(next) = last.checked_add(1) {
                end.push(next);
                return Self { start, end: Some(end.into()), ..Self::default() };
            }
        }
        Self { start, ..Self::default() }
    }

    /// At most `limit` records.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// From the last key down.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// Without values.
    #[must_use]
    pub fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    /// From the answering node's own copy.
    #[must_use]
    pub fn local(mut self) -> Self {
        self.mode = ReadMode::Local;
        self
    }
}

/// A client of the built-in key-value store and of any state machine. Cheap to clone; clones share connections.
///
/// It dials when it is first used, finds the leader and follows it. It sends again what certainly had no effect, elsewhere
/// or a little later, until a call's time is over; a write whose fate is not known is [`ClientError::Unknown`]. Calls that
/// run at the same time share one stream, so many tasks with clones of one client are faster than many clients.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: ClientOptions,
    endpoints: Vec<Connection>,
    /// Index of the endpoint to try when the preferred one fails.
    next: AtomicUsize,
    /// Where calls begin: the node that answered last.
    preferred: RwLock<Connection>,
    /// Nodes that are no endpoints, by address: leaders that others named, and those asked for by name.
    others: Mutex<HashMap<String, Connection>>,
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
        let shared = Shared {
            options,
            endpoints: connections,
            next: AtomicUsize::new(1),
            preferred: RwLock::new(first),
            others: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Sets a key.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<Written> {
        let command = KvCommand::Put { key: key.into(), value: value.into() };
        let (at, outcome) = self.outcome(command).await?;
        match outcome {
            KvOutcome::Put { revision } => Ok(Written { index: at.index, revision }),
            _ => Err(ClientError::Unknown),
        }
    }

    /// Removes a key.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Deleted> {
        let (at, outcome) = self.outcome(KvCommand::Delete { key: key.into() }).await?;
        match outcome {
            KvOutcome::Deleted { revision, existed } => Ok(Deleted { existed, index: at.index, revision }),
            _ => Err(ClientError::Unknown),
        }
    }

    /// Changes a key if it holds `expected` (`None`: does not exist) to `new` (`None`: removes it).
    pub async fn cas(&self, key: impl Into<Bytes>, expected: Option<Bytes>, new: Option<Bytes>) -> Result<Swapped> {
        let command = KvCommand::Cas { key: key.into(), expected, value: new };
        let (at, outcome) = self.outcome(command).await?;
        match outcome {
            KvOutcome::Cas { revision, succeeded, current } => {
                Ok(Swapped { succeeded, current, index: at.index, revision })
            }
            _ => Err(ClientError::Unknown),
        }
    }

    /// Reads a key: the answer includes every write that was answered before the call.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Got> {
        self.get_in_mode(key.into(), ReadMode::Linearizable).await
    }

    /// Reads a key from the answering node's own copy, which may be old.
    pub async fn get_local(&self, key: impl Into<Bytes>) -> Result<Got> {
        self.get_in_mode(key.into(), ReadMode::Local).await
    }

    async fn get_in_mode(&self, key: Bytes, mode: ReadMode) -> Result<Got> {
        let reply = self.read(KvQuery::Get { key }.encode(), mode).await?;
        match decode_answer(&reply)? {
            KvAnswer::Get { record, revision } => {
                let value = record.as_ref().map(|record| record.value.clone());
                Ok(Got { value, record, index: reply.at.index, revision })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Reads one page of a range of keys.
    pub async fn range(&self, range: Range) -> Result<Listed> {
        let Range { start, end, limit, reverse, keys_only, mode } = range;
        let mut range = KvRange::new(KeySpan::new(start, end));
        (range.limit, range.reverse, range.keys_only) = (limit, reverse, keys_only);
        let reply = self.read(KvQuery::Range(range).encode(), mode).await?;
        match decode_answer(&reply)? {
            KvAnswer::Range { records, more, revision } => {
                Ok(Listed { records, more, index: reply.at.index, revision })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Proposes a command to any state machine.
    pub async fn propose(&self, command: Bytes) -> Result<Reply> {
        self.propose_op(v1::Propose { command, forwarded: false, key_value: false }).await
    }

    /// Asks any state machine.
    pub async fn read(&self, query: Bytes, mode: ReadMode) -> Result<Reply> {
        let read = v1::Read { query, mode: mode_to_wire(mode) };
        self.call(|connection, deadline, _| {
            let read = read.clone();
            async move { connection.call_for_reply(Op::Read(read), half_way_to(deadline)).await }
        })
        .await
    }

    /// What the first node that answers knows.
    pub async fn status(&self) -> Result<NodeStatus> {
        self.call(|connection, deadline, _| async move { connection.status(half_way_to(deadline)).await }).await
    }

    /// What the node at `endpoint` knows.
    pub async fn status_of(&self, endpoint: &str) -> Result<NodeStatus> {
        let connection = self.connection(endpoint);
        let deadline = Instant::now() + self.shared.options.timeout;
        retry_once(|| connection.status(deadline)).await
    }

    /// The digest of the state that the node at `endpoint` has applied.
    pub async fn digest_of(&self, endpoint: &str) -> Result<Digest> {
        let connection = self.connection(endpoint);
        let deadline = Instant::now() + self.shared.options.timeout;
        let reply = retry_once(|| connection.read(KvQuery::Digest.encode(), ReadMode::Local, deadline)).await?;
        match decode_answer(&reply)? {
            KvAnswer::Digest { digest, keys, revision } => Ok(Digest { digest, keys, revision, applied: reply.at }),
            other => Err(unexpected(&other)),
        }
    }

    /// Changes the membership or moves leadership; [`Operation::MakeSnapshot`] is for one node, see
    /// [`make_snapshot_of`](Client::make_snapshot_of).
    pub async fn operate(&self, operation: Operation) -> Result<Operated> {
        self.call(|connection, deadline, pass_on| {
            let operation = operation.clone();
            async move { connection.operate(operation, !pass_on, deadline).await }
        })
        .await
    }

    /// Makes a snapshot of the state of the node at `endpoint`, and answers when it is durable.
    pub async fn make_snapshot_of(&self, endpoint: &str) -> Result<Operated> {
        let deadline = Instant::now() + self.shared.options.timeout;
        self.connection(endpoint).operate(Operation::MakeSnapshot, true, deadline).await
    }

    async fn outcome(&self, command: KvCommand) -> Result<(LogId, KvOutcome)> {
        command.check(usize::MAX)?;
        let propose = v1::Propose { command: command.encode(), forwarded: false, key_value: true };
        let reply = self.propose_op(propose).await?;
        match KvOutcome::decode_bytes(reply.response) {
            Ok(KvOutcome::Rejected(reject)) => Err(reject.into()),
            Ok(outcome) => Ok((reply.at, outcome)),
            // It was applied, by a machine that speaks another language.
            Err(_) => Err(ClientError::Unknown),
        }
    }

    /// Nodes are asked not to pass the command on: they name the leader instead, which is then asked directly.
    async fn propose_op(&self, propose: v1::Propose) -> Result<Reply> {
        self.call(|connection, deadline, pass_on| {
            let propose = v1::Propose { forwarded: !pass_on, ..propose.clone() };
            async move { connection.call_for_reply(Op::Propose(propose), deadline).await }
        })
        .await
    }

    /// Calls until there is an answer, an error that another attempt would not change, or no time left.
    ///
    /// `attempt` gets a connection, its deadline, and whether the node may pass the request on.
    async fn call<T, F>(&self, attempt: impl Fn(Connection, Instant, bool) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let deadline = Instant::now() + self.shared.options.timeout;
        let mut connection = read_lock(&self.shared.preferred).clone();
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
            let step = search.after(&error, self.shared.endpoints.len());
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
        if !read_lock(&self.shared.preferred).is(connection) {
            *self.shared.preferred.write().unwrap_or_else(PoisonError::into_inner) = connection.clone();
        }
    }

    /// The next endpoint, which also becomes the preferred one if `failed` was.
    fn rotate(&self, failed: &Connection) -> Connection {
        let endpoints = &self.shared.endpoints;
        let mut next = &endpoints[self.shared.next.fetch_add(1, Ordering::Relaxed) % endpoints.len()];
        if next.is(failed) {
            next = &endpoints[self.shared.next.fetch_add(1, Ordering::Relaxed) % endpoints.len()];
        }
        if read_lock(&self.shared.preferred).is(failed) {
            self.prefer(next);
        }
        next.clone()
    }

    fn connection(&self, address: &str) -> Connection {
        let address = host_and_port(address);
        if let Some(endpoint) = self.shared.endpoints.iter().find(|endpoint| endpoint.address() == address) {
            return endpoint.clone();
        }
        let mut others = lock(&self.shared.others);
        if others.len() >= OTHERS_MAX && !others.contains_key(address) {
            others.clear();
        }
        others.entry(address.to_owned()).or_insert_with(|| Connection::new(address)).clone()
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

/// A read that one node does not answer may be asked of another while there is time.
fn half_way_to(deadline: Instant) -> Instant {
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    if left < PAUSE_MAX { deadline } else { now + left / 2 }
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

fn decode_answer(reply: &Reply) -> Result<KvAnswer> {
    KvAnswer::decode_bytes(reply.response.clone()).map_err(|error| unexpected(&error))
}

fn unexpected(found: &dyn std::fmt::Debug) -> ClientError {
    ClientError::malformed(format!("the node's state machine answered {found:?}"))
}
