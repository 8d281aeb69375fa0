//! Laws of closing and opening. Closing is no crash: what a crash may take is found by killing and by power cuts.

use d_engine_core::{Direction, Error, KeyRange, KvStore};

use super::{KvStoreBuilder, Pair, expect_content, fresh, numbered, pair, puts, reopen};
use crate::law::{LawResult, Why, held, not_checked};

const VOLATILE: &str = "the store is volatile";

/// What was flushed is there.
pub async fn flushed_writes_survive_a_reopen<B: KvStoreBuilder>(builder: &B) -> LawResult {
    let why = Why("the log may be purged up to what the state machine has flushed");
    let mut store = fresh(builder, why).await?;
    if store.is_volatile() {
        return not_checked(VOLATILE);
    }
    for round in 1..=3u64 {
        let mut content = numbered(round * 300, &format!("round {round}"));
        content.push(pair("zero", ""));
        why.ok("write()", store.write(puts(&content)))?;
        why.ok("flush()", store.flush())?;
        why.ok("a second flush()", store.flush())?;
        store = reopen(builder, why, store).await?;
        expect_content(&*store, why, "after flush() and a reopen", &content)?;
    }
    held()
}

/// Without a flush a reopen shows the state after some prefix of the writes, each whole, not shorter than at the last
/// flush.
pub async fn a_reopen_shows_a_prefix_of_the_writes<B: KvStoreBuilder>(builder: &B) -> LawResult {
    let why = Why("the state machine applies again from the marker it finds; data and marker must be of one moment");
    let mut store = fresh(builder, why).await?;
    if store.is_volatile() {
        return not_checked(VOLATILE);
    }
    // Write n sets key n and a marker that counts the writes; with none there is no marker.
    let after = |n: u64| -> Vec<Pair> {
        let marker = (n > 0).then(|| pair("marker", n.to_string()));
        numbered(n, "value").into_iter().chain(marker).collect()
    };
    let mut shown = 0;
    for flushes in [true, true, false] {
        let last_flushed = if flushes { shown + 5 } else { shown };
        for n in shown + 1..=shown + 9 {
            why.ok("write()", store.write(puts(&after(n)[n as usize - 1..])))?;
            if n == last_flushed {
                why.ok("flush()", store.flush())?;
            }
        }
        store = reopen(builder, why, store).await?;
        let content = why.ok("scan()", store.scan(KeyRange::ALL, usize::MAX, Direction::Forward))?;
        shown = content.len().saturating_sub(1) as u64;
        let expected = format!("a reopen shows at least the {last_flushed} writes before the last flush");
        why.holds(&expected, shown >= last_flushed, format!("{shown} writes"))?;
        expect_content(&*store, why, &format!("after a reopen that shows {shown} writes"), &after(shown))?;
    }
    held()
}

/// `replace_all` needs no flush.
pub async fn replace_all_is_durable_on_return<B: KvStoreBuilder>(builder: &B) -> LawResult {
    let why = Why("the log is purged once a snapshot is installed; nothing could rebuild the state then");
    let mut store = fresh(builder, why).await?;
    if store.is_volatile() {
        return not_checked(VOLATILE);
    }
    why.ok("write()", store.write(puts(&numbered(400, "old"))))?;
    for n in [700, 0, 30] {
        let new = numbered(n, "new");
        why.ok("replace_all()", store.replace_all(&mut new.iter().cloned().map(Ok)))?;
        store = reopen(builder, why, store).await?;
        expect_content(&*store, why, &format!("after replace_all() by {n} pairs and a reopen"), &new)?;
    }
    held()
}

/// One place, one store: the second open answers `Locked`.
pub async fn a_second_open_is_locked<B: KvStoreBuilder>(builder: &B) -> LawResult {
    let why = Why("two processes that write one store destroy it");
    let store = fresh(builder, why).await?;
    if store.is_volatile() {
        return not_checked(VOLATILE);
    }
    let accepted = |error: &Error| matches!(error, Error::Locked { .. });
    why.refused("build() while the store is open", builder.build().await, "Locked", accepted)?;
    reopen(builder, why, store).await?;
    held()
}
