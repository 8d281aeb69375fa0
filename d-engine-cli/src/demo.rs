//! demo: three real processes on this machine, and every answer checked.
//!
//! Writes, overwrites, linearizable reads, watches on every node, kill -9 of the leader under load, failover, catch-up; at
//! the end every acknowledged write must be there, every watch must have told every change once and in order, and the three
//! replicas must hold the same state.

mod history;
mod load;
mod progress;
mod report;
mod timeline;
mod watches;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use d_engine_net::{Client, ClientOptions, Digest};
use tokio::time::sleep;

use crate::output::{Failure, print_error};
use crate::processes::{PATIENCE, Processes};
use history::History;
use load::Load;
use progress::Progress;
use report::{Kept, Report};
use watches::Watches;

const NODES: u64 = 3;
/// Load before the kill, and after service has returned.
const LOAD_AROUND_KILL: Duration = Duration::from_millis(1500);
/// Contradictions in the history that are shown in full.
const HISTORY_EXAMPLES: usize = 3;
/// Quiet time over which idle CPU is measured.
const IDLE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Prints one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// Number of keys
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=5_000_000))]
    keys: u32,
    /// Bytes of each value
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(32..=1_000_000))]
    value_size: u32,
    /// Requests under way at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    tasks: u32,
    /// Writes a page with what was found, and plots of the writes across the leader's death, to this file as well, as HTML
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Leaves the cluster running, and its files, when everything was right
    #[arg(long)]
    keep: bool,
}

/// Runs the demo to its end, or until it is interrupted; either way no process and no file stays behind, unless they are to be
/// kept and everything was right.
pub(crate) async fn demo(arguments: Demo) -> Result<(), Failure> {
    let mut processes =
        Processes::temporary(NODES, arguments.keep).map_err(|why| Failure::new(why).next("d-engine demo"))?;
    let mut report = Report::new(NODES);
    let ended = tokio::select! {
        ended = run(&arguments, &mut processes, &mut report) => ended,
        () = crate::serve::interrupted() => Err("interrupted".to_owned()),
    };
    if let Err(why) = ended {
        report.fail(why);
    }
    let logs = if report.ok() { String::new() } else { processes.log_tails() };
    let kept = arguments.keep && report.ok();
    if kept {
        report.kept = Some(Kept::of(&processes));
        processes.keep();
    } else {
        drop(processes);
    }
    if arguments.json {
        report.print_json()
    } else {
        report.print_table()
    }
    let written = arguments.report.as_ref().map_or(Ok(()), |path| report.write_page(path));
    if let Some(kept) = &report.kept {
        kept.how_to_go_on().iter().for_each(print_error);
    }
    if report.ok() {
        return written.map_err(|why| Failure::new(why).next("d-engine demo --report FILE"));
    }
    Err(Failure::new(format!("{}{logs}", report.reasons())).next("d-engine demo"))
}

async fn run(arguments: &Demo, processes: &mut Processes, report: &mut Report) -> Result<(), String> {
    let progress = Progress::new();
    processes.start_all().await?;
    let client = Client::with_options(processes.addresses(), ClientOptions::default().timeout(Duration::from_secs(5)))
        .map_err(|error| error.to_string())?;
    let started = Instant::now();
    let leader = processes.leader(&client).await?;
    progress.say(format!("three processes; node {leader} leads after {} ms", started.elapsed().as_millis()));

    let mut load = Load::new(client.clone(), arguments.keys, arguments.value_size, arguments.tasks);
    write(&mut load, &progress, report).await?;
    read(&mut load, "read", &progress, report).await?;
    idle(processes, &progress, report).await;
    let killed = kill_under_load(&client, processes, &mut load, &progress, report).await?;
    catch_up(killed, &client, processes, &progress, report).await?;
    read(&mut load, "check", &progress, report).await
}

async fn write(load: &mut Load, progress: &Progress, report: &mut Report) -> Result<(), String> {
    let bar = progress.bar("write", load.first_writes());
    let started = Instant::now();
    load.write_all(&bar).await?;
    let took = started.elapsed();
    bar.finish(took);
    report.writes_per_s = rate(load.acked(), took);
    report.acked_writes = load.acked();
    Ok(())
}

/// Reads everything back linearizably; the first time its rate goes to the report.
async fn read(load: &mut Load, what: &'static str, progress: &Progress, report: &mut Report) -> Result<(), String> {
    let bar = progress.bar(what, load.keys());
    let started = Instant::now();
    let found = load.read_all(&bar).await?;
    let took = started.elapsed();
    bar.finish(took);
    report.reads_per_s = report.reads_per_s.or_else(|| Some(rate(load.keys(), took)));
    report.lost_writes += found.lost;
    report.wrong_reads += found.wrong;
    report.unknown_writes = load.unknown();
    report.examples.extend(found.examples);
    Ok(())
}

