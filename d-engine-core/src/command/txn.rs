//! Transactions: compares, and what to do if all of them hold or not.

use bytes::Bytes;

use super::envelope::{LEN, put_bytes, put_count, put_u64, take_bool, take_bytes, take_list, unknown_tag};
use super::{KvOp, KvReject, MAX_TXN_OPS, check_key, check_value};
use crate::codec::Reader;
use crate::{Error, Result};

/// Compares, and two lists of operations of which one is carried out: whole, at one revision, with nothing in between.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct KvTxn {
    /// What must hold, all of it. None: it holds.
    pub compares: Vec<KvCompare>,
    /// What to do then.
    pub then: Vec<KvOp>,
    /// What to do otherwise.
    pub otherwise: Vec<KvOp>,
}

/// One comparison of a key's record with a constant.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvCompare {
    /// The key.
    pub key: Bytes,
    /// What is compared.
    pub test: KvTest,
}

/// What a comparison looks at. A key that does not exist has the numbers 0, and no value: no comparison of its value holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvTest {
    /// The value, in byte order.
    Value(Relation, Bytes),
    /// How often the key was set since it was created.
    Version(Relation, u64),
    /// The revision at which it was created.
    CreateRevision(Relation, u64),
    /// The revision at which it was last changed.
    ModRevision(Relation, u64),
    /// Its lease.
    Lease(Relation, u64),
    /// Whether it exists.
    Exists(bool),
}

/// How what a key has must stand to the constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// It is the same.
    Equal,
    /// It is another one.
    NotEqual,
    /// It is less.
    Less,
    /// It is greater.
    Greater,
}

impl Relation {
    /// Whether `left` stands in this relation to `right`.
    pub fn holds<T: Ord + ?Sized>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Less => left < right,
            Self::Greater => left > right,
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Equal => 0,
            Self::NotEqual => 1,
            Self::Less => 2,
            Self::Greater => 3,
        }
    }

    fn decode_from(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.u8()? {
            0 => Ok(Self::Equal),
            1 => Ok(Self::NotEqual),
            2 => Ok(Self::Less),
            3 => Ok(Self::Greater),
            other => Err(unknown_tag("relation of a comparison", other)),
        }
    }
}

impl KvCompare {
    const LEN_MIN: usize = LEN + 2;

    /// A comparison.
    pub fn new(key: impl Into<Bytes>, test: KvTest) -> Self {
        Self { key: key.into(), test }
    }

    /// `key kind u8` and, for kind 1 (value), `relation u8 value`; for 2 to 5 (version, create revision, mod revision, lease)
    /// `relation u8 number u64`; for 6 (exists) a truth value.
    fn encode_into(&self, out: &mut Vec<u8>) {
        put_bytes(out, &self.key);
        let (kind, relation, number) = match &self.test {
            KvTest::Value(relation, value) => {
                out.extend_from_slice(&[1, relation.code()]);
                put_bytes(out, value);
                return;
            }
            KvTest::Exists(exists) => {
                out.extend_from_slice(&[6, u8::from(*exists)]);
                return;
            }
            KvTest::Version(relation, number) => (2, relation, number),
            KvTest::CreateRevision(relation, number) => (3, relation, number),
            KvTest::ModRevision(relation, number) => (4, relation, number),
            KvTest::Lease(relation, number) => (5, relation, number),
        };
        out.extend_from_slice(&[kind, relation.code()]);
        put_u64(out, *number);
    }

    fn decode_from(source: &Bytes, reader: &mut Reader<'_>, subject: &'static str) -> Result<Self> {
        let key = take_bytes(source, reader)?;
        let kind = reader.u8()?;
        if kind == 6 {
            return Ok(Self { key, test: KvTest::Exists(take_bool(reader, subject)?) });
        }
        if !(1..=5).contains(&kind) {
            return Err(unknown_tag("comparison of a transaction", kind));
        }
        let relation = Relation::decode_from(reader)?;
        let test = match kind {
            1 => KvTest::Value(relation, take_bytes(source, reader)?),
            2 => KvTest::Version(relation, reader.u64()?),
            3 => KvTest::CreateRevision(relation, reader.u64()?),
            4 => KvTest::ModRevision(relation, reader.u64()?),
            5 => KvTest::Lease(relation, reader.u64()?),
            other => return Err(Error::corrupt(format!("{subject}: comparison {other}"))),
        };
        Ok(Self { key, test })
    }

    fn encoded_len(&self) -> usize {
        let value = if let KvTest::Value(_, value) = &self.test { value.len() } else { 0 };
        LEN + self.key.len() + 2 + 8 + value
    }
}

