//! Watches: what a watcher asks for, and what it is told.

use bytes::Bytes;

use super::envelope::{
    begin, bits, open, put_bytes, put_count, put_u64, take_bool, take_bytes, take_list, take_options, unknown_tag,
};
use super::record::{put_record, record_len, take_record};
use super::{KeySpan, KvRecord, KvReject};
use crate::codec::Reader;
use crate::{Error, Result};

/// Asks for every change of some keys, each once and in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct KvWatch {
    /// Which keys.
    pub span: KeySpan,
    /// The first revision whose changes are wanted; 0: those after the watch begins.
    pub from_revision: u64,
    /// Whether changes carry the record before.
    pub prev: bool,
    /// Whether to be told from time to time, without a change, how far the watch has come.
    pub progress: bool,
}

/// What a watcher is told. Revisions never go back.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchMessage {
    /// The watch has begun: the first message, unless the watch ends at once.
    Created {
        /// The store's revision; changes after it, or from the revision that was asked for, follow.
        revision: u64,
    },
    /// Changes of one revision, in the order in which they were made.
    Changes {
        /// The revision.
        revision: u64,
        /// The changes.
        changes: Vec<KvChange>,
        /// Whether further changes of this revision follow in the next message.
        more: bool,
    },
    /// Every change up to this revision has been told.
    Progress {
        /// The revision.
        revision: u64,
    },
    /// The watch has ended: the last message.
    Ended(WatchEnd),
}

/// Why a watch has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WatchEnd {
    /// The changes asked for, or those that were to come next, are not kept any more.
    #[error("the changes before revision {first_revision} are not kept any more; read the keys and watch from there")]
    Compacted {
        /// The first revision whose changes may still be there.
        first_revision: u64,
    },
    /// The watcher did not take what it was told in time.
    #[error("the watcher took its changes too slowly; watch again from revision {next_revision}")]
    Slow {
        /// The revision to go on with; some of its changes may have been told.
        next_revision: u64,
    },
    /// The node does not serve any more: it has stopped or failed, or was removed from its cluster.
    #[error("the node serves no more; watch on another one")]
    Stopped,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvChange {
    /// The key was set.
    Put {
        /// The record after the change.
        record: KvRecord,
        /// The one before, if it was asked for and there was one.
        prev: Option<KvRecord>,
    },
    /// The key was removed, by a command or with its lease.
    Delete {
        /// The key.
        key: Bytes,
        /// The record that was removed, if it was asked for.
        prev: Option<KvRecord>,
    },
}

const REQUEST: &str = "watch request";
const MESSAGE: &str = "watch message";
const WATCH: u8 = 1;
const PREV: u8 = 1;
const PROGRESS: u8 = 1 << 1;

const CREATED_MESSAGE: u8 = 1;
const CHANGES_MESSAGE: u8 = 2;
const PROGRESS_MESSAGE: u8 = 3;
const ENDED_MESSAGE: u8 = 4;

const COMPACTED: u8 = 1;
const SLOW: u8 = 2;
const STOPPED: u8 = 3;

impl KvWatch {
    /// The changes of `span` after the watch begins; set the fields for anything else.
    pub const fn new(span: KeySpan) -> Self {
        Self { span, from_revision: 0, prev: false, progress: false }
    }

    /// Whether the watch may be asked for.
    ///
    /// # Errors
    /// The first limit that is broken.
    pub fn check(&self) -> Result<(), KvReject> {
        self.span.check()
    }

    /// Versioned bytes: the envelope of a command with tag 1 and `start end? from u64 options u8`; option bit 0 asks for the
    /// records before, bit 1 for progress.
    pub fn encode(&self) -> Bytes {
        let mut out = begin(WATCH, self.span.encoded_len() + 9);
        self.span.encode_into(&mut out);
        put_u64(&mut out, self.from_revision);
        out.push(bits(&[(self.prev, PREV), (self.progress, PROGRESS)]));
        out.into()
    }

    /// Reads what [`encode`](KvWatch::encode) wrote; keys are slices of `bytes`.
    ///
    /// # Errors
    /// `Unsupported` for a newer version, an unknown kind, flag or option; `Corrupt` for bytes of no version.
    pub fn decode_bytes(bytes: Bytes) -> Result<Self> {
        let (tag, mut reader) = open(&bytes, REQUEST)?;
        if tag != WATCH {
            return Err(unknown_tag(REQUEST, tag));
        }
        let span = KeySpan::decode_from(&bytes, &mut reader, REQUEST)?;
        let from_revision = reader.u64()?;
        let options = take_options(&mut reader, REQUEST, PREV | PROGRESS)?;
        reader.finish()?;
        Ok(Self { span, from_revision, prev: options & PREV != 0, progress: options & PROGRESS != 0 })
    }
}

