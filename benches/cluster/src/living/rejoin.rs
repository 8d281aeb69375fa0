//! A node whose disk was lost gets the state of its cluster: without load and without a limit, and beside one with the limit
//! that nodes have by default.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use three_nodes::Result;

use super::cluster::Cluster;
use super::samples::{Samples, Used, json_of};
use super::{Living, logs, mib, row, writes};

/// As good as none.
const NO_LIMIT: &[&str] = &["snapshot.transfer_bytes_per_s=1099511627776"];
const VALUE_BYTES: usize = 1024;

/// How a node came back.
struct Rejoined {
    /// From the decision to take it in until it votes.
    took: Duration,
    arrived: Value,
    installed: Value,
}

impl Rejoined {
    fn json(&self) -> Value {
        json!({
            "seconds_until_it_votes": self.took.as_secs_f64(),
            "sending_ms": self.arrived["arriving_ms"], "verifying_ms": self.arrived["verifying_ms"],
            "installing_ms": self.installed["installing_ms"], "bytes": self.arrived["bytes"],
        })
    }

    /// In one sentence.
    fn told(&self) -> String {
        let seconds = |value: &Value| value.as_u64().unwrap_or(0) as f64 / 1e3;
        format!(
            "{:.0} MiB sent in {:.1} s, verified in {:.1} s, installed in {:.1} s; from the decision to its vote {:.1} s",
            mib(self.arrived["bytes"].as_u64().unwrap_or(0)),
            seconds(&self.arrived["arriving_ms"]),
            seconds(&self.arrived["verifying_ms"]),
            seconds(&self.installed["installing_ms"]),
            self.took.as_secs_f64(),
        )
    }

    fn mib_per_second(&self) -> f64 {
        let (bytes, ms) = (self.arrived["bytes"].as_u64(), self.arrived["arriving_ms"].as_u64());
        mib(bytes.unwrap_or(0)) / (ms.unwrap_or(0).max(1) as f64 / 1e3)
    }
}

pub(super) async fn measure(living: &Living, program: &Path, dir: &Path) -> Result<Vec<Value>> {
    let mut cluster = Cluster::start(program, dir, NO_LIMIT).await?;
    let keys = living.part_of(living.state_mib << 20) / VALUE_BYTES as u64;
    eprintln!("  {keys} keys of {VALUE_BYTES} bytes are written");
    writes::fill(cluster.client(), keys, VALUE_BYTES).await?;
    let leader = cluster.leader().await?;
    let last = cluster.status(leader).await?.commit;
    let making = cluster.snapshot(leader).await?;
    // Whoever leads later has a log that begins behind its snapshot, too.
    for id in cluster.ids().into_iter().filter(|id| *id != leader) {
        cluster.until(id, "has applied the fill", |status| status.applied >= last).await?;
        cluster.snapshot(id).await?;
    }

    eprintln!("  a node rejoins without load");
    let follower = cluster.follower().await?;
    cluster.wipe(follower, NO_LIMIT).await?;
    let samples = Samples::begin(pids(&cluster)?);
    let quiet = rejoin(&cluster, follower, leader).await?;
    let used = samples.end();
    let detail = json!({
        "making_ms": super::milliseconds(making), "rejoined": quiet.json(), "used": json_of(&used),
        "note": format!("rejoining without load: a snapshot made in {:.1} s, {}", making.as_secs_f64(), quiet.told()),
    });
    let mut rows = vec![row(
        "a wiped node rejoins an idle cluster: MiB per second of the transfer",
        quiet.mib_per_second(),
        "≥",
        200.0,
        detail,
    )];

    cluster.end_all().await?;
    rows.extend(beside_load(living, &mut cluster).await?);
    Ok(rows)
}

/// With the default limit, beside a load of half the peak.
async fn beside_load(living: &Living, cluster: &mut Cluster) -> Result<Vec<Value>> {
    cluster.start_all(&[]).await?;
    let leader = cluster.leader().await?;
    let follower = cluster.follower().await?;
    let peak = writes::peak(living, cluster.client()).await?;
    let load = living.open(writes::half(peak));
    let before = load.run(writes::put(cluster.client())).await?;
    // The state, and what the load itself takes.
    let state = (cluster.usage(leader)?.resident_bytes, cluster.usage(follower)?.resident_bytes);

    eprintln!("  a node rejoins beside {} writes per second", writes::half(peak));
    cluster.wipe(follower, &[]).await?;
    let samples = Samples::begin(pids(cluster)?);
    let client = cluster.client().clone();
    let (beside, during) = writes::rounds_beside(&load, &client, rejoin(cluster, follower, leader)).await?;
    let used = samples.end();
    let above = |id: u64, state: u64| used.get(&id).map_or(f64::NAN, |used: &Used| mib(used.peak_bytes) - mib(state));
    let p99 = (before.latencies_ns().1, during.latencies_ns().1);
    let detail = json!({
        "note": format!("rejoining beside load: {}", beside.told()),
        "peak_per_second": peak, "before": before.json(), "during": during.json(), "rejoined": beside.json(),
        "state_and_load_mib": { "sender": mib(state.0), "receiver": mib(state.1) }, "used": json_of(&used),
    });
    Ok(vec![
        row(
            "a wiped node rejoins beside half the peak: writes per second ÷ before",
            during.median() / before.median(),
            "≥",
            0.8,
            detail,
        ),
        row("the same: p99 of the writes ÷ before", p99.1 as f64 / p99.0 as f64, "≤", 2.0, json!({ "p99_ns": p99 })),
        row("the same: MiB of the sender above state and load", above(leader, state.0), "≤", 64.0, Value::Null),
        row("the same: MiB of the receiver above state and load", above(follower, state.1), "≤", 64.0, Value::Null),
    ])
}

async fn rejoin(cluster: &Cluster, node: u64, leader: u64) -> Result<Rejoined> {
    let begun = Instant::now();
    cluster.replace(node, leader).await?;
    let took = begun.elapsed();
    let log = cluster.log(node);
    Ok(Rejoined {
        took,
        arrived: logs::newest(&log, "a snapshot has arrived")?,
        installed: logs::newest(&log, "a received snapshot is installed")?,
    })
}

fn pids(cluster: &Cluster) -> Result<BTreeMap<u64, u32>> {
    cluster.ids().into_iter().map(|id| Ok((id, cluster.pid(id)?))).collect()
}
