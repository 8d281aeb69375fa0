//! Three nodes under load: builds `cluster-bench`, looks whether the machine is quiet, and runs it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::machine::Machine;
use super::{SPACE_BYTES, allow_busy};
use crate::{Failed, cargo, run, target};

/// What to measure, and where.
#[derive(clap::Args)]
pub(crate) struct Cluster {
    /// The directory to measure in, on the disk that is meant; the target directory otherwise
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Measures although the machine is busy
    #[arg(long)]
    force: bool,
    /// Goes to `cluster-bench`, as in `-- --clients 1,100 --works put`; `-- --help` lists its flags
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Measures three nodes through `api`.
pub(crate) fn cluster(api: &str, arguments: &Cluster) -> Result<(), Failed> {
    let target = target().map_err(Failed::Because)?;
    let dir = arguments.dir.as_ref().unwrap_or(&target);
    cargo(&["build", "--release", "--locked", "-p", "cluster-bench", "--target-dir", &target.to_string_lossy()])?;
    let mut machine = Machine::look(dir).map_err(Failed::Because)?;
    machine.check_place(SPACE_BYTES).map_err(Failed::Because)?;
    let (processors, disk) = (machine.cpu_is_busy(), machine.disk_is_busy(dir));
    allow_busy(processors.and(disk), arguments.force).map_err(Failed::Because)?;
    let mut bench = Command::new(target.join("release/cluster-bench"));
    run("cluster-bench", bench.arg(api).arg("--dir").arg(dir).args(&arguments.arguments).stdin(Stdio::null()))
}