impl WatchMessage {
    /// Versioned bytes: the envelope of a command with the fields in the order of their declaration; a change has a byte for
    /// its kind (1 put, 2 delete) and an end one for its cause in front.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Created { revision } => numbered(CREATED_MESSAGE, *revision),
            Self::Progress { revision } => numbered(PROGRESS_MESSAGE, *revision),
            Self::Changes { revision, changes, more } => {
                let len = changes.iter().map(KvChange::encoded_len).sum::<usize>();
                let mut out = begin(CHANGES_MESSAGE, 8 + 1 + 4 + len);
                put_u64(&mut out, *revision);
                out.push(u8::from(*more));
                put_count(&mut out, changes.len());
                changes.iter().for_each(|change| change.encode_into(&mut out));
                out.into()
            }
            Self::Ended(end) => {
                let mut out = begin(ENDED_MESSAGE, 9);
                match end {
                    WatchEnd::Compacted { first_revision } => {
                        out.push(COMPACTED);
                        put_u64(&mut out, *first_revision);
                    }
                    WatchEnd::Slow { next_revision } => {
                        out.push(SLOW);
                        put_u64(&mut out, *next_revision);
                    }
                    WatchEnd::Stopped => out.push(STOPPED),
                }
                out.into()
            }
        }
    }

    /// Reads what [`encode`](WatchMessage::encode) wrote; keys and values are slices of `bytes`.
    ///
    /// # Errors
    /// `Unsupported` for a newer version, an unknown kind or an unknown flag; `Corrupt` for bytes of no version.
    pub fn decode_bytes(bytes: Bytes) -> Result<Self> {
        let (tag, mut reader) = open(&bytes, MESSAGE)?;
        let message = match tag {
            CREATED_MESSAGE => Self::Created { revision: reader.u64()? },
            PROGRESS_MESSAGE => Self::Progress { revision: reader.u64()? },
            CHANGES_MESSAGE => {
                let revision = reader.u64()?;
                let more = take_bool(&mut reader, MESSAGE)?;
                let change = |reader: &mut Reader<'_>| KvChange::decode_from(&bytes, reader);
                Self::Changes { revision, more, changes: take_list(&mut reader, MESSAGE, KvChange::LEN_MIN, change)? }
            }
            ENDED_MESSAGE => Self::Ended(match reader.u8()? {
                COMPACTED => WatchEnd::Compacted { first_revision: reader.u64()? },
                SLOW => WatchEnd::Slow { next_revision: reader.u64()? },
                STOPPED => WatchEnd::Stopped,
                other => return Err(Error::unsupported(format!("{MESSAGE}: end {other}; a newer version wrote it"))),
            }),
            other => return Err(unknown_tag(MESSAGE, other)),
        };
        reader.finish()?;
        Ok(message)
    }
}

fn numbered(tag: u8, revision: u64) -> Bytes {
    let mut out = begin(tag, 8);
    put_u64(&mut out, revision);
    out.into()
}

impl KvChange {
    const LEN_MIN: usize = 1 + 4 + 1;

