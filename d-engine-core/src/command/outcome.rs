//! What a command did, for the caller that proposed it.

use bytes::Bytes;

use super::envelope::{
    LEN, begin, open, option_len, put_count, put_option, put_u32, put_u64, take_bool, take_list, take_option,
    unknown_tag,
};
use super::record::{put_record, record_len, take_record};
use super::{KvRecord, KvReject};
use crate::codec::Reader;
use crate::{Error, Result};

/// The result of one applied command, equal on every replica. `revision` is the store's revision after the command; a
/// command that changed nothing leaves it as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvOutcome {
    /// The key was set.
    Put {
        /// The store's revision afterwards.
        revision: u64,
    },
    /// The key does not exist any more.
    Deleted {
        /// The store's revision afterwards.
        revision: u64,
        /// Whether it existed before.
        existed: bool,
    },
    /// A compare-and-swap was decided.
    Cas {
        /// The store's revision afterwards.
        revision: u64,
        /// Whether the key had the expected value, and was changed.
        succeeded: bool,
        /// On failure the value that the key has instead, `None` if it does not exist; always `None` on success.
        current: Option<Bytes>,
    },
    /// The command was refused and changed nothing.
    Rejected(KvReject),
    /// What one command with choices did: the answer to `PutWith` and `DeleteRange`.
    Done {
        /// The store's revision afterwards.
        revision: u64,
        /// What it did.
        result: KvOpResult,
    },
    /// A transaction was decided and carried out.
    Txn {
        /// The store's revision afterwards; all changes of the transaction have it.
        revision: u64,
        /// Whether every comparison held, so that `then` was carried out.
        succeeded: bool,
        /// What the operations did, in their order.
        results: Vec<KvOpResult>,
    },
    /// A lease has begun.
    LeaseGranted {
        /// The store's revision afterwards.
        revision: u64,
        /// Its id.
        id: u64,
        /// How long it lasts, in milliseconds.
        ttl_ms: u64,
    },
    /// Leases have ended: the answer to `LeaseRevoke` and `LeaseExpire`.
    LeasesEnded {
        /// The store's revision afterwards.
        revision: u64,
        /// How many leases have ended.
        leases: u64,
        /// How many keys went with them.
        keys: u64,
    },
    /// The time of leases has begun anew.
    LeasesKept {
        /// The store's revision afterwards.
        revision: u64,
        /// For each lease named, in order, how long it lasts from now on, in milliseconds; 0: it does not exist any more.
        ttls_ms: Vec<u64>,
    },
    /// The times left of leases were written down.
    LeasesNoted {
        /// The store's revision afterwards.
        revision: u64,
        /// How many of those named were as the leader had seen them.
        leases: u64,
    },
    /// A session is open.
    SessionOpened {
        /// The store's revision afterwards.
        revision: u64,
        /// Its id.
        session: u64,
        /// How many numbers, from the lowest unanswered on, may be in use at once.
        window: u64,
    },
    /// The session does not exist any more.
    SessionClosed {
        /// The store's revision afterwards.
        revision: u64,
        /// Whether it existed before.
        existed: bool,
    },
    /// The limit of sessions was set.
    SessionLimitSet {
        /// The store's revision afterwards.
        revision: u64,
        /// The limit.
        limit: u32,
        /// How many sessions had to go for it.
        evicted: u64,
    },
}

/// What one operation did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvOpResult {
    /// The key was set.
    Put {
        /// The lease that the key belongs to now; 0: none.
        lease: u64,
        /// The record before, if it was asked for and there was one.
        prev: Option<KvRecord>,
    },
    /// The keys were removed.
    Deleted {
        /// How many there were.
        deleted: u64,
        /// Their records, if they were asked for, in key order.
        prev: Vec<KvRecord>,
    },
    /// Records were read.
    Range {
        /// The records in the order asked for.
        records: Vec<KvRecord>,
        /// Whether the range has further records behind the last one.
        more: bool,
    },
    /// Keys were counted.
    Count {
        /// How many there are.
        count: u64,
    },
}

const SUBJECT: &str = "key-value outcome";
const PUT: u8 = 1;
const DELETED: u8 = 2;
const CAS: u8 = 3;
const REJECTED: u8 = 4;
const DONE: u8 = 5;
const TXN: u8 = 6;
const LEASE_GRANTED: u8 = 7;
const LEASES_ENDED: u8 = 8;
const LEASES_KEPT: u8 = 9;
const LEASES_NOTED: u8 = 10;
const SESSION_OPENED: u8 = 11;
const SESSION_CLOSED: u8 = 12;
const SESSION_LIMIT_SET: u8 = 13;

