//! The typed calls of the key-value store: the same for a node in process and for a client.
//!
//! [`KeyValue`] makes commands and queries out of calls and answers out of outcomes; a [`KvCalls`] carries them to where they
//! are applied. Nothing here knows how.

mod answers;
mod requests;
mod session;
mod watch_queue;
mod watcher;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::command::{KvWatch, WatchMessage};
use d_engine_core::{KvAnswer, KvCommand, KvOutcome, KvQuery, KvRequest, LogId};
use futures_util::Stream;
use tokio::time::Instant;

pub use answers::{
    Counted, Decided, Deleted, Digest, Got, Granted, KeptAlive, Leased, LeasesListed, Listed, Removed, Replaced,
    Revoked, Swapped, Written,
};
pub use requests::{Delete, Put, Range, Txn, Watch};
pub use session::Session;
pub(crate) use session::SessionCalls;
pub use watch_queue::watch_queue;
pub use watcher::{Watched, Watcher};

use crate::{ClientError, ReadMode, Reason, Reply, Result};

/// What a watch is told, until it ends or breaks.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchMessage>> + Send>>;

/// Carries key-value requests to where they are applied: a node in process, or a client.
#[async_trait]
pub trait KvCalls: Send + Sync + 'static {
    /// Proposes a command, and answers once it is applied.
    ///
    /// # Errors
    /// `Unknown` if the command may have been or may still be applied; every other error says that this attempt was not
    /// and will not be. A command that was applied and refused is `Rejected`.
    async fn propose(&self, request: KvRequest, deadline: Instant) -> Result<(LogId, KvOutcome)>;

    /// Asks a question.
    ///
    /// # Errors
    /// All of them had no effect.
    async fn ask(&self, query: KvQuery, mode: ReadMode) -> Result<(LogId, KvAnswer)>;

    /// [`ask`](KvCalls::ask), if it can be answered without waiting for anybody; `None`: it has to be asked. It spares a
    /// read of the caller's own process what a call that may wait costs.
    fn ask_at_once(&self, _query: &KvQuery, _mode: ReadMode) -> Option<Result<(LogId, KvAnswer)>> {
        None
    }

    /// Begins a watch, on any node.
    ///
    /// # Errors
    /// Nobody takes it.
    async fn watch(&self, watch: KvWatch) -> Result<WatchStream>;

    /// Time for one call with everything in it.
    fn timeout(&self) -> Duration;
}

/// The built-in key-value store, in process or over the wire. Cheap to clone.
///
/// A [`Client`](crate::Client) and a node dereference to it, so its methods are theirs; code that takes a `&KeyValue` works
/// with both. With a state machine of one's own, every call answers `Rejected`.
///
/// # Errors
///
/// Writes answer [`ClientError::Unknown`] if the command may have been or may still be applied; every other error says that
/// it was not and will not be. Errors of reads may be answered by asking again, but for `Rejected`. Dropping the future of a
/// write does not take it back.
#[derive(Clone)]
pub struct KeyValue {
    calls: Arc<dyn KvCalls>,
}

impl KeyValue {
    /// The calls, carried out by `calls`.
    pub fn new(calls: Arc<dyn KvCalls>) -> Self {
        Self { calls }
    }

