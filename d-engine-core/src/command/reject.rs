//! Why a command was refused.

use bytes::Bytes;

use super::envelope::{LEN, put_bytes, put_u64, take_bytes};
use crate::codec::Reader;
use crate::{Error, Result};

/// Why a command was refused. It has changed nothing; the same command would be refused again while the state is the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KvReject {
    /// The bytes are no command.
    #[error("the bytes are no key-value command: {why}")]
    Malformed {
        /// What does not fit.
        why: String,
    },
    /// A key has at least one byte.
    #[error("the key is empty; a key has at least one byte")]
    EmptyKey,
    /// The key is longer than [`MAX_KEY_LEN`](super::MAX_KEY_LEN).
    #[error("the key has {len} bytes; a key has at most {limit}")]
    KeyTooLarge {
        /// Its length in bytes.
        len: u64,
        /// The longest that is allowed.
        limit: u64,
    },
    /// A value is longer than the server accepts.
    #[error("the value has {len} bytes; this server accepts at most {limit}")]
    ValueTooLarge {
        /// Its length in bytes.
        len: u64,
        /// The longest that is allowed.
        limit: u64,
    },
    /// A list of a transaction is longer than [`MAX_TXN_OPS`](super::MAX_TXN_OPS).
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
    /// The lease does not exist: it was never granted, has ended, or was revoked.
    #[error("lease {id} does not exist; it has ended, or never began")]
    LeaseNotFound {
        /// The lease.
        id: u64,
    },
    /// The id asked for is in use.
    #[error("lease {id} exists already; choose another id, or 0 to have one chosen")]
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
    /// The command names more leases than [`MAX_LEASES`](super::MAX_LEASES).
    #[error("the command names {len} leases; at most {limit} are allowed")]
    TooManyLeases {
        /// How many it names.
        len: u64,
        /// The most that are allowed.
        limit: u64,
    },
    /// The session was closed, evicted, or never opened; whether earlier commands of it were applied is not known any more.
    #[error("session {session} does not exist any more; open a new one")]
    SessionExpired {
        /// The session.
        session: u64,
    },
    /// The command's number is not one that may come now.
    #[error(
        "number {sequence} of the session is outside of its window, which is {lowest} to {highest}; below it the result is \
         not kept any more, above it earlier results must be acknowledged first"
    )]
    OutOfWindow {
        /// The command's number.
        sequence: u64,
        /// The lowest number that may come.
        lowest: u64,
        /// The highest number that may come.
        highest: u64,
    },
    /// The earlier records that the outcome were to carry are too large together.
    #[error("the earlier records have more than {limit} bytes; leave them out or name fewer keys")]
    ResultTooLarge {
        /// The most bytes that are allowed.
        limit: u64,
    },
}

const MALFORMED: u8 = 1;
const EMPTY_KEY: u8 = 2;
const KEY_TOO_LARGE: u8 = 3;
const VALUE_TOO_LARGE: u8 = 4;
const TXN_TOO_LARGE: u8 = 5;
const DUPLICATE_KEY: u8 = 6;
const KEY_NOT_FOUND: u8 = 7;
const LEASE_NOT_FOUND: u8 = 8;
const LEASE_EXISTS: u8 = 9;
const INVALID_TTL: u8 = 10;
const TOO_MANY_LEASES: u8 = 11;
const SESSION_EXPIRED: u8 = 12;
const OUT_OF_WINDOW: u8 = 13;
const RESULT_TOO_LARGE: u8 = 14;

impl KvReject {
    /// A code byte and the fields in the order of their declaration.
    pub(super) fn encode_into(&self, out: &mut Vec<u8>) {
        let (code, numbers): (u8, &[u64]) = match self {
            Self::Malformed { why } => return put_text(out, MALFORMED, why.as_bytes()),
            Self::DuplicateKey { key } => return put_text(out, DUPLICATE_KEY, key),
            Self::KeyNotFound { key } => return put_text(out, KEY_NOT_FOUND, key),
            Self::EmptyKey => (EMPTY_KEY, &[]),
            Self::KeyTooLarge { len, limit } => (KEY_TOO_LARGE, &[*len, *limit]),
            Self::ValueTooLarge { len, limit } => (VALUE_TOO_LARGE, &[*len, *limit]),
            Self::TxnTooLarge { len, limit } => (TXN_TOO_LARGE, &[*len, *limit]),
            Self::LeaseNotFound { id } => (LEASE_NOT_FOUND, &[*id]),
            Self::LeaseExists { id } => (LEASE_EXISTS, &[*id]),
            Self::InvalidTtl { ttl_ms, limit_ms } => (INVALID_TTL, &[*ttl_ms, *limit_ms]),
            Self::TooManyLeases { len, limit } => (TOO_MANY_LEASES, &[*len, *limit]),
            Self::SessionExpired { session } => (SESSION_EXPIRED, &[*session]),
            Self::OutOfWindow { sequence, lowest, highest } => (OUT_OF_WINDOW, &[*sequence, *lowest, *highest]),
            Self::ResultTooLarge { limit } => (RESULT_TOO_LARGE, &[*limit]),
        };
        out.push(code);
        numbers.iter().for_each(|number| put_u64(out, *number));
    }

    pub(super) fn decode_from(source: &Bytes, reader: &mut Reader<'_>, subject: &'static str) -> Result<Self> {
        Ok(match reader.u8()? {
            MALFORMED => {
                let why = std::str::from_utf8(reader.bytes()?)
                    .map_err(|_| Error::corrupt(format!("{subject}: the reason is not UTF-8")))?;
                Self::Malformed { why: why.to_owned() }
            }
            EMPTY_KEY => Self::EmptyKey,
            KEY_TOO_LARGE => Self::KeyTooLarge { len: reader.u64()?, limit: reader.u64()? },
            VALUE_TOO_LARGE => Self::ValueTooLarge { len: reader.u64()?, limit: reader.u64()? },
            TXN_TOO_LARGE => Self::TxnTooLarge { len: reader.u64()?, limit: reader.u64()? },
            DUPLICATE_KEY => Self::DuplicateKey { key: take_bytes(source, reader)? },
            KEY_NOT_FOUND => Self::KeyNotFound { key: take_bytes(source, reader)? },
            LEASE_NOT_FOUND => Self::LeaseNotFound { id: reader.u64()? },
            LEASE_EXISTS => Self::LeaseExists { id: reader.u64()? },
            INVALID_TTL => Self::InvalidTtl { ttl_ms: reader.u64()?, limit_ms: reader.u64()? },
            TOO_MANY_LEASES => Self::TooManyLeases { len: reader.u64()?, limit: reader.u64()? },
            SESSION_EXPIRED => Self::SessionExpired { session: reader.u64()? },
            OUT_OF_WINDOW => {
                Self::OutOfWindow { sequence: reader.u64()?, lowest: reader.u64()?, highest: reader.u64()? }
            }
            RESULT_TOO_LARGE => Self::ResultTooLarge { limit: reader.u64()? },
            other => return Err(Error::unsupported(format!("{subject}: rejection {other}; a newer version wrote it"))),
        })
    }
}

fn put_text(out: &mut Vec<u8>, code: u8, text: &[u8]) {
    out.reserve(1 + LEN + text.len());
    out.push(code);
    put_bytes(out, text);
}
