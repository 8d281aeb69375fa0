//! Laws of applying.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use d_engine_core::{Entry, EntryKind, Error, KvQuery, LogId, StateMachine};

use super::{StateMachineBuilder, TERM, apply, commands, expect_state, fresh, up_to};
use crate::law::{LawResult, Violation, Why, held, not_checked};

/// A new machine holds nothing and has applied nothing.
pub async fn a_new_machine_is_empty<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why = Why("leftovers become part of this replica's state and of no other's");
    let machine = fresh(builder, why).await?;
    expect_state(builder, why, &*machine, "of a new machine", &[], 3)?;
    held()
}

/// `is_running` tells of `start` and `stop`.
pub async fn it_runs_between_start_and_stop<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why = Why("the node starts the machine before the first apply and stops it after the last");
    let machine = fresh(builder, why).await?;
    why.equal("is_running() after start()", machine.is_running(), true)?;
    apply(builder, why, &*machine, 1..=1).await?;
    why.ok("stop()", machine.stop())?;
    why.equal("is_running() after stop()", machine.is_running(), false)?;
    held()
}

/// On return of `apply` and of `apply_chunk` the effects are visible and `last_applied` names the last entry.
pub async fn effects_and_marker_become_visible_together<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why = Why("reads wait for last_applied and then expect the effects; a restart applies from it on");
    let machine = fresh(builder, why).await?;
    apply(builder, why, &*machine, 1..=1).await?;
    expect_state(builder, why, &*machine, "after one command", &up_to(1), 5)?;
    apply(builder, why, &*machine, 2..=4).await?;
    expect_state(builder, why, &*machine, "after four commands", &up_to(4), 5)?;
    why.ok("apply_chunk()", machine.apply_chunk(commands(builder, 5..=7)).await)?;
    expect_state(builder, why, &*machine, "after apply_chunk()", &up_to(7), 9)?;
    why.ok("apply_chunk() of nothing", machine.apply_chunk(Vec::new()).await)?;
    expect_state(builder, why, &*machine, "after an empty chunk", &up_to(7), 9)?;
    held()
}

/// `apply` gives one answer per entry, in order.
pub async fn every_entry_gets_its_answer<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why = Why("each caller waits for the answer to its own entry");
    let machine = fresh(builder, why).await?;
    apply(builder, why, &*machine, 1..=1).await?;
    apply(builder, why, &*machine, 2..=30).await?;
    held()
}

/// Entries at or below `last_applied` change nothing, alone and in front of new ones.
pub async fn applied_entries_are_skipped<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why = Why("after a restart committed entries come again; a command applied twice is a different state");
    let machine = fresh(builder, why).await?;
    apply(builder, why, &*machine, 1..=5).await?;
    // Other commands under applied indexes: whoever applies them is seen.
    let other = |range: std::ops::RangeInclusive<u64>| -> Vec<Entry> {
        range.map(|n| Entry::new(n, TERM, EntryKind::Command, builder.command(n + 100))).collect()
    };
    why.ok("applying 1..=5 again", machine.apply(other(1..=5)).await)?;
    expect_state(builder, why, &*machine, "after applying 1..=5 again", &up_to(5), 110)?;
    let overlapping = [other(3..=5), commands(builder, 6..=7)].concat();
    why.ok("applying 3..=7", machine.apply(overlapping).await)?;
    expect_state(builder, why, &*machine, "after applying 3..=7 on top of 1..=5", &up_to(7), 110)?;
    held()
}

/// A chunk whose indexes do not increase is an error and nothing happens.
pub async fn indexes_that_do_not_increase_are_refused<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why = Why("such a chunk comes from a broken caller; applying a part of it makes replicas differ");
    let machine = fresh(builder, why).await?;
    apply(builder, why, &*machine, 1..=2).await?;
    for (what, indexes) in [("a repeated index", [3, 3, 4]), ("an index that goes back", [3, 5, 4])] {
        let chunk = indexes.map(|n| commands(builder, n..=n)).concat();
        why.refused(&format!("a chunk with {what}"), machine.apply(chunk).await, "an error", |_| true)?;
        expect_state(builder, why, &*machine, &format!("after a chunk with {what}"), &up_to(2), 6)?;
    }
    apply(builder, why, &*machine, 3..=4).await?;
    expect_state(builder, why, &*machine, "after going on", &up_to(4), 6)?;
    held()
}

/// Indexes may skip, within a chunk and between two.
pub async fn indexes_may_skip<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why = Why("no-ops and membership entries stay with the engine and leave gaps");
    let machine = fresh(builder, why).await?;
    let chunk = [commands(builder, 2..=3), commands(builder, 7..=7)].concat();
    why.ok("applying 2, 3, 7", machine.apply(chunk).await)?;
    expect_state(builder, why, &*machine, "after applying 2, 3, 7", &[2, 3, 7], 9)?;
    why.ok("applying 9", machine.apply(commands(builder, 9..=9)).await)?;
    expect_state(builder, why, &*machine, "after applying 9", &[2, 3, 7, 9], 9)?;
    held()
}

