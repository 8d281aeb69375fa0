//! Questions to the key-value state, and its answers.

use bytes::Bytes;

use super::envelope::{
    ENVELOPE_LEN, LEN, begin, open, put_bytes, put_count, put_u32, put_u64, take_bool, take_bytes, take_list,
    unknown_tag,
};
use super::record::{put_record, record_len, take_record};
use super::{KvLease, KvRange, KvRecord};
use crate::Result;
use crate::codec::Reader;

/// A question, answered at one point in time by `StateMachine::read_at`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvQuery {
    /// One record.
    Get {
        /// Its key.
        key: Bytes,
    },
    /// The records of a range of keys, a page at a time, or their number.
    Range(KvRange),
    /// The digest of the whole state.
    Digest,
    /// One lease.
    Lease {
        /// Its id.
        id: u64,
        /// Whether its keys are asked for.
        keys: bool,
    },
    /// The ids of leases in ascending order, a page at a time.
    Leases {
        /// The last id of the page before; 0 at first.
        after: u64,
        /// At most so many; 0: the server's page of 1,000.
        limit: u32,
    },
}

/// The answer to a [`KvQuery`]; `revision` is the store's at the point in time of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvAnswer {
    /// To [`KvQuery::Get`].
    Get {
        /// The record, if the key exists.
        record: Option<KvRecord>,
        /// The store's revision.
        revision: u64,
    },
    /// To [`KvQuery::Range`].
    Range {
        /// The records in the order asked for.
        records: Vec<KvRecord>,
        /// Whether the range has further records behind the last one.
        more: bool,
        /// The store's revision.
        revision: u64,
    },
    /// To [`KvQuery::Digest`].
    Digest {
        /// SHA-256 over the user-visible state, equal on every backend and replica for the same state.
        digest: [u8; 32],
        /// How many keys there are.
        keys: u64,
        /// The store's revision.
        revision: u64,
    },
    /// To [`KvQuery::Range`] with `count_only`.
    Count {
        /// How many keys there are in the range.
        count: u64,
        /// The store's revision.
        revision: u64,
    },
    /// To [`KvQuery::Lease`].
    Lease {
        /// The lease, if it exists.
        lease: Option<KvLease>,
        /// The store's revision.
        revision: u64,
    },
    /// To [`KvQuery::Leases`].
    Leases {
        /// The ids.
        ids: Vec<u64>,
        /// Whether there are further ones behind the last.
        more: bool,
        /// The store's revision.
        revision: u64,
    },
}

const QUERY: &str = "key-value query";
const ANSWER: &str = "key-value answer";
const GET: u8 = 1;
const RANGE: u8 = 2;
const DIGEST: u8 = 3;
const LEASE: u8 = 4;
const LEASES: u8 = 5;
const COUNT: u8 = 6;

impl KvQuery {
    /// Versioned bytes: the envelope of a command (see [`KvCommand::encode`](super::KvCommand::encode)) with the fields
    /// `key` (get, tag 1), `start end? limit u32 options u8 after` (range, tag 2; option bit 0 is reverse, bit 1 keys only,
    /// bit 2 count only, bit 3 says that `after` is there), none (digest, tag 3), `id u64 keys u8` (lease, tag 4) or
    /// `after u64 limit u32` (leases, tag 5).
    pub fn encode(&self) -> Bytes {
        let mut out = begin(self.tag(), self.fields_len());
        match self {
            Self::Get { key } => put_bytes(&mut out, key),
            Self::Range(range) => range.encode_into(&mut out),
            Self::Digest => {}
            Self::Lease { id, keys } => {
                put_u64(&mut out, *id);
                out.push(u8::from(*keys));
            }
            Self::Leases { after, limit } => {
                put_u64(&mut out, *after);
                put_u32(&mut out, *limit);
            }
        }
        out.into()
    }

    /// Bytes that [`encode`](KvQuery::encode) gives.
    pub fn encoded_len(&self) -> usize {
        ENVELOPE_LEN + self.fields_len()
    }

    const fn tag(&self) -> u8 {
        match self {
            Self::Get { .. } => GET,
            Self::Range(_) => RANGE,
            Self::Digest => DIGEST,
            Self::Lease { .. } => LEASE,
            Self::Leases { .. } => LEASES,
        }
    }

    fn fields_len(&self) -> usize {
        match self {
            Self::Get { key } => LEN + key.len(),
            Self::Range(range) => range.encoded_len(),
            Self::Digest => 0,
            Self::Lease { .. } => 9,
            Self::Leases { .. } => 12,
        }
    }

