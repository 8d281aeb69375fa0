//! Questions to the key-value state, and its answers.

use bytes::Bytes;

use super::envelope::{
    LEN, begin, open, option_len, put_bytes, put_option, put_u64, take_bool, take_bytes, take_option, unknown_tag,
};
use crate::codec::Reader;
use crate::{Error, Result};

/// A question, answered at one point in time by `StateMachine::read_at`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvQuery {
    /// One record.
    Get {
        /// Its key.
        key: Bytes,
    },
    /// The records of a range of keys, a page at a time.
    Range {
        /// The first key; empty: from the first one of all.
        start: Bytes,
        /// The end, exclusive; `None`: to the last key.
        end: Option<Bytes>,
        /// At most so many records; 0: the server's page of 1,000. A page also ends, with `more` set, once its records
        /// reach 1 MiB.
        limit: u32,
        /// From the last key down.
        reverse: bool,
        /// Leaves the values empty.
        keys_only: bool,
    },
    /// The digest of the whole state.
    Digest,
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
}

/// One key with its value and history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct KvRecord {
    /// The key.
    pub key: Bytes,
    /// Its value; empty in an answer with `keys_only`.
    pub value: Bytes,
    /// The store's revision when the key was created.
    pub create_revision: u64,
    /// The store's revision when the key was last changed.
    pub mod_revision: u64,
    /// How often the key was set since it was created; the first time is 1.
    pub version: u64,
    /// The lease that the key belongs to; 0: none.
    pub lease: u64,
}

impl KvRecord {
    /// A record without a lease; set the field for one.
    pub fn new(
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        create_revision: u64,
        mod_revision: u64,
        version: u64,
    ) -> Self {
        Self { key: key.into(), value: value.into(), create_revision, mod_revision, version, lease: 0 }
    }
}

const QUERY: &str = "key-value query";
const ANSWER: &str = "key-value answer";
const GET: u8 = 1;
const RANGE: u8 = 2;
const DIGEST: u8 = 3;

const REVERSE: u8 = 1;
const KEYS_ONLY: u8 = 1 << 1;

impl KvQuery {
    /// Versioned bytes: the envelope of a command (see [`KvCommand::encode`](super::KvCommand::encode)) with the fields
    /// `key` (get, tag 1), `start end? limit u32 options u8` (range, tag 2; option bit 0 is reverse, bit 1 keys only), or
    /// none (digest, tag 3).
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Get { key } => {
                let mut out = begin(GET, LEN + key.len());
                put_bytes(&mut out, key);
                out.into()
            }
            Self::Range { start, end, limit, reverse, keys_only } => {
                let mut out = begin(RANGE, LEN + start.len() + option_len(end.as_ref()) + 4 + 1);
                put_bytes(&mut out, start);
                put_option(&mut out, end.as_ref());
                out.extend_from_slice(&limit.to_le_bytes());
                let reverse = if *reverse { REVERSE } else { 0 };
                let keys_only = if *keys_only { KEYS_ONLY } else { 0 };
                out.push(reverse | keys_only);
                out.into()
            }
            Self::Digest => begin(DIGEST, 0).into(),
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
            RANGE => {
                let start = take_bytes(&bytes, &mut reader)?;
                let end = take_option(&bytes, &mut reader, QUERY)?;
                let limit = reader.u32()?;
                let options = reader.u8()?;
                if options & !(REVERSE | KEYS_ONLY) != 0 {
                    return Err(Error::unsupported(format!(
                        "{QUERY} with options {options:#04x}; a newer version wrote it"
                    )));
                }
                Self::Range { start, end, limit, reverse: options & REVERSE != 0, keys_only: options & KEYS_ONLY != 0 }
            }
            DIGEST => Self::Digest,
            other => return Err(unknown_tag(QUERY, other)),
        };
        reader.finish()?;
        Ok(query)
    }
}

