//! Makes the typed answers where they are not made by [`Client`](crate::Client): a node in process gives the same ones.

use bytes::Bytes;
use d_engine_core::{KvRecord, LogId};

use crate::{Deleted, Digest, Got, Listed, Swapped, Written};

impl Written {
    /// An answer.
    pub const fn new(index: u64, revision: u64) -> Self {
        Self { index, revision }
    }
}

impl Got {
    /// An answer; the value is the record's.
    pub fn new(record: Option<KvRecord>, index: u64, revision: u64) -> Self {
        Self { value: record.as_ref().map(|record| record.value.clone()), record, index, revision }
    }
}

impl Deleted {
    /// An answer.
    pub const fn new(existed: bool, index: u64, revision: u64) -> Self {
        Self { existed, index, revision }
    }
}

impl Swapped {
    /// An answer.
    pub const fn new(succeeded: bool, current: Option<Bytes>, index: u64, revision: u64) -> Self {
        Self { succeeded, current, index, revision }
    }
}

impl Listed {
    /// An answer.
    pub const fn new(records: Vec<KvRecord>, more: bool, index: u64, revision: u64) -> Self {
        Self { records, more, index, revision }
    }
}

impl Digest {
    /// An answer.
    pub const fn new(digest: [u8; 32], keys: u64, revision: u64, applied: LogId) -> Self {
        Self { digest, keys, revision, applied }
    }
}
