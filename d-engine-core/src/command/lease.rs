//! What commands and answers say about leases. Times are milliseconds.

use bytes::Bytes;

use super::envelope::{LEN, put_bytes, put_count, put_u64, take_bytes, take_list};
use crate::Result;
use crate::codec::Reader;

/// A lease as it stood at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseMark {
    /// The lease.
    pub id: u64,
    /// Index of the entry that had begun its time last: that granted it, or kept it alive. A lease of the same id that was
    /// granted anew has another one.
    pub began: u64,
}

impl LeaseMark {
    pub(super) const LEN: usize = 16;

    pub(super) fn encode_into(self, out: &mut Vec<u8>) {
        put_u64(out, self.id);
        put_u64(out, self.began);
    }

    pub(super) fn decode_from(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Self { id: reader.u64()?, began: reader.u64()? })
    }
}

/// How much of its time a lease had left at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseTime {
    /// The lease at that moment.
    pub mark: LeaseMark,
    /// Milliseconds left.
    pub remaining_ms: u64,
}

impl LeaseTime {
    pub(super) const LEN: usize = LeaseMark::LEN + 8;

    pub(super) fn encode_into(self, out: &mut Vec<u8>) {
        self.mark.encode_into(out);
        put_u64(out, self.remaining_ms);
    }

    pub(super) fn decode_from(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Self { mark: LeaseMark::decode_from(reader)?, remaining_ms: reader.u64()? })
    }
}

/// What is known of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvLease {
    /// Its id.
    pub id: u64,
    /// How long it lasts without a keep-alive.
    pub ttl_ms: u64,
    /// How much of that is left: on the leader by its clock, elsewhere as last written down in the log, hence too much
    /// rather than too little.
    pub remaining_ms: u64,
    /// How often it was kept alive.
    pub renewals: u64,
    /// Its keys, if they were asked for; as many as fit an answer.
    pub keys: Vec<Bytes>,
    /// How many keys it has.
    pub key_count: u64,
}

impl KvLease {
    /// A lease of which nothing is known but its times.
    pub const fn new(id: u64, ttl_ms: u64, remaining_ms: u64, renewals: u64) -> Self {
        Self { id, ttl_ms, remaining_ms, renewals, keys: Vec::new(), key_count: 0 }
    }

    pub(super) fn encode_into(&self, out: &mut Vec<u8>) {
        for number in [self.id, self.ttl_ms, self.remaining_ms, self.renewals, self.key_count] {
            put_u64(out, number);
        }
        put_count(out, self.keys.len());
        self.keys.iter().for_each(|key| put_bytes(out, key));
    }

    pub(super) fn decode_from(source: &Bytes, reader: &mut Reader<'_>, subject: &'static str) -> Result<Self> {
        let mut lease = Self::new(reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?);
        lease.key_count = reader.u64()?;
        lease.keys = take_list(reader, subject, LEN, |reader| take_bytes(source, reader))?;
        Ok(lease)
    }
}
