//! One key with its value and history.

use bytes::Bytes;

use super::envelope::{LEN, put_bytes, put_u64, take_bool, take_bytes};
use crate::Result;
use crate::codec::Reader;

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
    /// Fewest bytes of its encoding, `key value create u64 mod u64 version u64 lease u64`.
    pub(super) const LEN_MIN: usize = 2 * LEN + 4 * 8;

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

    pub(super) fn encoded_len(&self) -> usize {
        Self::LEN_MIN + self.key.len() + self.value.len()
    }

    pub(super) fn encode_into(&self, out: &mut Vec<u8>) {
        put_bytes(out, &self.key);
        put_bytes(out, &self.value);
        for number in [self.create_revision, self.mod_revision, self.version, self.lease] {
            put_u64(out, number);
        }
    }

    pub(super) fn decode_from(source: &Bytes, reader: &mut Reader<'_>) -> Result<Self> {
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

/// Bytes that [`put_record`] adds.
pub(super) fn record_len(record: Option<&KvRecord>) -> usize {
    1 + record.map_or(0, KvRecord::encoded_len)
}

/// A presence byte (0 or 1) and the record.
pub(super) fn put_record(out: &mut Vec<u8>, record: Option<&KvRecord>) {
    out.push(u8::from(record.is_some()));
    if let Some(record) = record {
        record.encode_into(out);
    }
}

pub(super) fn take_record(source: &Bytes, reader: &mut Reader<'_>, subject: &'static str) -> Result<Option<KvRecord>> {
    if take_bool(reader, subject)? { KvRecord::decode_from(source, reader).map(Some) } else { Ok(None) }
}
