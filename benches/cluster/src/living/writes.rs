//! Writes: to fill a state, to measure, to make a log long.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use d_engine::{Client, Txn};
use d_engine_load::{Figures, Load, Round};
use three_nodes::Result;
use tokio::task::JoinSet;

use super::Living;

/// Keys that are written to while something is measured; they are none of the state's.
const HOT_KEYS: u64 = 10_000;
const HOT_VALUE_BYTES: usize = 256;
/// Puts in one transaction of a fill, and transactions under way.
const FILL_PUTS: u64 = 100;
const FILL_AT_ONCE: usize = 32;

/// Writes keys `0..keys` once.
pub(super) async fn fill(client: &Client, keys: u64, value_bytes: usize) -> Result<()> {
    let mut under_way = JoinSet::new();
    for first in (0..keys).step_by(FILL_PUTS as usize) {
        let mut txn = Txn::new();
        for key in first..keys.min(first + FILL_PUTS) {
            txn = txn.then_put(format!("state/{key:012}"), value(key, value_bytes));
        }
        if under_way.len() >= FILL_AT_ONCE
            && let Some(done) = under_way.join_next().await
        {
            done??;
        }
        let client = client.clone();
        under_way.spawn(async move { client.txn(txn).await });
    }
    while let Some(done) = under_way.join_next().await {
        done??;
    }
    Ok(())
}

/// Bytes that are of no pattern and of this key alone.
fn value(key: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(key).fill(&mut bytes);
    bytes.into()
}

type Called = Pin<Box<dyn Future<Output = std::result::Result<(), String>> + Send>>;

/// Puts of random hot keys.
pub(super) fn put(client: &Client) -> impl Fn(u64) -> Called + Clone + Send + use<> {
    let (client, value) = (Arc::new(client.clone()), value(0, HOT_VALUE_BYTES));
    move |random| {
        let (client, value) = (Arc::clone(&client), value.clone());
        Box::pin(async move {
            let key = format!("hot/{}", random % HOT_KEYS);
            client.put(key, value).await.map(drop).map_err(|error| error.to_string())
        })
    }
}

/// Calls per second of callers that wait for their answers.
pub(super) async fn peak(living: &Living, client: &Client) -> Result<f64> {
    Ok(living.closed().run(put(client)).await?.median())
}

/// Half of a peak, as a rate of calls.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
pub(super) fn half(peak: f64) -> u64 {
    (peak / 2.0).max(1.0) as u64
}

/// Rounds of a load until `done` is, at least one.
pub(super) async fn rounds_beside<T>(
    load: &Load,
    client: &Client,
    done: impl Future<Output = Result<T>>,
) -> Result<(T, Figures)> {
    let is_done = std::sync::atomic::AtomicBool::new(false);
    let calls = async {
        let mut rounds: Vec<Round> = Vec::new();
        while rounds.is_empty() || !is_done.load(Ordering::Relaxed) {
            rounds.push(load.round(put(client)).await?);
        }
        Figures::new(load, rounds)
    };
    let done = async {
        let done = done.await;
        is_done.store(true, Ordering::Relaxed);
        done
    };
    let (done, figures) = tokio::join!(done, calls);
    Ok((done?, figures?))
}

/// So many entries as fast as `at_once` callers write them. Gives writes per second.
pub(super) async fn entries(client: &Client, entries: u64, at_once: usize) -> Result<f64> {
    let (begun, next) = (std::time::Instant::now(), Arc::new(AtomicU64::new(0)));
    let mut callers = JoinSet::new();
    for _ in 0..at_once {
        let (put, next) = (put(client), Arc::clone(&next));
        callers.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < entries {
                put(fastrand::u64(..)).await?;
            }
            Ok::<(), String>(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    Ok(entries as f64 / begun.elapsed().as_secs_f64())
}
