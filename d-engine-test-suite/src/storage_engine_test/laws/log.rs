//! Laws of an open log: what is written is what is read.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use d_engine_core::{
    ClusterSettings, Entry, EntryKind, Error, LogId, LogStore, LogSummary, Member, MemberKind, Membership,
    StorageEngine,
};

use super::{StorageEngineBuilder, expect_compacted, expect_log, fresh};
use crate::create_test_entry;
use crate::entries::entries;
use crate::law::{LawResult, Violation, Why, held};

/// A new store has no entries and no boundary.
pub async fn a_new_store_is_empty<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("a node decides by its log whether it is new; leftovers would join it to somebody else's history");
    let engine = fresh(builder, why).await?;
    expect_log(&*engine.log_store(), why, "of a new store", LogId::default(), &[]).await?;
    let both = engine.is_volatile() && engine.survives_power_loss();
    why.holds("a volatile engine does not claim to survive power loss", !both, "both claims")?;
    held()
}

/// A batch continues the log exactly; a hole or an overlap is an error and changes nothing.
pub async fn persist_is_contiguous<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("a hole or an overlap that is stored silently makes this replica's log differ from the leader's");
    let engine = fresh(builder, why).await?;
    let log = engine.log_store();
    let refused = |error: &Error| matches!(error, Error::NotContiguous { .. });
    let none = LogId::default();

    let early = log.persist_entries(entries(2, 3, 1)).await;
    why.refused("a first batch that begins at 2", early, "NotContiguous", refused)?;
    expect_log(&*log, why, "after a refused batch", none, &[]).await?;

    let good = entries(1, 3, 1);
    why.ok("persisting 1..=3", log.persist_entries(good.clone()).await)?;
    expect_log(&*log, why, "after persisting 1..=3", none, &good).await?;
    for (what, batch) in [
        ("a batch after a hole, 5..=6,", entries(5, 6, 1)),
        ("an overlapping batch, 3..=5,", entries(3, 5, 1)),
        ("a batch with a hole inside, 4 and 6,", vec![create_test_entry(4, 1), create_test_entry(6, 1)]),
        ("a batch that repeats an index, 4 and 4,", vec![create_test_entry(4, 1), create_test_entry(4, 1)]),
    ] {
        why.refused(what, log.persist_entries(batch).await, "NotContiguous", refused)?;
        expect_log(&*log, why, &format!("after {what} was refused"), none, &good).await?;
    }
    why.ok("persisting an empty batch", log.persist_entries(Vec::new()).await)?;
    why.ok("persisting 4, which continues the log,", log.persist_entries(entries(4, 4, 2)).await)?;
    let all = [good, entries(4, 4, 2)].concat();
    expect_log(&*log, why, "after persisting 4", none, &all).await?;

    let boundary = LogId::new(2, 4);
    why.ok("purge(2.4)", log.purge(boundary).await)?;
    let restart = log.persist_entries(entries(1, 1, 3)).await;
    why.refused("persisting 1 after a purge up to 4", restart, "NotContiguous", refused)?;
    why.ok("persisting 5 after a purge up to 4", log.persist_entries(entries(5, 5, 3)).await)?;
    expect_log(&*log, why, "after the purge", boundary, &entries(5, 5, 3)).await?;
    held()
}

/// Every kind, size and byte of an entry comes back.
pub async fn entries_come_back_as_they_were<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("an entry that changes in storage changes what this replica applies");
    let engine = fresh(builder, why).await?;
    let log = engine.log_store();
    let all_bytes: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let written = vec![
        Entry::new(1, 1, EntryKind::Noop, []),
        Entry::new(2, 1, EntryKind::Command, []),
        Entry::new(3, 1, EntryKind::Command, &all_bytes),
        Entry::new(4, 1, EntryKind::Membership, membership(1).encode()),
        Entry::new(5, u64::MAX, EntryKind::Command, [0; 100]),
        Entry::new(6, u64::MAX, EntryKind::Command, &large),
        Entry::new(7, u64::MAX, EntryKind::Noop, []),
    ];
    why.ok("persisting entries of every kind", log.persist_entries(written.clone()).await)?;
    expect_log(&*log, why, "after persisting entries of every kind", LogId::default(), &written).await?;
    held()
}

