//! The client: finds the leader and follows it.

use std::time::Duration;

use bytes::Bytes;
use d_engine_core::{KvAnswer, KvCommand, KvOutcome, KvQuery, KvRecord, LogId};

use crate::{ClientError, Connection, NodeStatus, ReadMode, Reply, Result};

/// Settings of a [`Client`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Time for one call with everything in it; 5 s.
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
#[non_exhaustive]
pub struct Written {
    /// Index of its entry.
    pub index: u64,
    /// The store's revision afterwards.
    pub revision: u64,
}

/// Answer to a get.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
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
#[non_exhaustive]
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
#[non_exhaustive]
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
#[non_exhaustive]
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
#[non_exhaustive]
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
/// Calls that run at the same time share one stream, so many tasks with clones of one client are faster than many
/// clients. It dials when it is first used.
#[derive(Clone)]
pub struct Client {}

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
        options: ClientOptions,
    ) -> Result<Self> {
        let _ = (endpoints.into_iter().map(Into::into).collect::<Vec<String>>(), options);
        unimplemented!("follows")
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
        let reply = self.read(KvQuery::Range { start, end, limit, reverse, keys_only }.encode(), mode).await?;
        match decode_answer(&reply)? {
            KvAnswer::Range { records, more, revision } => {
                Ok(Listed { records, more, index: reply.at.index, revision })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Proposes a command to any state machine.
    pub async fn propose(&self, command: Bytes) -> Result<Reply> {
        let _ = command;
        unimplemented!("follows")
    }

    /// Asks any state machine.
    pub async fn read(&self, query: Bytes, mode: ReadMode) -> Result<Reply> {
        let _ = (query, mode);
        unimplemented!("follows")
    }

    /// What the first node that answers knows.
    pub async fn status(&self) -> Result<NodeStatus> {
        unimplemented!("follows")
    }

    /// What the node at `endpoint` knows.
    pub async fn status_of(&self, endpoint: &str) -> Result<NodeStatus> {
        let _ = endpoint;
        unimplemented!("follows")
    }

    /// The digest of the state that the node at `endpoint` has applied.
    pub async fn digest_of(&self, endpoint: &str) -> Result<Digest> {
        let _ = (endpoint, Connection::new(""));
        unimplemented!("follows")
    }

    async fn outcome(&self, command: KvCommand) -> Result<(LogId, KvOutcome)> {
        command.check(usize::MAX)?;
        let reply = self.propose(command.encode()).await?;
        match KvOutcome::decode_bytes(reply.response) {
            Ok(KvOutcome::Rejected(reject)) => Err(reject.into()),
            Ok(outcome) => Ok((reply.at, outcome)),
            Err(_) => Err(ClientError::Unknown),
        }
    }
}

fn decode_answer(reply: &Reply) -> Result<KvAnswer> {
    KvAnswer::decode_bytes(reply.response.clone()).map_err(|error| unexpected(&error))
}

fn unexpected(found: &dyn std::fmt::Debug) -> ClientError {
    ClientError::malformed(format!("the node's state machine answered {found:?}"))
}
