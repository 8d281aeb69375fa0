//! Three nodes under load: builds `cluster-bench`, looks whether the machine is quiet, and runs it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use d_engine_plot::Page;
use serde_json::{Value, json};

use super::machine::Machine;
use super::report::Table;
use super::{Measured, RUN_LIMIT, SPACE_BYTES, Told, figures, in_scratch, quiet};
use crate::{Failed, cargo, run, target};

/// What to measure and how to say it.
#[derive(clap::Args)]
pub(crate) struct Cluster {
    #[command(flatten)]
    measured: Measured,
    /// Goes to `cluster-bench`, as in `-- --clients 1,100 --works put`; `-- --help` lists its flags
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// What to follow, and where.
#[derive(clap::Args)]
pub(crate) struct Budget {
    /// The directory to measure in, on the disk that is meant; the target directory otherwise
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Measures although the machine is busy
    #[arg(long)]
    force: bool,
    /// Goes to `cluster-bench`, as in `-- --api grpc --works put`; `-- --help` lists its flags
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Measures three nodes through `api`.
pub(crate) fn cluster(api: &'static str, arguments: &Cluster) -> Result<(), Failed> {
    if arguments.arguments.iter().any(|argument| argument == "--help") {
        return run("cluster-bench", build(None)?.args([api, "--help"]));
    }
    in_scratch(api, &arguments.measured, |places, force| {
        let (mut machine, mut bench) = quiet(&places.scratch, SPACE_BYTES, force, || build(None))?;
        bench.args([api, "--json", "--dir"]).arg(&places.scratch).args(&arguments.arguments).stdin(Stdio::null());
        let title = format!("three nodes, {api}");
        let mut found = places.json_of(&title, api, RUN_LIMIT, &mut bench)?;
        machine.look_again(&places.scratch);
        let measured = serde_json::from_value(found["cluster"].take())
            .map_err(|error| format!("cluster-bench told no figures: {error}"))?;
        Ok(Loaded { machine, measured })
    })
}

/// Follows single calls through three nodes.
pub(crate) fn budget(arguments: &Budget) -> Result<(), Failed> {
    let dir = arguments.dir.clone().map_or_else(target, Ok)?;
    let (_, mut bench) = quiet(&dir, SPACE_BYTES, arguments.force, || build(None))?;
    run("cluster-bench", bench.arg("budget").arg("--dir").arg(dir).args(&arguments.arguments).stdin(Stdio::null()))
}

/// What the load found.
struct Loaded {
    machine: Machine,
    measured: Vec<Value>,
}

impl Loaded {
    fn tables(&self) -> [Table; 2] {
        let facts = self.machine.facts().into_iter().map(|(name, value)| vec![name.into(), value]);
        [Table::new(&["machine", ""], facts), figures::table(&self.measured)]
    }
}

impl Told for Loaded {
    fn text(&self) -> String {
        self.tables().map(|table| table.text()).join("\n")
    }

    fn json(&self) -> Value {
        json!({ "machine": self.machine.json(), "measured": self.measured })
    }

    fn file(&self) -> String {
        let mut page = Page::new("Three nodes of d-engine under load");
        page.paragraph(
            "Nodes and load run in one process and share its processors and disk. Bars are medians of the rounds, thin lines \
             their spread; with latencies, bars are the median of all calls and thin lines reach to the 99th percentile.",
        );
        figures::add_plots(&mut page, &self.measured);
        self.tables().iter().rev().for_each(|table| table.add_to(&mut page));
        page.html()
    }
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
