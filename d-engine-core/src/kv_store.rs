//! The ordered map that a storage backend offers to the built-in state machine.

use std::ops::Bound;

use bytes::Bytes;

use crate::{Error, Result};

/// The order of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Ascending byte order.
    Forward,
    /// Descending byte order.
    Backward,
}

/// A range of keys in byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRange<'a> {
    /// Where the range begins.
    pub start: Bound<&'a [u8]>,
    /// Where it ends.
    pub end: Bound<&'a [u8]>,
}

impl<'a> KeyRange<'a> {
    /// Every key.
    pub const ALL: KeyRange<'static> = KeyRange { start: Bound::Unbounded, end: Bound::Unbounded };

    /// `start` ≤ key < `end`.
    pub const fn new(start: &'a [u8], end: &'a [u8]) -> Self {
        Self { start: Bound::Included(start), end: Bound::Excluded(end) }
    }

    /// `start` ≤ key.
    pub const fn from(start: &'a [u8]) -> Self {
        Self { start: Bound::Included(start), end: Bound::Unbounded }
    }

    /// Whether `key` lies within.
    pub fn contains(&self, key: &[u8]) -> bool {
        let after_start = match self.start {
            Bound::Included(start) => key >= start,
            Bound::Excluded(start) => key > start,
            Bound::Unbounded => true,
        };
        let before_end = match self.end {
            Bound::Included(end) => key <= end,
            Bound::Excluded(end) => key < end,
            Bound::Unbounded => true,
        };
        after_start && before_end
    }

    /// Whether no key can lie within: the ends cross or meet without including a key. Standard ordered maps panic on
    /// such ranges; check first.
    pub fn is_empty(&self) -> bool {
        match (self.start, self.end) {
            (Bound::Included(a), Bound::Included(b)) => a > b,
            (Bound::Included(a), Bound::Excluded(b))
            | (Bound::Excluded(a), Bound::Included(b))
            | (Bound::Excluded(a), Bound::Excluded(b)) => a >= b,
            _ => false,
        }
    }
}

/// The smallest key after every key that begins with `prefix`; `None` if there is none (all bytes are 0xff).
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

impl KeyRange<'_> {
    /// The exclusive end of the keys that begin with `prefix`; `None`: up to the last key.
    pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
        prefix_end(prefix)
    }
}

/// One step of a [`WriteBatch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOp {
    /// Sets a key. Empty values are legal.
    Put(Bytes, Bytes),
    /// Removes a key; one that is not there is no error.
    Delete(Bytes),
}

/// Writes that take effect together, in order: of two writes to one key the later one wins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteBatch {
    /// The steps.
    pub ops: Vec<WriteOp>,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.ops.push(WriteOp::Put(key.into(), value.into()));
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.ops.push(WriteOp::Delete(key.into()));
    }
}

/// An ordered map with atomic batches; `KvStateMachine::new(store)` of d-engine-kv makes it a whole state machine.
///
/// Laws: after a crash the store is in the state after a prefix of its write calls, each whole, that holds all which
/// had returned before the last successful [`flush`](KvStore::flush) began. Byte order everywhere; empty values are
/// legal. Reads may come from any thread during a write and never see half a batch. All methods may block.
pub trait KvStore: Send + Sync + 'static {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// At most `limit` pairs of the range, in the direction's order, from one point in time.
    fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>, Error>;

    /// Applies the batch, all or nothing; readable on return, durable after [`flush`](KvStore::flush).
    fn write(&self, batch: WriteBatch) -> Result<(), Error>;

    /// Replaces the whole content by the pairs, which come in ascending key order; atomic, and durable on return. Open
    /// views keep the old state. If the iterator yields an error, the old content stays and that error is returned.
    fn replace_all(&self, sorted: &mut dyn Iterator<Item = Result<(Bytes, Bytes), Error>>) -> Result<(), Error>;

    /// Makes every write that has returned durable. May cost O(state): called at shutdown and by policy only.
    fn flush(&self) -> Result<(), Error>;

    /// A promise that reads and writes wait for no device, nor for other threads longer than they take to copy what they
    /// read. [`flush`](KvStore::flush) and [`replace_all`](KvStore::replace_all) may.
    fn never_waits(&self) -> bool {
        false
    }

    /// Runs `f` on a point between two writes, on the caller's thread. `Ok(false)`: no views here, `f` was not called.
    fn with_view(&self, _f: &mut dyn FnMut(&dyn KvView) -> Result<(), Error>) -> Result<bool, Error> {
        Ok(false)
    }

    /// The values of several keys at one point in time where the store has views.
    fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, Error> {
        let mut out = Vec::with_capacity(keys.len());
        let viewed = self.with_view(&mut |view| {
            for key in keys {
                out.push(view.get(key)?);
            }
            Ok(())
        })?;
        if !viewed {
            for key in keys {
                out.push(self.get(key)?);
            }
        }
        Ok(out)
    }

    /// True if a restart of the process forgets everything.
    fn is_volatile(&self) -> bool {
        false
    }
}

/// One point in time of a [`KvStore`].
pub trait KvView {
    /// The value of `key` then.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// At most `limit` pairs of the range as they were then, in the direction's order.
    fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>, Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_end_skips_trailing_ff() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }

    #[test]
    fn crossed_ranges_are_empty() {
        assert!(KeyRange::new(b"b", b"a").is_empty());
        assert!(KeyRange::new(b"a", b"a").is_empty());
        assert!(!KeyRange::new(b"a", b"b").is_empty());
        assert!(!KeyRange::ALL.is_empty());
    }
}