    /// The key.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { record, .. } => &record.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// Bytes of its encoding.
    pub fn encoded_len(&self) -> usize {
        1 + match self {
            Self::Put { record, prev } => record.encoded_len() + record_len(prev.as_ref()),
            Self::Delete { key, prev } => 4 + key.len() + record_len(prev.as_ref()),
        }
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Put { record, prev } => {
                out.push(1);
                record.encode_into(out);
                put_record(out, prev.as_ref());
            }
            Self::Delete { key, prev } => {
                out.push(2);
                put_bytes(out, key);
                put_record(out, prev.as_ref());
            }
        }
    }

    fn decode_from(source: &Bytes, reader: &mut Reader<'_>) -> Result<Self> {
        match reader.u8()? {
            1 => Ok(Self::Put {
                record: KvRecord::decode_from(source, reader)?,
                prev: take_record(source, reader, MESSAGE)?,
            }),
            2 => Ok(Self::Delete { key: take_bytes(source, reader)?, prev: take_record(source, reader, MESSAGE)? }),
            other => Err(Error::unsupported(format!("{MESSAGE}: change {other}; a newer version wrote it"))),
        }
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

    fn message() -> impl Strategy<Value = WatchMessage> {
        let change = prop_oneof![
            (record(), option::of(record())).prop_map(|(record, prev)| KvChange::Put { record, prev }),
            (bytes(), option::of(record())).prop_map(|(key, prev)| KvChange::Delete { key, prev }),
        ];
        let end = prop_oneof![
            any::<u64>().prop_map(|first_revision| WatchEnd::Compacted { first_revision }),
            any::<u64>().prop_map(|next_revision| WatchEnd::Slow { next_revision }),
            Just(WatchEnd::Stopped),
        ];
        prop_oneof![
            any::<u64>().prop_map(|revision| WatchMessage::Created { revision }),
            any::<u64>().prop_map(|revision| WatchMessage::Progress { revision }),
            (any::<u64>(), vec(change, 0..4), any::<bool>())
                .prop_map(|(revision, changes, more)| WatchMessage::Changes { revision, changes, more }),
            end.prop_map(WatchMessage::Ended),
        ]
    }

    #[test]
    fn watch_bytes_of_version_1_stay_readable() {
        let watch = KvWatch { from_revision: 3, progress: true, ..KvWatch::new(KeySpan::key("k")) };
        let golden = b"\x01\x00\x01\x01\x00\x00\x00k\x01\x02\x00\x00\x00k\x00\x03\x00\x00\x00\x00\x00\x00\x00\x02";
        assert_eq!(watch.encode(), golden[..]);
        assert_eq!(KvWatch::decode_bytes(Bytes::from_static(golden)).unwrap(), watch);
        let number = |n: u8| [n, 0, 0, 0, 0, 0, 0, 0];
        let delete = KvChange::Delete { key: "k".into(), prev: None };
        let messages = [
            (WatchMessage::Created { revision: 7 }, [&[1, 0, 1][..], &number(7)].concat()),
            (
                WatchMessage::Changes { revision: 7, changes: vec![delete], more: true },
                [&[1, 0, 2][..], &number(7), &[1, 1, 0, 0, 0, 2, 1, 0, 0, 0, b'k', 0]].concat(),
            ),
            (WatchMessage::Progress { revision: 7 }, [&[1, 0, 3][..], &number(7)].concat()),
            (WatchMessage::Ended(WatchEnd::Compacted { first_revision: 7 }), [&[1, 0, 4, 1][..], &number(7)].concat()),
            (WatchMessage::Ended(WatchEnd::Stopped), vec![1, 0, 4, 3]),
        ];
        for (message, bytes) in messages {
            assert_eq!(message.encode(), bytes);
            assert_eq!(WatchMessage::decode_bytes(bytes.into()).unwrap(), message);
        }
    }

    proptest! {
        #[test]
        fn watches_and_messages_survive_their_encoding(
            start in bytes(), end in option::of(bytes()), from_revision: u64, options: (bool, bool), message in message()
        ) {
            let (prev, progress) = options;
            let watch = KvWatch { span: KeySpan::new(start, end), from_revision, prev, progress };
            let bytes = watch.encode();
            prop_assert_eq!(KvWatch::decode_bytes(bytes.clone()).unwrap(), watch);
            prop_assert!((0..bytes.len()).all(|len| KvWatch::decode_bytes(bytes.slice(..len)).is_err()));
            let bytes = message.encode();
            prop_assert_eq!(WatchMessage::decode_bytes(bytes.clone()).unwrap(), message);
            prop_assert!((0..bytes.len()).all(|len| WatchMessage::decode_bytes(bytes.slice(..len)).is_err()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(tag in 0u8..6, tail in vec(any::<u8>(), 0..96)) {
            let framed = Bytes::from([&[1, 0, tag][..], &tail].concat());
            if let Ok(watch) = KvWatch::decode_bytes(framed.clone()) {
                prop_assert_eq!(watch.encode(), framed.clone(), "one request has one encoding");
            }
            if let Ok(message) = WatchMessage::decode_bytes(framed.clone()) {
                prop_assert_eq!(message.encode(), framed, "one message has one encoding");
            }
            let _ = (KvWatch::decode_bytes(tail.clone().into()), WatchMessage::decode_bytes(tail.into()));
        }
    }
}