impl KvAnswer {
    /// Versioned bytes: the envelope of a command (see [`KvCommand::encode`](super::KvCommand::encode)) with `revision u64
    /// present u8 record?` (get, tag 1), `revision u64 more u8 count u32 records` (range, tag 2) or `revision u64 keys u64
    /// digest` (digest, tag 3). A record is `key value create u64 mod u64 version u64 lease u64`.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Get { record, revision } => {
                let mut out = begin(GET, 8 + 1 + record.as_ref().map_or(0, KvRecord::encoded_len));
                put_u64(&mut out, *revision);
                out.push(u8::from(record.is_some()));
                if let Some(record) = record {
                    record.encode_into(&mut out);
                }
                out.into()
            }
            Self::Range { records, more, revision } => {
                let mut out = begin(RANGE, 8 + 1 + 4 + records.iter().map(KvRecord::encoded_len).sum::<usize>());
                put_u64(&mut out, *revision);
                out.push(u8::from(*more));
                let count = u32::try_from(records.len()).expect("a page has at most as many records as its u32 limit");
                out.extend_from_slice(&count.to_le_bytes());
                for record in records {
                    record.encode_into(&mut out);
                }
                out.into()
            }
            Self::Digest { digest, keys, revision } => {
                let mut out = begin(DIGEST, 8 + 8 + digest.len());
                put_u64(&mut out, *revision);
                put_u64(&mut out, *keys);
                out.extend_from_slice(digest);
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
                let present = take_bool(&mut reader, ANSWER)?;
                let record = if present { Some(KvRecord::decode_from(&bytes, &mut reader)?) } else { None };
                Self::Get { record, revision }
            }
            RANGE => {
                let revision = reader.u64()?;
                let more = take_bool(&mut reader, ANSWER)?;
                Self::Range { records: decode_records(&bytes, &mut reader)?, more, revision }
            }
            DIGEST => {
                let revision = reader.u64()?;
                let keys = reader.u64()?;
                let mut digest = [0; 32];
                digest.copy_from_slice(reader.take(32)?);
                Self::Digest { digest, keys, revision }
            }
            other => return Err(unknown_tag(ANSWER, other)),
        };
        reader.finish()?;
        Ok(answer)
    }
}

fn decode_records(source: &Bytes, reader: &mut Reader<'_>) -> Result<Vec<KvRecord>> {
    let count = reader.u32()? as usize;
    if count > reader.rest().len() / KvRecord::MIN_ENCODED_LEN {
        return Err(Error::corrupt(format!("{ANSWER}: {count} records cannot stand in {} bytes", reader.rest().len())));
    }
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        records.push(KvRecord::decode_from(source, reader)?);
    }
    Ok(records)
}

impl KvRecord {
    const MIN_ENCODED_LEN: usize = 2 * LEN + 4 * 8;

    fn encoded_len(&self) -> usize {
        Self::MIN_ENCODED_LEN + self.key.len() + self.value.len()
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        put_bytes(out, &self.key);
        put_bytes(out, &self.value);
        for number in [self.create_revision, self.mod_revision, self.version, self.lease] {
            put_u64(out, number);
        }
    }

    fn decode_from(source: &Bytes, reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Self {
            key: take_bytes(source, reader)?,
            value: take_bytes(source, reader)?,
            create_revision: reader.u64()?,
            mod_revision: reader.u64()?,
            version: reader.u64()?,
            lease: reader.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

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
            (bytes(), option::of(bytes()), any::<(u32, bool, bool)>()).prop_map(
                |(start, end, (limit, reverse, keys_only))| KvQuery::Range { start, end, limit, reverse, keys_only }
            ),
            Just(KvQuery::Digest),
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
        ]
    }

    #[test]
    fn query_bytes_of_version_1_stay_readable() {
        let start = Bytes::from_static(b"a");
        let end = Some(Bytes::from_static(b"b"));
        let golden: [(KvQuery, &[u8]); 3] = [
            (KvQuery::Get { key: start.clone() }, b"\x01\x00\x01\x01\x00\x00\x00a"),
            (
                KvQuery::Range { start, end, limit: 7, reverse: false, keys_only: true },
                b"\x01\x00\x02\x01\x00\x00\x00a\x01\x01\x00\x00\x00b\x07\x00\x00\x00\x02",
            ),
            (KvQuery::Digest, b"\x01\x00\x03"),
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
        let range = KvQuery::Range { start: Bytes::new(), end: None, limit: 0, reverse: true, keys_only: false };
        let mut bytes = range.encode().to_vec();
        *bytes.last_mut().unwrap() |= 4;
        assert!(matches!(KvQuery::decode(&bytes), Err(Error::Unsupported { .. })));
    }

    proptest! {
        #[test]
        fn queries_and_answers_survive_their_encoding(query in query(), answer in answer()) {
            let bytes = query.encode();
            prop_assert_eq!(&KvQuery::decode(&bytes).unwrap(), &query);
            prop_assert!((0..bytes.len()).all(|len| KvQuery::decode(&bytes[..len]).is_err()));
            let bytes = answer.encode();
            prop_assert_eq!(&KvAnswer::decode(&bytes).unwrap(), &answer);
            prop_assert!((0..bytes.len()).all(|len| KvAnswer::decode(&bytes[..len]).is_err()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(tag in 0u8..5, tail in vec(any::<u8>(), 0..128), raw in vec(any::<u8>(), 0..64)) {
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
