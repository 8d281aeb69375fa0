//! A range of keys as commands, queries and watches name it.

use bytes::Bytes;

use super::envelope::{LEN, option_len, put_bytes, put_option, take_bytes, take_option};
use super::{KvReject, MAX_KEY_LEN};
use crate::codec::Reader;
use crate::kv_store::prefix_end;
use crate::{KeyRange, Result};

/// `start` ≤ key < `end` in byte order. One key is the range up to the next possible one, `key` + `0x00`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct KeySpan {
    /// The first key; empty: from the first one of all.
    pub start: Bytes,
    /// The end, exclusive; `None`: to the last key.
    pub end: Option<Bytes>,
}

impl KeySpan {
    /// Fewest bytes of its encoding.
    pub(super) const LEN_MIN: usize = LEN + 1;

    /// Every key.
    pub const ALL: Self = Self { start: Bytes::new(), end: None };

    /// `start` ≤ key < `end`; `None`: to the last key.
    pub fn new(start: impl Into<Bytes>, end: Option<Bytes>) -> Self {
        Self { start: start.into(), end }
    }

    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        let start = key.into();
        let mut end = Vec::with_capacity(start.len() + 1);
        end.extend_from_slice(&start);
        end.push(0);
        Self { start, end: Some(end.into()) }
    }

    /// The keys that begin with `prefix`; an empty one: every key.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start).map(Bytes::from);
        Self { start, end }
    }

    /// The key, if the span is one key.
    pub fn single_key(&self) -> Option<&Bytes> {
        let end = self.end.as_ref()?;
        (end.len() == self.start.len() + 1 && end.ends_with(&[0]) && end.starts_with(&self.start))
            .then_some(&self.start)
    }

    /// The prefix, if the span is all keys that begin with one.
    pub fn as_prefix(&self) -> Option<&Bytes> {
        (prefix_end(&self.start).as_deref() == self.end.as_deref()).then_some(&self.start)
    }

    /// Whether `key` lies within.
    pub fn contains(&self, key: &[u8]) -> bool {
        *key >= self.start[..] && self.end.as_ref().is_none_or(|end| *key < end[..])
    }

    /// Whether no key can lie within.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| self.start >= *end)
    }

    /// Whether some key lies in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let before = |start: &Bytes, end: &Option<Bytes>| end.as_ref().is_none_or(|end| start < end);
        !self.is_empty() && !other.is_empty() && before(&self.start, &other.end) && before(&other.start, &self.end)
    }

    /// The span as a store's range.
    pub fn as_range(&self) -> KeyRange<'_> {
        match &self.end {
            Some(end) => KeyRange::new(&self.start, end),
            None => KeyRange::from(&self.start),
        }
    }

    /// Whether its ends can be keys; one byte more than a key has is the end of a range of one key.
    ///
    /// # Errors
    /// `KeyTooLarge`.
    pub fn check(&self) -> Result<(), KvReject> {
        for bound in [Some(&self.start), self.end.as_ref()].into_iter().flatten() {
            if bound.len() > MAX_KEY_LEN + 1 {
                return Err(KvReject::KeyTooLarge { len: bound.len() as u64, limit: MAX_KEY_LEN as u64 });
            }
        }
        Ok(())
    }

    pub(super) fn encoded_len(&self) -> usize {
        LEN + self.start.len() + option_len(self.end.as_ref())
    }

    pub(super) fn encode_into(&self, out: &mut Vec<u8>) {
        put_bytes(out, &self.start);
        put_option(out, self.end.as_ref());
    }

    pub(super) fn decode_from(source: &Bytes, reader: &mut Reader<'_>, subject: &'static str) -> Result<Self> {
        Ok(Self { start: take_bytes(source, reader)?, end: take_option(source, reader, subject)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_knows_what_it_is() {
        let key = KeySpan::key("k");
        assert_eq!(key.single_key(), Some(&Bytes::from_static(b"k")));
        assert!(key.contains(b"k") && !key.contains(b"k\0") && !key.contains(b"j"));
        let prefix = KeySpan::prefix("k");
        assert_eq!((prefix.single_key(), prefix.as_prefix()), (None, Some(&Bytes::from_static(b"k"))));
        assert!(prefix.contains(b"kk") && !prefix.contains(b"l"));
        assert_eq!(KeySpan::ALL.as_prefix(), Some(&Bytes::new()));
        assert_eq!(KeySpan::prefix(""), KeySpan::ALL);
        assert!(KeySpan::new("b", Some("a".into())).is_empty());
    }

    #[test]
    fn overlap_is_a_common_key() {
        let span = |start: &'static str, end: Option<&'static str>| KeySpan::new(start, end.map(Bytes::from));
        assert!(span("a", Some("c")).overlaps(&span("b", None)));
        assert!(!span("a", Some("b")).overlaps(&span("b", None)));
        assert!(KeySpan::ALL.overlaps(&KeySpan::key("x")));
        assert!(!span("c", Some("a")).overlaps(&KeySpan::ALL));
        assert!(!KeySpan::key("a").overlaps(&KeySpan::key("b")));
    }
}