/// `None` beyond the end, also far beyond; `Compacted` up to the boundary; the entry everywhere else.
pub async fn entry_answers_for_every_index<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("replication asks for entries around both ends of the log and must tell purged from not yet written");
    let engine = fresh(builder, why).await?;
    let log = engine.log_store();
    why.ok("persisting 1..=5", log.persist_entries(entries(1, 5, 1)).await)?;
    why.ok("purge(1.2)", log.purge(LogId::new(1, 2)).await)?;
    for index in 1..=2 {
        expect_compacted(&*log, why, index..=5, 3).await?;
    }
    expect_log(&*log, why, "after the purge", LogId::new(1, 2), &entries(3, 5, 1)).await?;
    for index in [6, 7, 1000, u64::MAX] {
        let doing = format!("entry({index}) beyond the end");
        why.equal(&doing, why.ok(&doing, log.entry(index).await)?, None)?;
    }
    held()
}

/// A range gives exactly its entries; shorter where it goes beyond the end.
pub async fn get_entries_is_a_slice<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("the leader sends what this returns, and a follower appends it");
    let engine = fresh(builder, why).await?;
    let log = engine.log_store();
    let written = entries(1, 20, 1);
    for batch in written.chunks(7) {
        why.ok("persisting seven entries", log.persist_entries(batch.to_vec()).await)?;
    }
    for from in 1..=22u64 {
        for to in [from, from + 1, from + 6, 21.max(from), u64::MAX] {
            let doing = format!("get_entries({from}..={to}) of a log 1..=20");
            let expected: Vec<_> = written.iter().filter(|e| (from..=to).contains(&e.index)).cloned().collect();
            why.equal(&doing, why.ok(&doing, log.get_entries(from..=to).await)?, expected)?;
        }
    }
    held()
}

/// `read_limited` is a leading part of the range, within the limit, and never empty where there is an entry.
pub async fn read_limited_ends_at_the_byte_limit<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("a batch for a follower is bounded in memory, and must still move on when one entry is larger");
    let engine = fresh(builder, why).await?;
    let log = engine.log_store();
    let written = entries(1, 30, 1);
    why.ok("persisting 1..=30", log.persist_entries(written.clone()).await)?;
    let range = &written[4..25];
    let one = range[0].encoded_len();
    for limit in [0, 1, one, one * 2, one * 10 + 3, usize::MAX] {
        let doing = format!("read_limited(5..=25, {limit})");
        let found = why.ok(&doing, log.read_limited(5..=25, limit).await)?;
        let mut bytes = 0;
        let fit = range.iter().take_while(|entry| {
            bytes += entry.encoded_len();
            bytes <= limit
        });
        let count = fit.count().max(1);
        why.equal(&doing, &found[..], &range[..count])?;
    }
    let beyond = why.ok("read_limited(31..=40, 100)", log.read_limited(31..=40, 100).await)?;
    why.equal("read_limited(31..=40, 100) of a log 1..=30", beyond, Vec::new())?;
    held()
}

/// `summary` is what reading the whole log would give.
pub async fn summary_describes_the_log<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("at start the engine knows terms and membership from the summary alone");
    let engine = fresh(builder, why).await?;
    let log = engine.log_store();
    let empty = why.ok("summary() of an empty log", log.summary().await)?;
    why.equal("summary() of an empty log", empty, LogSummary::new(LogId::default()))?;

    let mut written = entries(1, 4, 1);
    written.push(Entry::new(5, 3, EntryKind::Membership, membership(7).encode()));
    written.extend(entries(6, 8, 3));
    written.push(Entry::new(9, 4, EntryKind::Membership, membership(8).encode()));
    why.ok("persisting 1..=9", log.persist_entries(written.clone()).await)?;
    expect_summary(&*log, why, LogId::default(), &written).await?;
    for purged in [LogId::new(1, 2), LogId::new(3, 6), LogId::new(4, 9)] {
        why.ok(&format!("purge({purged})"), log.purge(purged).await)?;
        expect_summary(&*log, why, purged, &written[purged.index as usize..]).await?;
    }
    let more = entries(10, 11, 4);
    why.ok("persisting 10..=11", log.persist_entries(more.clone()).await)?;
    why.ok("truncate(11)", log.truncate(11).await)?;
    expect_summary(&*log, why, LogId::new(4, 9), &more[..1]).await?;
    held()
}