/// A history with repeated and failing commands gives the same state and answers, however it is cut.
pub async fn chunks_do_not_matter<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why = Why("replicas apply the same log in different chunks and must agree");
    let command = |n: u64| match builder.failing_command() {
        Some(failing) if n.is_multiple_of(5) => failing,
        _ => builder.command(n % 13),
    };
    let history: Vec<Entry> = (1..=40).map(|n| Entry::new(n, TERM, EntryKind::Command, command(n))).collect();
    let mut first = None;
    for size in [40, 1, 3, 7] {
        let machine = fresh(builder, why).await?;
        let mut answers = Vec::new();
        for chunk in history.chunks(size) {
            answers.extend(why.ok("apply()", machine.apply(chunk.to_vec()).await)?);
        }
        let mut values = Vec::new();
        for key in (0..13).filter_map(|n| builder.key(n)) {
            values.push(why.ok("get()", machine.get(&key))?);
        }
        // Machines that know the built-in queries answer with a digest of everything; others have no such answer.
        let digest = machine.read_at(KvQuery::Digest.encode()).ok();
        let outcome = (answers, values, machine.len(), machine.last_applied(), digest);
        let expected = first.get_or_insert_with(|| outcome.clone());
        why.equal(&format!("answers and state when applied {size} at a time, not 40"), &outcome, expected)?;
    }
    held()
}

/// A command that fails is a result: the entries around it take effect, and it counts as applied.
pub async fn a_failing_command_costs_nothing_else<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why = Why("an error of apply stops the replica, and every replica with it");
    let Some(failing) = builder.failing_command() else {
        return not_checked("the machine has no command that fails");
    };
    let machine = fresh(builder, why).await?;
    let mut chunk = commands(builder, 1..=3);
    chunk[1] = Entry::new(2, TERM, EntryKind::Command, failing.clone());
    let answers = why.ok("applying a chunk with a failing command", machine.apply(chunk).await)?;
    why.equal("the number of answers", answers.len(), 3)?;
    expect_state(builder, why, &*machine, "after a failing command between two others", &[1, 3], 4)?;
    let alone = vec![Entry::new(4, TERM, EntryKind::Command, failing)];
    why.ok("applying a failing command alone", machine.apply(alone).await)?;
    why.equal("last_applied() after a failing command", machine.last_applied(), LogId::new(TERM, 4))?;
    why.equal("len() after a failing command", machine.len(), 2)?;
    held()
}

const CHUNK: u64 = 8;
const CHUNKS: u64 = 50;

/// A reader beside `apply` sees whole chunks, and everything up to `last_applied`.
pub async fn reads_never_see_half_a_chunk<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why = Why("reads run on the threads that ask; half a chunk is a state that no replica was ever in");
    let Some(keys) = (1..=CHUNK * CHUNKS).map(|n| builder.key(n)).collect::<Option<Vec<_>>>() else {
        return not_checked("the builder names no keys");
    };
    let machine = fresh(builder, why).await?;
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (machine, done) = (machine.clone(), done.clone());
        tokio::task::spawn_blocking(move || read_until(&*machine, why, &keys, &done))
    };
    let mut applied = Ok(());
    for chunk in 0..CHUNKS {
        applied = apply(builder, why, &*machine, chunk * CHUNK + 1..=(chunk + 1) * CHUNK).await;
        if applied.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    done.store(true, Ordering::Release);
    let read = reader.await;
    applied?;
    read.map_err(|panic| why.violation("reads beside apply do not panic", panic.to_string()))??;
    held()
}

fn read_until(machine: &dyn StateMachine, why: Why, keys: &[Bytes], done: &AtomicBool) -> Result<(), Violation> {
    let has = |at: usize| -> Result<bool, Error> { Ok(machine.get(&keys[at])?.is_some()) };
    while !done.load(Ordering::Acquire) {
        let seen = machine.last_applied().index as usize;
        why.holds("last_applied() moves by whole chunks", seen.is_multiple_of(CHUNK as usize), seen.to_string())?;
        if seen > 0 {
            let there = why.ok("get() beside apply", has(seen - 1))?;
            why.holds("the effects of last_applied() are visible", there, format!("none of entry {seen}"))?;
        }
        if seen + 1 < keys.len() {
            let next = [seen, seen + CHUNK as usize - 1];
            for [one, other] in [next, [next[1], next[0]]] {
                let whole = !why.ok("get() beside apply", has(one))? || why.ok("get() beside apply", has(other))?;
                let found = format!("entry {} without entry {}", one + 1, other + 1);
                why.holds("a chunk becomes visible whole", whole, found)?;
            }
        }
    }
    Ok(())
}

/// A reset machine is as new.
pub async fn reset_returns_to_the_start<B: StateMachineBuilder>(builder: &B) -> LawResult {
    let why = Why("a node that joins anew applies from the first entry on");
    let machine = fresh(builder, why).await?;
    apply(builder, why, &*machine, 1..=20).await?;
    why.ok("reset()", machine.reset().await)?;
    expect_state(builder, why, &*machine, "after reset()", &[], 21)?;
    apply(builder, why, &*machine, 1..=2).await?;
    expect_state(builder, why, &*machine, "after starting over", &up_to(2), 21)?;
    held()
}
