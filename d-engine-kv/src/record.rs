//! What the store holds for one key: `version u8 = 1 | create | changed | sets | lease | value`.
//!
//! The four numbers are LEB128; `changed` is how far the mod revision lies behind the create revision. The value comes
//! last, so that a read slices it out of the stored bytes.

use bytes::{Buf, Bytes};
use d_engine_core::{Error, KvRecord, Result, compact_bytes};

const VERSION: u8 = 1;
const LONGEST_VARINT: usize = 10;

/// A key's record without the key, together with the bytes that the store holds for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) create_revision: u64,
    pub(crate) mod_revision: u64,
    pub(crate) version: u64,
    pub(crate) lease: u64,
    bytes: Bytes,
    value_at: usize,
}

impl Record {
    /// The record of a key that is set for the first time, and its key in the store.
    pub(crate) fn created(key: &[u8], revision: u64, lease: u64, value: &[u8]) -> (Bytes, Self) {
        Self::new(key, [revision, revision, 1, lease], value)
    }

    /// The record after the key is set again.
    pub(crate) fn set(&self, key: &[u8], revision: u64, lease: u64, value: &[u8]) -> (Bytes, Self) {
        Self::new(key, [self.create_revision, revision, self.version + 1, lease], value)
    }

    /// A key and a record that share nothing with the buffers of the arguments, which may be whole messages from the network.
    /// They share one allocation: a put costs a single one, and whoever looks at the key has the record's numbers at hand.
    fn new(key: &[u8], numbers: [u64; 4], value: &[u8]) -> (Bytes, Self) {
        let [create_revision, mod_revision, version, lease] = numbers;
        debug_assert!(create_revision <= mod_revision, "a key is created before it is changed");
        let mut header = [0; 1 + 4 * LONGEST_VARINT];
        header[0] = VERSION;
        let mut value_at = 1;
        for number in [create_revision, mod_revision - create_revision, version, lease] {
            value_at += write_varint(&mut header[value_at..], number);
        }
        let mut stored_key = compact_bytes(&[key, &header[..value_at], value]);
        let bytes = stored_key.split_off(key.len());
        (stored_key, Self { create_revision, mod_revision, version, lease, bytes, value_at })
    }

    /// What the store holds.
    pub(crate) const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// [`bytes`](Record::bytes) without counting a reference.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The value.
    pub(crate) fn value(&self) -> &[u8] {
        &self.bytes[self.value_at..]
    }

    /// The value as a slice of the stored bytes.
    pub(crate) fn into_value(mut self) -> Bytes {
        self.bytes.advance(self.value_at);
        self.bytes
    }

    /// Reads what [`bytes`](Record::bytes) gave to the store; the value is a slice of it.
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
        Ok(Self { create_revision, mod_revision, version, lease, bytes, value_at: at })
    }

    /// The record as a query answers it.
    pub(crate) fn with_key(self, key: Bytes) -> KvRecord {
        let (create, modified, version, lease) = (self.create_revision, self.mod_revision, self.version, self.lease);
        let mut record = KvRecord::new(key, self.into_value(), create, modified, version);
        record.lease = lease;
        record
    }

    /// [`with_key`](Record::with_key) without the value.
    pub(crate) fn without_value(self, key: Bytes) -> KvRecord {
        let mut record = KvRecord::new(key, Bytes::new(), self.create_revision, self.mod_revision, self.version);
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
        let (_, record) = Record::new(b"k", [300, 301, 2, 0], b"v");
        let golden = Bytes::from_static(b"\x01\xac\x02\x01\x02\x00v");
        assert_eq!(*record.bytes(), golden);
        assert_eq!(Record::decode(golden).unwrap(), record);
        assert!(matches!(Record::decode(Bytes::from_static(b"\x02\0\0\0\0")), Err(Error::Unsupported { .. })));
    }

    proptest! {
        #[test]
        fn records_survive_their_encoding(
            create_revision: u64, changed: u64, version: u64, lease: u64, value in vec(any::<u8>(), 0..40)
        ) {
            let mod_revision = create_revision.saturating_add(changed);
            let (key, record) = Record::new(b"key", [create_revision, mod_revision, version, lease], &value);
            prop_assert_eq!(&key[..], b"key");
            let found = Record::decode(record.bytes().clone()).unwrap();
            prop_assert_eq!(found.value(), &value[..]);
            prop_assert_eq!(found, record);
        }

        #[test]
        fn arbitrary_bytes_never_panic(tail in vec(any::<u8>(), 0..64)) {
            let mut bytes = std::vec![VERSION];
            bytes.extend_from_slice(&tail);
            if let Ok(record) = Record::decode(bytes.clone().into()) {
                let (create, modified) = (record.create_revision, record.mod_revision);
                let (_, again) = Record::new(b"", [create, modified, record.version, record.lease], record.value());
                prop_assert_eq!(&again.bytes()[..], bytes, "one record has one encoding");
            }
            let _ = Record::decode(tail.into());
        }
    }
}
