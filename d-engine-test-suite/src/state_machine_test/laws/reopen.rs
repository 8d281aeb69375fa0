//! Laws of closing and opening. Closing is no crash: what a crash may take is found by killing and by power cuts.

use super::snapshot::{NO_SNAPSHOTS, install, take};
use super::{StateMachineBuilder, apply, expect_state, fresh, reopen, up_to};
use crate::law::{LawResult, Why, held, not_checked};

const VOLATILE: &str = "the machine is volatile";

/// What was flushed is there, with its marker.
pub async fn flushed_state_survives_a_reopen<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why = Why("entries up to the flushed state are not applied again");
    if builder.is_volatile() {
        return not_checked(VOLATILE);
    }
    let mut machine = fresh(builder, why).await?;
    for round in 1..=3u64 {
        apply(builder, why, &*machine, round * 10 - 9..=round * 10).await?;
        why.ok("flush()", machine.flush())?;
        why.ok("stop()", machine.stop())?;
        machine = reopen(builder, why, machine).await?;
        let when = "after flush(), stop() and a reopen";
        expect_state(builder, why, &*machine, when, &up_to(round * 10), 40)?;
    }
    apply(builder, why, &*machine, 31..=33).await?;
    why.ok("flush_async()", machine.flush_async().await)?;
    machine = reopen(builder, why, machine).await?;
    expect_state(builder, why, &*machine, "after flush_async() and a reopen", &up_to(33), 40)?;
    held()
}

/// Without a flush a reopen shows the state after exactly the entry that `last_applied` names, not before the last
/// flush; applying again from there reaches the same state.
pub async fn a_reopen_shows_the_state_after_some_entry<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why = Why("the log is applied again from last_applied on; effects beyond it would be applied twice");
    if builder.is_volatile() {
        return not_checked(VOLATILE);
    }
    let mut machine = fresh(builder, why).await?;
    apply(builder, why, &*machine, 1..=10).await?;
    why.ok("flush()", machine.flush())?;
    apply(builder, why, &*machine, 11..=13).await?;
    apply(builder, why, &*machine, 14..=20).await?;
    machine = reopen(builder, why, machine).await?;
    let shown = machine.last_applied().index;
    let within = (10..=20).contains(&shown);
    why.holds("last_applied() is between the flushed 10 and the applied 20", within, shown.to_string())?;
    expect_state(builder, why, &*machine, "after a reopen without a flush", &up_to(shown), 21)?;
    why.ok("applying 11..=20 again", machine.apply(super::commands(builder, 11..=20)).await)?;
    expect_state(builder, why, &*machine, "after applying 11..=20 again", &up_to(20), 21)?;
    held()
}

/// An installed snapshot needs no flush.
pub async fn an_installed_snapshot_is_durable_on_return<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why = Why("the log is purged after an install; nothing could rebuild the state then");
    if builder.is_volatile() {
        return not_checked(VOLATILE);
    }
    let mut machine = fresh(builder, why).await?;
    apply(builder, why, &*machine, 1..=30).await?;
    let Some(snapshot) = take(why, &*machine).await? else {
        return not_checked(NO_SNAPSHOTS);
    };
    why.ok("reset()", machine.reset().await)?;
    apply(builder, why, &*machine, 1..=2).await?;
    install(why, &*machine, &snapshot).await?;
    machine = reopen(builder, why, machine).await?;
    expect_state(builder, why, &*machine, "after an install and a reopen", &up_to(30), 31)?;
    held()
}

/// A reset machine is empty after a reopen.
pub async fn reset_is_durable_on_return<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why = Why("a node that was reset to join anew must not wake up with its old state");
    if builder.is_volatile() {
        return not_checked(VOLATILE);
    }
    let mut machine = fresh(builder, why).await?;
    apply(builder, why, &*machine, 1..=9).await?;
    why.ok("flush()", machine.flush())?;
    why.ok("reset()", machine.reset().await)?;
    machine = reopen(builder, why, machine).await?;
    expect_state(builder, why, &*machine, "after reset() and a reopen", &[], 10)?;
    held()
}
