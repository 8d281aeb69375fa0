//! What a command or a transaction does to keys: put, delete, range.

use bytes::Bytes;

use super::envelope::{
    LEN, bits, option_len, put_bytes, put_option, put_u32, put_u64, take_bytes, take_option, take_options, unknown_tag,
};
use super::{KeySpan, KvReject, check_key, check_ttl, check_value};
use crate::Result;
use crate::codec::Reader;

/// Sets a key, with every choice there is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvPut {
    /// The key.
    pub key: Bytes,
    /// Its new value; `None` keeps the value it has, and the key must exist.
    pub value: Option<Bytes>,
    /// The lease that the key belongs to afterwards.
    pub lease: LeaseChoice,
    /// Whether the outcome carries the record before.
    pub prev: bool,
}

/// Which lease a key belongs to after a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LeaseChoice {
    /// None: the key is detached from the lease it had.
    #[default]
    None,
    /// The one it has; the key must exist.
    Keep,
    /// This one, which must exist before the command.
    Attach(u64),
    /// A new one of this many milliseconds that the key has to itself: it ends with the key, or when the key is put
    /// without it.
    Ttl(u64),
}

impl KvPut {
    const LEN_MIN: usize = LEN + 1 + 1 + 8;
    const PREV: u8 = 1;
    const KEEP_LEASE: u8 = 1 << 1;
    const ATTACH: u8 = 1 << 2;
    const TTL: u8 = 1 << 3;

    /// Sets `key` to `value`, without a lease and without the record before.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { key: key.into(), value: Some(value.into()), lease: LeaseChoice::None, prev: false }
    }

    /// Leaves the value as it is, for a change of the lease.
    pub fn keep_value(key: impl Into<Bytes>) -> Self {
        Self { key: key.into(), value: None, lease: LeaseChoice::None, prev: false }
    }

    /// With this lease.
    #[must_use]
    pub fn lease(mut self, lease: LeaseChoice) -> Self {
        self.lease = lease;
        self
    }

    /// With the record before in the outcome.
    #[must_use]
    pub fn prev(mut self) -> Self {
        self.prev = true;
        self
    }

    pub(super) fn check(&self, max_value_len: usize) -> Result<(), KvReject> {
        check_key(&self.key)?;
        if let LeaseChoice::Ttl(milliseconds) = self.lease {
            check_ttl(milliseconds)?;
        }
        check_value(self.value.as_ref(), max_value_len)
    }

    pub(super) fn encoded_len(&self) -> usize {
        Self::LEN_MIN + self.key.len() + option_len(self.value.as_ref())
    }

    /// `key value? options u8 lease u64`: option bit 0 asks for the record before, bit 1 keeps the lease, bit 2 attaches the
    /// lease of that id, bit 3 makes one of that many milliseconds; at most one of bits 1 to 3, and `lease` is 0 without
    /// bit 2 or 3.
    pub(super) fn encode_into(&self, out: &mut Vec<u8>) {
        put_bytes(out, &self.key);
        put_option(out, self.value.as_ref());
        let (choice, number) = match self.lease {
            LeaseChoice::None => (0, 0),
            LeaseChoice::Keep => (Self::KEEP_LEASE, 0),
            LeaseChoice::Attach(id) => (Self::ATTACH, id),
            LeaseChoice::Ttl(milliseconds) => (Self::TTL, milliseconds),
        };
        out.push(choice | bits(&[(self.prev, Self::PREV)]));
        put_u64(out, number);
    }

    pub(super) fn decode_from(source: &Bytes, reader: &mut Reader<'_>, subject: &'static str) -> Result<Self> {
        let key = take_bytes(source, reader)?;
        let value = take_option(source, reader, subject)?;
        let known = Self::PREV | Self::KEEP_LEASE | Self::ATTACH | Self::TTL;
        let options = take_options(reader, subject, known)?;
        let number = reader.u64()?;
        let lease = match (options & !Self::PREV, number) {
            (0, 0) => LeaseChoice::None,
            (Self::KEEP_LEASE, 0) => LeaseChoice::Keep,
            (Self::ATTACH, id) => LeaseChoice::Attach(id),
            (Self::TTL, milliseconds) => LeaseChoice::Ttl(milliseconds),
            (choice, number) => {
                let what = format!("{subject}: lease {number} does not go with options {choice:#04x}");
                return Err(crate::Error::corrupt(what));
            }
        };
        Ok(Self { key, value, lease, prev: options & Self::PREV != 0 })
    }
}

/// Removes the keys of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvDelete {
    /// Which keys.
    pub span: KeySpan,
    /// Whether the outcome carries the records that were removed.
    pub prev: bool,
}

impl KvDelete {
    /// Removes the keys of `span`; `prev` asks for the records that were there.
    pub const fn new(span: KeySpan, prev: bool) -> Self {
        Self { span, prev }
    }

    pub(super) fn encoded_len(&self) -> usize {
        self.span.encoded_len() + 1
    }

    /// `start end? options u8`: option bit 0 asks for the records.
    pub(super) fn encode_into(&self, out: &mut Vec<u8>) {
        self.span.encode_into(out);
        out.push(u8::from(self.prev));
    }

