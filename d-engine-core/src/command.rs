//! The built-in key-value commands with their outcomes, queries and answers, as versioned bytes.
//!
//! Only what they are and how they are written; what they do is d-engine-kv's business. A newer version, an unknown kind
//! or an unknown flag is `Unsupported`; bytes that fit no version are `Corrupt`. Decoding slices its input, never panics
//! and allocates nothing by a length that it has not checked.

mod envelope;
mod outcome;
mod query;

use bytes::Bytes;

use crate::Result;
use envelope::{LEN, begin, open, option_len, put_bytes, put_option, take_bytes, take_option, unknown_tag};
pub use outcome::{KvOutcome, KvReject};
pub use query::{KvAnswer, KvQuery, KvRecord};

/// The longest key, in bytes. A rule of the replicated state, hence not configurable.
pub const MAX_KEY_LEN: usize = 64 * 1024;

/// A change of the key-value state, as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvCommand {
    /// Sets a key.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value; may be empty.
        value: Bytes,
    },
    /// Removes a key.
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
}

const SUBJECT: &str = "key-value command";
const PUT: u8 = 1;
const DELETE: u8 = 2;
const CAS: u8 = 3;

impl KvCommand {
    /// The bytes to propose: `version u8 = 1 | flags u8 = 0 | tag u8 | fields`, with the fields `key value` (put, tag 1),
    /// `key` (delete, tag 2) or `key expected? value?` (compare-and-swap, tag 3). A field is a little-endian `u32` length
    /// and its bytes; an optional one (`?`) has a byte in front that says whether it is there, 0 or 1.
    ///
    /// # Panics
    /// If a key or value is longer than 4 GiB; [`check`](KvCommand::check) refuses it long before.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Put { key, value } => {
                let mut out = begin(PUT, LEN + key.len() + LEN + value.len());
                put_bytes(&mut out, key);
                put_bytes(&mut out, value);
                out.into()
            }
            Self::Delete { key } => {
                let mut out = begin(DELETE, LEN + key.len());
                put_bytes(&mut out, key);
                out.into()
            }
            Self::Cas { key, expected, value } => {
                let (expected, value) = (expected.as_ref(), value.as_ref());
                let mut out = begin(CAS, LEN + key.len() + option_len(expected) + option_len(value));
                put_bytes(&mut out, key);
                put_option(&mut out, expected);
                put_option(&mut out, value);
                out.into()
            }
        }
    }

    /// Reads what [`encode`](KvCommand::encode) wrote; copies `bytes` once.
    ///
    /// # Errors
    /// `Corrupt` or `Unsupported`, as [`decode_bytes`](KvCommand::decode_bytes).
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Self::decode_bytes(Bytes::copy_from_slice(bytes))
    }

    /// Reads what [`encode`](KvCommand::encode) wrote; keys and values are slices of `bytes`.
    ///
    /// # Errors
    /// `Unsupported` for a newer version, an unknown kind or an unknown flag; `Corrupt` for bytes of no version. The text
    /// of `Corrupt` becomes a result that must be equal on every replica: changing it needs a new version.
    pub fn decode_bytes(bytes: Bytes) -> Result<Self> {
        let (tag, mut reader) = open(&bytes, SUBJECT)?;
        let command = match tag {
            PUT => Self::Put { key: take_bytes(&bytes, &mut reader)?, value: take_bytes(&bytes, &mut reader)? },
            DELETE => Self::Delete { key: take_bytes(&bytes, &mut reader)? },
            CAS => Self::Cas {
                key: take_bytes(&bytes, &mut reader)?,
                expected: take_option(&bytes, &mut reader, SUBJECT)?,
                value: take_option(&bytes, &mut reader, SUBJECT)?,
            },
            other => return Err(unknown_tag(SUBJECT, other)),
        };
        reader.finish()?;
        Ok(command)
    }

    /// The key that the command is about.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } | Self::Cas { key, .. } => key,
        }
    }

    /// Whether the command may be proposed: the key's limits, and `max_value_len` for each value in it (also the one that
    /// a compare-and-swap expects, since it costs the log as much).
    ///
    /// Servers call this before they propose. The machine repeats it for the keys alone, with `usize::MAX`: what it does
    /// must not depend on a server's configuration.
    ///
    /// # Errors
    /// The first limit that is broken.
    pub fn check(&self, max_value_len: usize) -> Result<(), KvReject> {
        check_key(self.key())?;
        let longest = match self {
            Self::Put { value, .. } => value.len(),
            Self::Delete { .. } => 0,
            Self::Cas { expected, value, .. } => {
                [expected, value].into_iter().flatten().map(Bytes::len).max().unwrap_or(0)
            }
        };
        if longest > max_value_len {
            return Err(KvReject::ValueTooLarge { len: longest as u64, limit: max_value_len as u64 });
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::Error;

    fn put(key: &[u8], value: &[u8]) -> KvCommand {
        KvCommand::Put { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) }
    }

    fn bytes() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..20).prop_map(Bytes::from)
    }

    fn command() -> impl Strategy<Value = KvCommand> {
        prop_oneof![
            (bytes(), bytes()).prop_map(|(key, value)| KvCommand::Put { key, value }),
            bytes().prop_map(|key| KvCommand::Delete { key }),
            (bytes(), option::of(bytes()), option::of(bytes())).prop_map(|(key, expected, value)| KvCommand::Cas {
                key,
                expected,
                value
            }),
        ]
    }

    #[test]
    fn command_bytes_of_version_1_stay_readable() {
        let delete = KvCommand::Delete { key: Bytes::from_static(b"k") };
        let cas =
            KvCommand::Cas { key: Bytes::from_static(b"k"), expected: None, value: Some(Bytes::from_static(b"v")) };
        let golden: [(KvCommand, &[u8]); 3] = [
            (put(b"k", b"vv"), b"\x01\x00\x01\x01\x00\x00\x00k\x02\x00\x00\x00vv"),
            (delete, b"\x01\x00\x02\x01\x00\x00\x00k"),
            (cas, b"\x01\x00\x03\x01\x00\x00\x00k\x00\x01\x01\x00\x00\x00v"),
        ];
        for (command, bytes) in golden {
            assert_eq!(command.encode(), bytes);
            assert_eq!(KvCommand::decode(bytes).unwrap(), command);
        }
    }

    #[test]
    fn what_a_newer_version_writes_is_unsupported_and_what_none_writes_is_corrupt() {
        let good = put(b"key", b"value").encode();
        for (place, byte) in [(0, 2), (0, 255), (1, 1), (1, 0x80), (2, 0), (2, 99)] {
            let mut newer = good.to_vec();
            newer[place] = byte;
            let error = KvCommand::decode(&newer).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "byte {place} = {byte}: {error}");
        }
        let mut never = good.to_vec();
        never[0] = 0;
        assert!(matches!(KvCommand::decode(&never), Err(Error::Corrupt { .. })));
        for len in 0..good.len() {
            assert!(matches!(KvCommand::decode(&good[..len]), Err(Error::Corrupt { .. })), "cut to {len}");
        }
        never = good.to_vec();
        never.push(0);
        assert!(matches!(KvCommand::decode(&never), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn a_huge_length_is_refused_without_an_allocation() {
        let bytes = b"\x01\x00\x01\xff\xff\xff\xffk";
        assert!(matches!(KvCommand::decode(bytes), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn limits_of_keys_and_values_are_exact() {
        assert_eq!(put(&[1; MAX_KEY_LEN], b"12").check(2), Ok(()));
        assert_eq!(put(b"", b"").check(2), Err(KvReject::EmptyKey));
        let too_long = MAX_KEY_LEN as u64 + 1;
        assert_eq!(
            put(&[1; MAX_KEY_LEN + 1], b"").check(2),
            Err(KvReject::KeyTooLarge { len: too_long, limit: too_long - 1 })
        );
        let value_too_large = Err(KvReject::ValueTooLarge { len: 3, limit: 2 });
        assert_eq!(put(b"k", b"123").check(2), value_too_large);
        let cas = |expected, value| KvCommand::Cas { key: Bytes::from_static(b"k"), expected, value }.check(2);
        assert_eq!(cas(Some(Bytes::from_static(b"123")), None), value_too_large);
        assert_eq!(cas(None, Some(Bytes::from_static(b"123"))), value_too_large);
        assert_eq!(cas(None, None), Ok(()));
    }

    proptest! {
        #[test]
        fn commands_survive_their_encoding(command in command()) {
            let bytes = command.encode();
            prop_assert_eq!(&KvCommand::decode_bytes(bytes.clone()).unwrap(), &command);
            prop_assert_eq!(KvCommand::decode(&bytes).unwrap(), command);
        }

        #[test]
        fn arbitrary_bytes_never_panic(tag in 0u8..5, tail in vec(any::<u8>(), 0..64), raw in vec(any::<u8>(), 0..64)) {
            let mut framed = std::vec![1, 0, tag];
            framed.extend_from_slice(&tail);
            if let Ok(command) = KvCommand::decode(&framed) {
                prop_assert_eq!(command.encode(), framed, "one command has one encoding");
            }
            let _ = KvCommand::decode(&raw);
        }
    }
}
