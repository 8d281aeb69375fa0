//! What a caller is told when a request is not answered as asked.

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
