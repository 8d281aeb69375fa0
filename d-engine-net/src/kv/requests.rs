//! What typed calls ask for, where key and value do not say it all.

use std::time::Duration;

use bytes::Bytes;
use d_engine_core::command::{
    KeySpan, KvCompare, KvDelete, KvOp, KvPut, KvRange, KvTest, KvTxn, KvWatch, LeaseChoice, Relation,
};

use super::milliseconds;
use crate::ReadMode;

/// Sets a key, with choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put(KvPut);

impl Put {
    /// Sets `key` to `value`.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self(KvPut::new(key, value))
    }

    /// Leaves the value as it is, for a change of the lease. The key must exist.
    pub fn keep_value(key: impl Into<Bytes>) -> Self {
        Self(KvPut::keep_value(key))
    }

    /// Attaches the key to this lease.
    #[must_use]
    pub fn lease(self, id: u64) -> Self {
        Self(self.0.lease(LeaseChoice::Attach(id)))
    }

    /// Leaves the key with the lease that it has. The key must exist.
    #[must_use]
    pub fn keep_lease(self) -> Self {
        Self(self.0.lease(LeaseChoice::Keep))
    }

    /// Gives the key a lease of its own that lasts `ttl`, to the millisecond.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        Self(self.0.lease(LeaseChoice::Ttl(milliseconds(ttl))))
    }

    /// Asks for the record before.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0.prev())
    }
}

impl From<Put> for KvPut {
    fn from(put: Put) -> Self {
        put.0
    }
}

impl From<Put> for KvOp {
    fn from(put: Put) -> Self {
        Self::Put(put.0)
    }
}

/// Removes keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete(KvDelete);

impl Delete {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self::span(KeySpan::key(key))
    }

    /// The keys from `start` to before `end`.
    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self::span(KeySpan::new(start, Some(end.into())))
    }

    /// The keys that begin with `prefix`; an empty one: every key.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self::span(KeySpan::prefix(prefix))
    }

    /// The keys of a span.
    pub fn span(span: KeySpan) -> Self {
        Self(KvDelete::new(span, false))
    }

    /// Asks for the records that are removed.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(KvDelete::new(self.0.span, true))
    }
}

impl From<Delete> for KvDelete {
    fn from(delete: Delete) -> Self {
        delete.0
    }
}

impl From<Delete> for KvOp {
    fn from(delete: Delete) -> Self {
        Self::Delete(delete.0)
    }
}

/// Which records to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Range {
    /// The first key; empty: from the first one of all.
    pub start: Bytes,
    /// The end, exclusive; `None`: to the last key.
    pub end: Option<Bytes>,
    /// The last key of the page before: this one begins behind it, in the order asked for.
    pub after: Option<Bytes>,
    /// At most so many records; 0: the server's page of 1,000.
    pub limit: u32,
    /// From the last key down.
    pub reverse: bool,
    /// Leaves the values empty.
    pub keys_only: bool,
    /// How fresh the answer must be; in a transaction it does not matter.
    pub mode: ReadMode,
}

impl Range {
    /// All records.
    pub fn all() -> Self {
        Self::default()
    }

    /// The record of one key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self::span(KeySpan::key(key))
    }

    /// The records from `start` to before `end`.
    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self::span(KeySpan::new(start, Some(end.into())))
    }

    /// The records whose keys begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self::span(KeySpan::prefix(prefix))
    }

    /// The records of a span.
    pub fn span(span: KeySpan) -> Self {
        Self { start: span.start, end: span.end, ..Self::default() }
    }

    /// The page behind this key, which was the last one of the page before.
    #[must_use]
    pub fn after(mut self, key: impl Into<Bytes>) -> Self {
        self.after = Some(key.into());
        self
    }

    /// At most `limit` records.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// From the last key down.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// Without values.
    #[must_use]
    pub fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    /// From the answering node's own copy.
    #[must_use]
    pub fn local(self) -> Self {
        self.mode(ReadMode::Local)
    }

    /// As fresh as `mode` says.
    #[must_use]
    pub fn mode(mut self, mode: ReadMode) -> Self {
        self.mode = mode;
        self
    }

    pub(crate) fn into_query(self, count_only: bool) -> KvRange {
        let mut range = KvRange::new(KeySpan::new(self.start, self.end));
        (range.after, range.limit, range.reverse) = (self.after, self.limit, self.reverse);
        (range.keys_only, range.count_only) = (self.keys_only, count_only);
        range
    }
}

impl From<Range> for KvOp {
    fn from(range: Range) -> Self {
        Self::Range(range.into_query(false))
    }
}

/// Comparisons, and two lists of operations of which one is carried out.
///
/// ```
/// use d_engine_net::{Put, Relation, Txn};
///
/// let transfer = Txn::new()
///     .if_value("alice", Relation::Equal, "10")
///     .if_exists("bob")
///     .then(Put::new("alice", "7"))
///     .then(Put::new("bob", "3"))
///     .otherwise_get("alice");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn(KvTxn);

impl Txn {
    /// A transaction that compares nothing and does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The key's value must stand in this relation to `value`; of a key that does not exist, none does.
    #[must_use]
    pub fn if_value(self, key: impl Into<Bytes>, relation: Relation, value: impl Into<Bytes>) -> Self {
        self.compare(KvCompare::new(key, KvTest::Value(relation, value.into())))
    }

