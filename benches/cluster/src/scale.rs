//! How cost grows: with nodes, idle connections, keys, and the size of values; and what an open loop sees below the peak.
//!
//! Where a node's own processor time or memory counts, each node is a process: this program, started once more.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster_bench::{Api, Cluster, Engine, Target, Works};
use d_engine::KvStore;
use d_engine::file::FileKvStore;
use d_engine::storage::WriteBatch;
use d_engine_load::{Figures, Load};
use serde_json::{Value, json};
use three_nodes::Result;

mod idle;
mod nodes;

pub(crate) use nodes::run_node_if_asked;

/// How much of everything.
pub(crate) struct Scale {
    /// How long a round lasts.
    pub(crate) round: Duration,
    /// Idle connections.
    pub(crate) connections: usize,
    /// Keys of the smaller store; the larger has ten times as many.
    pub(crate) keys: u64,
}

const CLIENTS: usize = 100;
const KEYS: u64 = 10_000;
const VALUE_BYTES: usize = 256;
const MIB: usize = 1 << 20;
const BATCH: u64 = 1000;

impl Scale {
    fn load(&self, clients: usize) -> Load {
        Load { clients, rate: None, round: self.round, rounds: 3 }
    }

    /// Measures all below `dir`; what fails is a line that says why.
    pub(crate) async fn measure(&self, dir: &Path) -> Value {
        let (mut found, mut skipped) = (Vec::new(), Vec::new());
        let mut add = |what: &str, result: Result<Vec<Value>>| match result {
            Ok(rows) => found.extend(rows),
            Err(why) => skipped.push(json!({ "what": what, "why": why.to_string() })),
        };
        eprintln!("3, 5 and 7 nodes");
        add("processor time of the leader", nodes::processor_time(self, &dir.join("nodes")).await);
        eprintln!("idle connections");
        add("idle connections", idle::measure(self, &dir.join("idle")).await);
        eprintln!("an open loop below the peak, and values of 1 MiB");
        add("open loop and large values", self.one_cluster(dir).await);
        eprintln!("keys");
        add("keys", self.keys(&dir.join("keys")));
        json!({ "rows": found, "skipped": skipped })
    }

    async fn one_cluster(&self, dir: &Path) -> Result<Vec<Value>> {
        let cluster = Cluster::start(&dir.join("cluster"), Engine::File).await?;
        let target = Arc::new(cluster.target(Api::Embedded, KEYS, VALUE_BYTES)?);
        target.fill().await?;
        let peak = run(&target, &self.load(CLIENTS)).await?.median();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
        let rate = (peak * 0.8).max(1.0) as u64;
        // As many may be under way as it takes for none to wait for a caller.
        let open = run(&target, &Load { rate: Some(rate), ..self.load(CLIENTS * 20) }).await?;
        let (p50, p99) = open.latencies_ns();
        // A load that was not kept up with says nothing about latency below the peak.
        let kept_up = open.median() >= 0.95 * rate as f64;
        let spread = if kept_up { p99 as f64 / p50 as f64 } else { f64::NAN };
        let large = Arc::new(cluster.target(Api::Embedded, 32, MIB)?);
        large.fill().await?;
        let megabytes = run(&large, &self.load(8)).await?.median() * MIB as f64 / 1e6;
        cluster.stop().await?;
        let disk = sequential_bandwidth(dir)? / 1e6;
        Ok(vec![
            row(
                "open loop at 80 % of the peak of 100 callers: p99 ÷ p50 (NaN: it was not kept up with)",
                spread,
                "≤",
                5.0,
                json!({
                    "peak_per_second": peak, "offered_per_second": rate, "figures": open.json()
                }),
            ),
            row(
                "values of 1 MiB: bytes written ÷ (disk's sequential bandwidth ÷ 3 nodes)",
                megabytes / (disk / 3.0),
                "≥",
                0.6,
                json!({
                    "megabytes_per_second": megabytes, "disk_megabytes_per_second": disk
                }),
            ),
        ])
    }

    /// Writes to random keys of a store of files with so many keys, and with ten times as many.
    fn keys(&self, dir: &Path) -> Result<Vec<Value>> {
        let mut rates = Vec::new();
        for keys in [self.keys, self.keys * 10] {
            let place = dir.join(keys.to_string());
            let store = FileKvStore::open(&place)?;
            let value = bytes::Bytes::from(vec![7; 64]);
            let mut pairs = (0..keys).map(|key| Ok((key_of(key), value.clone())));
            store.replace_all(&mut pairs)?;
            let mut random = fastrand::Rng::with_seed(1);
            let mut round = || -> Result<f64> {
                let (begun, mut written) = (Instant::now(), 0);
                while begun.elapsed() < self.round {
                    let mut batch = WriteBatch::new();
                    for _ in 0..BATCH {
                        batch.put(key_of(random.u64(..keys)), value.clone());
                    }
                    store.write(batch)?;
                    written += BATCH;
                }
                Ok(written as f64 / begun.elapsed().as_secs_f64())
            };
            round()?;
            let mut of_rounds = [round()?, round()?, round()?];
            of_rounds.sort_by(f64::total_cmp);
            rates.push(of_rounds[1]);
            drop(store);
            std::fs::remove_dir_all(&place)?;
        }
        Ok(vec![row(
            &format!("file key-value store: writes with {} keys ÷ with {}", self.keys * 10, self.keys),
            rates[1] / rates[0],
            "≥",
            0.85,
            json!({ "writes_per_second": rates }),
        )])
    }
}

async fn run(target: &Arc<Target>, load: &Load) -> Result<Figures> {
    let target = Arc::clone(target);
    let call = move |random| {
        let target = Arc::clone(&target);
        async move { target.call(Works::Put, random).await }
    };
    Ok(load.run(call).await?.named("embedded", "put"))
}

fn key_of(number: u64) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&number.to_be_bytes())
}

/// One figure with its target.
pub(crate) fn row(what: &str, value: f64, relation: &str, target: f64, detail: Value) -> Value {
    let met = if relation == "≥" { value >= target } else { value <= target };
    json!({ "what": what, "value": value, "target": format!("{relation} {target}"), "met": met, "detail": detail })
}

/// Bytes per second of one sequential write of 512 MiB with its sync.
fn sequential_bandwidth(dir: &Path) -> Result<f64> {
    use std::io::Write as _;
    const BYTES: usize = 512 * MIB;
    let path = dir.join("bandwidth");
    let mut file = std::fs::File::create(&path)?;
    let piece = vec![1; MIB];
    let begun = Instant::now();
    for _ in 0..BYTES / MIB {
        file.write_all(&piece)?;
    }
    file.sync_data()?;
    let rate = BYTES as f64 / begun.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(rate)
}
