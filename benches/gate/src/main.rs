//! Counts what one operation costs, and fails when it costs more than the committed figures say.
//!
//! Counts do not depend on how busy the machine is, so that they can be judged anywhere; times cannot. Allocations are
//! counted in this process, system calls by strace and instructions by callgrind: each of two runs of one operation that
//! differ only in how often it is done, so that what is done once does not count.
#![allow(clippy::print_stdout, reason = "the figures")]

mod counts;
mod figures;
#[path = "../../../d-engine-raft/benches/leader/mod.rs"]
mod leader;
mod works;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use figures::{Figures, Verdict};
use works::{WORKS, Work};

/// Why there is no count.
pub(crate) type Error = Box<dyn std::error::Error>;

/// Counts what operations cost.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Counts allocations and system calls of each operation and compares them with the committed figures
    Check {
        /// The committed figures
        #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/figures.json"))]
        figures: PathBuf,
        /// Writes the figures instead of comparing
        #[arg(long)]
        update: bool,
    },
    /// Counts instructions of each operation and compares them with those of an earlier run on this machine
    Instructions {
        /// Where those of the earlier run are; made if it is not there
        #[arg(long, value_name = "FILE")]
        baseline: PathBuf,
        /// Takes the figures of this run for the baseline
        #[arg(long)]
        update: bool,
    },
    /// Does one operation so many times and ends; what is counted from outside
    Do {
        /// Its name
        work: String,
        /// How many times
        times: u64,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Check { figures, update } => Figures::read(&figures).and_then(|committed| {
            if committed.is_empty() && !update {
                return Err(format!("{} has no figures; to count them: --update", figures.display()).into());
            }
            let found = counts::allocations_and_system_calls()?;
            conclude(&committed, &found, &figures, update)
        }),
        Task::Instructions { baseline, update } => Figures::read(&baseline).and_then(|committed| {
            let found = counts::instructions()?;
            // The first run is what later ones are compared with.
            conclude(&committed, &found, &baseline, update || committed.is_empty())
        }),
        Task::Do { work, times } => find(&work).and_then(|work| counts::repeat(work, times)).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn find(name: &str) -> Result<&'static Work, Error> {
    WORKS.iter().find(|work| work.name == name).ok_or_else(|| format!("there is no operation `{name}`").into())
}

/// Prints what was found beside what is committed; whether that is good enough.
fn conclude(committed: &Figures, found: &Figures, file: &std::path::Path, update: bool) -> Result<bool, Error> {
    let verdicts = committed.judge(found);
    print!("{}", figures::table(&verdicts));
    if update {
        found.write(file)?;
        println!("written to {}", file.display());
        return Ok(true);
    }
    let worse = verdicts.iter().filter(|line| line.verdict.is_failure()).count();
    if worse > 0 {
        println!("{worse} figures are worse than committed; if the change is worth it: `--update`, and say why");
    } else if verdicts.iter().any(|line| line.verdict == Verdict::Better) {
        println!("better than committed: `--update` keeps it");
    }
    Ok(worse == 0)
}
