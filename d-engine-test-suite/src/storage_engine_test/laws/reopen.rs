//! Laws of closing and opening. Closing is no crash: what a crash may take is found by killing and by power cuts.

use d_engine_core::{Error, LogId, LogStore, StorageEngine};

use super::{StorageEngineBuilder, expect_log, fresh, reopen};
use crate::entries::entries;
use crate::law::{LawResult, Why, held, not_checked};
use crate::process::open_again;

const VOLATILE: &str = "the engine is volatile";

/// The log stays usable while its own handle lives.
pub async fn handles_outlive_the_engine<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("the node keeps the log's handle, not the engine's");
    let engine = fresh(builder, why).await?;
    let log = engine.log_store();
    drop(engine);
    why.ok("persisting after the engine's handle was dropped", log.persist_entries(entries(1, 3, 1)).await)?;
    why.ok("flush() after the engine's handle was dropped", log.flush().await)?;
    expect_log(&*log, why, "through the log's own handle", LogId::default(), &entries(1, 3, 1)).await?;
    held()
}

/// What was flushed is there, also what was appended to a reopened log.
pub async fn flushed_entries_survive_a_reopen<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("flushed entries are acknowledged; losing one loses a committed write");
    let mut engine = fresh(builder, why).await?;
    if engine.is_volatile() {
        return not_checked(VOLATILE);
    }
    for round in 0..4 {
        let log = engine.log_store();
        for batch in 0..3 {
            let from = round * 15 + batch * 5 + 1;
            why.ok("persisting five entries", log.persist_entries(entries(from, from + 4, 1)).await)?;
        }
        why.ok("flush()", log.flush().await)?;
        drop(log);
        engine = reopen(builder, why, engine).await?;
        let all = entries(1, (round + 1) * 15, 1);
        expect_log(&*engine.log_store(), why, "after a reopen", LogId::default(), &all).await?;
    }
    held()
}

/// Dropping the last handle flushes and releases the place: an open right after finds everything.
pub async fn a_closed_store_reopens_with_everything<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("a node that is stopped in order starts where it stopped");
    let engine = fresh(builder, why).await?;
    if engine.is_volatile() {
        return not_checked(VOLATILE);
    }
    why.ok("persisting 1..=9", engine.log_store().persist_entries(entries(1, 9, 1)).await)?;
    why.ok("truncate(8)", engine.log_store().truncate(8).await)?;
    let engine = reopen(builder, why, engine).await?;
    let all = entries(1, 7, 1);
    expect_log(&*engine.log_store(), why, "after closing without a flush", LogId::default(), &all).await?;
    held()
}

/// A purge needs no flush: its boundary is there after a reopen, also where it emptied the log.
pub async fn purge_is_durable_on_return<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("the boundary says which snapshot the node needs; without it a purged log looks like a new one");
    let mut engine = fresh(builder, why).await?;
    if engine.is_volatile() {
        return not_checked(VOLATILE);
    }
    why.ok("persisting 1..=10", engine.log_store().persist_entries(entries(1, 10, 2)).await)?;
    for (up_to, left) in
        [(LogId::new(2, 4), entries(5, 10, 2)), (LogId::new(2, 10), Vec::new()), (LogId::new(5, 90), Vec::new())]
    {
        why.ok(&format!("purge({up_to})"), engine.log_store().purge(up_to).await)?;
        engine = reopen(builder, why, engine).await?;
        expect_log(&*engine.log_store(), why, &format!("after purge({up_to}) and a reopen"), up_to, &left).await?;
    }
    why.ok("persisting 91..=92", engine.log_store().persist_entries(entries(91, 92, 6)).await)?;
    why.ok("flush()", engine.log_store().flush().await)?;
    engine = reopen(builder, why, engine).await?;
    let when = "after going on and a reopen";
    expect_log(&*engine.log_store(), why, when, LogId::new(5, 90), &entries(91, 92, 6)).await?;
    held()
}

/// What a flushed truncate or replace removed never comes back.
pub async fn truncated_entries_stay_away<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("a removed entry that comes back was never committed and would be applied");
    let mut engine = fresh(builder, why).await?;
    if engine.is_volatile() {
        return not_checked(VOLATILE);
    }
    let none = LogId::default();
    why.ok("persisting 1..=10", engine.log_store().persist_entries(entries(1, 10, 1)).await)?;
    why.ok("flush()", engine.log_store().flush().await)?;
    why.ok("truncate(6)", engine.log_store().truncate(6).await)?;
    why.ok("flush()", engine.log_store().flush().await)?;
    engine = reopen(builder, why, engine).await?;
    expect_log(&*engine.log_store(), why, "after truncate(6) and a reopen", none, &entries(1, 5, 1)).await?;

    why.ok("replace_from(4, 4..=4)", engine.log_store().replace_from(4, entries(4, 4, 2)).await)?;
    why.ok("flush()", engine.log_store().flush().await)?;
    engine = reopen(builder, why, engine).await?;
    let joined = [entries(1, 3, 1), entries(4, 4, 2)].concat();
    expect_log(&*engine.log_store(), why, "after replace_from(4) and a reopen", none, &joined).await?;

    why.ok("persisting 5..=12 of term 3", engine.log_store().persist_entries(entries(5, 12, 3)).await)?;
    why.ok("flush()", engine.log_store().flush().await)?;
    engine = reopen(builder, why, engine).await?;
    let joined = [joined, entries(5, 12, 3)].concat();
    expect_log(&*engine.log_store(), why, "after writing over it and a reopen", none, &joined).await?;
    held()
}

/// A reset log is empty after a reopen.
pub async fn reset_is_durable_on_return<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("a node that was reset to join anew must not wake up with its old log");
    let mut engine = fresh(builder, why).await?;
    if engine.is_volatile() {
        return not_checked(VOLATILE);
    }
    why.ok("persisting 1..=10", engine.log_store().persist_entries(entries(1, 10, 1)).await)?;
    why.ok("purge(1.3)", engine.log_store().purge(LogId::new(1, 3)).await)?;
    why.ok("reset()", engine.log_store().reset().await)?;
    engine = reopen(builder, why, engine).await?;
    expect_log(&*engine.log_store(), why, "after reset() and a reopen", LogId::default(), &[]).await?;
    why.ok("persisting 1..=2", engine.log_store().persist_entries(entries(1, 2, 2)).await)?;
    engine = reopen(builder, why, engine).await?;
    let when = "after starting over and a reopen";
    expect_log(&*engine.log_store(), why, when, LogId::default(), &entries(1, 2, 2)).await?;
    held()
}

/// One place, one engine: the second open answers `Locked`, whichever handle keeps the first one alive.
pub async fn a_second_open_is_locked<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("two processes that write one log destroy it");
    let engine = fresh(builder, why).await?;
    if engine.is_volatile() {
        return not_checked(VOLATILE);
    }
    let accepted = |error: &Error| matches!(error, Error::Locked { .. });
    why.refused("build() while the engine is open", builder.build().await, "Locked", accepted)?;
    let log = engine.log_store();
    drop(engine);
    why.refused("build() while the log's handle lives", builder.build().await, "Locked", accepted)?;
    let reopened = open_again(|| drop(log), || builder.build()).await;
    why.ok("build() after the last handle was dropped", reopened)?;
    held()
}
