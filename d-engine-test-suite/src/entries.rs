//! The commands and entries that the laws write.

use bytes::Bytes;
use d_engine_core::command::KvCommand;
use d_engine_core::{Entry, EntryKind};

/// A command entry: a put of a key of its own, so that applying it to an empty machine makes `len()` 1.
pub fn create_test_entry(index: u64, term: u64) -> Entry {
    Entry::new(index, term, EntryKind::Command, put(index))
}

/// The built-in put of [`key`]`(n)`.
pub(crate) fn put(n: u64) -> Bytes {
    KvCommand::Put { key: key(n), value: format!("value-{n}").into() }.encode()
}

/// The key that [`put`]`(n)` sets. All have one length, so that they sort like their numbers.
pub(crate) fn key(n: u64) -> Bytes {
    format!("key-{n:08}").into()
}

/// Entries `from..=to` of one term.
pub(crate) fn entries(from: u64, to: u64, term: u64) -> Vec<Entry> {
    (from..=to).map(|index| create_test_entry(index, term)).collect()
}
/// A built-in command that fails as a command: a compare-and-swap of a key that is not there.
pub(crate) fn failing() -> Bytes {
    let (expected, value) = (Some(Bytes::from_static(b"never written")), Some(Bytes::from_static(b"x")));
    KvCommand::Cas { key: Bytes::from_static(b"no such key"), expected, value }.encode()
}
