//! Where the machine keeps what in its store.
//!
//! | key | value |
//! |---|---|
//! | `0x00 "state"` | the bookkeeping record: last applied entry, revision, number of keys |
//! | `0x00 …` | reserved for further bookkeeping (sessions, leases) |
//! | `0x01` + user key | that key's record |
//!
//! All of it is the store's own data, so that one batch changes records and bookkeeping together.

use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use d_engine_core::{Direction, Error, KeyRange, KvView, LogId, Reader, Result};

const BOOKKEEPING_KEY: &[u8] = b"\x00state";
const USER_PREFIX: u8 = 0x01;
const AFTER_USER_KEYS: &[u8] = &[USER_PREFIX + 1];
const SUBJECT: &str = "bookkeeping record of the key-value state machine";
const VERSION: u8 = 1;

/// Where the state stands; written with every chunk, in the same batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bookkeeping {
    /// The last entry whose effects are in the store.
    pub(crate) last_applied: LogId,
    /// How many commands have changed something.
    pub(crate) revision: u64,
    /// How many user keys there are.
    pub(crate) keys: u64,
}

impl Bookkeeping {
    /// The record as it stands at one point in time; the initial one if nothing was ever applied.
    pub(crate) fn load(view: &dyn KvView) -> Result<Self> {
        view.get(BOOKKEEPING_KEY)?.map_or_else(|| Ok(Self::default()), |bytes| Self::decode(&bytes))
    }

    /// [`load`](Bookkeeping::load) for a store that is being opened.
    ///
    /// # Errors
    /// `Invalid` for a store that holds something else than this machine's state.
    pub(crate) fn open(view: &dyn KvView) -> Result<Self> {
        let book = Self::load(view)?;
        let unopened = book == Self::default();
        if unopened && !view.scan(KeyRange::ALL, 1, Direction::Forward)?.is_empty() {
            return Err(Error::invalid(
                "the store holds data, but not the state of a key-value machine; give the machine a store of its own",
            ));
        }
        Ok(book)
    }

    /// The pair that a batch writes: `version u8 = 1 | term u64 | index u64 | revision u64 | keys u64`, little-endian.
    pub(crate) fn to_pair(self) -> (Bytes, Bytes) {
        let mut out = BytesMut::with_capacity(1 + 4 * 8);
        out.put_u8(VERSION);
        for number in [self.last_applied.term, self.last_applied.index, self.revision, self.keys] {
            out.put_u64_le(number);
        }
        (Bytes::from_static(BOOKKEEPING_KEY), out.freeze())
    }

    /// Compares the number of keys with what was counted.
    pub(crate) fn expect_keys(&self, found: u64) -> Result<()> {
        if found == self.keys {
            return Ok(());
        }
        Err(Error::corrupt(format!("the key-value state: {} keys expected, {found} are there", self.keys)))
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes, SUBJECT);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(Error::unsupported(format!(
                "{SUBJECT}, version {version}; this build reads version {VERSION}"
            )));
        }
        let last_applied = LogId::new(reader.u64()?, reader.u64()?);
        let book = Self { last_applied, revision: reader.u64()?, keys: reader.u64()? };
        reader.finish()?;
        Ok(book)
    }
}

/// The key in the store of a user's key.
pub(crate) fn store_key(key: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + key.len());
    out.put_u8(USER_PREFIX);
    out.put_slice(key);
    out.freeze()
}

/// Calls `f` with the key in the store of a user's key, without an allocation for the usual short one.
pub(crate) fn with_store_key<T>(key: &[u8], f: impl FnOnce(&[u8]) -> T) -> T {
    const SHORT: usize = 128;
    if key.len() < SHORT {
        let mut buffer = [USER_PREFIX; SHORT];
        buffer[1..=key.len()].copy_from_slice(key);
        f(&buffer[..=key.len()])
    } else {
        f(&store_key(key))
    }
}

/// The user's key behind a key of the store, of which it is a slice.
pub(crate) fn user_key(store_key: &Bytes) -> Bytes {
    store_key.slice(1..)
}

/// Whether a key of the store is a user's: the prefix and at least one byte.
pub(crate) fn is_user_key(store_key: &[u8]) -> bool {
    store_key.len() > 1 && store_key[0] == USER_PREFIX
}

/// The part of the store that holds a range of user keys.
#[derive(Debug, Clone)]
pub(crate) struct UserRange {
    start: Bytes,
    end: Bytes,
}

impl UserRange {
    /// Every user key.
    pub(crate) fn all() -> Self {
        Self::new(b"", None)
    }

    /// `start` ≤ key < `end`; `None`: to the last key.
    pub(crate) fn new(start: &[u8], end: Option<&[u8]>) -> Self {
        Self { start: store_key(start), end: end.map_or(Bytes::from_static(AFTER_USER_KEYS), store_key) }
    }

    /// What is left of the range behind `last`, a key of the store, in the order of `direction`.
    pub(crate) fn behind<'a>(&'a self, last: Option<&'a Bytes>, direction: Direction) -> KeyRange<'a> {
        let mut range = KeyRange::new(&self.start, &self.end);
        match (last, direction) {
            (None, _) => {}
            (Some(last), Direction::Forward) => range.start = Bound::Excluded(last),
            (Some(last), Direction::Backward) => range.end = Bound::Excluded(last),
        }
        range
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bookkeeping_of_version_1_stays_readable() {
        let book = Bookkeeping { last_applied: LogId::new(2, 5), revision: 4, keys: 3 };
        let mut golden = vec![1u8];
        for number in [2u8, 5, 4, 3] {
            golden.extend_from_slice(&[number, 0, 0, 0, 0, 0, 0, 0]);
        }
        let (key, value) = book.to_pair();
        assert_eq!((&key[..], &value[..]), (&b"\x00state"[..], &golden[..]));
        assert_eq!(Bookkeeping::decode(&golden).unwrap(), book);
        assert!(matches!(Bookkeeping::decode(&golden[..32]), Err(Error::Corrupt { .. })));
        golden[0] = 2;
        assert!(matches!(Bookkeeping::decode(&golden), Err(Error::Unsupported { .. })));
    }

    #[test]
    fn short_and_long_keys_get_the_same_prefix() {
        for len in [0, 1, 126, 127, 128, 129, 1000] {
            let key = vec![7; len];
            with_store_key(&key, |found| assert_eq!(found, store_key(&key), "{len} bytes"));
            assert_eq!(user_key(&store_key(&key)), key);
        }
    }

    #[test]
    fn the_whole_user_range_holds_user_keys_and_no_bookkeeping() {
        let all = UserRange::all();
        let range = all.behind(None, Direction::Forward);
        assert!(range.contains(&store_key(&[0])) && range.contains(&store_key(&[0xff; 9])));
        assert!(!range.contains(BOOKKEEPING_KEY));
    }
}
