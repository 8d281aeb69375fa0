//! `cargo xtask bench scale` and `bench living`: how cost grows with nodes, idle connections, keys and the size of values, and
//! what nodes cost that rejoin, restart, are behind or hand over; `cluster-bench` measures, here it becomes a table.

use std::time::Duration;

use d_engine_plot::Page;
use serde_json::{Value, json};

use super::machine::Machine;
use super::report::{Table, met, number};
use super::{Measured, SPACE_BYTES, Told, cluster, in_scratch, quiet};
use crate::Failed;

/// What `cluster-bench` is asked for.
struct Subject {
    /// Its subcommand.
    name: &'static str,
    title: &'static str,
    /// Beside `cluster-bench`.
    program: Option<&'static str>,
    space_bytes: u64,
    /// A quiet machine needs half of it at most.
    limit: Duration,
}

const SCALE: Subject = Subject {
    name: "scale",
    title: "How d-engine's cost grows",
    program: None,
    space_bytes: SPACE_BYTES,
    limit: Duration::from_secs(8 * 60),
};

const LIVING: Subject = Subject {
    name: "living",
    title: "What a living cluster costs",
    program: Some("d-engine-cli"),
    space_bytes: 2 * SPACE_BYTES,
    limit: Duration::from_secs(15 * 60),
};

/// What to measure and how to say it.
#[derive(clap::Args)]
pub(crate) struct Scale {
    #[command(flatten)]
    measured: Measured,
    /// Goes to `cluster-bench`, as in `scale -- --connections 1000` or `living -- --only transfer`; `-- --help` lists its flags
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// What to measure of a living cluster, and how to say it.
#[derive(clap::Args)]
pub(crate) struct Living {
    /// A twentieth of everything: shows within a minute that it works, and no figure of worth
    #[arg(long)]
    small: bool,
    #[command(flatten)]
    scale: Scale,
}

/// Measures how cost grows.
pub(crate) fn scale(arguments: &Scale) -> Result<(), Failed> {
    run(&SCALE, arguments, &[])
}

/// Measures a living cluster.
pub(crate) fn living(arguments: &Living) -> Result<(), Failed> {
    run(&LIVING, &arguments.scale, if arguments.small { &["--small"] } else { &[] })
}

fn run(subject: &'static Subject, arguments: &Scale, more: &[&str]) -> Result<(), Failed> {
    in_scratch(subject.name, &arguments.measured, |places, force| {
        let build = || cluster::build(subject.program);
        let (mut machine, mut bench) = quiet(&places.scratch, subject.space_bytes, force, build)?;
        bench.args([subject.name, "--dir"]).arg(&places.scratch).args(more).args(&arguments.arguments);
        let found = places.json_of(subject.title, subject.name, subject.limit, &mut bench)?;
        machine.look_again(&places.scratch);
        Ok(Grown { title: subject.title, machine, found })
    })
}

/// What was found.
struct Grown {
    title: &'static str,
    machine: Machine,
    /// As `cluster-bench` tells it.
    found: Value,
}

impl Told for Grown {
    fn text(&self) -> String {
        let tables = tables(&self.machine, &self.found).map(|table| table.text());
        format!("{}\n{}\n", tables.join("\n"), last_lines(&self.found).join("\n"))
    }

    fn json(&self) -> Value {
        json!({ "machine": self.machine.json(), "rows": self.found["rows"], "skipped": self.found["skipped"] })
    }

    fn file(&self) -> String {
        let mut page = Page::new(self.title);
        tables(&self.machine, &self.found).iter().for_each(|table| table.add_to(&mut page));
        last_lines(&self.found).iter().for_each(|line| page.paragraph(line));
        page.html()
    }
}

fn list<'a>(found: &'a Value, name: &str) -> &'a [Value] {
    found[name].as_array().map_or(&[], Vec::as_slice)
}

fn tables(machine: &Machine, found: &Value) -> [Table; 2] {
    let facts = machine.facts().into_iter().map(|(name, value)| vec![name.into(), value]);
    let rows = list(found, "rows").iter().map(|row| {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        vec![text("what"), format!("{:.2}", number(&row["value"])), text("target"), met(row["met"].as_bool())]
    });
    [Table::new(&["machine", ""], facts), Table::new(&["what", "found", "target", "met?"], rows)]
}

fn last_lines(found: &Value) -> Vec<String> {
    let count = |met: bool| list(found, "rows").iter().filter(|row| row["met"] == met).count();
    let skipped = list(found, "skipped");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines: Vec<String> =
        skipped.iter().map(|one| format!("skipped: {}: {}", text(&one["what"]), text(&one["why"]))).collect();
    lines.push(format!("{} targets met, {} missed, {} skipped", count(true), count(false), skipped.len()));
    lines
}
