//! The built-in key-value commands with their outcomes, queries and answers, as versioned bytes.
//!
//! Only what they are and how they are written; what they do is d-engine-kv's business. A newer version, an unknown kind
//! or an unknown flag is `Unsupported`; bytes that fit no version are `Corrupt`. Decoding slices its input, never panics
//! and allocates nothing by a length that it has not checked.

mod envelope;
mod lease;
mod operation;
mod outcome;
mod query;
mod record;
mod reject;
mod session;
mod span;
mod txn;
mod watch;

use bytes::Bytes;

use crate::Result;
use crate::codec::Reader;
use envelope::{
    LEN, begin, open, option_len, put_bytes, put_count, put_option, put_u32, put_u64, take_bytes, take_list,
    take_option, unknown_tag,
};
pub use lease::{KvLease, LeaseMark, LeaseTime};
pub use operation::{KvDelete, KvOp, KvPut, KvRange, LeaseChoice};
pub use outcome::{KvOpResult, KvOutcome};
pub use query::{KvAnswer, KvQuery};
pub use record::KvRecord;
pub use reject::KvReject;
pub use session::{EncodedPut, KvRequest, SessionHeader};
pub use span::KeySpan;
pub use txn::{KvCompare, KvTest, KvTxn, Relation};
pub use watch::{KvChange, KvWatch, WatchEnd, WatchMessage};

/// The longest key, in bytes. A rule of the replicated state, hence not configurable.
pub const MAX_KEY_LEN: usize = 64 * 1024;
/// The most comparisons, and the most operations of each list, of a transaction.
pub const MAX_TXN_OPS: usize = 128;
/// The longest time of a lease, in milliseconds: ten years.
pub const MAX_TTL_MS: u64 = 10 * 365 * 24 * 3_600 * 1_000;
/// The most leases that one command names.
pub const MAX_LEASES: usize = 65_536;
/// The most bytes of earlier records that one outcome carries; a command whose outcome would carry more is refused.
pub const MAX_PREV_BYTES: usize = 4 << 20;

/// A change of the key-value state, as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvCommand {
    /// Sets a key and detaches it from its lease: the short form of [`PutWith`](KvCommand::PutWith) for what is written most.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value; may be empty.
        value: Bytes,
    },
    /// Removes a key: the short form of [`DeleteRange`](KvCommand::DeleteRange).
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Changes a key if it has an expected value (compare-and-swap).
    Cas {
        /// The key.
        key: Bytes,
        /// What the key must hold; `None`: it must not exist.
        expected: Option<Bytes>,
        /// What it holds afterwards; `None`: it is removed.
        value: Option<Bytes>,
    },
    /// Sets a key, with a lease, the record before, or parts kept.
    PutWith(KvPut),
    /// Removes the keys of a range.
    DeleteRange(KvDelete),
    /// Compares, and carries out one of two lists of operations.
    Txn(KvTxn),
    /// Begins a lease.
    LeaseGrant {
        /// Its id, which must be free; 0: the machine chooses one.
        id: u64,
        /// How long it lasts without a keep-alive, in milliseconds; at least 1, at most [`MAX_TTL_MS`].
        ttl_ms: u64,
    },
    /// Ends a lease and removes its keys.
    LeaseRevoke {
        /// The lease.
        id: u64,
    },
    /// Begins the time of leases anew.
    LeaseKeepAlive {
        /// The leases; one that is not there costs the others nothing.
        ids: Vec<u64>,
    },
    /// Ends leases whose time is over, and removes their keys. Proposed by the leader; does nothing to a lease that has been
    /// renewed since.
    LeaseExpire {
        /// The leases as the leader has seen them; one whose time has begun anew since stays.
        leases: Vec<LeaseMark>,
    },
    /// Writes down how much of their time leases have left, for the next leader. Proposed by the leader; does nothing to a
    /// lease that has been renewed since.
    LeaseCheckpoint {
        /// The leases with their times.
        leases: Vec<LeaseTime>,
    },
    /// Opens a session; its id is the index of this command's entry.
    SessionOpen,
    /// Ends a session and forgets its results.
    SessionClose {
        /// The session.
        session: u64,
    },
    /// Sets how many sessions there may be; those applied to least recently go first.
    SessionLimit {
        /// The limit; at least 1.
        limit: u32,
    },
}

const SUBJECT: &str = "key-value command";
const PUT: u8 = 1;
const DELETE: u8 = 2;
const CAS: u8 = 3;
const PUT_WITH: u8 = 4;
const DELETE_RANGE: u8 = 5;
const TXN: u8 = 6;
const LEASE_GRANT: u8 = 7;
const LEASE_REVOKE: u8 = 8;
const LEASE_KEEP_ALIVE: u8 = 9;
const LEASE_EXPIRE: u8 = 10;
const LEASE_CHECKPOINT: u8 = 11;
const SESSION_OPEN: u8 = 12;
const SESSION_CLOSE: u8 = 13;
const SESSION_LIMIT: u8 = 14;

