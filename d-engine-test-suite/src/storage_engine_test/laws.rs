//! The laws one by one. Each begins with an empty log.

mod boundary;
mod crash;
mod hard_state;
mod log;
mod model;
mod reopen;

use std::ops::RangeInclusive;
use std::sync::Arc;

pub use boundary::*;
pub use crash::*;
use d_engine_core::{Entry, Error, LogId, LogStore, StorageEngine};
pub use hard_state::*;
pub use log::*;
pub use model::*;
pub use reopen::*;

use super::StorageEngineBuilder;
use crate::law::{Violation, Why};
use crate::process::open_again;

/// An engine whose log is empty, also where `cleanup` leaves something behind.
async fn fresh<B: StorageEngineBuilder>(builder: &B, why: Why) -> Result<Arc<B::Engine>, Violation> {
    why.ok("cleanup()", builder.cleanup().await)?;
    let engine = why.ok("build()", open_again(|| {}, || builder.build()).await)?;
    let log = engine.log_store();
    if log.last_index() != 0 {
        why.ok("reset() of a log that cleanup() did not empty", log.reset().await)?;
    }
    Ok(engine)
}

/// The same place again, after everything that held it is gone.
async fn reopen<B: StorageEngineBuilder>(
    builder: &B,
    why: Why,
    engine: Arc<B::Engine>,
) -> Result<Arc<B::Engine>, Violation> {
    let reopened = open_again(|| drop(engine), || builder.build()).await;
    why.ok("build() right after the last handle was dropped", reopened)
}

/// Checks boundary, end and content of a log, by every way of reading.
async fn expect_log<L: LogStore>(
    log: &L,
    why: Why,
    when: &str,
    purged: LogId,
    entries: &[Entry],
) -> Result<(), Violation> {
    let (first, last) = (purged.index + 1, purged.index + entries.len() as u64);
    why.equal(&format!("purged() {when}"), log.purged(), purged)?;
    why.equal(&format!("last_index() {when}"), log.last_index(), last)?;
    let found = why.ok(&format!("get_entries({first}..=MAX) {when}"), log.get_entries(first..=u64::MAX).await)?;
    why.equal(&format!("get_entries({first}..=MAX) {when}"), &found[..], entries)?;
    for entry in entries {
        let index = entry.index;
        let found = why.ok(&format!("entry({index}) {when}"), log.entry(index).await)?;
        why.equal(&format!("entry({index}) {when}"), found.as_ref(), Some(entry))?;
    }
    let beyond = why.ok(&format!("entry({}) beyond the end, {when}", last + 1), log.entry(last + 1).await)?;
    why.equal(&format!("entry({}) beyond the end, {when}", last + 1), beyond, None)
}

/// Checks that a range is answered with `Compacted`, naming the first index that is there.
async fn expect_compacted<L: LogStore>(
    log: &L,
    why: Why,
    range: RangeInclusive<u64>,
    wanted: u64,
) -> Result<(), Violation> {
    let accepted = |error: &Error| matches!(error, Error::Compacted { first } if *first == wanted);
    let name = format!("Compacted {{ first: {wanted} }}");
    let index = *range.start();
    why.refused(&format!("entry({index}) of a purged index"), log.entry(index).await, &name, accepted)?;
    let doing = format!("get_entries({range:?}), which begins at a purged index,");
    why.refused(&doing, log.get_entries(range).await, &name, accepted)
}
