//! Where the machine keeps what in its store.
//!
//! | key | value |
//! |---|---|
//! | `0x00 "K"` + lease + user key | nothing: the key belongs to the lease |
//! | `0x00 "L"` + lease | the lease: its time, what is left of it, its renewals |
//! | `0x00 "R"` + session + number | the outcome of that command of the session |
//! | `0x00 "S"` + session | the session: lowest unanswered number, last entry |
//! | `0x00 "settings"` | what commands have set: limit of sessions, next lease |
//! | `0x00 "state"` | the bookkeeping record: last applied entry, revision, number of keys |
//! | `0x01` + user key | that key's record |
//!
//! Numbers in keys are big-endian, so that they stand in order. All of it is the store's own data, so that one batch changes
//! records and bookkeeping together.

use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use d_engine_core::command::{KeySpan, KvRange};
use d_engine_core::{Direction, Error, KeyRange, KvView, LogId, Reader, Result};

/// Key of the bookkeeping record.
pub(crate) const BOOKKEEPING_KEY: &[u8] = b"\x00state";
/// Key of the settings.
pub(crate) const SETTINGS_KEY: &[u8] = b"\x00settings";
const LEASED: u8 = b'K';
const LEASE: u8 = b'L';
const RESULT: u8 = b'R';
const SESSION: u8 = b'S';
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
        Self::of(view.get(BOOKKEEPING_KEY)?)
    }

    /// What the store holds for it.
    pub(crate) fn of(stored: Option<Bytes>) -> Result<Self> {
        stored.map_or_else(|| Ok(Self::default()), |bytes| Self::decode(&bytes))
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

/// Makes keys of the store that do not live long: many of them share one allocation, which lives as long as the last of them.
#[derive(Debug, Default)]
pub(crate) struct StoreKeys {
    buffer: BytesMut,
}

impl StoreKeys {
    const BUFFER: usize = 16 * 1024;

    /// Room for so many usual keys to begin with.
    pub(crate) fn new(keys: usize) -> Self {
        Self { buffer: BytesMut::with_capacity((32 * keys).min(Self::BUFFER)) }
    }

    /// [`store_key`].
    pub(crate) fn make(&mut self, user_key: &[u8]) -> Bytes {
        let len = 1 + user_key.len();
        if self.buffer.capacity() < len {
            self.buffer = BytesMut::with_capacity(len.max(Self::BUFFER));
        }
        self.buffer.put_u8(USER_PREFIX);
        self.buffer.put_slice(user_key);
        self.buffer.split().freeze()
    }
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

/// What a key of the store, except the bookkeeping record's, stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// The user's key belongs to the lease.
    Leased { lease: u64, key: &'a [u8] },
    /// A lease.
    Lease(u64),
    /// An outcome that a session's client may ask for again.
    Result { session: u64, sequence: u64 },
    /// A session.
    Session(u64),
    /// The settings.
    Settings,
    /// A user's key.
    User,
}

impl<'a> Place<'a> {
    /// `None`: no key of this version.
    pub(crate) fn of(store_key: &'a [u8]) -> Option<Self> {
        if is_user_key(store_key) {
            return Some(Self::User);
        }
        if store_key == SETTINGS_KEY {
            return Some(Self::Settings);
        }
        let [0, kind, rest @ ..] = store_key else { return None };
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let number = u64::from_be_bytes(*number);
        match (*kind, rest) {
            (LEASED, key) if !key.is_empty() => Some(Self::Leased { lease: number, key }),
            (LEASE, []) => Some(Self::Lease(number)),
            (SESSION, []) => Some(Self::Session(number)),
            (RESULT, rest) => {
                let sequence = u64::from_be_bytes(rest.try_into().ok()?);
                Some(Self::Result { session: number, sequence })
            }
            _ => None,
        }
    }
}

fn numbered(kind: u8, number: u64, rest: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(2 + 8 + rest.len());
    out.put_slice(&[0, kind]);
    out.put_u64(number);
    out.put_slice(rest);
    out.freeze()
}

/// The key that says that a user's key belongs to a lease.
pub(crate) fn leased_key(lease: u64, user_key: &[u8]) -> Bytes {
    numbered(LEASED, lease, user_key)
}

/// The key of a lease.
pub(crate) fn lease_key(lease: u64) -> Bytes {
    numbered(LEASE, lease, &[])
}

/// The key of a session.
pub(crate) fn session_key(session: u64) -> Bytes {
    numbered(SESSION, session, &[])
}

/// The key of an outcome that a session keeps.
pub(crate) fn result_key(session: u64, sequence: u64) -> Bytes {
    numbered(RESULT, session, &sequence.to_be_bytes())
}

/// A part of the store.
#[derive(Debug, Clone)]
pub(crate) struct StoreRange {
    start: Bytes,
    end: Bytes,
}

impl StoreRange {
    /// Every user key.
    pub(crate) fn users() -> Self {
        Self::of_keys(b"", None)
    }

    /// The user keys with `start` ≤ key < `end`; `None`: to the last key.
    pub(crate) fn of_keys(start: &[u8], end: Option<&[u8]>) -> Self {
        Self { start: store_key(start), end: end.map_or(Bytes::from_static(AFTER_USER_KEYS), store_key) }
    }

    /// The user keys of a page: those of its range that stand behind the page before.
    pub(crate) fn of(page: &KvRange) -> Self {
        let KeySpan { start, end } = &page.span;
        let mut range = Self::of_keys(start, end.as_deref());
        match &page.after {
            None => {}
            Some(after) if page.reverse => range.end = range.end.min(store_key(after)),
            Some(after) => {
                let mut next = BytesMut::with_capacity(after.len() + 2);
                next.put_u8(USER_PREFIX);
                next.put_slice(after);
                next.put_u8(0);
                range.start = range.start.max(next.freeze());
            }
        }
        range
    }

    /// Everything that is no user key.
    pub(crate) const fn internal() -> Self {
        Self { start: Bytes::from_static(&[0]), end: Bytes::from_static(&[USER_PREFIX]) }
    }

    /// The keys of a lease.
    pub(crate) fn leased(lease: u64) -> Self {
        let end = lease.checked_add(1).map_or(Bytes::from_static(&[0, LEASED + 1]), |next| leased_key(next, &[]));
        Self { start: leased_key(lease, &[]), end }
    }

    /// The leases with ids above `after`.
    pub(crate) fn leases(after: u64) -> Self {
        let end = Bytes::from_static(&[0, LEASE + 1]);
        Self { start: after.checked_add(1).map_or(end.clone(), lease_key), end }
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
            let mut keys = StoreKeys::new(1);
            assert_eq!([keys.make(&key), keys.make(b"k")], [store_key(&key), store_key(b"k")]);
            assert_eq!(user_key(&store_key(&key)), key);
        }
    }

    #[test]
    fn the_range_of_user_keys_holds_all_of_them_and_nothing_else() {
        let (users, internal) = (StoreRange::users(), StoreRange::internal());
        let users = users.behind(None, Direction::Forward);
        let internal = internal.behind(None, Direction::Forward);
        for key in [store_key(&[0]), store_key(&[0xff; 9])] {
            assert!(users.contains(&key) && !internal.contains(&key));
            assert_eq!(Place::of(&key), Some(Place::User));
        }
        let others = [lease_key(3), leased_key(3, b"k"), session_key(3), result_key(3, 4), SETTINGS_KEY.into()];
        for key in others.iter().map(|key| &key[..]).chain([BOOKKEEPING_KEY]) {
            assert!(internal.contains(key) && !users.contains(key));
        }
    }

    #[test]
    fn keys_say_what_they_stand_for() {
        assert_eq!(Place::of(&leased_key(3, b"k")), Some(Place::Leased { lease: 3, key: b"k" }));
        assert_eq!(Place::of(&lease_key(3)), Some(Place::Lease(3)));
        assert_eq!(Place::of(&result_key(3, 4)), Some(Place::Result { session: 3, sequence: 4 }));
        assert_eq!(Place::of(&session_key(3)), Some(Place::Session(3)));
        assert_eq!(Place::of(SETTINGS_KEY), Some(Place::Settings));
        for unknown in
            [&b""[..], b"\x00", b"\x01", b"\x00L123", b"\x00K12345678", b"\x00R1234567812345", b"\x00state", b"\x02"]
        {
            assert_eq!(Place::of(unknown), None, "{unknown:?}");
        }
        let leased = StoreRange::leased(3);
        let leased = leased.behind(None, Direction::Forward);
        assert!(leased.contains(&leased_key(3, b"\xff\xff")) && !leased.contains(&leased_key(4, b"\0")));
        let last = StoreRange::leased(u64::MAX);
        assert!(last.behind(None, Direction::Forward).contains(&leased_key(u64::MAX, b"k")));
        let leases = StoreRange::leases(3);
        let leases = leases.behind(None, Direction::Forward);
        assert!(
            leases.contains(&lease_key(4)) && leases.contains(&lease_key(u64::MAX)) && !leases.contains(&lease_key(3))
        );
        assert!(StoreRange::leases(u64::MAX).behind(None, Direction::Forward).is_empty());
    }
}
