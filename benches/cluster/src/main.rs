//! Load on three nodes: what rate they sustain, what latency callers see, what it costs in processor time.
//!
//! All three nodes and the load run in this one process and share its processors and its disk; the nodes talk over gRPC
//! on loopback. `embedded` calls the leader in process, `grpc` calls it through one client.
#![allow(clippy::print_stdout, reason = "the figures")]
#![allow(clippy::print_stderr, reason = "what is being measured")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod budget;
mod living;
mod scale;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::json;

use cluster_bench::{Api, Cluster, Engine, Works};
use d_engine_load::{Figures, Load};

/// Measures nodes under load.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Three nodes, called in process
    Embedded(Nodes),
    /// Three nodes, called through a client
    Grpc(Nodes),
    /// Where the time of one call goes, from seam to seam
    Budget(BudgetArguments),
    /// How cost grows with nodes, idle connections, keys and the size of values; prints JSON
    Scale(Growth),
    /// What a node that rejoins, restarts or is behind costs, and a transfer of leadership; prints JSON
    Living(living::Living),
}

#[derive(Args)]
struct Growth {
    /// The directory to measure below, on the disk that is meant
    #[arg(long)]
    dir: PathBuf,
    /// Seconds that one round lasts
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Idle connections
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Keys of the smaller store; the larger has ten times as many
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
}

/// What runs, and what is told of it.
#[derive(Args)]
struct Place {
    /// Where the nodes keep log and data
    #[arg(long, value_enum, default_value_t = Engine::File)]
    engine: Engine,
    /// Bytes of each value
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// The directory to keep the nodes' data below, on the disk that is meant; removed at the end
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Prints JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct BudgetArguments {
    /// How the leader is called
    #[arg(long, value_enum, default_value_t = Api::Embedded)]
    api: Api,
    /// What callers do: put, or get with one caller
    #[arg(long, value_enum, default_value_t = Works::Put)]
    works: Works,
    /// Callers, each with one call under way
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// Seconds that are measured
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Keys, written before anything is measured
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct Nodes {
    /// What callers do, one measurement each
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Works::Put, Works::Get])]
    works: Vec<Works>,
    /// Callers, each with one call under way; one measurement each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1000])]
    clients: Vec<usize>,
    /// Calls that arrive in each second, whether others were answered or not; without it a caller calls again once answered
    #[arg(long)]
    rate: Option<u64>,
    /// Seconds that one round lasts
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rounds of each measurement, after one that is not counted
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Keys, written before anything is measured
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    #[command(flatten)]
    place: Place,
}

fn main() -> ExitCode {
    match run_as_asked() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_as_asked() -> three_nodes::Result<()> {
    // Some processes are nodes that another one measures.
    if tokio::runtime::Runtime::new()?.block_on(scale::run_node_if_asked())? {
        return Ok(());
    }
    run(&Arguments::parse())
}

fn run(arguments: &Arguments) -> three_nodes::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (api, nodes) = match &arguments.what {
        What::Embedded(nodes) => (Api::Embedded, nodes),
        What::Grpc(nodes) => (Api::Grpc, nodes),
        What::Budget(arguments) => return budget(&runtime, arguments),
        What::Living(living) => {
            println!("{}", runtime.block_on(living.measure())?);
            return Ok(());
        }
        What::Scale(growth) => {
            let dir = tempfile::tempdir_in(&growth.dir)?;
            let round = round(growth.seconds)?;
            let scale = scale::Scale { round, connections: growth.connections, keys: growth.keys.max(1) };
            println!("{}", runtime.block_on(scale.measure(dir.path())));
            return Ok(());
        }
    };
    if nodes.rounds == 0 || nodes.keys == 0 {
        return Err("there is at least one round and one key".into());
    }
    let found = runtime.block_on(measure(api, nodes))?;
    if nodes.place.json {
        println!("{}", json!({ "cluster": found.iter().map(Figures::json).collect::<Vec<_>>() }));
    } else {
        println!("{}", Figures::HEADINGS);
        found.iter().for_each(|figures| println!("{}", figures.line()));
    }
    Ok(())
}

fn budget(runtime: &tokio::runtime::Runtime, arguments: &BudgetArguments) -> three_nodes::Result<()> {
    let &BudgetArguments { api, works, clients, seconds, keys, .. } = arguments;
    let Place { engine, value_bytes, dir, json } = &arguments.place;
    let (engine, value_bytes, dir) = (*engine, *value_bytes, scratch(dir.as_deref())?);
    let budget = budget::Budget { api, works, engine, clients, round: round(seconds)?, keys: keys.max(1), value_bytes };
    let legs = runtime.block_on(budget.measure(dir.path()))?;
    if *json {
        println!("{}", legs.json());
    } else {
        print!("{}", legs.text());
    }
    Ok(())
}

fn scratch(dir: Option<&Path>) -> std::io::Result<tempfile::TempDir> {
    dir.map_or_else(tempfile::tempdir, tempfile::tempdir_in)
}

fn round(seconds: f64) -> three_nodes::Result<Duration> {
    if !(0.1..=600.0).contains(&seconds) {
        return Err("a round takes 0.1 to 600 seconds".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

async fn measure(api: Api, arguments: &Nodes) -> three_nodes::Result<Vec<Figures>> {
    let dir = scratch(arguments.place.dir.as_deref())?;
    let cluster = Cluster::start(dir.path(), arguments.place.engine).await?;
    let target = Arc::new(cluster.target(api, arguments.keys, arguments.place.value_bytes)?);
    target.fill().await?;
    let mut found = Vec::new();
    for &works in &arguments.works {
        for &clients in &arguments.clients {
            let load =
                Load { clients, rate: arguments.rate, round: round(arguments.seconds)?, rounds: arguments.rounds };
            let target = Arc::clone(&target);
            let run = load.run(move |random| {
                let target = Arc::clone(&target);
                async move { target.call(works, random).await }
            });
            found.push(run.await?.named(name(&api), name(&works)));
        }
    }
    cluster.stop().await?;
    Ok(found)
}

fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}
