//! What typed calls answer. Every answer names the entry of the log that it belongs to and, where there is one, the revision.

use std::time::Duration;

use bytes::Bytes;
use d_engine_core::command::{KvLease, KvOpResult};
use d_engine_core::{KvAnswer, KvOutcome, KvRecord, LogId};

use super::{unexpected, unreadable};
use crate::Result;

/// A write was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Index of its entry.
    pub index: u64,
    /// The store's revision afterwards.
    pub revision: u64,
}

impl Written {
    /// An answer.
    pub const fn new(index: u64, revision: u64) -> Self {
        Self { index, revision }
    }
}

/// A put with choices was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// The record before, if it was asked for and there was one.
    pub prev: Option<KvRecord>,
    /// The lease that the key belongs to now; 0: none.
    pub lease: u64,
    /// Index of its entry.
    pub index: u64,
    /// The store's revision afterwards.
    pub revision: u64,
}

impl Replaced {
    pub(crate) fn from_outcome((at, outcome): (LogId, KvOutcome)) -> Result<Self> {
        match outcome {
            KvOutcome::Done { revision, result: KvOpResult::Put { lease, prev } } => {
                Ok(Self { prev, lease, index: at.index, revision })
            }
            other => Err(unreadable(&other)),
        }
    }
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

impl Got {
    /// An answer; the value is the record's.
    pub fn new(record: Option<KvRecord>, index: u64, revision: u64) -> Self {
        Self { value: record.as_ref().map(|record| record.value.clone()), record, index, revision }
    }
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

impl Deleted {
    /// An answer.
    pub const fn new(existed: bool, index: u64, revision: u64) -> Self {
        Self { existed, index, revision }
    }
}

/// The keys of a range were removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// How many there were.
    pub deleted: u64,
    /// Their records, if they were asked for, in key order.
    pub prev: Vec<KvRecord>,
    /// Index of its entry.
    pub index: u64,
    /// The store's revision afterwards.
    pub revision: u64,
}

impl Removed {
    pub(crate) fn from_outcome((at, outcome): (LogId, KvOutcome)) -> Result<Self> {
        match outcome {
            KvOutcome::Done { revision, result: KvOpResult::Deleted { deleted, prev } } => {
                Ok(Self { deleted, prev, index: at.index, revision })
            }
            other => Err(unreadable(&other)),
        }
    }
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

impl Swapped {
    /// An answer.
    pub const fn new(succeeded: bool, current: Option<Bytes>, index: u64, revision: u64) -> Self {
        Self { succeeded, current, index, revision }
    }
}

/// A transaction was decided and carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Whether every comparison held, so that `then` was carried out.
    pub succeeded: bool,
    /// What the operations did, in their order.
    pub results: Vec<KvOpResult>,
    /// Index of its entry.
    pub index: u64,
    /// The store's revision afterwards; all changes of the transaction have it.
    pub revision: u64,
}

impl Decided {
    pub(crate) fn from_outcome((at, outcome): (LogId, KvOutcome)) -> Result<Self> {
        match outcome {
            KvOutcome::Txn { revision, succeeded, results } => {
                Ok(Self { succeeded, results, index: at.index, revision })
            }
            other => Err(unreadable(&other)),
        }
    }
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

impl Listed {
    /// An answer.
    pub const fn new(records: Vec<KvRecord>, more: bool, index: u64, revision: u64) -> Self {
        Self { records, more, index, revision }
    }
}

/// The number of keys of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// How many keys there are.
    pub count: u64,
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

impl Digest {
    pub(crate) fn from_answer((applied, answer): (LogId, KvAnswer)) -> Result<Self> {
        match answer {
            KvAnswer::Digest { digest, keys, revision } => Ok(Self { digest, keys, revision, applied }),
            other => Err(unexpected(&other)),
        }
    }
}

/// A lease has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Its id.
    pub id: u64,
    /// How long it lasts without a keep-alive.
    pub ttl: Duration,
    /// Index of its entry.
    pub index: u64,
    /// The store's revision.
    pub revision: u64,
}

/// A lease was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// How many keys went with it.
    pub keys: u64,
    /// Index of its entry.
    pub index: u64,
    /// The store's revision afterwards.
    pub revision: u64,
}

/// The time of a lease has begun anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptAlive {
    /// How long it lasts from now on.
    pub ttl: Duration,
    /// Index of its entry.
    pub index: u64,
    /// The store's revision.
    pub revision: u64,
}

/// What is known of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    /// The lease, if it exists.
    pub lease: Option<KvLease>,
    /// Index of the last entry that the answer includes.
    pub index: u64,
    /// The store's revision.
    pub revision: u64,
}

/// A page of the ids of leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasesListed {
    /// The ids, in ascending order.
    pub ids: Vec<u64>,
    /// Whether there are further ones behind the last.
    pub more: bool,
    /// Index of the last entry that the answer includes.
    pub index: u64,
    /// The store's revision.
    pub revision: u64,
}
