//! Timed checks. They are rough on purpose, run on demand only, and never decide whether a law holds.

use std::time::{Duration, Instant};

use d_engine_core::{Entry, EntryKind, Error, LogStore};

use crate::law::say;

/// The published thresholds for `n` entries persisted or applied at once, of which `measure` returns the time.
pub(crate) async fn check<F>(suite: &str, mut measure: impl FnMut(u64) -> F) -> Result<(), Error>
where
    F: Future<Output = Result<Duration, Error>>,
{
    let smoke = best_of_3(100, &mut measure).await?;
    let scaled = best_of_3(1_000, &mut measure).await?;
    let many = best_of_3(10_000, &mut measure).await?;
    say(&format!("{suite}: 100 entries in {smoke:?}, 1,000 in {scaled:?}, 10,000 in {many:?}"));
    at_most("100 entries", smoke, Duration::from_secs(1))?;
    at_most("10,000 entries", many, Duration::from_secs(1))?;
    // Below this the clock and the scheduler are measured, not the store.
    let base = smoke.max(Duration::from_micros(100));
    at_most("1,000 entries, with 100 taking a thirtieth of the limit,", scaled, base * 30)
}

async fn best_of_3<F>(n: u64, measure: &mut impl FnMut(u64) -> F) -> Result<Duration, Error>
where
    F: Future<Output = Result<Duration, Error>>,
{
    let mut best = Duration::MAX;
    for _ in 0..3 {
        best = best.min(measure(n).await?);
    }
    Ok(best)
}

fn at_most(what: &str, found: Duration, limit: Duration) -> Result<(), Error> {
    if found <= limit {
        return Ok(());
    }
    Err(Error::backend(format!("{what} took {found:?}; the published limit is {limit:?}")))
}

/// The time that `work` takes.
pub(crate) async fn time(work: impl Future<Output = Result<(), Error>>) -> Result<Duration, Error> {
    let start = Instant::now();
    work.await?;
    Ok(start.elapsed())
}

/// The time that a log takes for so many write calls of `batch` entries with 256 bytes of data, each followed by a flush;
/// making the entries is not part of it. For benchmarks: the log has grown afterwards.
///
/// # Errors
/// What the log says.
pub async fn time_appends<L: LogStore + ?Sized>(log: &L, batch: u64, calls: u64) -> Result<Duration, Error> {
    let mut spent = Duration::ZERO;
    for _ in 0..calls {
        let first = log.last_index() + 1;
        let entry = |index| Entry::new(index, 1, EntryKind::Command, [index as u8; 256]);
        let entries = (first..first + batch).map(entry).collect();
        spent += time(async {
            log.persist_entries(entries).await?;
            log.flush().await
        })
        .await?;
    }
    Ok(spent)
}
