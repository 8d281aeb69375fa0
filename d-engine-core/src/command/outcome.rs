//! What a command did, for the caller that proposed it.

use bytes::Bytes;

use super::envelope::{
    LEN, begin, open, option_len, put_bytes, put_option, put_u64, take_bool, take_option, unknown_tag,
};
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
}

/// Why a command was refused.
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
}

const SUBJECT: &str = "key-value outcome";
const PUT: u8 = 1;
const DELETED: u8 = 2;
const CAS: u8 = 3;
const REJECTED: u8 = 4;

const MALFORMED: u8 = 1;
const EMPTY_KEY: u8 = 2;
const KEY_TOO_LARGE: u8 = 3;
const VALUE_TOO_LARGE: u8 = 4;

impl KvOutcome {
    /// Versioned bytes: the envelope of a command (see [`KvCommand::encode`](super::KvCommand::encode)) with the fields in
    /// the order of their declaration; a rejection has a code byte in front of its fields.
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
        }
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
            REJECTED => Self::Rejected(KvReject::decode_from(&mut reader)?),
            other => return Err(unknown_tag(SUBJECT, other)),
        };
        reader.finish()?;
        Ok(outcome)
    }
}

impl KvReject {
    fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Malformed { why } => {
                out.reserve(1 + LEN + why.len());
                out.push(MALFORMED);
                put_bytes(out, why.as_bytes());
            }
            Self::EmptyKey => out.push(EMPTY_KEY),
            Self::KeyTooLarge { len, limit } => {
                out.push(KEY_TOO_LARGE);
                put_u64(out, *len);
                put_u64(out, *limit);
            }
            Self::ValueTooLarge { len, limit } => {
                out.push(VALUE_TOO_LARGE);
                put_u64(out, *len);
                put_u64(out, *limit);
            }
        }
    }

    fn decode_from(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.u8()? {
            MALFORMED => {
                let why = std::str::from_utf8(reader.bytes()?)
                    .map_err(|_| Error::corrupt(format!("{SUBJECT}: the reason is not UTF-8")))?;
                Ok(Self::Malformed { why: why.to_owned() })
            }
            EMPTY_KEY => Ok(Self::EmptyKey),
            KEY_TOO_LARGE => Ok(Self::KeyTooLarge { len: reader.u64()?, limit: reader.u64()? }),
            VALUE_TOO_LARGE => Ok(Self::ValueTooLarge { len: reader.u64()?, limit: reader.u64()? }),
            other => Err(Error::unsupported(format!("{SUBJECT}: rejection {other}; a newer version wrote it"))),
        }
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
        ];
        prop_oneof![
            any::<u64>().prop_map(|revision| KvOutcome::Put { revision }),
            any::<(u64, bool)>().prop_map(|(revision, existed)| KvOutcome::Deleted { revision, existed }),
            (any::<u64>(), any::<bool>(), option::of(bytes()))
                .prop_map(|(revision, succeeded, current)| KvOutcome::Cas { revision, succeeded, current }),
            reject.prop_map(KvOutcome::Rejected),
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
        fn arbitrary_bytes_never_panic(tag in 0u8..6, tail in vec(any::<u8>(), 0..64), raw in vec(any::<u8>(), 0..64)) {
            let mut framed = std::vec![1, 0, tag];
            framed.extend_from_slice(&tail);
            if let Ok(outcome) = KvOutcome::decode(&framed) {
                prop_assert_eq!(outcome.encode(), framed, "one outcome has one encoding");
            }
            let _ = KvOutcome::decode(&raw);
        }
    }
}