impl KvOutcome {
    /// Versioned bytes: the envelope of a command (see [`KvCommand::encode`](super::KvCommand::encode)) with the fields in
    /// the order of their declaration; a rejection has a code byte in front of its fields, a result of an operation one for
    /// its kind (1 put, 2 deleted, 3 range, 4 count).
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Put { revision } => {
                let mut out = begin(PUT, 8);
                put_u64(&mut out, *revision);
                out.into()
            }
            Self::Deleted { revision, existed } => {
                let mut out = begin(DELETED, 9);
                put_u64(&mut out, *revision);
                out.push(u8::from(*existed));
                out.into()
            }
            Self::Cas { revision, succeeded, current } => {
                let mut out = begin(CAS, 9 + option_len(current.as_ref()));
                put_u64(&mut out, *revision);
                out.push(u8::from(*succeeded));
                put_option(&mut out, current.as_ref());
                out.into()
            }
            Self::Rejected(reject) => {
                let mut out = begin(REJECTED, 1 + 16);
                reject.encode_into(&mut out);
                out.into()
            }
            Self::Done { revision, result } => {
                let mut out = begin(DONE, 8 + result.encoded_len());
                put_u64(&mut out, *revision);
                result.encode_into(&mut out);
                out.into()
            }
            Self::Txn { revision, succeeded, results } => {
                let len = results.iter().map(KvOpResult::encoded_len).sum::<usize>();
                let mut out = begin(TXN, 9 + LEN + len);
                put_u64(&mut out, *revision);
                out.push(u8::from(*succeeded));
                put_count(&mut out, results.len());
                results.iter().for_each(|result| result.encode_into(&mut out));
                out.into()
            }
            other => other.encode_of_tables(),
        }
    }

    /// The outcomes of commands about leases and sessions.
    fn encode_of_tables(&self) -> Bytes {
        let numbers = |tag, numbers: &[u64]| {
            let mut out = begin(tag, 8 * numbers.len() + 1);
            numbers.iter().for_each(|number| put_u64(&mut out, *number));
            out
        };
        match self {
            Self::LeaseGranted { revision, id, ttl_ms } => numbers(LEASE_GRANTED, &[*revision, *id, *ttl_ms]),
            Self::LeasesEnded { revision, leases, keys } => numbers(LEASES_ENDED, &[*revision, *leases, *keys]),
            Self::LeasesKept { revision, ttls_ms } => {
                let mut out = begin(LEASES_KEPT, 8 + LEN + 8 * ttls_ms.len());
                put_u64(&mut out, *revision);
                put_count(&mut out, ttls_ms.len());
                ttls_ms.iter().for_each(|ttl| put_u64(&mut out, *ttl));
                out
            }
            Self::LeasesNoted { revision, leases } => numbers(LEASES_NOTED, &[*revision, *leases]),
            Self::SessionOpened { revision, session, window } => {
                numbers(SESSION_OPENED, &[*revision, *session, *window])
            }
            Self::SessionClosed { revision, existed } => {
                let mut out = numbers(SESSION_CLOSED, &[*revision]);
                out.push(u8::from(*existed));
                out
            }
            Self::SessionLimitSet { revision, limit, evicted } => {
                let mut out = begin(SESSION_LIMIT_SET, 20);
                put_u64(&mut out, *revision);
                put_u32(&mut out, *limit);
                put_u64(&mut out, *evicted);
                out
            }
            _ => unreachable!("the outcomes about keys are encoded by the caller"),
        }
        .into()
    }

    /// Reads what [`encode`](KvOutcome::encode) wrote; copies `bytes` once.
    ///
    /// # Errors
    /// `Unsupported` for a newer version, an unknown kind or an unknown flag; `Corrupt` for bytes of no version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Self::decode_bytes(Bytes::copy_from_slice(bytes))
    }

    /// [`decode`](KvOutcome::decode), with values that are slices of `bytes`.
    ///
    /// # Errors
    /// As [`decode`](KvOutcome::decode).
    pub fn decode_bytes(bytes: Bytes) -> Result<Self> {
        let (tag, mut reader) = open(&bytes, SUBJECT)?;
        let outcome = match tag {
            PUT => Self::Put { revision: reader.u64()? },
            DELETED => Self::Deleted { revision: reader.u64()?, existed: take_bool(&mut reader, SUBJECT)? },
            CAS => Self::Cas {
                revision: reader.u64()?,
                succeeded: take_bool(&mut reader, SUBJECT)?,
                current: take_option(&bytes, &mut reader, SUBJECT)?,
            },
            REJECTED => Self::Rejected(KvReject::decode_from(&bytes, &mut reader, SUBJECT)?),
            DONE => Self::Done { revision: reader.u64()?, result: KvOpResult::decode_from(&bytes, &mut reader)? },
            TXN => {
                let (revision, succeeded) = (reader.u64()?, take_bool(&mut reader, SUBJECT)?);
                let result = |reader: &mut Reader<'_>| KvOpResult::decode_from(&bytes, reader);
                let results = take_list(&mut reader, SUBJECT, KvOpResult::LEN_MIN, result)?;
                Self::Txn { revision, succeeded, results }
            }
            LEASE_GRANTED => Self::LeaseGranted { revision: reader.u64()?, id: reader.u64()?, ttl_ms: reader.u64()? },
            LEASES_ENDED => Self::LeasesEnded { revision: reader.u64()?, leases: reader.u64()?, keys: reader.u64()? },
            LEASES_KEPT => {
                Self::LeasesKept { revision: reader.u64()?, ttls_ms: take_list(&mut reader, SUBJECT, 8, Reader::u64)? }
            }
            LEASES_NOTED => Self::LeasesNoted { revision: reader.u64()?, leases: reader.u64()? },
            SESSION_OPENED => {
                Self::SessionOpened { revision: reader.u64()?, session: reader.u64()?, window: reader.u64()? }
            }
            SESSION_CLOSED => {
                Self::SessionClosed { revision: reader.u64()?, existed: take_bool(&mut reader, SUBJECT)? }
            }
            SESSION_LIMIT_SET => {
                Self::SessionLimitSet { revision: reader.u64()?, limit: reader.u32()?, evicted: reader.u64()? }
            }
            other => return Err(unknown_tag(SUBJECT, other)),
        };
        reader.finish()?;
        Ok(outcome)
    }
}

