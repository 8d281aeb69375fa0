//! The laws one by one. Each begins with an empty, started machine.

mod apply;
mod crash;
mod reopen;
mod snapshot;

use std::ops::RangeInclusive;
use std::sync::Arc;

pub use apply::*;
use bytes::Bytes;
pub use crash::*;
use d_engine_core::{Entry, EntryKind, LogId, StateMachine};
pub use reopen::*;
pub use snapshot::*;

use super::StateMachineBuilder;
use crate::law::{Violation, Why};
use crate::process::open_again;

/// The term of every command that the laws apply.
const TERM: u64 = 3;

/// Command `n` at index `n`.
pub(super) fn commands<B: StateMachineBuilder>(builder: &B, range: RangeInclusive<u64>) -> Vec<Entry> {
    range.map(|n| Entry::new(n, TERM, EntryKind::Command, builder.command(n))).collect()
}

/// An empty machine, started, also where `cleanup` leaves something behind.
async fn fresh<B: StateMachineBuilder>(builder: &B, why: Why) -> Result<Arc<dyn StateMachine>, Violation> {
    why.ok("cleanup()", builder.cleanup().await)?;
    let machine = open(builder, why).await?;
    if machine.last_applied() != LogId::default() || !machine.is_empty() {
        why.ok("reset() of a machine that cleanup() did not empty", machine.reset().await)?;
    }
    Ok(machine)
}

async fn open<B: StateMachineBuilder>(builder: &B, why: Why) -> Result<Arc<dyn StateMachine>, Violation> {
    reopen_after(builder, why, || {}).await
}

async fn reopen_after<B: StateMachineBuilder>(
    builder: &B,
    why: Why,
    close: impl FnOnce(),
) -> Result<Arc<dyn StateMachine>, Violation> {
    let machine = why.ok("build()", open_again(close, || builder.build()).await)?;
    why.ok("start()", machine.start())?;
    Ok(machine)
}

/// The same place again, after the machine is gone.
async fn reopen<B: StateMachineBuilder>(
    builder: &B,
    why: Why,
    machine: Arc<dyn StateMachine>,
) -> Result<Arc<dyn StateMachine>, Violation> {
    reopen_after(builder, why, || drop(machine)).await
}

/// Applies commands, all in one chunk.
async fn apply<B: StateMachineBuilder>(
    builder: &B,
    why: Why,
    machine: &dyn StateMachine,
    range: RangeInclusive<u64>,
) -> Result<(), Violation> {
    let doing = format!("applying {range:?}");
    let results = why.ok(&doing, machine.apply(commands(builder, range.clone())).await)?;
    let indexes: Vec<u64> = results.iter().map(|result| result.index).collect();
    why.equal(&format!("the indexes of the answers to {range:?}"), indexes, range.collect())
}

/// Checks that the machine is in the state after exactly the commands `applied`, of which none is above `most`.
fn expect_state<B: StateMachineBuilder>(
    builder: &B,
    why: Why,
    machine: &dyn StateMachine,
    when: &str,
    applied: &[u64],
    most: u64,
) -> Result<(), Violation> {
    let last = applied.last().map_or(LogId::default(), |index| LogId::new(TERM, *index));
    why.equal(&format!("last_applied() {when}"), machine.last_applied(), last)?;
    why.equal(&format!("len() {when}"), machine.len(), applied.len())?;
    why.equal(&format!("is_empty() {when}"), machine.is_empty(), applied.is_empty())?;
    for n in 1..=most {
        let Some(key) = builder.key(n) else { break };
        let found = why.ok("get()", machine.get(&key))?;
        let expected = applied.contains(&n);
        why.equal(&format!("get() of command {n} {when}, is_some(),"), found.is_some(), expected)?;
        let bytes = why.ok("get_bytes()", machine.get_bytes(&key))?;
        why.equal(&format!("get_bytes() of command {n} {when}"), bytes, found.map(Bytes::from))?;
    }
    Ok(())
}

fn up_to(n: u64) -> Vec<u64> {
    (1..=n).collect()
}
