//! Laws of an open store: what is written is what is read, in byte order.

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use d_engine_core::{Direction, Error, KeyRange, KvStore, WriteBatch};

use super::{KvStoreBuilder, Pair, content, expect_content, fresh, numbered, pair, puts};
use crate::law::{LawResult, Violation, Why, held, not_checked};

/// A new store holds nothing.
pub async fn a_new_store_is_empty<B: KvStoreBuilder>(builder: &B) -> LawResult {
    let why = Why("leftovers become part of this replica's state and of no other's");
    let store = fresh(builder, why).await?;
    expect_content(&*store, why, "of a new store", &[])?;
    why.equal("get() of a new store", why.ok("get()", store.get(b"key"))?, None)?;
    held()
}

/// Every byte of keys and values comes back; an empty value is a value.
pub async fn what_is_written_is_read<B: KvStoreBuilder>(builder: &B) -> LawResult {
    let why = Why("a value that changes in storage changes what this replica answers");
    let store = fresh(builder, why).await?;
    let all_bytes: Bytes = (0..=255u8).collect::<Vec<_>>().into();
    let large: Bytes = (0..3_000_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
    let written = [
        pair(&b"\0"[..], "zero"),
        pair(&b"\0\0"[..], ""),
        pair(&b"\x01"[..], all_bytes.clone()),
        pair("empty", ""),
        pair("large", large),
        pair(vec![b'l'; 10_000], "of a long key"),
        pair(all_bytes.slice(128..), "of a binary key"),
        pair(&b"\xff\xff"[..], "last"),
    ];
    why.ok("write()", store.write(puts(&written)))?;
    expect_content(&*store, why, "after writing it", &written)?;
    why.equal("get() of the beginning of a key", why.ok("get()", store.get(b"empt"))?, None)?;
    why.equal("get() of a longer key", why.ok("get()", store.get(b"empty\0"))?, None)?;

    why.ok("write() of another value", store.write(puts(&[pair("empty", "full")])))?;
    why.equal("get() after an overwrite", why.ok("get()", store.get(b"empty"))?, Some("full".into()))?;
    let mut removal = WriteBatch::new();
    removal.delete("empty");
    removal.delete("was never there");
    why.ok("write() of removals, one of an absent key", store.write(removal))?;
    let left: Vec<Pair> = written.iter().filter(|(key, _)| key != "empty").cloned().collect();
    expect_content(&*store, why, "after a removal", &left)?;
    held()
}

/// Of two writes to one key in a batch the later one wins.
pub async fn a_batch_applies_in_order<B: KvStoreBuilder>(builder: &B) -> LawResult {
    let why = Why("the state machine puts a chunk of commands into one batch, in log order");
    let store = fresh(builder, why).await?;
    why.ok("write()", store.write(puts(&[pair("c", "old")])))?;
    let mut batch = WriteBatch::new();
    batch.put("a", "1");
    batch.put("a", "2");
    batch.put("b", "1");
    batch.delete("b");
    batch.delete("c");
    batch.put("c", "new");
    batch.delete("d");
    batch.put("d", "");
    why.ok("write() of a batch with repeated keys", store.write(batch))?;
    let expected = [pair("a", "2"), pair("c", "new"), pair("d", "")];
    expect_content(&*store, why, "after the batch", &expected)?;
    why.ok("write() of an empty batch", store.write(WriteBatch::new()))?;
    expect_content(&*store, why, "after an empty batch", &expected)?;
    held()
}

const KEYS: [&[u8]; 10] = [b"\0", b"a", b"a\0", b"aa", b"ab", b"b", b"b\xff", b"c", b"\xc3\xa9", b"\xff\xff"];
const BETWEEN: [&[u8]; 3] = [b"", b"a\x01", b"zz"];

/// Scans give exactly the range, in byte order from the end they begin at, up to the limit.
pub async fn scans_follow_byte_order<B: KvStoreBuilder>(builder: &B) -> LawResult {
    let why = Why("a range read must be equal on every replica, whatever its backend");
    let store = fresh(builder, why).await?;
    let written: Vec<Pair> = KEYS.iter().map(|key| pair(*key, "value")).collect();
    why.ok("write() in descending order", store.write(puts(written.iter().rev())))?;
    let both = |key: &'static [u8]| [Bound::Included(key), Bound::Excluded(key)];
    let ends = || KEYS.into_iter().chain(BETWEEN).flat_map(both).chain([Bound::Unbounded]);
    for start in ends() {
        for end in ends() {
            for direction in [Direction::Forward, Direction::Backward] {
                expect_scan(&*store, why, &written, KeyRange { start, end }, direction)?;
            }
        }
    }
    held()
}

fn expect_scan<S: KvStore>(
    store: &S,
    why: Why,
    written: &[Pair],
    range: KeyRange<'_>,
    direction: Direction,
) -> Result<(), Violation> {
    let mut expected: Vec<Pair> = written.iter().filter(|(key, _)| range.contains(key)).cloned().collect();
    if direction == Direction::Backward {
        expected.reverse();
    }
    for limit in [usize::MAX, 0, 1, 3] {
        let doing = format!("scan({range:?}, {limit}, {direction:?})");
        let found = why.ok(&doing, store.scan(range, limit, direction))?;
        why.equal(&doing, &found[..], &expected[..limit.min(expected.len())])?;
    }
    Ok(())
}

/// After `replace_all` the store holds what came and nothing else.
pub async fn replace_all_replaces_everything<B: KvStoreBuilder>(builder: &B) -> LawResult {
    let why = Why("a snapshot is installed this way; a key that stays behind exists on this replica alone");
    let store = fresh(builder, why).await?;
    why.ok("write()", store.write(puts(&numbered(500, "old"))))?;
    for n in [3000, 0, 1] {
        let new: Vec<Pair> = numbered(n * 2, "new").into_iter().step_by(2).collect();
        why.ok("replace_all()", store.replace_all(&mut new.iter().cloned().map(Ok)))?;
        expect_content(&*store, why, &format!("after replace_all() by {n} pairs"), &new)?;
    }
    why.ok("write() after replace_all()", store.write(puts(&[pair("z", "more")])))?;
    let both = [numbered(1, "new"), vec![pair("z", "more")]].concat();
    expect_content(&*store, why, "after going on", &both)?;
    held()
}

/// An error of the iterator is passed on, and the old content stays.
pub async fn a_failed_replace_all_changes_nothing<B: KvStoreBuilder>(builder: &B) -> LawResult {
    const DAMAGE: &str = "made by the test suite";
    let why = Why("a snapshot that turns out damaged in its last block must not have replaced anything");
    let store = fresh(builder, why).await?;
    let old = numbered(50, "old");
    why.ok("write()", store.write(puts(&old)))?;
    for good in [0, 1, 5000] {
        let mut pairs = numbered(good, "new").into_iter().map(Ok).chain([Err(Error::corrupt(DAMAGE))]);
        let accepted = |error: &Error| matches!(error, Error::Corrupt { place, .. } if place == DAMAGE);
        let doing = format!("replace_all() with an error after {good} pairs");
        why.refused(&doing, store.replace_all(&mut pairs), "the iterator's own error", accepted)?;
        expect_content(&*store, why, &format!("after a {doing}"), &old)?;
    }
    why.ok("write() after a failed replace_all()", store.write(puts(&numbered(51, "old")[50..])))?;
    expect_content(&*store, why, "after going on", &numbered(51, "old"))?;
    held()
}

/// A view keeps its moment while writes, removals and a replace go on.
pub async fn views_stand_still<B: KvStoreBuilder>(builder: &B) -> LawResult {
    let why = Why("a snapshot is written from a view beside further applies, and carries the view's log id");
    let store = fresh(builder, why).await?;
    let old = numbered(1000, "old");
    why.ok("write()", store.write(puts(&old)))?;
    let mut seen = Vec::new();
    let viewed = store.with_view(&mut |view| {
        seen.push(("at first", content(view)?));
        let mut batch = puts(&numbered(400, "new"));
        batch.delete(old[999].0.clone());
        batch.put("z", "added");
        store.write(batch)?;
        seen.push(("after writes", content(view)?));
        store.replace_all(&mut numbered(10, "replaced").into_iter().map(Ok))?;
        seen.push(("after replace_all()", content(view)?));
        let backward = view.scan(KeyRange::ALL, usize::MAX, Direction::Backward)?;
        seen.push(("backward", backward.into_iter().rev().collect()));
        let mut by_get = Vec::new();
        for (key, _) in &old {
            by_get.extend(view.get(key)?.map(|value| (key.clone(), value)));
        }
        seen.push(("by get()", by_get));
        Ok(())
    });
    if !why.ok("with_view()", viewed)? {
        return not_checked("the store has no views");
    }
    why.equal("the number of reads through the view", seen.len(), 5)?;
    for (when, found) in &seen {
        why.equal(&format!("the view's content {when}"), found, &old)?;
    }
    expect_content(&*store, why, "beside the view", &numbered(10, "replaced"))?;

    let failing = store.with_view(&mut |_| Err(Error::invalid("made by the test suite")));
    let accepted = |error: &Error| matches!(error, Error::Invalid { .. });
    why.refused("with_view() of a function that fails", failing, "that function's error", accepted)?;
    held()
}

/// `get_many` gives one answer per key, in the order asked.
pub async fn get_many_answers_in_order<B: KvStoreBuilder>(builder: &B) -> LawResult {
    let why = Why("the state machine pairs the answers with its keys by position");
    let store = fresh(builder, why).await?;
    why.ok("write()", store.write(puts(&numbered(5, "value"))))?;
    let key = crate::entries::key;
    let value = |n: u64| Some(Bytes::from(format!("value {n}")));
    let found = why.ok("get_many()", store.get_many(&[key(3), "absent".into(), key(0), key(3)]))?;
    why.equal("get_many()", found, vec![value(3), None, value(0), value(3)])?;
    why.equal("get_many() of no keys", why.ok("get_many()", store.get_many(&[]))?, Vec::new())?;
    held()
}

const PAIRS_OF_A_ROUND: u64 = 20;

/// A reader beside the writer sees whole batches only.
pub async fn reads_never_see_half_a_batch<B: KvStoreBuilder>(builder: &B) -> LawResult {
    let why = Why("one batch holds data and the applied marker; half of it is a state that no replica was ever in");
    let store = fresh(builder, why).await?;
    let of_round = |round: u64| -> Vec<Pair> {
        (0..PAIRS_OF_A_ROUND).map(|i| pair(crate::entries::key(i * 97), round.to_string())).collect()
    };
    why.ok("write()", store.write(puts(&of_round(0))))?;
    let done = AtomicBool::new(false);
    let (written, read) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_until(&*store, why, &done));
        let written = (1..300).try_for_each(|round| {
            if round % 100 != 0 {
                return why.ok("write() beside a reader", store.write(puts(&of_round(round))));
            }
            why.ok("flush() beside a reader", store.flush())?;
            why.ok("replace_all() beside a reader", store.replace_all(&mut of_round(round).into_iter().map(Ok)))
        });
        done.store(true, Ordering::Release);
        (written, reader.join())
    });
    written?;
    read.map_err(|_| why.violation("reads beside a writer do not panic", "a panic"))??;
    held()
}

fn read_until<S: KvStore>(store: &S, why: Why, done: &AtomicBool) -> Result<(), Violation> {
    while !done.load(Ordering::Acquire) {
        let found = why.ok("scan() beside a writer", store.scan(KeyRange::ALL, usize::MAX, Direction::Forward))?;
        let one_round = found.len() as u64 == PAIRS_OF_A_ROUND && found.iter().all(|(_, value)| *value == found[0].1);
        why.holds("scan() sees the values of one batch", one_round, format!("{found:?}"))?;
    }
    Ok(())
}