impl KvOpResult {
    const LEN_MIN: usize = 1 + 1 + LEN;

    fn encoded_len(&self) -> usize {
        let len = |records: &[KvRecord]| LEN + records.iter().map(KvRecord::encoded_len).sum::<usize>();
        1 + match self {
            Self::Put { prev, .. } => 8 + record_len(prev.as_ref()),
            Self::Deleted { prev, .. } => 8 + len(prev),
            Self::Range { records, .. } => 1 + len(records),
            Self::Count { .. } => 8,
        }
    }

    /// A byte for the kind and the fields in the order of their declaration, `more` in front of the records.
    fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Put { lease, prev } => {
                out.push(1);
                put_u64(out, *lease);
                put_record(out, prev.as_ref());
            }
            Self::Deleted { deleted, prev } => {
                out.push(2);
                put_u64(out, *deleted);
                put_count(out, prev.len());
                prev.iter().for_each(|record| record.encode_into(out));
            }
            Self::Range { records, more } => {
                out.extend_from_slice(&[3, u8::from(*more)]);
                put_count(out, records.len());
                records.iter().for_each(|record| record.encode_into(out));
            }
            Self::Count { count } => {
                out.push(4);
                put_u64(out, *count);
            }
        }
    }

    fn decode_from(source: &Bytes, reader: &mut Reader<'_>) -> Result<Self> {
        let record = |reader: &mut Reader<'_>| KvRecord::decode_from(source, reader);
        Ok(match reader.u8()? {
            1 => Self::Put { lease: reader.u64()?, prev: take_record(source, reader, SUBJECT)? },
            2 => Self::Deleted { deleted: reader.u64()?, prev: take_list(reader, SUBJECT, KvRecord::LEN_MIN, record)? },
            3 => {
                let more = take_bool(reader, SUBJECT)?;
                Self::Range { more, records: take_list(reader, SUBJECT, KvRecord::LEN_MIN, record)? }
            }
            4 => Self::Count { count: reader.u64()? },
            other => return Err(Error::unsupported(format!("{SUBJECT}: result {other}; a newer version wrote it"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn outcome() -> impl Strategy<Value = KvOutcome> {
        let bytes = || vec(any::<u8>(), 0..20).prop_map(Bytes::from);
        let reject = prop_oneof![
            vec(any::<char>(), 0..10).prop_map(|why| KvReject::Malformed { why: why.into_iter().collect() }),
            Just(KvReject::EmptyKey),
            any::<(u64, u64)>().prop_map(|(len, limit)| KvReject::KeyTooLarge { len, limit }),
            any::<(u64, u64)>().prop_map(|(len, limit)| KvReject::ValueTooLarge { len, limit }),
            any::<(u64, u64)>().prop_map(|(len, limit)| KvReject::TxnTooLarge { len, limit }),
            bytes().prop_map(|key| KvReject::DuplicateKey { key }),
            bytes().prop_map(|key| KvReject::KeyNotFound { key }),
            any::<u64>().prop_map(|id| KvReject::LeaseNotFound { id }),
            any::<u64>().prop_map(|id| KvReject::LeaseExists { id }),
            any::<(u64, u64)>().prop_map(|(ttl_ms, limit_ms)| KvReject::InvalidTtl { ttl_ms, limit_ms }),
            any::<(u64, u64)>().prop_map(|(len, limit)| KvReject::TooManyLeases { len, limit }),
            any::<u64>().prop_map(|session| KvReject::SessionExpired { session }),
            any::<(u64, u64, u64)>().prop_map(|(sequence, lowest, highest)| KvReject::OutOfWindow {
                sequence,
                lowest,
                highest
            }),
            any::<u64>().prop_map(|limit| KvReject::ResultTooLarge { limit }),
        ];
        let record = || {
            (bytes(), bytes(), any::<[u64; 4]>()).prop_map(|(key, value, [create, modified, version, lease])| {
                KvRecord { lease, ..KvRecord::new(key, value, create, modified, version) }
            })
        };
        let result = || {
            prop_oneof![
                (any::<u64>(), option::of(record())).prop_map(|(lease, prev)| KvOpResult::Put { lease, prev }),
                (any::<u64>(), vec(record(), 0..3)).prop_map(|(deleted, prev)| KvOpResult::Deleted { deleted, prev }),
                (vec(record(), 0..3), any::<bool>()).prop_map(|(records, more)| KvOpResult::Range { records, more }),
                any::<u64>().prop_map(|count| KvOpResult::Count { count }),
            ]
        };
        let of_keys =
            prop_oneof![
                (any::<u64>(), result()).prop_map(|(revision, result)| KvOutcome::Done { revision, result }),
                (any::<(u64, bool)>(), vec(result(), 0..4))
                    .prop_map(|((revision, succeeded), results)| KvOutcome::Txn { revision, succeeded, results }),
            ];
        let of_tables = prop_oneof![
            any::<(u64, u64, u64)>().prop_map(|(revision, id, ttl_ms)| KvOutcome::LeaseGranted {
                revision,
                id,
                ttl_ms
            }),
            any::<(u64, u64, u64)>().prop_map(|(revision, leases, keys)| KvOutcome::LeasesEnded {
                revision,
                leases,
                keys
            }),
            (any::<u64>(), vec(any::<u64>(), 0..4))
                .prop_map(|(revision, ttls_ms)| KvOutcome::LeasesKept { revision, ttls_ms }),
            any::<(u64, u64)>().prop_map(|(revision, leases)| KvOutcome::LeasesNoted { revision, leases }),
            any::<(u64, u64, u64)>().prop_map(|(revision, session, window)| KvOutcome::SessionOpened {
                revision,
                session,
                window
            }),
            any::<(u64, bool)>().prop_map(|(revision, existed)| KvOutcome::SessionClosed { revision, existed }),
            any::<(u64, u32, u64)>().prop_map(|(revision, limit, evicted)| KvOutcome::SessionLimitSet {
                revision,
                limit,
                evicted
            }),
        ];
        prop_oneof![
            any::<u64>().prop_map(|revision| KvOutcome::Put { revision }),
            any::<(u64, bool)>().prop_map(|(revision, existed)| KvOutcome::Deleted { revision, existed }),
            (any::<u64>(), any::<bool>(), option::of(bytes()))
                .prop_map(|(revision, succeeded, current)| KvOutcome::Cas { revision, succeeded, current }),
            reject.prop_map(KvOutcome::Rejected),
            of_keys,
            of_tables,
        ]
    }

    #[test]
    fn outcome_bytes_of_version_1_stay_readable() {
        let current = Some(Bytes::from_static(b"v"));
        let malformed = KvReject::Malformed { why: "no".into() };
        let golden: [(KvOutcome, &[u8]); 7] = [
            (KvOutcome::Put { revision: 258 }, b"\x01\x00\x01\x02\x01\x00\x00\x00\x00\x00\x00"),
            (KvOutcome::Deleted { revision: 3, existed: true }, b"\x01\x00\x02\x03\x00\x00\x00\x00\x00\x00\x00\x01"),
            (
                KvOutcome::Cas { revision: 4, succeeded: false, current },
                b"\x01\x00\x03\x04\x00\x00\x00\x00\x00\x00\x00\x00\x01\x01\x00\x00\x00v",
            ),
            (KvOutcome::Rejected(malformed), b"\x01\x00\x04\x01\x02\x00\x00\x00no"),
            (KvOutcome::Rejected(KvReject::EmptyKey), b"\x01\x00\x04\x02"),
            (
                KvOutcome::Rejected(KvReject::KeyTooLarge { len: 2, limit: 1 }),
                b"\x01\x00\x04\x03\x02\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00",
            ),
            (
                KvOutcome::Rejected(KvReject::ValueTooLarge { len: 2, limit: 1 }),
                b"\x01\x00\x04\x04\x02\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00",
            ),
        ];
        for (outcome, bytes) in golden {
            assert_eq!(outcome.encode(), bytes);
            assert_eq!(KvOutcome::decode(bytes).unwrap(), outcome);
        }
    }

    #[test]
    fn outcome_bytes_of_leases_sessions_and_transactions_stay_readable() {
        let number = |n: u8| [n, 0, 0, 0, 0, 0, 0, 0];
        let put = KvOpResult::Put { lease: 8, prev: None };
        let deleted = KvOpResult::Deleted { deleted: 2, prev: Vec::new() };
        let count = KvOpResult::Count { count: 5 };
        let golden = [
            (
                KvOutcome::Done { revision: 9, result: put.clone() },
                [&[1, 0, 5][..], &number(9), &[1], &number(8), &[0]].concat(),
            ),
            (
                KvOutcome::Txn { revision: 9, succeeded: true, results: vec![put, deleted, count] },
                [
                    &[1, 0, 6][..],
                    &number(9),
                    &[1, 3, 0, 0, 0, 1],
                    &number(8),
                    &[0, 2],
                    &number(2),
                    &[0, 0, 0, 0, 4],
                    &number(5),
                ]
                .concat(),
            ),
            (
                KvOutcome::LeaseGranted { revision: 2, id: 3, ttl_ms: 4 },
                [&[1, 0, 7][..], &number(2), &number(3), &number(4)].concat(),
            ),
            (
                KvOutcome::LeasesEnded { revision: 1, leases: 2, keys: 3 },
                [&[1, 0, 8][..], &number(1), &number(2), &number(3)].concat(),
            ),
            (
                KvOutcome::LeasesKept { revision: 2, ttls_ms: vec![6] },
                [&[1, 0, 9][..], &number(2), &[1, 0, 0, 0], &number(6)].concat(),
            ),
            (KvOutcome::LeasesNoted { revision: 2, leases: 6 }, [&[1, 0, 10][..], &number(2), &number(6)].concat()),
            (
                KvOutcome::SessionOpened { revision: 2, session: 6, window: 7 },
                [&[1, 0, 11][..], &number(2), &number(6), &number(7)].concat(),
            ),
            (KvOutcome::SessionClosed { revision: 2, existed: true }, [&[1, 0, 12][..], &number(2), &[1]].concat()),
            (
                KvOutcome::SessionLimitSet { revision: 2, limit: 6, evicted: 7 },
                [&[1, 0, 13][..], &number(2), &[6, 0, 0, 0], &number(7)].concat(),
            ),
            (
                KvOutcome::Rejected(KvReject::OutOfWindow { sequence: 1, lowest: 2, highest: 3 }),
                [&[1, 0, 4, 13][..], &number(1), &number(2), &number(3)].concat(),
            ),
            (KvOutcome::Rejected(KvReject::DuplicateKey { key: "k".into() }), vec![1, 0, 4, 6, 1, 0, 0, 0, b'k']),
        ];
        for (outcome, bytes) in golden {
            assert_eq!(outcome.encode(), bytes, "{outcome:?}");
            assert_eq!(KvOutcome::decode(&bytes).unwrap(), outcome);
        }
    }

    #[test]
    fn rejections_say_what_is_allowed() {
        let text = KvReject::KeyTooLarge { len: 70_000, limit: 65_536 }.to_string();
        assert_eq!(text, "the key has 70000 bytes; a key has at most 65536");
    }

    proptest! {
        #[test]
        fn outcomes_survive_their_encoding(outcome in outcome()) {
            let bytes = outcome.encode();
            prop_assert_eq!(&KvOutcome::decode(&bytes).unwrap(), &outcome);
            for len in 0..bytes.len() {
                prop_assert!(KvOutcome::decode(&bytes[..len]).is_err());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(tag in 0u8..15, tail in vec(any::<u8>(), 0..64), raw in vec(any::<u8>(), 0..64)) {
            let mut framed = std::vec![1, 0, tag];
            framed.extend_from_slice(&tail);
            if let Ok(outcome) = KvOutcome::decode(&framed) {
                prop_assert_eq!(outcome.encode(), framed, "one outcome has one encoding");
            }
            let _ = KvOutcome::decode(&raw);
        }
    }
}
