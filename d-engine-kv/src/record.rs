//! What the store holds for one key: `version u8 = 1 | create | changed | sets | lease | value`.
//!
//! The four numbers are LEB128; `changed` is how far the mod revision lies behind the create revision. The value comes
//! last, so that a read slices it out of the stored bytes.

use bytes::{BufMut, Bytes, BytesMut};
use d_engine_core::{Error, KvRecord, Result};

const VERSION: u8 = 1;
const LONGEST_VARINT: usize = 10;

/// A key's record without the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) create_revision: u64,
    pub(crate) mod_revision: u64,
    pub(crate) version: u64,
    pub(crate) lease: u64,
    pub(crate) value: Bytes,
}

impl Record {
    /// The record of a key that is set for the first time.
    pub(crate) fn created(revision: u64, value: Bytes) -> Self {
        Self { create_revision: revision, mod_revision: revision, version: 1, lease: 0, value }
    }

    /// The record after the key is set again, which detaches it from its lease.
    pub(crate) fn set(&self, revision: u64, value: Bytes) -> Self {
        Self {
            create_revision: self.create_revision,
            mod_revision: revision,
            version: self.version + 1,
            lease: 0,
            value,
        }
    }

    /// The stored bytes, which share nothing with the value's buffer: that may be a whole message from the network.
    pub(crate) fn encode(&self) -> Bytes {
        debug_assert!(self.create_revision <= self.mod_revision, "a key is created before it is changed");
        let mut header = [0; 1 + 4 * LONGEST_VARINT];
        header[0] = VERSION;
        let mut len = 1;
        for number in [self.create_revision, self.mod_revision - self.create_revision, self.version, self.lease] {
            len += write_varint(&mut header[len..], number);
        }
        let mut out = BytesMut::with_capacity(len + self.value.len());
        out.put_slice(&header[..len]);
        out.put_slice(&self.value);
        out.freeze()
    }

    /// Reads what [`encode`](Record::encode) wrote; the value is a slice of `bytes`.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self> {
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&newer) => {
                return Err(Error::unsupported(format!("record version {newer}; this build reads version {VERSION}")));
            }
            None => return Err(damaged()),
        }
        let mut at = 1;
        let create_revision = read_varint(&bytes, &mut at)?;
        let changed = read_varint(&bytes, &mut at)?;
        let mod_revision = create_revision.checked_add(changed).ok_or_else(damaged)?;
        let version = read_varint(&bytes, &mut at)?;
        let lease = read_varint(&bytes, &mut at)?;
        Ok(Self { create_revision, mod_revision, version, lease, value: bytes.slice(at..) })
    }

    /// The record as a query answers it.
    pub(crate) fn with_key(self, key: Bytes) -> KvRecord {
        let mut record = KvRecord::new(key, self.value, self.create_revision, self.mod_revision, self.version);
        record.lease = self.lease;
        record
    }
}

fn damaged() -> Error {
    Error::corrupt("a record of the key-value state: its numbers do not fit")
}

fn write_varint(out: &mut [u8], mut number: u64) -> usize {
    let mut len = 0;
    while number >= 0x80 {
        out[len] = number as u8 | 0x80;
        number >>= 7;
        len += 1;
    }
    out[len] = number as u8;
    len + 1
}

fn read_varint(bytes: &[u8], at: &mut usize) -> Result<u64> {
    let mut number = 0;
    for place in 0..LONGEST_VARINT {
        let byte = *bytes.get(*at).ok_or_else(damaged)?;
        *at += 1;
        let bits = u64::from(byte & 0x7f);
        let overflows = place == LONGEST_VARINT - 1 && byte > 1;
        let overlong = place > 0 && byte == 0;
        if overflows || overlong {
            return Err(damaged());
        }
        number |= bits << (7 * place);
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(damaged())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn record_bytes_of_version_1_stay_readable() {
        let record =
            Record { create_revision: 300, mod_revision: 301, version: 2, lease: 0, value: Bytes::from_static(b"v") };
        let golden = Bytes::from_static(b"\x01\xac\x02\x01\x02\x00v");
        assert_eq!(record.encode(), golden);
        assert_eq!(Record::decode(golden).unwrap(), record);
        assert!(matches!(Record::decode(Bytes::from_static(b"\x02\0\0\0\0")), Err(Error::Unsupported { .. })));
    }

    proptest! {
        #[test]
        fn records_survive_their_encoding(
            create_revision: u64, changed: u64, version: u64, lease: u64, value in vec(any::<u8>(), 0..40)
        ) {
            let mod_revision = create_revision.saturating_add(changed);
            let record = Record { create_revision, mod_revision, version, lease, value: value.into() };
            prop_assert_eq!(Record::decode(record.encode()).unwrap(), record);
        }

        #[test]
        fn arbitrary_bytes_never_panic(tail in vec(any::<u8>(), 0..64)) {
            let mut bytes = std::vec![VERSION];
            bytes.extend_from_slice(&tail);
            if let Ok(record) = Record::decode(bytes.clone().into()) {
                prop_assert_eq!(record.encode(), bytes, "one record has one encoding");
            }
            let _ = Record::decode(tail.into());
        }
    }
}
