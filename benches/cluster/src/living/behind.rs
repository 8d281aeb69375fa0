//! A follower that stands still while the others write, and then catches up: what it costs the leader.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use three_nodes::Result;

use super::cluster::Cluster;
use super::samples::{Samples, json_of};
use super::{Living, mib, row, writes};

const CALLERS: usize = 400;
/// Nothing else costs memory meanwhile, and the log keeps what the follower lacks.
const SETTINGS: &[&str] = &["snapshot.entries=1000000000", "snapshot.bytes=1099511627776"];

pub(super) async fn measure(living: &Living, program: &Path, dir: &Path) -> Result<Vec<Value>> {
    let cluster = Cluster::start(program, dir, SETTINGS).await?;
    let (client, leader, follower) = (cluster.client().clone(), cluster.leader().await?, cluster.follower().await?);
    let entries = living.part_of(living.behind);
    let load = living.open(writes::half(writes::peak(living, &client).await?));
    let leads = || Samples::begin(BTreeMap::from_iter(cluster.pid(leader).map(|pid| (leader, pid))));

    eprintln!("  {entries} entries with all three nodes");
    let samples = leads();
    let beside_all = writes::entries(&client, entries, CALLERS).await?;
    let open_before = load.run(writes::put(&client)).await?;
    let with_all = samples.end();

    eprintln!("  {entries} entries while a follower stands still");
    let samples = leads();
    cluster.pause(follower, true)?;
    let beside_two = writes::entries(&client, entries, CALLERS).await?;
    let while_behind = samples.end();

    eprintln!("  it catches up");
    let target = cluster.status(leader).await?.last;
    let samples = leads();
    cluster.pause(follower, false)?;
    let begun = std::time::Instant::now();
    let caught_up = async {
        cluster.until(follower, "has caught up", |status| status.applied >= target).await?;
        Ok(begun.elapsed())
    };
    let (took, open_during) = writes::rounds_beside(&load, &client, caught_up).await?;
    let while_catching_up = samples.end();
    let still_leads = cluster.leader().await? == leader;
    if !still_leads {
        return Err("leadership changed meanwhile: the figures are of two leaders".into());
    }
    let peak = |used: &BTreeMap<u64, super::samples::Used>| used.get(&leader).map_or(0, |used| used.peak_bytes);
    let above = |used| mib(peak(used)) - mib(peak(&with_all));
    let (behind, catching_up) = (above(&while_behind), above(&while_catching_up));
    let detail = json!({
        "with_all": json_of(&with_all), "while_behind": json_of(&while_behind),
        "note": format!("catching up with {entries} entries took {:.1} s", took.as_secs_f64()),
        "while_catching_up": json_of(&while_catching_up), "catching_up_s": took.as_secs_f64(),
    });
    let figures = json!({
        "with_all_per_second": beside_all, "while_behind_per_second": beside_two,
    });
    let rates = json!({ "before": open_before.json(), "during": open_during.json() });
    Ok(vec![
        row(&format!("a follower {entries} entries behind: MiB that it costs the leader"), behind, "≤", 16.0, detail),
        // What is under way to it is bounded by raft.max_inflight_bytes, 16 MiB, and is there as entries and as messages.
        row("the same: MiB that it costs the leader while it catches up", catching_up, "≤", 32.0, Value::Null),
        row(
            "the same: writes per second while it stands still ÷ with all",
            beside_two / beside_all,
            "≥",
            0.95,
            figures,
        ),
        row(
            "the same: writes per second of half the peak while it catches up ÷ before",
            open_during.median() / open_before.median(),
            "≥",
            0.95,
            rates,
        ),
    ])
}
