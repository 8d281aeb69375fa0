//! What a caller is told when a request is not answered as asked.

use bytes::Bytes;
use d_engine_core::KvReject;

use crate::MembershipError;

/// The result of a request.
pub type Result<T, E = ClientError> = std::result::Result<T, E>;

/// Why a request was not answered as asked.
///
/// Only [`Unknown`](ClientError::Unknown) leaves open whether a write happened; every other variant says that it did not
/// and will not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Another node leads, or none does.
    #[error("{}", not_leader(.leader.as_ref()))]
    NotLeader {
        /// The node to ask instead, if one is known.
        leader: Option<LeaderHint>,
    },
    /// A queue is full.
    #[error("the node is busy and has not taken the request; try again a little later")]
    Busy,
    /// The write may have been applied, may still be, or never will be.
    #[error("nobody knows whether the request was applied; read before writing again")]
    Unknown,
    /// The request itself is wrong.
    #[error("{why}; sending the same request again changes nothing")]
    Rejected {
        /// What is wrong with it.
        why: Reason,
    },
    /// Nobody could serve the request.
    #[error("the request could not be served: {why}; it had no effect, try again or ask another node")]
    Unavailable {
        /// The cause in plain words.
        why: String,
    },
    /// The node is stopping.
    #[error("the node is shutting down; ask another node")]
    ShuttingDown,
}

fn not_leader(leader: Option<&LeaderHint>) -> String {
    match leader {
        Some(LeaderHint { node, address }) if address.is_empty() => {
            format!("the asked node does not lead; ask node {node}")
        }
        Some(LeaderHint { node, address }) => format!("the asked node does not lead; ask node {node} at {address}"),
        None => "the asked node does not lead and knows no leader; try again when an election has ended".to_owned(),
    }
}

/// Where the leader is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LeaderHint {
    /// Its node id.
    pub node: u64,
    /// Its address as `host:port`; empty if not known.
    pub address: String,
}

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// A key has at least one byte.
    #[error("the key is empty; a key has at least one byte")]
    EmptyKey,
    /// The key is too long.
    #[error("the key has {len} bytes; a key has at most {limit}")]
    KeyTooLarge {
        /// Its length in bytes.
        len: u64,
        /// The longest that is allowed.
        limit: u64,
    },
    /// A value is too long.
    #[error("the value has {len} bytes; this server accepts at most {limit}")]
    ValueTooLarge {
        /// Its length in bytes.
        len: u64,
        /// The longest that is allowed.
        limit: u64,
    },
    /// The request as a whole is too large.
    #[error("the request has {len} bytes; at most {limit} are accepted")]
    TooLarge {
        /// Its length in bytes.
        len: u64,
        /// The longest that is allowed.
        limit: u64,
    },
    /// A list of a transaction is too long.
    #[error("the transaction has a list of {len} items; a list has at most {limit}")]
    TxnTooLarge {
        /// Its length.
        len: u64,
        /// The longest that is allowed.
        limit: u64,
    },
    /// A transaction would write a key twice.
    #[error("the transaction writes a key twice: {}; put the writes into two transactions", .key.escape_ascii())]
    DuplicateKey {
        /// The key.
        key: Bytes,
    },
    /// Value or lease of a key were to be kept, and there is no such key.
    #[error("the key {} does not exist, so nothing of it can be kept", .key.escape_ascii())]
    KeyNotFound {
        /// The key.
        key: Bytes,
    },
    /// The lease was never granted, has ended, or was revoked.
    #[error("lease {id} does not exist; it has ended, or never began")]
    LeaseNotFound {
        /// The lease.
        id: u64,
    },
    /// The id asked for is in use.
    #[error("lease {id} exists already; choose another id, or have one chosen")]
    LeaseExists {
        /// The lease.
        id: u64,
    },
    /// A lease cannot last so long.
    #[error("a lease of {ttl_ms} ms is not possible; it lasts from 1 to {limit_ms} ms")]
    InvalidTtl {
        /// Milliseconds asked for.
        ttl_ms: u64,
        /// The most milliseconds that are allowed.
        limit_ms: u64,
    },
    /// The command names too many leases.
    #[error("the command names {len} leases; at most {limit} are allowed")]
    TooManyLeases {
        /// How many it names.
        len: u64,
        /// The most that are allowed.
        limit: u64,
    },
    /// The session was closed, evicted, or never opened.
    #[error("session {session} does not exist any more; open a new one")]
    SessionExpired {
        /// The session.
        session: u64,
    },
    /// The command's number is not one that may come now.
    #[error("number {sequence} of the session is outside of its window, which is {lowest} to {highest}")]
    OutOfWindow {
        /// The command's number.
        sequence: u64,
        /// The lowest number that may come.
        lowest: u64,
        /// The highest number that may come.
        highest: u64,
    },
    /// The earlier records that the answer were to carry are too large together.
    #[error("the earlier records have more than {limit} bytes; leave them out or name fewer keys")]
    ResultTooLarge {
        /// The most bytes that are allowed.
        limit: u64,
    },
    /// The changes asked for, or those that were to come next, are not kept any more.
    #[error("the changes before revision {first_revision} are not kept any more; read the keys and watch from there")]
    Compacted {
        /// The first revision whose changes may still be kept.
        first_revision: u64,
    },
    /// Bytes are not what they should be.
    #[error("malformed: {why}")]
    Malformed {
        /// What does not fit.
        why: String,
    },
    /// The node or its state machine does not know such a request.
    #[error("unsupported: {why}")]
    Unsupported {
        /// What is not known.
        why: String,
    },
    /// The membership cannot be changed, or leadership moved, like this.
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

