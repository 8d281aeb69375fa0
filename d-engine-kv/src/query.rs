//! Answers to queries, from one point in time of the store.

use bytes::Bytes;
use d_engine_core::command::{KvRange, check_key};
use d_engine_core::{Direction, Error, KvAnswer, KvQuery, KvView, Result};
use sha2::{Digest, Sha256};

use crate::layout::{Bookkeeping, UserRange, with_store_key};
use crate::record::Record;
use crate::scan::Scan;

/// Records of a page whose query names no limit.
const DEFAULT_PAGE: u32 = 1_000;
/// A page ends once its records reach so many bytes.
const PAGE_BYTES: usize = 1 << 20;

/// Answers `query` from `view`, to which `book` belongs.
pub(crate) fn answer(view: &dyn KvView, book: &Bookkeeping, query: &KvQuery) -> Result<KvAnswer> {
    let revision = book.revision;
    match query {
        KvQuery::Get { key } => {
            check_key(key).map_err(|reject| Error::invalid(reject.to_string()))?;
            let stored = with_store_key(key, |store_key| view.get(store_key))?;
            let record = stored.map(Record::decode).transpose()?;
            Ok(KvAnswer::Get { record: record.map(|record| record.with_key(key.clone())), revision })
        }
        KvQuery::Range(range @ KvRange { span, limit, reverse, keys_only, .. }) if is_plain(range) => {
            let direction = if *reverse { Direction::Backward } else { Direction::Forward };
            let limit = if *limit == 0 { DEFAULT_PAGE } else { *limit } as usize;
            let mut scan =
                Scan::new(view, UserRange::new(&span.start, span.end.as_deref()), direction, limit.saturating_add(1));
            page(&mut scan, limit, *keys_only, revision)
        }
        KvQuery::Digest => Ok(KvAnswer::Digest { digest: digest(view, book)?, keys: book.keys, revision }),
        other => Err(Error::unsupported(format!("a query that this state machine does not know: {other:?}"))),
    }
}

/// Whether the range has none of the choices that are not carried out yet.
fn is_plain(range: &KvRange) -> bool {
    !range.count_only && range.after.is_none()
}

fn page(scan: &mut Scan<'_>, limit: usize, keys_only: bool, revision: u64) -> Result<KvAnswer> {
    let mut records = Vec::new();
    let mut bytes = 0;
    let mut more = false;
    while let Some((key, mut record)) = scan.next()? {
        if records.len() == limit || bytes >= PAGE_BYTES {
            more = true;
            break;
        }
        if keys_only {
            record.value = Bytes::new();
        }
        bytes += key.len() + record.value.len() + 4 * size_of::<u64>();
        records.push(record.with_key(key));
    }
    Ok(KvAnswer::Range { records, more, revision })
}

/// SHA-256 over the user-visible state: a domain string, revision and number of keys, then each record in key order with
/// its lengths in front and its numbers behind, all as little-endian.
fn digest(view: &dyn KvView, book: &Bookkeeping) -> Result<[u8; 32]> {
    let mut hash = Sha256::new_with_prefix(b"d-engine key-value state 1");
    hash.update(book.revision.to_le_bytes());
    hash.update(book.keys.to_le_bytes());
    let mut found = 0;
    let mut scan = Scan::new(view, UserRange::all(), Direction::Forward, usize::MAX);
    while let Some((key, record)) = scan.next()? {
        found += 1;
        hash.update((key.len() as u64).to_le_bytes());
        hash.update(&key);
        hash.update((record.value.len() as u64).to_le_bytes());
        hash.update(&record.value);
        for number in [record.create_revision, record.mod_revision, record.version, record.lease] {
            hash.update(number.to_le_bytes());
        }
    }
    book.expect_keys(found)?;
    Ok(hash.finalize().into())
}
