//! Answers to queries, from one point in time of the store.

use bytes::Bytes;
use d_engine_core::command::{KvLease, KvOpResult, KvRange};
use d_engine_core::{Direction, Error, KvAnswer, KvQuery, KvRecord, KvView, Result};
use sha2::{Digest, Sha256};

use crate::layout::{BOOKKEEPING_KEY, Bookkeeping, Place, StoreRange, lease_key};
use crate::leases::Lease;
use crate::record::Record;
use crate::scan::Scan;

/// Records of a page whose query names no limit.
const DEFAULT_PAGE: u32 = 1_000;
/// A page ends once its records reach so many bytes.
const PAGE_BYTES: usize = 1 << 20;

/// Answers `query`, which is not about one key, from `view`, to which `book` belongs.
pub(crate) fn answer(view: &dyn KvView, book: &Bookkeeping, query: &KvQuery) -> Result<KvAnswer> {
    let revision = book.revision;
    match query {
        KvQuery::Range(range) => {
            let mut page = Page::new(range);
            let wanted = if range.count_only { usize::MAX } else { page.limit.saturating_add(1) };
            let mut scan = Scan::new(view, StoreRange::of(range), direction(range), wanted);
            while let Some((key, record)) = scan.next()? {
                if !page.take(key, record) {
                    break;
                }
            }
            Ok(page.into_answer(revision))
        }
        KvQuery::Digest => Ok(KvAnswer::Digest { digest: digest(view, book)?, keys: book.keys, revision }),
        KvQuery::Lease { id, keys } => Ok(KvAnswer::Lease { lease: lease(view, *id, *keys)?, revision }),
        KvQuery::Leases { after, limit } => leases(view, *after, *limit, revision),
        other => Err(Error::unsupported(format!("a query that this state machine does not know: {other:?}"))),
    }
}

/// The order that a range is asked for in.
pub(crate) fn direction(range: &KvRange) -> Direction {
    if range.reverse { Direction::Backward } else { Direction::Forward }
}

/// The records that answer a range, as they come.
pub(crate) struct Page {
    limit: usize,
    keys_only: bool,
    count_only: bool,
    bytes: usize,
    records: Vec<KvRecord>,
    count: u64,
    more: bool,
}

impl Page {
    pub(crate) fn new(range: &KvRange) -> Self {
        let limit = if range.limit == 0 { DEFAULT_PAGE } else { range.limit } as usize;
        let KvRange { keys_only, count_only, .. } = *range;
        Self { limit, keys_only, count_only, bytes: 0, records: Vec::new(), count: 0, more: false }
    }

    /// Takes the next record in; whether to go on.
    pub(crate) fn take(&mut self, key: Bytes, record: Record) -> bool {
        if self.count_only {
            self.count += 1;
            return true;
        }
        if self.records.len() == self.limit || self.bytes >= PAGE_BYTES {
            self.more = true;
            return false;
        }
        let record = if self.keys_only { record.without_value(key) } else { record.with_key(key) };
        self.bytes += record.key.len() + record.value.len() + 4 * size_of::<u64>();
        self.records.push(record);
        true
    }

    fn into_answer(self, revision: u64) -> KvAnswer {
        if self.count_only {
            return KvAnswer::Count { count: self.count, revision };
        }
        KvAnswer::Range { records: self.records, more: self.more, revision }
    }

    /// The result of a transaction's operation.
    pub(crate) fn into_result(self) -> KvOpResult {
        if self.count_only {
            return KvOpResult::Count { count: self.count };
        }
        KvOpResult::Range { records: self.records, more: self.more }
    }
}

/// A lease as the log has left it; what remains of it is the leader's clock's to say.
fn lease(view: &dyn KvView, id: u64, keys: bool) -> Result<Option<KvLease>> {
    let Some(record) = view.get(&lease_key(id))? else { return Ok(None) };
    let Lease { ttl_ms, remaining_ms, renewals, .. } = Lease::decode(&record)?;
    let mut lease = KvLease::new(id, ttl_ms, remaining_ms, renewals);
    let mut bytes = 0;
    let mut scan = Scan::new(view, StoreRange::leased(id), Direction::Forward, usize::MAX);
    while let Some((key, _)) = scan.next_pair()? {
        lease.key_count += 1;
        if keys
            && bytes < PAGE_BYTES
            && let Some(Place::Leased { key: user_key, .. }) = Place::of(&key)
        {
            bytes += user_key.len() + size_of::<u64>();
            lease.keys.push(key.slice_ref(user_key));
        }
    }
    Ok(Some(lease))
}

fn leases(view: &dyn KvView, after: u64, limit: u32, revision: u64) -> Result<KvAnswer> {
    let limit = if limit == 0 { DEFAULT_PAGE } else { limit } as usize;
    let (mut ids, mut more) = (Vec::new(), false);
    let mut scan = Scan::new(view, StoreRange::leases(after), Direction::Forward, limit.saturating_add(1));
    while let Some((key, _)) = scan.next_pair()? {
        if ids.len() == limit {
            more = true;
            break;
        }
        if let Some(Place::Lease(id)) = Place::of(&key) {
            ids.push(id);
        }
    }
    Ok(KvAnswer::Leases { ids, more, revision })
}

/// SHA-256 over the state: a domain string, revision and number of keys, then each record in key order with its lengths in
/// front and its numbers behind, all as little-endian; then leases and sessions as they are stored, each key and value
/// with its length in front.
fn digest(view: &dyn KvView, book: &Bookkeeping) -> Result<[u8; 32]> {
    let mut hash = Sha256::new_with_prefix(b"d-engine key-value state 1");
    hash.update(book.revision.to_le_bytes());
    hash.update(book.keys.to_le_bytes());
    let mut found = 0;
    let mut scan = Scan::new(view, StoreRange::users(), Direction::Forward, usize::MAX);
    while let Some((key, record)) = scan.next()? {
        found += 1;
        hash.update((key.len() as u64).to_le_bytes());
        hash.update(&key);
        hash.update((record.value().len() as u64).to_le_bytes());
        hash.update(record.value());
        for number in [record.create_revision, record.mod_revision, record.version, record.lease] {
            hash.update(number.to_le_bytes());
        }
    }
    book.expect_keys(found)?;
    let mut scan = Scan::new(view, StoreRange::internal(), Direction::Forward, usize::MAX);
    while let Some((key, value)) = scan.next_pair()? {
        if key != BOOKKEEPING_KEY {
            for part in [&key, &value] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
    }
    Ok(hash.finalize().into())
}
