//! Laws of the purge boundary.

use d_engine_core::{Error, HardState, LogId, LogStore, MetaStore, StorageEngine};

use super::{StorageEngineBuilder, expect_compacted, expect_log, fresh};
use crate::entries::entries;
use crate::law::{LawResult, Why, held};

/// A purge up to an entry that the log holds keeps everything after it.
pub async fn purge_keeps_what_follows_a_matching_entry<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("entries after a snapshot are not in it; losing them loses acknowledged writes");
    let engine = fresh(builder, why).await?;
    let log = engine.log_store();
    why.ok("persisting 1..=10", log.persist_entries(entries(1, 10, 2)).await)?;
    why.ok("purge(2.4)", log.purge(LogId::new(2, 4)).await)?;
    expect_log(&*log, why, "after purge(2.4)", LogId::new(2, 4), &entries(5, 10, 2)).await?;
    expect_compacted(&*log, why, 1..=10, 5).await?;
    expect_compacted(&*log, why, 4..=4, 5).await?;

    why.ok("purge(2.10), the last entry,", log.purge(LogId::new(2, 10)).await)?;
    expect_log(&*log, why, "after purging everything", LogId::new(2, 10), &[]).await?;
    why.ok("persisting 11..=12", log.persist_entries(entries(11, 12, 3)).await)?;
    expect_log(&*log, why, "after going on", LogId::new(2, 10), &entries(11, 12, 3)).await?;
    expect_compacted(&*log, why, 10..=12, 11).await?;
    held()
}

/// A purge up to an id that the log does not hold drops everything: a snapshot was installed.
pub async fn purge_of_another_term_drops_the_whole_log<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("a log that disagrees with an installed snapshot is not the committed history and must not be kept");
    for (what, up_to) in [
        ("a newer term at an index of the log", LogId::new(5, 4)),
        ("an older term at an index of the log", LogId::new(1, 4)),
        ("an index beyond the end", LogId::new(2, 30)),
    ] {
        let engine = fresh(builder, why).await?;
        let log = engine.log_store();
        why.ok("persisting 1..=10", log.persist_entries(entries(1, 10, 2)).await)?;
        why.ok(&format!("purge({up_to}), {what},"), log.purge(up_to).await)?;
        expect_log(&*log, why, &format!("after purge({up_to}), {what},"), up_to, &[]).await?;
        expect_compacted(&*log, why, 1..=10, up_to.index + 1).await?;
        let next = entries(up_to.index + 1, up_to.index + 2, 6);
        why.ok("persisting what follows the boundary", log.persist_entries(next.clone()).await)?;
        expect_log(&*log, why, "after going on", up_to, &next).await?;
    }

    let engine = fresh(builder, why).await?;
    let log = engine.log_store();
    why.ok("purge(3.7) of an empty log", log.purge(LogId::new(3, 7)).await)?;
    expect_log(&*log, why, "after a purge of an empty log", LogId::new(3, 7), &[]).await?;
    held()
}

/// A purge at or below the boundary changes nothing, whatever its term.
pub async fn purge_below_the_boundary_does_nothing<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("a late or repeated purge must not move the boundary back or drop the log");
    let engine = fresh(builder, why).await?;
    let log = engine.log_store();
    why.ok("persisting 1..=6", log.persist_entries(entries(1, 6, 2)).await)?;
    why.ok("purge(2.4)", log.purge(LogId::new(2, 4)).await)?;
    for late in [LogId::new(2, 4), LogId::new(2, 3), LogId::new(1, 1), LogId::new(9, 2), LogId::default()] {
        why.ok(&format!("purge({late}) below the boundary"), log.purge(late).await)?;
        let when = format!("after purge({late}) below the boundary");
        expect_log(&*log, why, &when, LogId::new(2, 4), &entries(5, 6, 2)).await?;
    }
    held()
}

/// A truncate at or below the boundary is refused with `Compacted` and changes nothing.
pub async fn truncate_at_the_boundary_is_refused<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("what lies below the boundary is committed; a call that removes it comes from a broken caller");
    let engine = fresh(builder, why).await?;
    let log = engine.log_store();
    why.ok("persisting 1..=6", log.persist_entries(entries(1, 6, 2)).await)?;
    why.ok("purge(2.3)", log.purge(LogId::new(2, 3)).await)?;
    for from in [1, 3] {
        let accepted = |error: &Error| matches!(error, Error::Compacted { .. });
        why.refused(&format!("truncate({from})"), log.truncate(from).await, "Compacted", accepted)?;
        expect_log(&*log, why, "after a refused truncate", LogId::new(2, 3), &entries(4, 6, 2)).await?;
    }
    why.ok("truncate(4), just above the boundary,", log.truncate(4).await)?;
    expect_log(&*log, why, "after truncate(4)", LogId::new(2, 3), &[]).await?;
    held()
}

/// A reset empties the log with its boundary; term and vote stay.
pub async fn reset_empties_the_log_and_keeps_the_vote<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("a reset log begins at 1 again; a vote that goes with it could be given twice in one term");
    let engine = fresh(builder, why).await?;
    let (log, meta) = (engine.log_store(), engine.meta_store());
    let state = HardState::new(7, Some(3), None);
    why.ok("save_hard_state()", meta.save_hard_state(&state))?;
    why.ok("persisting 1..=10", log.persist_entries(entries(1, 10, 2)).await)?;
    why.ok("purge(2.4)", log.purge(LogId::new(2, 4)).await)?;
    why.ok("reset()", log.reset().await)?;
    expect_log(&*log, why, "after reset()", LogId::default(), &[]).await?;
    why.equal("the hard state after reset()", why.ok("load_hard_state()", meta.load_hard_state())?, Some(state))?;
    why.ok("persisting 1..=2", log.persist_entries(entries(1, 2, 9)).await)?;
    expect_log(&*log, why, "after starting over", LogId::default(), &entries(1, 2, 9)).await?;
    held()
}
