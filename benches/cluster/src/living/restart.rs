//! A node that was killed is started again: how long until it answers, with everything that was acknowledged before.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use three_nodes::Result;

use super::cluster::Cluster;
use super::{Living, median_and_worst, row, writes};

const VALUE_BYTES: usize = 256;
const CALLERS: usize = 400;
/// None is made but those that are asked for.
const SETTINGS: &[&str] = &["snapshot.entries=1000000000", "snapshot.bytes=1099511627776"];

pub(super) async fn measure(living: &Living, program: &Path, dir: &Path) -> Result<Vec<Value>> {
    let mut cluster = Cluster::start(program, dir, SETTINGS).await?;
    let (keys, entries) = (living.part_of(living.keys), living.part_of(living.entries));
    eprintln!("  {keys} keys of {VALUE_BYTES} bytes, snapshots of all nodes, {entries} entries");
    writes::fill(cluster.client(), keys, VALUE_BYTES).await?;
    let last = cluster.status(cluster.leader().await?).await?.commit;
    for id in cluster.ids() {
        cluster.until(id, "has applied the fill", |status| status.applied >= last).await?;
        cluster.snapshot(id).await?;
    }
    writes::entries(cluster.client(), entries, CALLERS).await?;
    let (mut times, mut details) = (Vec::new(), Vec::new());
    // Each once: what a start from a snapshot has written makes the next one shorter. The leader last.
    let leader = cluster.leader().await?;
    let followers = cluster.ids().into_iter().filter(|id| *id != leader);
    for node in followers.chain([leader]) {
        let commit = cluster.status(leader).await?.commit;
        cluster.kill(node)?;
        let begun = Instant::now();
        cluster.start_node(node, false, SETTINGS)?;
        let client = cluster.client_of(node)?;
        cluster.until(node, "answers", |_| true).await?;
        let open = begun.elapsed();
        let status = cluster.until(node, "has applied its log", |status| status.applied >= commit).await?;
        // Linearizable, from its own copy.
        if keys > 0 && client.get(format!("state/{:012}", keys - 1)).await?.value.is_none() {
            return Err(format!("node {node} lost an acknowledged write").into());
        }
        times.push(begun.elapsed().as_secs_f64());
        let behind_snapshot = status.snapshot.map(|snapshot| status.applied.saturating_sub(snapshot));
        let used = cluster.usage(node)?;
        details.push(json!({
            "answers_after_s": open.as_secs_f64(), "serves_after_s": begun.elapsed().as_secs_f64(),
            "entries_after_snapshot": behind_snapshot, "cpu_s": used.cpu.as_secs_f64(),
            "resident_mib": super::mib(used.resident_bytes),
        }));
    }
    let (_, worst) = median_and_worst(times);
    let what = format!(
        "a killed node with {keys} keys and {entries} entries after its snapshot: seconds from start to serving, the \
         slowest"
    );
    Ok(vec![row(&what, worst, "≤", 3.0, json!({ "restarts": details }))])
}