    pub(super) fn decode_from(source: &Bytes, reader: &mut Reader<'_>, subject: &'static str) -> Result<Self> {
        let span = KeySpan::decode_from(source, reader, subject)?;
        Ok(Self { span, prev: take_options(reader, subject, 1)? != 0 })
    }
}

/// Asks for the records of a range, a page at a time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct KvRange {
    /// Which keys.
    pub span: KeySpan,
    /// The last key of the page before: this one begins behind it, in the order asked for.
    pub after: Option<Bytes>,
    /// At most so many records; 0: the server's page of 1,000. A page also ends, with `more` set, once its records
    /// reach 1 MiB.
    pub limit: u32,
    /// From the last key down.
    pub reverse: bool,
    /// Leaves the values empty.
    pub keys_only: bool,
    /// Only counts the keys, all of them: there are no pages.
    pub count_only: bool,
}

impl KvRange {
    const REVERSE: u8 = 1;
    const KEYS_ONLY: u8 = 1 << 1;
    const COUNT_ONLY: u8 = 1 << 2;
    const AFTER: u8 = 1 << 3;

    /// The first page of `span`, ascending, of the server's size; set the fields for anything else.
    pub fn new(span: KeySpan) -> Self {
        Self { span, ..Self::default() }
    }

    pub(super) fn check(&self) -> Result<(), KvReject> {
        self.span.check()?;
        self.after.as_ref().map_or(Ok(()), |after| KeySpan::new(after.clone(), None).check())
    }

    pub(super) fn encoded_len(&self) -> usize {
        self.span.encoded_len() + 4 + 1 + self.after.as_ref().map_or(0, |after| LEN + after.len())
    }

    /// `start end? limit u32 options u8 after`: option bit 0 is reverse, bit 1 keys only, bit 2 count only, bit 3 says that
    /// `after` is there.
    pub(super) fn encode_into(&self, out: &mut Vec<u8>) {
        self.span.encode_into(out);
        put_u32(out, self.limit);
        out.push(bits(&[
            (self.reverse, Self::REVERSE),
            (self.keys_only, Self::KEYS_ONLY),
            (self.count_only, Self::COUNT_ONLY),
            (self.after.is_some(), Self::AFTER),
        ]));
        if let Some(after) = &self.after {
            put_bytes(out, after);
        }
    }

    pub(super) fn decode_from(source: &Bytes, reader: &mut Reader<'_>, subject: &'static str) -> Result<Self> {
        let span = KeySpan::decode_from(source, reader, subject)?;
        let limit = reader.u32()?;
        let known = Self::REVERSE | Self::KEYS_ONLY | Self::COUNT_ONLY | Self::AFTER;
        let options = take_options(reader, subject, known)?;
        let has = |bit| options & bit != 0;
        let after = if has(Self::AFTER) { Some(take_bytes(source, reader)?) } else { None };
        let (reverse, keys_only, count_only) = (has(Self::REVERSE), has(Self::KEYS_ONLY), has(Self::COUNT_ONLY));
        Ok(Self { span, after, limit, reverse, keys_only, count_only })
    }
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvOp {
    /// Sets a key.
    Put(KvPut),
    /// Removes keys.
    Delete(KvDelete),
    /// Reads records as the steps before it have left them.
    Range(KvRange),
}

impl KvOp {
    /// Fewest bytes of an encoding.
    pub(super) const LEN_MIN: usize = 1 + KeySpan::LEN_MIN;

    pub(super) fn check(&self, max_value_len: usize) -> Result<(), KvReject> {
        match self {
            Self::Put(put) => put.check(max_value_len),
            Self::Delete(delete) => delete.span.check(),
            Self::Range(range) => range.check(),
        }
    }

    /// The keys that it may write.
    pub(super) fn written(&self) -> Option<KeySpan> {
        match self {
            Self::Put(put) => Some(KeySpan::key(put.key.clone())),
            Self::Delete(delete) => Some(delete.span.clone()),
            Self::Range(_) => None,
        }
    }

    pub(super) fn encoded_len(&self) -> usize {
        1 + match self {
            Self::Put(put) => put.encoded_len(),
            Self::Delete(delete) => delete.encoded_len(),
            Self::Range(range) => range.encoded_len(),
        }
    }

    /// A byte for the kind (1 put, 2 delete, 3 range) and its fields.
    pub(super) fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Put(put) => {
                out.push(1);
                put.encode_into(out);
            }
            Self::Delete(delete) => {
                out.push(2);
                delete.encode_into(out);
            }
            Self::Range(range) => {
                out.push(3);
                range.encode_into(out);
            }
        }
    }

    pub(super) fn decode_from(source: &Bytes, reader: &mut Reader<'_>, subject: &'static str) -> Result<Self> {
        match reader.u8()? {
            1 => KvPut::decode_from(source, reader, subject).map(Self::Put),
            2 => KvDelete::decode_from(source, reader, subject).map(Self::Delete),
            3 => KvRange::decode_from(source, reader, subject).map(Self::Range),
            other => Err(unknown_tag("operation of a transaction", other)),
        }
    }
}