async fn idle(processes: &Processes, progress: &Progress, report: &mut Report) {
    // What the load left to do is not idleness.
    sleep(Duration::from_millis(500)).await;
    let before = processes.usage();
    sleep(IDLE).await;
    let after = processes.usage();
    for (before, after) in before.iter().zip(&after) {
        let (Some(before), Some(after)) = (before, after) else { return };
        let busy = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        report.idle_cpu_percent.push(100.0 * busy / IDLE.as_secs_f64());
        report.rss_mib.push(after.resident_bytes / (1 << 20));
    }
    progress.say(format!("idle: {} of one core and {} per node", report.idle_cpu(), report.rss()));
}

/// Kills the leader while all tasks write, and measures until a write that began afterwards is acknowledged.
async fn kill_under_load(
    client: &Client,
    processes: &mut Processes,
    load: &mut Load,
    progress: &Progress,
    report: &mut Report,
) -> Result<u64, String> {
    let doomed = processes.leader(client).await?;
    let watches = Watches::begin(client, NODES).await?;
    let history = History::begin(client);
    let overwriting = load.overwrite();
    sleep(LOAD_AROUND_KILL).await;
    let kill = Instant::now();
    processes.kill(doomed)?;
    overwriting.killed(kill);
    progress.say(format!("kill -9 of node {doomed}, the leader, under load"));
    while overwriting.back_after().is_none() {
        if kill.elapsed() > PATIENCE {
            overwriting.stop().await?;
            return Err(format!("no write was accepted within {} s of the leader's end", PATIENCE.as_secs()));
        }
        sleep(Duration::from_millis(5)).await;
    }
    sleep(LOAD_AROUND_KILL).await;
    report.plots = overwriting.plots().into();
    let failover = overwriting.back_after().map(|time| time.as_millis());
    load.take_back(overwriting.stop().await?);
    report.failover_ms = failover.and_then(|millis| u64::try_from(millis).ok());
    report.acked_writes = load.acked();
    report.unknown_writes = load.unknown();
    progress.say(format!("writes are accepted again after {} ms", report.failover_ms.unwrap_or_default()));
    let checked = history.end().await?;
    progress.say(format!(
        "{} operations of contending clients, {} of them inexplicable",
        checked.operations,
        checked.wrong.len()
    ));
    report.history = Some(checked.operations);
    report.not_linearizable = checked.wrong.len() as u64;
    report.examples.extend(checked.wrong.into_iter().take(HISTORY_EXAMPLES));
    let watched = watches.end(client).await?;
    progress.say(format!("{} watches were told {} changes, {} of them wrong", NODES, watched.told, watched.wrong));
    report.watched = Some(watched.told);
    report.wrong_events = watched.wrong;
    report.examples.extend(watched.examples);
    Ok(doomed)
}

/// Starts the killed node again and waits until all three have applied the same entries and hold the same state.
async fn catch_up(
    killed: u64,
    client: &Client,
    processes: &mut Processes,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), String> {
    let started = Instant::now();
    processes.start(killed)?;
    loop {
        let digests = digests(client, processes).await;
        let applied: Vec<u64> = digests.iter().flatten().map(|digest| digest.applied.index).collect();
        let level = applied.len() as u64 == NODES && applied.iter().all(|index| *index == applied[0]);
        if level {
            report.caught_up_ms = u64::try_from(started.elapsed().as_millis()).ok();
            let first = digests[0];
            report.digests_equal = digests.iter().all(|digest| digest.map(|d| d.digest) == first.map(|d| d.digest));
            let verdict = if report.digests_equal { "equal" } else { "DIFFERENT" };
            progress.say(format!(
                "node {killed} is back and has caught up after {} ms; state digests at entry {}: {verdict}",
                started.elapsed().as_millis(),
                applied[0],
            ));
            return Ok(());
        }
        processes.all_run()?;
        if started.elapsed() > PATIENCE {
            return Err(format!("node {killed} did not catch up within {} s: applied {applied:?}", PATIENCE.as_secs()));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn digests(client: &Client, processes: &Processes) -> Vec<Option<Digest>> {
    let mut digests = Vec::new();
    for address in processes.running_addresses() {
        let asked = tokio::time::timeout(PATIENCE, client.digest_of(&address)).await;
        digests.push(asked.ok().and_then(Result::ok));
    }
    digests
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate for people"
)]
fn rate(count: u64, took: Duration) -> u64 {
    (count as f64 / took.as_secs_f64().max(1e-9)).round() as u64
}