    /// The key must exist.
    #[must_use]
    pub fn if_exists(self, key: impl Into<Bytes>) -> Self {
        self.compare(KvCompare::new(key, KvTest::Exists(true)))
    }

    /// The key must not exist.
    #[must_use]
    pub fn if_absent(self, key: impl Into<Bytes>) -> Self {
        self.compare(KvCompare::new(key, KvTest::Exists(false)))
    }

    /// How often the key was set since it was created; 0 if it does not exist.
    #[must_use]
    pub fn if_version(self, key: impl Into<Bytes>, relation: Relation, version: u64) -> Self {
        self.compare(KvCompare::new(key, KvTest::Version(relation, version)))
    }

    /// The revision at which the key was created; 0 if it does not exist.
    #[must_use]
    pub fn if_create_revision(self, key: impl Into<Bytes>, relation: Relation, revision: u64) -> Self {
        self.compare(KvCompare::new(key, KvTest::CreateRevision(relation, revision)))
    }

    /// The revision at which the key was last changed; 0 if it does not exist.
    #[must_use]
    pub fn if_mod_revision(self, key: impl Into<Bytes>, relation: Relation, revision: u64) -> Self {
        self.compare(KvCompare::new(key, KvTest::ModRevision(relation, revision)))
    }

    /// The key's lease; 0 if it has none.
    #[must_use]
    pub fn if_lease(self, key: impl Into<Bytes>, relation: Relation, lease: u64) -> Self {
        self.compare(KvCompare::new(key, KvTest::Lease(relation, lease)))
    }

    /// Any comparison.
    #[must_use]
    pub fn compare(mut self, compare: KvCompare) -> Self {
        self.0.compares.push(compare);
        self
    }

    /// What to do if every comparison holds: a [`Put`], a [`Delete`] or a [`Range`].
    #[must_use]
    pub fn then(mut self, operation: impl Into<KvOp>) -> Self {
        self.0.then.push(operation.into());
        self
    }

    /// Sets a key if every comparison holds.
    #[must_use]
    pub fn then_put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.then(Put::new(key, value))
    }

    /// Removes a key if every comparison holds.
    #[must_use]
    pub fn then_delete(self, key: impl Into<Bytes>) -> Self {
        self.then(Delete::key(key))
    }

    /// What to do otherwise.
    #[must_use]
    pub fn otherwise(mut self, operation: impl Into<KvOp>) -> Self {
        self.0.otherwise.push(operation.into());
        self
    }

    /// Reads a key otherwise.
    #[must_use]
    pub fn otherwise_get(self, key: impl Into<Bytes>) -> Self {
        self.otherwise(Range::key(key))
    }
}

impl From<Txn> for KvTxn {
    fn from(txn: Txn) -> Self {
        txn.0
    }
}

impl From<KvTxn> for Txn {
    fn from(txn: KvTxn) -> Self {
        Self(txn)
    }
}

/// Which changes to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch(KvWatch);

impl Watch {
    /// Every key.
    pub fn all() -> Self {
        Self::span(KeySpan::ALL)
    }

    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self::span(KeySpan::key(key))
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self::span(KeySpan::prefix(prefix))
    }

    /// The keys from `start` to before `end`.
    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self::span(KeySpan::new(start, Some(end.into())))
    }

    /// The keys of a span.
    pub fn span(span: KeySpan) -> Self {
        Self(KvWatch::new(span))
    }

    /// From the changes of this revision on, as far as they are kept; without it, those after the watch begins.
    #[must_use]
    pub fn since(mut self, revision: u64) -> Self {
        self.0.from_revision = revision;
        self
    }

    /// With the record before each change.
    #[must_use]
    pub fn prev(mut self) -> Self {
        self.0.prev = true;
        self
    }

    /// Tells from time to time, without a change, how far the watch has come.
    #[must_use]
    pub fn progress(mut self) -> Self {
        self.0.progress = true;
        self
    }
}

impl From<Watch> for KvWatch {
    fn from(watch: Watch) -> Self {
        watch.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_the_commands_that_they_name() {
        let put: KvPut = Put::new("k", "v").ttl(Duration::from_micros(1_500)).prev().into();
        assert_eq!(put, KvPut::new("k", "v").lease(LeaseChoice::Ttl(2)).prev(), "a lease never ends early");
        assert_eq!(KvPut::from(Put::keep_value("k").lease(7)).lease, LeaseChoice::Attach(7));
        assert_eq!(KvDelete::from(Delete::prefix("k").prev()), KvDelete::new(KeySpan::prefix("k"), true));
        let query = Range::prefix("k").after("kk").limit(3).reverse().into_query(false);
        assert_eq!((query.after.as_deref(), query.limit, query.reverse), (Some(&b"kk"[..]), 3, true));
        assert_eq!(KvWatch::from(Watch::key("k").since(4).prev()).from_revision, 4);
        let txn: KvTxn = Txn::new().if_absent("a").then_put("a", "1").then_delete("b").otherwise_get("a").into();
        assert_eq!((txn.compares.len(), txn.then.len(), txn.otherwise.len()), (1, 2, 1));
    }
}