impl KvTxn {
    /// A transaction.
    pub fn new(compares: Vec<KvCompare>, then: Vec<KvOp>, otherwise: Vec<KvOp>) -> Self {
        Self { compares, then, otherwise }
    }

    /// The limits of all parts, and that no key is written twice by one of the lists.
    pub(super) fn check(&self, max_value_len: usize) -> Result<(), KvReject> {
        for len in [self.compares.len(), self.then.len(), self.otherwise.len()] {
            if len > MAX_TXN_OPS {
                return Err(KvReject::TxnTooLarge { len: len as u64, limit: MAX_TXN_OPS as u64 });
            }
        }
        for compare in &self.compares {
            check_key(&compare.key)?;
            if let KvTest::Value(_, value) = &compare.test {
                check_value(Some(value), max_value_len)?;
            }
        }
        for operations in [&self.then, &self.otherwise] {
            operations.iter().try_for_each(|operation| operation.check(max_value_len))?;
            written_once(operations)?;
        }
        Ok(())
    }

    pub(super) fn encoded_len(&self) -> usize {
        let operations = self.then.iter().chain(&self.otherwise).map(KvOp::encoded_len).sum::<usize>();
        3 * LEN + operations + self.compares.iter().map(KvCompare::encoded_len).sum::<usize>()
    }

    /// Three lists, each a `u32` count and its items: compares, then, otherwise.
    pub(super) fn encode_into(&self, out: &mut Vec<u8>) {
        put_count(out, self.compares.len());
        self.compares.iter().for_each(|compare| compare.encode_into(out));
        for operations in [&self.then, &self.otherwise] {
            put_count(out, operations.len());
            operations.iter().for_each(|operation| operation.encode_into(out));
        }
    }

    pub(super) fn decode_from(source: &Bytes, reader: &mut Reader<'_>, subject: &'static str) -> Result<Self> {
        let compares =
            take_list(reader, subject, KvCompare::LEN_MIN, |reader| KvCompare::decode_from(source, reader, subject))?;
        let mut operations =
            || take_list(reader, subject, KvOp::LEN_MIN, |reader| KvOp::decode_from(source, reader, subject));
        Ok(Self { compares, then: operations()?, otherwise: operations()? })
    }
}

/// That no two operations may write the same key.
fn written_once(operations: &[KvOp]) -> Result<(), KvReject> {
    let mut spans: Vec<_> = operations.iter().filter_map(KvOp::written).filter(|span| !span.is_empty()).collect();
    spans.sort_by(|left, right| left.start.cmp(&right.start));
    // Sorted by start: if any two overlap, two neighbours do.
    match spans.windows(2).find(|pair| pair[0].overlaps(&pair[1])) {
        Some(pair) => Err(KvReject::DuplicateKey { key: pair[1].start.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{KeySpan, KvDelete, KvPut, KvRange};

    #[test]
    fn a_key_is_written_once() {
        let put = |key: &'static str| KvOp::Put(KvPut::new(key, ""));
        let delete = |start: &'static str, end: &'static str| {
            KvOp::Delete(KvDelete::new(KeySpan::new(start, Some(end.into())), false))
        };
        let check = |then: Vec<KvOp>| KvTxn::new(Vec::new(), then, Vec::new()).check(10);
        let twice = |key: &'static str| Err(KvReject::DuplicateKey { key: key.into() });
        assert_eq!(check(vec![put("a"), put("b"), delete("c", "d")]), Ok(()));
        assert_eq!(check(vec![put("a"), put("b"), put("a")]), twice("a"));
        assert_eq!(check(vec![delete("a", "d"), put("c")]), twice("c"));
        assert_eq!(check(vec![delete("b", "d"), delete("a", "c")]), twice("b"));
        assert_eq!(check(vec![put("d"), delete("a", "d")]), Ok(()));
        assert_eq!(check(vec![put("a"), KvOp::Range(KvRange::new(KeySpan::ALL)), delete("b", "a")]), Ok(()));
        let both = KvTxn::new(Vec::new(), vec![put("a")], vec![put("a")]);
        assert_eq!(both.check(10), Ok(()), "only one of the lists is carried out");
    }

    #[test]
    fn a_transaction_has_at_most_128_operations() {
        let operations = |count: u32| (0..count).map(|n| KvOp::Put(KvPut::new(n.to_be_bytes().to_vec(), ""))).collect();
        assert_eq!(KvTxn::new(Vec::new(), operations(128), operations(128)).check(0), Ok(()));
        let refused = KvTxn::new(Vec::new(), Vec::new(), operations(129)).check(0);
        assert_eq!(refused, Err(KvReject::TxnTooLarge { len: 129, limit: 128 }));
    }
}