    /// Sets a key, and detaches it from the lease that it may have.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<Written> {
        let command = KvCommand::Put { key: key.into(), value: value.into() };
        match self.propose(command).await? {
            (at, KvOutcome::Put { revision }) => Ok(Written::new(at.index, revision)),
            (_, other) => Err(unreadable(&other)),
        }
    }

    /// Sets a key, with a lease, or with the record before in the answer.
    ///
    /// # Errors
    /// `Rejected` with `LeaseNotFound`, or `KeyNotFound` if something of the key was to be kept and there is none.
    pub async fn put_with(&self, put: Put) -> Result<Replaced> {
        Replaced::from_outcome(self.propose(KvCommand::PutWith(put.into())).await?)
    }

    /// Removes a key.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Deleted> {
        match self.propose(KvCommand::Delete { key: key.into() }).await? {
            (at, KvOutcome::Deleted { revision, existed }) => Ok(Deleted::new(existed, at.index, revision)),
            (_, other) => Err(unreadable(&other)),
        }
    }

    /// Removes the keys of a range, or one with its record in the answer.
    pub async fn delete_range(&self, delete: Delete) -> Result<Removed> {
        Removed::from_outcome(self.propose(KvCommand::DeleteRange(delete.into())).await?)
    }

    /// Changes a key if it holds `expected` (`None`: does not exist) to `new` (`None`: removes it).
    pub async fn cas(&self, key: impl Into<Bytes>, expected: Option<Bytes>, new: Option<Bytes>) -> Result<Swapped> {
        let command = KvCommand::Cas { key: key.into(), expected, value: new };
        match self.propose(command).await? {
            (at, KvOutcome::Cas { revision, succeeded, current }) => {
                Ok(Swapped::new(succeeded, current, at.index, revision))
            }
            (_, other) => Err(unreadable(&other)),
        }
    }

    /// Compares, and carries out one of two lists of operations: whole, at one revision, with nothing in between.
    ///
    /// # Errors
    /// `Rejected` with `DuplicateKey`, `TxnTooLarge`, `LeaseNotFound`, `KeyNotFound`: nothing of it was carried out.
    pub async fn txn(&self, txn: Txn) -> Result<Decided> {
        Decided::from_outcome(self.propose(KvCommand::Txn(txn.into())).await?)
    }

    /// Reads a key: the answer includes every write that was answered before the call.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Got> {
        self.get_in_mode(key, ReadMode::Linearizable).await
    }

    /// Reads a key from the answering node's own copy, which may be old.
    pub async fn get_local(&self, key: impl Into<Bytes>) -> Result<Got> {
        self.get_in_mode(key, ReadMode::Local).await
    }

    /// Reads a key as fresh as `mode` says.
    pub async fn get_in_mode(&self, key: impl Into<Bytes>, mode: ReadMode) -> Result<Got> {
        match self.ask(KvQuery::Get { key: key.into() }, mode).await? {
            (at, KvAnswer::Get { record, revision }) => Ok(Got::new(record, at.index, revision)),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// Reads one page of a range of keys.
    pub async fn range(&self, range: Range) -> Result<Listed> {
        let mode = range.mode;
        match self.ask(KvQuery::Range(range.into_query(false)), mode).await? {
            (at, KvAnswer::Range { records, more, revision }) => Ok(Listed::new(records, more, at.index, revision)),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// Counts the keys of a range, all of them; its limit does not matter.
    pub async fn count(&self, range: Range) -> Result<Counted> {
        let mode = range.mode;
        match self.ask(KvQuery::Range(range.into_query(true)), mode).await? {
            (at, KvAnswer::Count { count, revision }) => Ok(Counted { count, index: at.index, revision }),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// The digest of the state that the answering node has applied: replicas that applied the same entries have the same.
    pub async fn digest(&self) -> Result<Digest> {
        Digest::from_answer(self.ask(KvQuery::Digest, ReadMode::Local).await?)
    }

    /// Begins a lease that lasts `ttl` without a keep-alive: from 1 ms to ten years, to the millisecond.
    ///
    /// # Errors
    /// `Rejected` with `InvalidTtl`.
    pub async fn lease_grant(&self, ttl: Duration) -> Result<Granted> {
        self.lease_grant_as(0, ttl).await
    }

    /// [`lease_grant`](KeyValue::lease_grant) with an id of one's own.
    ///
    /// # Errors
    /// `Rejected` with `LeaseExists` or `InvalidTtl`.
    pub async fn lease_grant_as(&self, id: u64, ttl: Duration) -> Result<Granted> {
        let command = KvCommand::LeaseGrant { id, ttl_ms: milliseconds(ttl) };
        match self.propose(command).await? {
            (at, KvOutcome::LeaseGranted { revision, id, ttl_ms }) => {
                Ok(Granted { id, ttl: Duration::from_millis(ttl_ms), index: at.index, revision })
            }
            (_, other) => Err(unreadable(&other)),
        }
    }

    /// Ends a lease and removes its keys.
    ///
    /// # Errors
    /// `Rejected` with `LeaseNotFound`.
    pub async fn lease_revoke(&self, id: u64) -> Result<Revoked> {
        match self.propose(KvCommand::LeaseRevoke { id }).await? {
            (at, KvOutcome::LeasesEnded { revision, keys, .. }) => Ok(Revoked { keys, index: at.index, revision }),
            (_, other) => Err(unreadable(&other)),
        }
    }

    /// Begins the time of a lease anew.
    ///
    /// # Errors
    /// `Rejected` with `LeaseNotFound`: it has ended, and its keys are gone.
    pub async fn lease_keep_alive(&self, id: u64) -> Result<KeptAlive> {
        let (at, revision, ttls) = self.keep_alive(&[id]).await?;
        match ttls.first() {
            Some(ttl) if !ttl.is_zero() => Ok(KeptAlive { ttl: *ttl, index: at.index, revision }),
            _ => Err(Reason::LeaseNotFound { id }.into()),
        }
    }

    /// Begins the time of several leases anew, in one entry of the log; for each, in order, how long it lasts from now on.
    /// Zero: it has ended.
    pub async fn lease_keep_alive_all(&self, ids: &[u64]) -> Result<(LogId, Vec<Duration>)> {
        self.keep_alive(ids).await.map(|(at, _, ttls)| (at, ttls))
    }

    async fn keep_alive(&self, ids: &[u64]) -> Result<(LogId, u64, Vec<Duration>)> {
        match self.propose(KvCommand::LeaseKeepAlive { ids: ids.to_vec() }).await? {
            (at, KvOutcome::LeasesKept { revision, ttls_ms }) if ttls_ms.len() == ids.len() => {
                Ok((at, revision, ttls_ms.into_iter().map(Duration::from_millis).collect()))
            }
            (_, other) => Err(unreadable(&other)),
        }
    }

    /// What is known of a lease, with its keys if they are asked for.
    pub async fn lease_time_to_live(&self, id: u64, keys: bool) -> Result<Leased> {
        match self.ask(KvQuery::Lease { id, keys }, ReadMode::Linearizable).await? {
            (at, KvAnswer::Lease { lease, revision }) => Ok(Leased { lease, index: at.index, revision }),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// A page of the ids of leases, in ascending order: those above `after` (0 at first), at most `limit` (0: the server's page
    /// of 1,000).
    pub async fn lease_list(&self, after: u64, limit: u32) -> Result<LeasesListed> {
        match self.ask(KvQuery::Leases { after, limit }, ReadMode::Linearizable).await? {
            (at, KvAnswer::Leases { ids, more, revision }) => Ok(LeasesListed { ids, more, index: at.index, revision }),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// Begins a watch. Every change of its keys, each once and in order, also across nodes that fail; see [`Watcher`].
    ///
    /// # Errors
    /// `Rejected` with `Compacted` if the changes asked for are not kept any more.
    pub async fn watch(&self, watch: Watch) -> Result<Watcher> {
        Watcher::begin(Arc::clone(&self.calls), watch.into()).await
    }

    /// Opens a session of its own: writes through it are repeated until their fate is known, and applied once. A
    /// [`Client`](crate::Client) has one for its writes already, unless it is told otherwise.
    pub async fn session(&self) -> Result<Session> {
        Session::open(Arc::clone(&self.calls)).await
    }

    async fn propose(&self, command: KvCommand) -> Result<(LogId, KvOutcome)> {
        command.check(usize::MAX)?;
        let deadline = Instant::now() + self.calls.timeout();
        self.calls.propose(command.into(), deadline).await
    }

    async fn ask(&self, query: KvQuery, mode: ReadMode) -> Result<(LogId, KvAnswer)> {
        match self.calls.ask_at_once(&query, mode) {
            Some(answer) => answer,
            None => self.calls.ask(query, mode).await,
        }
    }
}

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValue").finish_non_exhaustive()
    }
}

/// Reads the machine's answer to a command.
///
/// # Errors
/// `Rejected` if the machine refused it; `Unknown` if the answer cannot be read, since the command was applied.
pub fn outcome_of(reply: Reply) -> Result<(LogId, KvOutcome)> {
    match KvOutcome::decode_bytes(reply.response) {
        Ok(KvOutcome::Rejected(reject)) => Err(reject.into()),
        Ok(outcome) => Ok((reply.at, outcome)),
        Err(error) => Err(unreadable(&error)),
    }
}

/// Reads the machine's answer to a query.
///
/// # Errors
/// `Rejected` if the machine speaks another language.
pub fn answer_of(reply: Reply) -> Result<(LogId, KvAnswer)> {
    match KvAnswer::decode_bytes(reply.response) {
        Ok(answer) => Ok((reply.at, answer)),
        Err(error) => Err(unexpected(&error)),
    }
}

/// The command has been applied, to what effect cannot be told.
pub(crate) fn unreadable(found: &dyn fmt::Debug) -> ClientError {
    tracing::warn!(?found, "the state machine answered a key-value command in another language");
    ClientError::Unknown
}

/// A query, which has no effect, was answered in another language.
pub(crate) fn unexpected(found: &dyn fmt::Debug) -> ClientError {
    let why = format!("the asked state machine is not the built-in key-value store; it answered {found:?}");
    Reason::Unsupported { why }.into()
}

/// Whole milliseconds, rounded up so that a lease never ends early.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// An attempt that may be followed by another one while there is time.
pub(crate) fn half_way_to(deadline: Instant) -> Instant {
    const WORTH_HALVING: Duration = Duration::from_millis(250);
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    if left < WORTH_HALVING { deadline } else { now + left / 2 }
}