impl ClientError {
    /// A request whose bytes are not what they should be.
    pub fn malformed(why: impl Into<String>) -> Self {
        Self::Rejected { why: Reason::Malformed { why: why.into() } }
    }

    /// A request that nobody can serve now.
    pub fn unavailable(why: impl Into<String>) -> Self {
        Self::Unavailable { why: why.into() }
    }
}

impl From<Reason> for ClientError {
    fn from(why: Reason) -> Self {
        Self::Rejected { why }
    }
}

impl From<MembershipError> for ClientError {
    fn from(why: MembershipError) -> Self {
        Reason::from(why).into()
    }
}

impl From<KvReject> for Reason {
    fn from(reject: KvReject) -> Self {
        match reject {
            KvReject::Malformed { why } => Self::Malformed { why },
            KvReject::EmptyKey => Self::EmptyKey,
            KvReject::KeyTooLarge { len, limit } => Self::KeyTooLarge { len, limit },
            KvReject::ValueTooLarge { len, limit } => Self::ValueTooLarge { len, limit },
            KvReject::TxnTooLarge { len, limit } => Self::TxnTooLarge { len, limit },
            KvReject::DuplicateKey { key } => Self::DuplicateKey { key },
            KvReject::KeyNotFound { key } => Self::KeyNotFound { key },
            KvReject::LeaseNotFound { id } => Self::LeaseNotFound { id },
            KvReject::LeaseExists { id } => Self::LeaseExists { id },
            KvReject::InvalidTtl { ttl_ms, limit_ms } => Self::InvalidTtl { ttl_ms, limit_ms },
            KvReject::TooManyLeases { len, limit } => Self::TooManyLeases { len, limit },
            KvReject::SessionExpired { session } => Self::SessionExpired { session },
            KvReject::OutOfWindow { sequence, lowest, highest } => Self::OutOfWindow { sequence, lowest, highest },
            KvReject::ResultTooLarge { limit } => Self::ResultTooLarge { limit },
            other => Self::Unsupported { why: other.to_string() },
        }
    }
}

impl From<KvReject> for ClientError {
    fn from(reject: KvReject) -> Self {
        Reason::from(reject).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_says_what_to_do() {
        let hint = LeaderHint { node: 2, address: "b:2".to_owned() };
        let texts = [
            (ClientError::NotLeader { leader: Some(hint) }, "ask node 2 at b:2"),
            (ClientError::NotLeader { leader: None }, "try again"),
            (ClientError::Busy, "try again"),
            (ClientError::Unknown, "read before writing again"),
            (Reason::EmptyKey.into(), "at least one byte"),
            (ClientError::unavailable("no route"), "no route"),
            (ClientError::ShuttingDown, "ask another node"),
        ];
        for (error, text) in texts {
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