    /// Reads what [`encode`](KvQuery::encode) wrote; copies `bytes` once.
    ///
    /// # Errors
    /// `Unsupported` for a newer version, an unknown kind, flag or option; `Corrupt` for bytes of no version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Self::decode_bytes(Bytes::copy_from_slice(bytes))
    }

    /// [`decode`](KvQuery::decode), with keys that are slices of `bytes`.
    ///
    /// # Errors
    /// As [`decode`](KvQuery::decode).
    pub fn decode_bytes(bytes: Bytes) -> Result<Self> {
        let (tag, mut reader) = open(&bytes, QUERY)?;
        let query = match tag {
            GET => Self::Get { key: take_bytes(&bytes, &mut reader)? },
            RANGE => Self::Range(KvRange::decode_from(&bytes, &mut reader, QUERY)?),
            DIGEST => Self::Digest,
            LEASE => Self::Lease { id: reader.u64()?, keys: take_bool(&mut reader, QUERY)? },
            LEASES => Self::Leases { after: reader.u64()?, limit: reader.u32()? },
            other => return Err(unknown_tag(QUERY, other)),
        };
        reader.finish()?;
        Ok(query)
    }
}

impl KvAnswer {
    /// Versioned bytes: the envelope of a command (see [`KvCommand::encode`](super::KvCommand::encode)) with `revision u64
    /// present u8 record?` (get, tag 1), `revision u64 more u8 count u32 records` (range, tag 2), `revision u64 keys u64
    /// digest` (digest, tag 3), `revision u64 present u8 lease?` (lease, tag 4), `revision u64 more u8 count u32 ids` (leases,
    /// tag 5) or `revision u64 count u64` (count, tag 6). A record is `key value create u64 mod u64 version u64 lease u64`, a
    /// lease `id u64 ttl u64 remaining u64 renewals u64 keys u64 count u32 keys`.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Get { record, revision } => {
                let mut out = begin(GET, 8 + record_len(record.as_ref()));
                put_u64(&mut out, *revision);
                put_record(&mut out, record.as_ref());
                out.into()
            }
            Self::Range { records, more, revision } => {
                let mut out = begin(RANGE, 8 + 1 + 4 + records.iter().map(KvRecord::encoded_len).sum::<usize>());
                put_u64(&mut out, *revision);
                out.push(u8::from(*more));
                put_count(&mut out, records.len());
                records.iter().for_each(|record| record.encode_into(&mut out));
                out.into()
            }
            Self::Digest { digest, keys, revision } => {
                let mut out = begin(DIGEST, 8 + 8 + digest.len());
                put_u64(&mut out, *revision);
                put_u64(&mut out, *keys);
                out.extend_from_slice(digest);
                out.into()
            }
            Self::Count { count, revision } => {
                let mut out = begin(COUNT, 16);
                put_u64(&mut out, *revision);
                put_u64(&mut out, *count);
                out.into()
            }
            Self::Lease { lease, revision } => {
                let mut out = begin(LEASE, 8 + 1 + 5 * 8 + LEN);
                put_u64(&mut out, *revision);
                out.push(u8::from(lease.is_some()));
                if let Some(lease) = lease {
                    lease.encode_into(&mut out);
                }
                out.into()
            }
            Self::Leases { ids, more, revision } => {
                let mut out = begin(LEASES, 8 + 1 + LEN + 8 * ids.len());
                put_u64(&mut out, *revision);
                out.push(u8::from(*more));
                put_count(&mut out, ids.len());
                ids.iter().for_each(|id| put_u64(&mut out, *id));
                out.into()
            }
        }
    }

    /// Reads what [`encode`](KvAnswer::encode) wrote; copies `bytes` once.
    ///
    /// # Errors
    /// `Unsupported` for a newer version, an unknown kind or an unknown flag; `Corrupt` for bytes of no version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Self::decode_bytes(Bytes::copy_from_slice(bytes))
    }

    /// [`decode`](KvAnswer::decode), with keys and values that are slices of `bytes`.
    ///
    /// # Errors
    /// As [`decode`](KvAnswer::decode).
    pub fn decode_bytes(bytes: Bytes) -> Result<Self> {
        let (tag, mut reader) = open(&bytes, ANSWER)?;
        let answer = match tag {
            GET => {
                let revision = reader.u64()?;
                Self::Get { record: take_record(&bytes, &mut reader, ANSWER)?, revision }
            }
            RANGE => {
                let revision = reader.u64()?;
                let more = take_bool(&mut reader, ANSWER)?;
                let record = |reader: &mut Reader<'_>| KvRecord::decode_from(&bytes, reader);
                Self::Range { records: take_list(&mut reader, ANSWER, KvRecord::LEN_MIN, record)?, more, revision }
            }
            DIGEST => {
                let revision = reader.u64()?;
                let keys = reader.u64()?;
                let mut digest = [0; 32];
                digest.copy_from_slice(reader.take(32)?);
                Self::Digest { digest, keys, revision }
            }
            COUNT => {
                let revision = reader.u64()?;
                Self::Count { count: reader.u64()?, revision }
            }
            LEASE => {
                let revision = reader.u64()?;
                let present = take_bool(&mut reader, ANSWER)?;
                let lease = if present { Some(KvLease::decode_from(&bytes, &mut reader, ANSWER)?) } else { None };
                Self::Lease { lease, revision }
            }
            LEASES => {
                let revision = reader.u64()?;
                let more = take_bool(&mut reader, ANSWER)?;
                Self::Leases { ids: take_list(&mut reader, ANSWER, 8, Reader::u64)?, more, revision }
            }
            other => return Err(unknown_tag(ANSWER, other)),
        };
        reader.finish()?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::Error;
    use crate::command::KeySpan;

    fn bytes() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..20).prop_map(Bytes::from)
    }

    fn record() -> impl Strategy<Value = KvRecord> {
        (bytes(), bytes(), any::<[u64; 4]>()).prop_map(|(key, value, [create, modified, version, lease])| KvRecord {
            lease,
            ..KvRecord::new(key, value, create, modified, version)
        })
    }

    fn query() -> impl Strategy<Value = KvQuery> {
        prop_oneof![
            bytes().prop_map(|key| KvQuery::Get { key }),
            (bytes(), option::of(bytes()), option::of(bytes()), any::<(u32, bool, bool, bool)>()).prop_map(
                |(start, end, after, (limit, reverse, keys_only, count_only))| {
                    let span = KeySpan::new(start, end);
                    KvQuery::Range(KvRange { span, after, limit, reverse, keys_only, count_only })
                }
            ),
            Just(KvQuery::Digest),
            any::<(u64, bool)>().prop_map(|(id, keys)| KvQuery::Lease { id, keys }),
            any::<(u64, u32)>().prop_map(|(after, limit)| KvQuery::Leases { after, limit }),
        ]
    }

    fn answer() -> impl Strategy<Value = KvAnswer> {
        prop_oneof![
            (option::of(record()), any::<u64>()).prop_map(|(record, revision)| KvAnswer::Get { record, revision }),
            (vec(record(), 0..5), any::<bool>(), any::<u64>()).prop_map(|(records, more, revision)| KvAnswer::Range {
                records,
                more,
                revision
            }),
            any::<([u8; 32], u64, u64)>().prop_map(|(digest, keys, revision)| KvAnswer::Digest {
                digest,
                keys,
                revision
            }),
            any::<(u64, u64)>().prop_map(|(count, revision)| KvAnswer::Count { count, revision }),
            (option::of((any::<[u64; 5]>(), vec(bytes(), 0..3))), any::<u64>()).prop_map(|(lease, revision)| {
                let lease = lease.map(|([id, ttl, remaining, renewals, key_count], keys)| KvLease {
                    keys,
                    key_count,
                    ..KvLease::new(id, ttl, remaining, renewals)
                });
                KvAnswer::Lease { lease, revision }
            }),
            (vec(any::<u64>(), 0..4), any::<(bool, u64)>()).prop_map(|(ids, (more, revision))| KvAnswer::Leases {
                ids,
                more,
                revision
            }),
        ]
    }

    #[test]
    fn query_bytes_of_version_1_stay_readable() {
        let start = Bytes::from_static(b"a");
        let end = Some(Bytes::from_static(b"b"));
        let range = KvRange { limit: 7, keys_only: true, ..KvRange::new(KeySpan::new(start.clone(), end)) };
        let page = KvRange { after: Some(start.clone()), count_only: true, reverse: true, ..KvRange::default() };
        let golden: [(KvQuery, &[u8]); 6] = [
            (KvQuery::Get { key: start }, b"\x01\x00\x01\x01\x00\x00\x00a"),
            (KvQuery::Range(range), b"\x01\x00\x02\x01\x00\x00\x00a\x01\x01\x00\x00\x00b\x07\x00\x00\x00\x02"),
            (KvQuery::Digest, b"\x01\x00\x03"),
            (KvQuery::Range(page), b"\x01\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0d\x01\x00\x00\x00a"),
            (KvQuery::Lease { id: 5, keys: true }, b"\x01\x00\x04\x05\x00\x00\x00\x00\x00\x00\x00\x01"),
            (KvQuery::Leases { after: 5, limit: 6 }, b"\x01\x00\x05\x05\x00\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00"),
        ];
        for (query, bytes) in golden {
            assert_eq!(query.encode(), bytes);
            assert_eq!(KvQuery::decode(bytes).unwrap(), query);
        }
    }

    #[test]
    fn answer_bytes_of_version_1_stay_readable() {
        let record = KvRecord { lease: 4, ..KvRecord::new("k", "v", 1, 2, 3) };
        let mut record_bytes = b"\x01\x00\x00\x00k\x01\x00\x00\x00v".to_vec();
        for number in [1u8, 2, 3, 4] {
            record_bytes.extend_from_slice(&[number, 0, 0, 0, 0, 0, 0, 0]);
        }
        let revision = [9u8, 0, 0, 0, 0, 0, 0, 0];
        let lease = KvLease::new(1, 2, 3, 4);
        let mut lease_bytes = Vec::new();
        for number in [1u8, 2, 3, 4, 9] {
            lease_bytes.extend_from_slice(&[number, 0, 0, 0, 0, 0, 0, 0]);
        }
        lease_bytes.extend_from_slice(b"\x01\x00\x00\x00\x01\x00\x00\x00k");
        let golden = [
            (
                KvAnswer::Get { record: Some(record.clone()), revision: 9 },
                [&[1, 0, 1][..], &revision, &[1], &record_bytes].concat(),
            ),
            (KvAnswer::Get { record: None, revision: 9 }, [&[1, 0, 1][..], &revision, &[0]].concat()),
            (
                KvAnswer::Range { records: vec![record], more: true, revision: 9 },
                [&[1, 0, 2][..], &revision, &[1, 1, 0, 0, 0], &record_bytes].concat(),
            ),
            (
                KvAnswer::Digest { digest: [5; 32], keys: 2, revision: 9 },
                [&[1, 0, 3][..], &revision, &[2, 0, 0, 0, 0, 0, 0, 0], &[5; 32]].concat(),
            ),
            (
                KvAnswer::Lease { lease: Some(KvLease { keys: vec!["k".into()], key_count: 9, ..lease }), revision: 9 },
                [&[1, 0, 4][..], &revision, &[1], &lease_bytes].concat(),
            ),
            (
                KvAnswer::Leases { ids: vec![9], more: true, revision: 9 },
                [&[1, 0, 5][..], &revision, &[1, 1, 0, 0, 0], &revision].concat(),
            ),
            (KvAnswer::Count { count: 9, revision: 9 }, [&[1, 0, 6][..], &revision, &revision].concat()),
        ];
        for (answer, bytes) in golden {
            assert_eq!(answer.encode(), bytes);
            assert_eq!(KvAnswer::decode(&bytes).unwrap(), answer);
        }
    }

    #[test]
    fn a_huge_count_is_refused_without_an_allocation() {
        let mut bytes = vec![1, 0, RANGE];
        bytes.extend_from_slice(&[0; 9]);
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        bytes.extend_from_slice(&[0; 80]);
        assert!(matches!(KvAnswer::decode(&bytes), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn unknown_options_of_a_query_are_unsupported() {
        let range = KvQuery::Range(KvRange { reverse: true, ..KvRange::default() });
        let mut bytes = range.encode().to_vec();
        *bytes.last_mut().unwrap() |= 16;
        assert!(matches!(KvQuery::decode(&bytes), Err(Error::Unsupported { .. })));
    }

    proptest! {
        #[test]
        fn queries_and_answers_survive_their_encoding(query in query(), answer in answer()) {
            let bytes = query.encode();
            prop_assert_eq!(query.encoded_len(), bytes.len());
            prop_assert_eq!(&KvQuery::decode(&bytes).unwrap(), &query);
            prop_assert!((0..bytes.len()).all(|len| KvQuery::decode(&bytes[..len]).is_err()));
            let bytes = answer.encode();
            prop_assert_eq!(&KvAnswer::decode(&bytes).unwrap(), &answer);
            prop_assert!((0..bytes.len()).all(|len| KvAnswer::decode(&bytes[..len]).is_err()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(tag in 0u8..8, tail in vec(any::<u8>(), 0..128), raw in vec(any::<u8>(), 0..64)) {
            let mut framed = std::vec![1, 0, tag];
            framed.extend_from_slice(&tail);
            if let Ok(query) = KvQuery::decode(&framed) {
                prop_assert_eq!(query.encode(), framed.clone(), "one query has one encoding");
            }
            if let Ok(answer) = KvAnswer::decode(&framed) {
                prop_assert_eq!(answer.encode(), framed, "one answer has one encoding");
            }
            let _ = (KvQuery::decode(&raw), KvAnswer::decode(&raw));
        }
    }
}
