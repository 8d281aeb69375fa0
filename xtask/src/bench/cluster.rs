//! Three nodes under load: builds `cluster-bench`, looks whether the machine is quiet, and runs it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{SPACE_BYTES, quiet};
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
    let dir = arguments.dir.clone().map_or_else(target, Ok)?;
    let (_, mut bench) = quiet(&dir, SPACE_BYTES, arguments.force, || build(None))?;
    run("cluster-bench", bench.arg(api).arg("--dir").arg(dir).args(&arguments.arguments).stdin(Stdio::null()))
}

/// Builds `cluster-bench`, and a program that it runs.
pub(super) fn build(program: Option<&str>) -> Result<Command, Failed> {
    let target = target()?;
    let packages: Vec<&str> =
        ["cluster-bench"].into_iter().chain(program).flat_map(|package| ["-p", package]).collect();
    let directory = target.to_string_lossy();
    cargo(&[&["build", "--release", "--locked"], &packages[..], &["--target-dir", &directory]].concat())?;
    Ok(Command::new(target.join("release/cluster-bench")))
}