impl KvCommand {
    /// The bytes to propose: `version u8 = 1 | flags u8 = 0 | tag u8 | fields`, with the fields `key value` (put, tag 1),
    /// `key` (delete, tag 2) or `key expected? value?` (compare-and-swap, tag 3). A field is a little-endian `u32` length
    /// and its bytes; an optional one (`?`) has a byte in front that says whether it is there, 0 or 1. The other kinds, tags
    /// 4 to 14, have their fields in the order of their declaration; a list has a `u32` count in front.
    ///
    /// # Panics
    /// If a key or value is longer than 4 GiB; [`check`](KvCommand::check) refuses it long before.
    pub fn encode(&self) -> Bytes {
        let mut out = begin(self.tag(), self.fields_len());
        self.encode_fields(&mut out);
        out.into()
    }

    /// Reads what [`encode`](KvCommand::encode) wrote; copies `bytes` once.
    ///
    /// # Errors
    /// `Corrupt` or `Unsupported`, as [`decode_bytes`](KvCommand::decode_bytes).
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Self::decode_bytes(Bytes::copy_from_slice(bytes))
    }

    /// Reads what [`encode`](KvCommand::encode) wrote; keys and values are slices of `bytes`. A command that belongs to a
    /// session is read by [`KvRequest::decode_bytes`], which reads these too.
    ///
    /// # Errors
    /// `Unsupported` for a newer version, an unknown kind or an unknown flag; `Corrupt` for bytes of no version. The text
    /// of `Corrupt` becomes a result that must be equal on every replica: changing it needs a new version.
    pub fn decode_bytes(bytes: Bytes) -> Result<Self> {
        let (tag, mut reader) = open(&bytes, SUBJECT)?;
        let command = Self::decode_fields(tag, &bytes, &mut reader)?;
        reader.finish()?;
        Ok(command)
    }

    const fn tag(&self) -> u8 {
        match self {
            Self::Put { .. } => PUT,
            Self::Delete { .. } => DELETE,
            Self::Cas { .. } => CAS,
            Self::PutWith(_) => PUT_WITH,
            Self::DeleteRange(_) => DELETE_RANGE,
            Self::Txn(_) => TXN,
            Self::LeaseGrant { .. } => LEASE_GRANT,
            Self::LeaseRevoke { .. } => LEASE_REVOKE,
            Self::LeaseKeepAlive { .. } => LEASE_KEEP_ALIVE,
            Self::LeaseExpire { .. } => LEASE_EXPIRE,
            Self::LeaseCheckpoint { .. } => LEASE_CHECKPOINT,
            Self::SessionOpen => SESSION_OPEN,
            Self::SessionClose { .. } => SESSION_CLOSE,
            Self::SessionLimit { .. } => SESSION_LIMIT,
        }
    }

    fn fields_len(&self) -> usize {
        match self {
            Self::Put { key, value } => LEN + key.len() + LEN + value.len(),
            Self::Delete { key } => LEN + key.len(),
            Self::Cas { key, expected, value } => {
                LEN + key.len() + option_len(expected.as_ref()) + option_len(value.as_ref())
            }
            Self::PutWith(put) => put.encoded_len(),
            Self::DeleteRange(delete) => delete.encoded_len(),
            Self::Txn(txn) => txn.encoded_len(),
            Self::LeaseGrant { .. } => 16,
            Self::LeaseRevoke { .. } | Self::SessionClose { .. } => 8,
            Self::LeaseKeepAlive { ids } => LEN + 8 * ids.len(),
            Self::LeaseExpire { leases } => LEN + LeaseMark::LEN * leases.len(),
            Self::LeaseCheckpoint { leases } => LEN + LeaseTime::LEN * leases.len(),
            Self::SessionOpen => 0,
            Self::SessionLimit { .. } => 4,
        }
    }

    fn encode_fields(&self, out: &mut Vec<u8>) {
        match self {
            Self::Put { key, value } => {
                put_bytes(out, key);
                put_bytes(out, value);
            }
            Self::Delete { key } => put_bytes(out, key),
            Self::Cas { key, expected, value } => {
                put_bytes(out, key);
                put_option(out, expected.as_ref());
                put_option(out, value.as_ref());
            }
            Self::PutWith(put) => put.encode_into(out),
            Self::DeleteRange(delete) => delete.encode_into(out),
            Self::Txn(txn) => txn.encode_into(out),
            Self::LeaseGrant { id, ttl_ms } => {
                put_u64(out, *id);
                put_u64(out, *ttl_ms);
            }
            Self::LeaseRevoke { id: number } | Self::SessionClose { session: number } => put_u64(out, *number),
            Self::LeaseKeepAlive { ids } => {
                put_count(out, ids.len());
                ids.iter().for_each(|id| put_u64(out, *id));
            }
            Self::LeaseExpire { leases } => {
                put_count(out, leases.len());
                leases.iter().for_each(|lease| lease.encode_into(out));
            }
            Self::LeaseCheckpoint { leases } => {
                put_count(out, leases.len());
                leases.iter().for_each(|lease| lease.encode_into(out));
            }
            Self::SessionOpen => {}
            Self::SessionLimit { limit } => put_u32(out, *limit),
        }
    }

    fn decode_fields(tag: u8, source: &Bytes, reader: &mut Reader<'_>) -> Result<Self> {
        Ok(match tag {
            PUT => Self::Put { key: take_bytes(source, reader)?, value: take_bytes(source, reader)? },
            DELETE => Self::Delete { key: take_bytes(source, reader)? },
            CAS => Self::Cas {
                key: take_bytes(source, reader)?,
                expected: take_option(source, reader, SUBJECT)?,
                value: take_option(source, reader, SUBJECT)?,
            },
            PUT_WITH => Self::PutWith(KvPut::decode_from(source, reader, SUBJECT)?),
            DELETE_RANGE => Self::DeleteRange(KvDelete::decode_from(source, reader, SUBJECT)?),
            TXN => Self::Txn(KvTxn::decode_from(source, reader, SUBJECT)?),
            LEASE_GRANT => Self::LeaseGrant { id: reader.u64()?, ttl_ms: reader.u64()? },
            LEASE_REVOKE => Self::LeaseRevoke { id: reader.u64()? },
            LEASE_KEEP_ALIVE => Self::LeaseKeepAlive { ids: take_list(reader, SUBJECT, 8, Reader::u64)? },
            LEASE_EXPIRE => {
                Self::LeaseExpire { leases: take_list(reader, SUBJECT, LeaseMark::LEN, LeaseMark::decode_from)? }
            }
            LEASE_CHECKPOINT => {
                Self::LeaseCheckpoint { leases: take_list(reader, SUBJECT, LeaseTime::LEN, LeaseTime::decode_from)? }
            }
            SESSION_OPEN => Self::SessionOpen,
            SESSION_CLOSE => Self::SessionClose { session: reader.u64()? },
            SESSION_LIMIT => Self::SessionLimit { limit: reader.u32()? },
            other => return Err(unknown_tag(SUBJECT, other)),
        })
    }

    /// Whether the command may be proposed: the limits that every replica keeps, and `max_value_len` for each value in it
    /// (also one that it only compares with, since it costs the log as much).
    ///
    /// Servers call this before they propose. The machine repeats it with `usize::MAX`: what it does must not depend on a
    /// server's configuration.
    ///
    /// # Errors
    /// The first limit that is broken.
    pub fn check(&self, max_value_len: usize) -> Result<(), KvReject> {
        match self {
            Self::Put { key, value } => {
                check_key(key)?;
                check_value(Some(value), max_value_len)
            }
            Self::Delete { key } => check_key(key),
            Self::Cas { key, expected, value } => {
                check_key(key)?;
                check_value([expected, value].into_iter().flatten().max_by_key(|value| value.len()), max_value_len)
            }
            Self::PutWith(put) => put.check(max_value_len),
            Self::DeleteRange(delete) => delete.span.check(),
            Self::Txn(txn) => txn.check(max_value_len),
            Self::LeaseKeepAlive { ids } => check_leases(ids.len()),
            Self::LeaseExpire { leases } => check_leases(leases.len()),
            Self::LeaseCheckpoint { leases } => check_leases(leases.len()),
            Self::LeaseGrant { ttl_ms, .. } => check_ttl(*ttl_ms),
            Self::LeaseRevoke { .. } | Self::SessionOpen | Self::SessionClose { .. } => Ok(()),
            Self::SessionLimit { limit: 0 } => Err(KvReject::Malformed { why: "a limit of 0 sessions".to_owned() }),
            Self::SessionLimit { .. } => Ok(()),
        }
    }
}

