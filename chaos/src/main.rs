//! Chaos: real `d-engine serve` processes under random faults, and every answer of every client checked.
//!
//! The seed alone decides which faults come. After every round of them everything is mended: service must return, the
//! history must be linearizable by two checks that know nothing of each other, every watch must have told every change once
//! and in order, and all replicas must hold the same state.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks on its standard streams")]

mod faults;
mod load;
mod network;
mod nodes;
mod overlaps;
mod report;
mod schedule;
mod watching;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Parser;
use d_engine_net::{Client, ClientOptions};
use d_engine_test_suite::history;
use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::sleep;

use faults::Cluster;
use load::Book;
use network::Network;
use nodes::Nodes;
use report::Report;
use watching::Told;

/// Steps that the search for an order may take, for one key.
const SEARCH_STEPS_MAX: u64 = 5_000_000;
/// A node that has more resident memory does not bound it.
const RESIDENT_MIB_MAX: u64 = 1024;
/// After so long a node has given up what waits in it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
const WATCHES: usize = 2;
const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Parser)]
#[command(about = "Real processes of d-engine under random faults, and every answer checked")]
struct Arguments {
    /// How long to go on, in minutes; the last round is finished. 2, unless one of the numbers below says when to stop
    #[arg(long)]
    minutes: Option<u64>,
    /// Decides which faults come; without it every run has others
    #[arg(long)]
    seed: Option<u64>,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=5))]
    nodes: u64,
    /// Goes on until so many operations are checked
    #[arg(long, default_value_t = 0)]
    operations: u64,
    /// Goes on until so many faults were carried out
    #[arg(long, default_value_t = 0)]
    faults: u64,
    /// Leaves directories and membership as they are: no replaced, removed or added nodes
    #[arg(long)]
    keep_members: bool,
    /// Prints one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// The program to run; the `d-engine` beside this one
    #[arg(long)]
    program: Option<PathBuf>,
    /// Puts old copies of all directories back, which the checks must notice: succeeds only if they do
    #[arg(long)]
    sabotage: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let directory = match tempfile::Builder::new().prefix("d-engine-chaos-").tempdir() {
        Ok(directory) => directory,
        Err(error) => {
            eprintln!("error: no temporary directory: {error}");
            return ExitCode::FAILURE;
        }
    };
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    let started = Instant::now();
    let mut report = Report { nodes: arguments.nodes, seed, ..Report::default() };
    let ended = tokio::select! {
        ended = run(&arguments, seed, directory.path(), &mut report) => ended,
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
    };
    report.violations.extend(ended.err());
    report.seconds = started.elapsed().as_secs();
    if arguments.json {
        println!("{}", report.json())
    } else {
        print!("{}", report.table())
    }
    if arguments.sabotage {
        let found = !report.violations.is_empty();
        eprintln!("{}", if found { "the sabotage was noticed" } else { "error: the sabotage was not noticed" });
        return if found { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if report.violations.is_empty() {
        return ExitCode::SUCCESS;
    }
    let directory = directory.keep();
    let text = report.violations.join("\n");
    let _ = fs::write(directory.join("violations.txt"), &text);
    eprintln!("error: {} violations, the first: {}", report.violations.len(), text.lines().next().unwrap_or_default());
    eprintln!("logs, directories and history: {}", directory.display());
    eprintln!("the same faults again: cargo xtask chaos --nodes {} --seed {seed}", arguments.nodes);
    ExitCode::FAILURE
}

async fn run(arguments: &Arguments, seed: u64, directory: &Path, report: &mut Report) -> Result<(), String> {
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(|error| error.to_string())?.with_file_name("d-engine"),
    };
    let mut network = Network::new();
    let nodes = Nodes::new(arguments.nodes, program, directory, &mut network).await?;
    let addresses = nodes.addresses();
    let plain = |timeout| Client::with_options(&addresses, ClientOptions::default().timeout(timeout).without_session());
    let client = plain(Duration::from_secs(5)).map_err(|error| error.to_string())?;
    let mut cluster = Cluster { nodes, network, client };
    cluster.start_all()?;
    cluster.until_served().await?;
    let mut watching = JoinSet::new();
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        let told = Arc::new(Told::default());
        let client = plain(Duration::from_secs(2)).map_err(|error| error.to_string())?;
        watching.spawn(watching::watch(client, Arc::clone(&told)));
        watches.push(told);
    }
    let book = Book::new();
    let mut rng = Rng::with_seed(seed);
    let has_number = arguments.operations > 0 || arguments.faults > 0 || arguments.sabotage;
    let minutes = arguments.minutes.unwrap_or(if has_number { 0 } else { 2 });
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    let least = |report: &Report| report.operations >= arguments.operations && report.fault_count() >= arguments.faults;
    while report.rounds == 0 || !least(report) || Instant::now() < until {
        let clients = load::begin(&book, &addresses).map_err(|error| error.to_string())?;
        if arguments.sabotage {
            sabotage(&mut cluster, &book, directory).await?;
        } else {
            round(&mut cluster, &mut rng, arguments, report).await?;
        }
        settle(&mut cluster, &book, clients, report).await?;
        let revision = cluster.client.get("settled").await.map_err(|error| error.to_string())?.revision;
        check(&book, &watches, revision, directory, report).await;
        cluster.digests().await?;
        report.rounds += 1;
        report.resident.push(std::mem::take(&mut cluster.nodes.resident_max));
        if report.resident_mib_max() > RESIDENT_MIB_MAX {
            report.violations.push(format!("a node has {} MiB of resident memory", report.resident_mib_max()));
        }
        report.violations.extend(cluster.nodes.panics());
        if !report.violations.is_empty() {
            break;
        }
        eprintln!(
            "round {}: {} operations and {} faults so far, service back after {} ms",
            report.rounds,
            report.operations,
            report.fault_count(),
            report.service_back_ms
        );
    }
    Ok(())
}

