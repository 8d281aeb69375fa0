//! What operations cost in allocations, system calls and instructions: builds `gate` and runs it.

use std::process::{Command, Stdio};

use crate::{Failed, cargo, run, target};

/// What to count.
#[derive(clap::Args)]
pub(crate) struct Gate {
    /// Counts instructions instead, with callgrind, against those of the first run on this machine; takes minutes
    #[arg(long)]
    instructions: bool,
    /// Takes what is found for the figures to compare with
    #[arg(long)]
    update: bool,
}

/// Compares with the committed figures, or with this machine's own.
pub(crate) fn gate(arguments: &Gate) -> Result<(), Failed> {
    let target = target().map_err(Failed::Because)?;
    let to = target.to_string_lossy();
    let profile: &[&str] = if arguments.instructions { &["--release"] } else { &[] };
    cargo(&[&["build", "--quiet", "--locked", "-p", "gate", "--target-dir", &to], profile].concat())?;
    let mut gate = Command::new(target.join(if arguments.instructions { "release" } else { "debug" }).join("gate"));
    if arguments.instructions {
        gate.arg("instructions").arg("--baseline").arg(target.join("gate-instructions.json"));
    } else {
        gate.arg("check");
    }
    if arguments.update {
        gate.arg("--update");
    }
    // What is worse, it has said itself.
    run("gate", gate.stdin(Stdio::null())).map_err(|_| Failed::Reported)
}