/// Whether a key can exist: it has at least one byte and at most [`MAX_KEY_LEN`].
///
/// # Errors
/// The limit that is broken.
pub fn check_key(key: &[u8]) -> Result<(), KvReject> {
    match key.len() {
        0 => Err(KvReject::EmptyKey),
        1..=MAX_KEY_LEN => Ok(()),
        len => Err(KvReject::KeyTooLarge { len: len as u64, limit: MAX_KEY_LEN as u64 }),
    }
}

/// Whether a lease may last so long.
///
/// # Errors
/// `InvalidTtl`.
pub fn check_ttl(ttl_ms: u64) -> Result<(), KvReject> {
    if (1..=MAX_TTL_MS).contains(&ttl_ms) {
        return Ok(());
    }
    Err(KvReject::InvalidTtl { ttl_ms, limit_ms: MAX_TTL_MS })
}

fn check_value(value: Option<&Bytes>, max_len: usize) -> Result<(), KvReject> {
    match value.map(Bytes::len) {
        Some(len) if len > max_len => Err(KvReject::ValueTooLarge { len: len as u64, limit: max_len as u64 }),
        _ => Ok(()),
    }
}

fn check_leases(len: usize) -> Result<(), KvReject> {
    if len <= MAX_LEASES {
        return Ok(());
    }
    Err(KvReject::TooManyLeases { len: len as u64, limit: MAX_LEASES as u64 })
}

#[cfg(test)]
mod tests;