/// One round of faults.
async fn round(cluster: &mut Cluster, rng: &mut Rng, arguments: &Arguments, report: &mut Report) -> Result<(), String> {
    for fault in schedule::round(rng, arguments.nodes) {
        if arguments.keep_members && fault.kind.changes_members() {
            continue;
        }
        let done = cluster.carry_out(&fault).await.map_err(|why| format!("{fault}: {why}"))?;
        let (carried_out, refused) = report.faults.entry(format!("{:?}", fault.kind).to_lowercase()).or_default();
        *(if done { carried_out } else { refused }) += 1;
        report.overlaps += u64::from(done && fault.kind.is_overlap());
    }
    Ok(())
}

/// The clients stop, everything is mended, and every key of the round is read once more.
async fn settle(
    cluster: &mut Cluster,
    book: &Arc<Book>,
    mut clients: JoinSet<()>,
    report: &mut Report,
) -> Result<(), String> {
    let back = cluster.until_served().await?;
    report.service_back_ms = u64::try_from(back.as_millis()).unwrap_or(u64::MAX);
    report.service_back_ms_max = report.service_back_ms_max.max(report.service_back_ms);
    book.stop(true);
    while let Some(ended) = clients.join_next().await {
        ended.map_err(|error| format!("a client ended: {error}"))?;
    }
    book.stop(false);
    // What was in doubt has happened by then, or never will: it must not disturb the next round.
    sleep(REQUEST_TIMEOUT + Duration::from_millis(500)).await;
    let keys = book.keys();
    load::read_all(&cluster.client, book, keys).await.map_err(|error| format!("the last reads: {error}"))
}

/// What clients and watches were told in this round. Keys are of this round alone.
async fn check(book: &Arc<Book>, watches: &[Arc<Told>], revision: u64, directory: &Path, report: &mut Report) {
    let (operations, wrong) = book.take();
    let mut violations = wrong;
    let mut changes = BTreeSet::new();
    for told in watches {
        let started = Instant::now();
        while told.revision.load(Ordering::Acquire) < revision && started.elapsed() < PATIENCE {
            sleep(Duration::from_millis(20)).await;
        }
        let (events, wrong) = told.take();
        let until = told.revision.load(Ordering::Acquire);
        if until < revision {
            violations.push(format!("a watch came to revision {until} of {revision} in {} s", PATIENCE.as_secs()));
        }
        report.events += events.len() as u64;
        violations.extend(wrong);
        changes.extend(events);
    }
    report.compacted = watches.iter().map(|told| told.compacted.load(Ordering::Relaxed)).sum();
    report.unknown = book.unknown.load(Ordering::Relaxed);
    report.refused = book.refused.load(Ordering::Relaxed);
    violations.extend(history::judge(&operations, &changes.into_iter().collect::<Vec<_>>(), SEARCH_STEPS_MAX));
    report.operations += operations.len() as u64;
    report.keys += history::keys(&operations).len() as u64;
    if !violations.is_empty() {
        let lines: String = operations.iter().map(|operation| format!("{operation:?}\n")).collect();
        let _ = fs::write(directory.join("history.txt"), lines);
    }
    report.violations.extend(violations);
}

/// All directories go back to what they were a few seconds before.
async fn sabotage(cluster: &mut Cluster, book: &Book, directory: &Path) -> Result<(), String> {
    let copies = directory.join("copies");
    for back in [false, true] {
        let before = book.count();
        let started = Instant::now();
        while book.count() < before + 2_000 && started.elapsed() < PATIENCE {
            sleep(Duration::from_millis(20)).await;
        }
        cluster.travel(&copies, back)?;
    }
    sleep(Duration::from_secs(2)).await;
    Ok(())
}