async fn expect_summary<L: LogStore>(log: &L, why: Why, purged: LogId, entries: &[Entry]) -> Result<(), Violation> {
    let mut expected = LogSummary::new(purged);
    for entry in entries {
        why.ok("building the expected summary", expected.push(entry))?;
    }
    let doing = format!("summary() of the log after {purged}");
    why.equal(&doing, why.ok(&doing, log.summary().await)?, expected)
}

/// `truncate` removes from the index on, and does nothing beyond the end.
pub async fn truncate_removes_the_suffix<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("a follower removes what conflicts with its leader; what remains must be exactly the rest");
    let engine = fresh(builder, why).await?;
    let log = engine.log_store();
    let none = LogId::default();
    why.ok("persisting 1..=10", log.persist_entries(entries(1, 10, 1)).await)?;
    for from in [11, 12, u64::MAX] {
        why.ok(&format!("truncate({from}) beyond the end"), log.truncate(from).await)?;
    }
    expect_log(&*log, why, "after truncating beyond the end", none, &entries(1, 10, 1)).await?;
    why.ok("truncate(7)", log.truncate(7).await)?;
    expect_log(&*log, why, "after truncate(7)", none, &entries(1, 6, 1)).await?;
    why.ok("persisting 7..=8 of term 2", log.persist_entries(entries(7, 8, 2)).await)?;
    let joined = [entries(1, 6, 1), entries(7, 8, 2)].concat();
    expect_log(&*log, why, "after writing over the truncated part", none, &joined).await?;
    why.ok("truncate(1)", log.truncate(1).await)?;
    expect_log(&*log, why, "after truncate(1)", none, &[]).await?;
    why.ok("persisting 1 again", log.persist_entries(entries(1, 1, 3)).await)?;
    expect_log(&*log, why, "after starting over", none, &entries(1, 1, 3)).await?;
    held()
}

/// `replace_from` gives the log the new end whole; one that does not fit is refused.
pub async fn replace_from_replaces_the_suffix<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("a follower takes its leader's entries over its own; the two must not mix");
    let engine = fresh(builder, why).await?;
    let log = engine.log_store();
    let none = LogId::default();
    why.ok("persisting 1..=6", log.persist_entries(entries(1, 6, 1)).await)?;
    why.ok("replace_from(4, 4..=8)", log.replace_from(4, entries(4, 8, 2)).await)?;
    let joined = [entries(1, 3, 1), entries(4, 8, 2)].concat();
    expect_log(&*log, why, "after replacing with more", none, &joined).await?;
    why.ok("replace_from(2, 2..=2)", log.replace_from(2, entries(2, 2, 3)).await)?;
    let joined = [entries(1, 1, 1), entries(2, 2, 3)].concat();
    expect_log(&*log, why, "after replacing with less", none, &joined).await?;
    why.ok("replace_from(3, 3..=4) at the end", log.replace_from(3, entries(3, 4, 3)).await)?;
    let joined = [entries(1, 1, 1), entries(2, 4, 3)].concat();
    expect_log(&*log, why, "after replacing at the end", none, &joined).await?;

    let beyond = log.replace_from(6, entries(6, 7, 4)).await;
    let hole = |error: &Error| matches!(error, Error::NotContiguous { .. });
    why.refused("replace_from(6, …) of a log 1..=4", beyond, "NotContiguous", hole)?;
    expect_log(&*log, why, "after a refused replace", none, &joined).await?;
    why.ok("purge(3.2)", log.purge(LogId::new(3, 2)).await)?;
    let purged = log.replace_from(2, entries(2, 3, 5)).await;
    let compacted = |error: &Error| matches!(error, Error::Compacted { .. });
    why.refused("replace_from(2, …) after a purge up to 2", purged, "Compacted", compacted)?;
    expect_log(&*log, why, "after a refused replace", LogId::new(3, 2), &entries(3, 4, 3)).await?;
    held()
}

