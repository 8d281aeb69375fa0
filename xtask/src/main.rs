//! Development commands of d-engine: `cargo verify`, `cargo xtask fix`, `codegen`, `simulate`, `mutants`, `explore`,
//! `fuzz`, `python`, `chaos`, `bench`.
//!
//! `verify` judges the tree and never writes to it; `fix` and `codegen` write.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks on its standard streams")]

mod bench;
mod codegen;
mod fuzz;
mod libclang;
mod process;
mod python;
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
    #[command(disable_help_flag = true)]
    /// Runs the seeded simulation of consensus, as in `simulate --seeds 100000` or `simulate --seed 7 --trace`
    Simulate {
        /// Goes to d-engine-raft's example `simulate`; --help lists its flags
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs the fuzz targets with libFuzzer; needs a C++ compiler, and neither nightly nor cargo-fuzz
    Fuzz {
        /// This target alone
        target: Option<String>,
        /// How long each target runs
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Makes runs alike; without it every run tries something else
        #[arg(long)]
        seed: Option<u32>,
    },
    /// Checks the Python client against the debug build of the binary
    Python,
    #[command(disable_help_flag = true)]
    /// Looks at every state that a small cluster can reach, as in `explore` or `explore --crashes 1 --messages 2`
    Explore {
        /// Goes to d-engine-raft's example `explore`; --help lists its flags
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    #[command(disable_help_flag = true)]
    /// Breaks every rule of consensus, one at a time, and shows that the simulation finds it
    Mutants {
        /// Goes to d-engine-raft's example `mutants`; --help lists its flags
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    #[command(disable_help_flag = true)]
    /// Runs real processes under random faults and checks every answer, as in `chaos --minutes 30 --nodes 5`
    Chaos {
        /// Goes to the program of the crate d-engine-chaos; --help lists its flags
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measures and compares; for a quiet machine
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Subcommand)]
enum Bench {
    /// Storage: the logs beside the device and beside others, the key-value stores
    Storage(bench::Measured),
    /// The key-value state machine: applying, reads, watchers, leases, snapshots
    Kv(bench::Measured),
    /// Three nodes under load, called in process
    Embedded(bench::cluster::Cluster),
    /// Three nodes under load, called through a client over gRPC
    Grpc(bench::cluster::Cluster),
    /// Where the time of one call to three nodes goes, from seam to seam
    Budget(bench::cluster::Budget),
    /// Counts allocations and system calls of the hot paths, which any machine can judge, against committed figures
    Gate(bench::gate::Gate),
    /// Three nodes beside etcd and the crate of the name d-engine on crates.io, consensus beside openraft, in one run
    Peers(bench::peers::PeersArguments),
    /// How cost grows: 3 to 7 nodes, 10,000 idle connections, ten million keys, values of 1 MiB, an open loop
    Scale(bench::scale::Scale),
    /// What a living cluster costs: a node that rejoins, restarts or is far behind, and a transfer of leadership
    Living(bench::scale::Living),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Verify { only, list: true } => verify::list(&only),
        Task::Verify { only, list: false } => verify::verify(&only),
        Task::Fix => fix(),
        Task::Codegen { check } => codegen::codegen(check).map_err(Failed::Because),
        Task::Simulate { arguments } => raft_example("simulate", &["--release"], &arguments),
        Task::Fuzz { target, seconds, seed } => fuzz::fuzz(target.as_deref(), seconds, seed),
        Task::Python => python::check(),
        Task::Explore { arguments } => raft_example("explore", &["--release"], &arguments),
        // With debug assertions, which notice some breaches before they do harm.
        Task::Mutants { arguments } => raft_example("mutants", &[], &arguments),
        Task::Chaos { arguments } => chaos(&arguments),
        Task::Bench(Bench::Storage(arguments)) => bench::storage(&arguments),
        Task::Bench(Bench::Kv(arguments)) => bench::kv::kv(&arguments),
        Task::Bench(Bench::Embedded(arguments)) => bench::cluster::cluster("embedded", &arguments),
        Task::Bench(Bench::Grpc(arguments)) => bench::cluster::cluster("grpc", &arguments),
        Task::Bench(Bench::Budget(arguments)) => bench::cluster::budget(&arguments),
        Task::Bench(Bench::Gate(arguments)) => bench::gate::gate(&arguments),
        Task::Bench(Bench::Peers(arguments)) => bench::peers::peers(&arguments),
        Task::Bench(Bench::Scale(arguments)) => bench::scale::scale(&arguments),
        Task::Bench(Bench::Living(arguments)) => bench::scale::living(&arguments),
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

impl From<String> for Failed {
    fn from(why: String) -> Self {
        Self::Because(why)
    }
}

fn fix() -> Result<(), Failed> {
    cargo(&["clippy", "--fix", "--all-targets", "--allow-dirty", "--allow-staged"])?;
    cargo(&["fmt", "--all"])
}

/// Runs an example of d-engine-raft. Examples are built with the feature that breaks rules; no product is.
fn raft_example(example: &str, profile: &[&str], arguments: &[String]) -> Result<(), Failed> {
    let built = ["--quiet", "-p", "d-engine-raft", "--example", example, "--features", "mutants"];
    cargo(&["build"].iter().chain(profile).chain(&built).copied().collect::<Vec<_>>())?;
    let run = ["run"].iter().chain(profile).chain(&built).chain(&["--"]).copied();
    let run: Vec<_> = run.chain(arguments.iter().map(String::as_str)).collect();
    // What it found, or what is wrong with its arguments, it has said itself.
    cargo(&run).map_err(|_| Failed::Reported)
}

/// Runs the chaos of processes, with debug assertions in them. It finds the binary beside itself.
fn chaos(arguments: &[String]) -> Result<(), Failed> {
    cargo(&["build", "--quiet", "-p", "d-engine-cli", "-p", "d-engine-chaos"])?;
    let because = |error: std::io::Error| Failed::Because(format!("could not start chaos: {error}"));
    // Cargo has put both programs beside this one.
    let program = std::env::current_exe().map_err(because)?.with_file_name("chaos");
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).status().map_err(because)?;
    // What it found, it has said itself.
    if status.success() { Ok(()) } else { Err(Failed::Reported) }
}

/// Runs cargo in the workspace with this process's own streams.
fn cargo(arguments: &[&str]) -> Result<(), Failed> {
    let mut command = Command::new(cargo_path());
    run(&format!("cargo {}", arguments.join(" ")), command.args(arguments).current_dir(root()).stdin(Stdio::null()))
}

/// Runs a program, `title` in what is said of it, with this process's own streams.
fn run(title: &str, command: &mut Command) -> Result<(), Failed> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failed::Because(format!("{title} ended with {status}"))),
        Err(error) => Err(Failed::Because(format!("could not start {title}: {error}"))),
    }
}

/// Cargo's target directory: that of this program.
fn target() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| format!("could not find this program: {error}"))?;
    // Below it are the profile's directory and the program.
    Ok(program.ancestors().nth(2).unwrap_or(root()).to_path_buf())
}

/// The cargo that runs this process, or the one in PATH.
fn cargo_path() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// Root of the workspace.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a directory of the workspace")
}
