//! Development commands of d-engine: `cargo verify`, `cargo xtask fix`, `codegen`, `simulate`.
//!
//! `verify` judges the tree and never writes to it; `fix` and `codegen` write.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks on its standard streams")]

mod codegen;
mod process;
mod tests_log;
mod verify;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Development commands of d-engine")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Checks everything, writes nothing to the source tree; the last line reads `N passed, N failed, N skipped`
    Verify {
        /// Runs these steps alone, with the steps they need
        #[arg(long, value_name = "STEP", value_delimiter = ',')]
        only: Vec<String>,
        /// Lists the steps and ends
        #[arg(long)]
        list: bool,
    },
    /// Formats the code and applies what clippy can mend
    Fix,
    /// Generates the gRPC code of d-engine-net from `proto/`
    Codegen {
        /// Writes nothing, and fails if the committed code is not what would be generated
        #[arg(long)]
        check: bool,
    },
    /// Runs the seeded simulation of consensus
    Simulate {
        /// Number of seeds
        #[arg(long)]
        seeds: Option<u64>,
        /// First seed
        #[arg(long)]
        seed: Option<u64>,
        /// Prints every step
        #[arg(long)]
        trace: bool,
        /// Nodes of the simulated cluster
        #[arg(long)]
        nodes: Option<u64>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Verify { only, list: true } => verify::list(&only),
        Task::Verify { only, list: false } => verify::verify(&only),
        Task::Fix => fix(),
        Task::Codegen { check } => codegen::codegen(check).map_err(Failed::Because),
        Task::Simulate { seeds, seed, trace, nodes } => simulate(seeds, seed, trace, nodes),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed::Reported) => ExitCode::FAILURE,
        Err(Failed::Because(why)) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Why a task failed.
enum Failed {
    /// It has said so itself, and its last line must stay the last.
    Reported,
    /// To be printed.
    Because(String),
}

fn fix() -> Result<(), Failed> {
    cargo(&["clippy", "--fix", "--all-targets", "--allow-dirty", "--allow-staged"])?;
    cargo(&["fmt", "--all"])
}

fn simulate(seeds: Option<u64>, seed: Option<u64>, trace: bool, nodes: Option<u64>) -> Result<(), Failed> {
    let mut arguments: Vec<String> =
        ["run", "--release", "-p", "d-engine-raft", "--example", "simulate", "--features", "simulator", "--"]
            .map(String::from)
            .to_vec();
    for (flag, value) in [("--seeds", seeds), ("--seed", seed), ("--nodes", nodes)] {
        arguments.extend(value.into_iter().flat_map(|value| [flag.to_string(), value.to_string()]));
    }
    arguments.extend(trace.then(|| "--trace".to_string()));
    cargo(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Runs cargo in the workspace with this process's own streams.
fn cargo(arguments: &[&str]) -> Result<(), Failed> {
    let status = Command::new(cargo_path())
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null())
        .status()
        .map_err(|error| Failed::Because(format!("could not start cargo {}: {error}", arguments.join(" "))))?;
    if status.success() {
        return Ok(());
    }
    Err(Failed::Because(format!("cargo {} ended with {status}", arguments.join(" "))))
}

/// The cargo that runs this process, or the one in PATH.
fn cargo_path() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// Root of the workspace.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a directory of the workspace")
}