/// Writes of an engine that has promised never to wait ([`StorageEngine::never_waits`]) are done when they are polled first.
pub async fn who_never_waits_is_ready_at_once<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why =
        Why("the engine writes on the thread that drives it, a caller's or a socket's, which has other work to do");
    let engine = fresh(builder, why).await?;
    if !engine.never_waits() {
        return held();
    }
    let log = engine.log_store();
    at_once(why, "persisting 1..=4", log.persist_entries(entries(1, 4, 1)))?;
    at_once(why, "truncate(4)", log.truncate(4))?;
    at_once(why, "replace_from(3)", log.replace_from(3, entries(3, 5, 2)))?;
    at_once(why, "flush()", log.flush())?;
    let written = [entries(1, 2, 1), entries(3, 5, 2)].concat();
    expect_log(&*log, why, "after writes that did not wait", LogId::default(), &written).await?;
    held()
}

fn at_once(why: Why, doing: &str, write: impl Future<Output = Result<(), Error>>) -> Result<(), Violation> {
    // Not the budget of the task that runs the law: only what the store does makes it wait.
    let mut write = pin!(tokio::task::unconstrained(write));
    match write.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => why.ok(doing, result),
        Poll::Pending => Err(why.violation(format!("{doing} is done when it is polled first"), "it waits")),
    }
}

const BATCH: u64 = 8;
const BATCHES: u64 = 60;

/// A reader beside the writer sees whole batches only.
pub async fn reads_never_see_half_a_batch<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("replication reads while the disk thread writes; half a batch may later turn out never written");
    let engine = fresh(builder, why).await?;
    let log = engine.log_store();
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (log, done, handle) = (log.clone(), done.clone(), tokio::runtime::Handle::current());
        tokio::task::spawn_blocking(move || handle.block_on(read_until(&*log, why, &done)))
    };
    let written = write_batches(&*log, why).await;
    done.store(true, Ordering::Release);
    let read = reader.await;
    written?;
    read.map_err(|panic| why.violation("reads beside a writer do not panic", panic.to_string()))??;
    held()
}

async fn write_batches<L: LogStore>(log: &L, why: Why) -> Result<(), Violation> {
    for batch in 0..BATCHES {
        let entries = entries(batch * BATCH + 1, (batch + 1) * BATCH, 1);
        why.ok("persisting beside a reader", log.persist_entries(entries).await)?;
        if batch % 8 == 0 {
            why.ok("flush() beside a reader", log.flush().await)?;
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn read_until<L: LogStore>(log: &L, why: Why, done: &AtomicBool) -> Result<(), Violation> {
    let mut before = 0;
    while !done.load(Ordering::Acquire) {
        let last = log.last_index();
        let whole = last.is_multiple_of(BATCH) && last >= before;
        why.holds("last_index() grows by whole batches", whole, format!("{last} after {before}"))?;
        before = last;
        let from = last.saturating_sub(BATCH) + 1;
        let found = why.ok("get_entries() beside a writer", log.get_entries(from..=u64::MAX).await)?;
        let end = from + found.len() as u64 - 1;
        let whole = end.is_multiple_of(BATCH) && end >= last;
        why.holds(
            "get_entries() ends with a whole batch, not before last_index()",
            whole,
            format!("it ends at {end}"),
        )?;
        let sound = found.iter().zip(from..).all(|(entry, index)| *entry == create_test_entry(index, 1));
        why.holds("get_entries() gives the entries as they were written", sound, format!("{found:?}"))?;
    }
    Ok(())
}

fn membership(node: u64) -> Membership {
    let member = Member::new(node, 1, "127.0.0.1:9081", MemberKind::Voter);
    Membership::new(1, vec![member], ClusterSettings::new(300, 500, 1))
}
