//! Leadership is handed over under load: how long no write is acknowledged.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use d_engine::Operation;
use d_engine_load::Load;
use serde_json::{Value, json};
use three_nodes::Result;
use tokio::time::sleep;

use super::cluster::Cluster;
use super::{Living, median_and_worst, milliseconds, row, writes};

/// Calls per second: one is due in every millisecond, far below the peak.
const RATE: u64 = 1000;
/// Around a transfer, on either side.
const MARGIN: Duration = Duration::from_millis(500);

/// When writes were acknowledged.
type Times = Arc<Mutex<Vec<Instant>>>;

pub(super) async fn measure(living: &Living, program: &Path, dir: &Path) -> Result<Vec<Value>> {
    let cluster = Cluster::start(program, dir, &[]).await?;
    let client = cluster.client().clone();
    let put = writes::put(&client);
    living.closed().round(put.clone()).await?;
    let times = Times::default();
    let into = Arc::clone(&times);
    let noted = move |random| {
        let (put, into) = (put.clone(), Arc::clone(&into));
        async move {
            put(random).await?;
            if let Ok(mut times) = into.lock() {
                times.push(Instant::now());
            }
            Ok::<(), String>(())
        }
    };
    let transfers = living.part_of(living.transfers).max(2);
    let load = Load { clients: super::OPEN_CLIENTS, rate: Some(RATE), round: MARGIN * 2, rounds: 1 };
    let (mut gaps, mut quiet, mut took, mut errors) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..transfers {
        let to = cluster.follower().await?;
        take(&times);
        load.round(noted.clone()).await?;
        quiet.push(milliseconds(longest_gap(&take(&times))));
        let hand_over = async {
            sleep(MARGIN).await;
            let begun = Instant::now();
            client.operate(Operation::Transfer { to }).await?;
            Ok::<_, d_engine::ClientError>(milliseconds(begun.elapsed()))
        };
        let (round, transferred) = tokio::join!(load.round(noted.clone()), hand_over);
        took.push(transferred?);
        gaps.push(milliseconds(longest_gap(&take(&times))));
        let figures = d_engine_load::Figures::new(&load, vec![round?])?;
        errors.extend(figures.first_error().map(str::to_owned));
        if cluster.leader().await? != to {
            return Err(format!("node {to} was to lead and does not").into());
        }
    }
    let (usual, _) = median_and_worst(quiet.clone());
    let detail = json!({
        "note": format!("without a transfer the longest time without a write within a second is {usual:.1} ms (median)"),
        "gaps_ms": gaps, "longest_gaps_without_a_transfer_ms": quiet, "transfers_took_ms": took, "errors": errors,
    });
    let (median, worst) = median_and_worst(gaps);
    let what =
        |which: &str| format!("leadership is handed over {transfers} times: longest ms without a write, {which}");
    Ok(vec![
        row(&what("median"), median, "≤", 50.0, detail),
        row(&what("worst"), worst, "≤", 50.0, Value::Null),
        row("the same: writes that failed", errors.len() as f64, "≤", 0.0, Value::Null),
    ])
}

fn take(times: &Times) -> Vec<Instant> {
    times.lock().map(|mut times| std::mem::take(&mut *times)).unwrap_or_default()
}

fn longest_gap(times: &[Instant]) -> Duration {
    let gaps = times.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0]));
    gaps.max().unwrap_or(Duration::MAX)
}
