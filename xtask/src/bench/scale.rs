//! `cargo xtask bench scale` and `bench living`: how cost grows with nodes, idle connections, keys and the size of values, and
//! what nodes cost that rejoin, restart, are behind or hand over; `cluster-bench` measures, here it becomes a table.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use d_engine_plot::Page;
use serde_json::{Value, json};

use super::machine::Machine;
use super::report::{Table, met, number};
use super::{Places, SPACE_BYTES, allow_busy};
use crate::{Failed, cargo, process, target};

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
    /// Prints JSON instead of the tables
    #[arg(long)]
    json: bool,
    /// Writes the tables to this file as well, as HTML
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The directory to measure in, on the disk that is meant; one below the target directory otherwise
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Measures although the machine is busy, and says so in the result
    #[arg(long)]
    force: bool,
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

fn run(subject: &Subject, arguments: &Scale, more: &[&str]) -> Result<(), Failed> {
    let target = target().map_err(Failed::Because)?;
    let packages = ["cluster-bench"].into_iter().chain(subject.program).flat_map(|package| ["-p", package]);
    let build: Vec<&str> = ["build", "--release", "--locked"].into_iter().chain(packages).collect();
    cargo(&[&build[..], &["--target-dir", &target.to_string_lossy()]].concat())?;
    let places = Places::new(subject.name, arguments.dir.as_deref()).map_err(Failed::Because)?;
    let mut bench = Command::new(target.join("release/cluster-bench"));
    bench.arg(subject.name).arg("--dir").arg(&places.scratch).args(more).args(&arguments.arguments);
    let found = measure(subject, &places, arguments.force, bench);
    places.remove();
    let (machine, found) = found.map_err(Failed::Because)?;
    let tables = tables(&machine, &found);
    if let Some(path) = &arguments.report {
        let mut page = Page::new(subject.title);
        tables.iter().for_each(|table| table.add_to(&mut page));
        last_lines(&found).iter().for_each(|line| page.paragraph(line));
        fs::write(path, page.html())
            .map_err(|error| Failed::Because(format!("could not write the report {}: {error}", path.display())))?;
    }
    if arguments.json {
        println!("{:#}", json!({ "machine": machine.json(), "rows": found["rows"], "skipped": found["skipped"] }));
    } else {
        println!("{}\n{}", tables.map(|table| table.text()).join("\n"), last_lines(&found).join("\n"));
    }
    Ok(())
}

fn measure(subject: &Subject, places: &Places, force: bool, mut bench: Command) -> Result<(Machine, Value), String> {
    let mut machine = Machine::look(&places.scratch)?;
    machine.check_place(subject.space_bytes)?;
    let (processors, disk) = (machine.cpu_is_busy(), machine.disk_is_busy(&places.scratch));
    allow_busy(processors.and(disk), force)?;
    let log = places.logs.join(format!("{}.log", subject.name));
    let mut found = None;
    let ended = process::run(&mut bench, &log, subject.limit, |line| {
        match serde_json::from_str(line) {
            Ok(Value::Object(object)) => found = Some(Value::Object(object)),
            _ => eprintln!("… {line}"),
        }
        None
    });
    ended.map_err(|end| format!("cluster-bench {end}; {}", log.display()))?;
    machine.look_again(&places.scratch);
    let found = found.ok_or_else(|| format!("cluster-bench said nothing that is JSON; {}", log.display()))?;
    Ok((machine, found))
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
    lines.extend(
        list(found, "rows").iter().filter_map(|row| Some(format!("note: {}", row["detail"]["note"].as_str()?))),
    );
    lines.push(format!("{} targets met, {} missed, {} skipped", count(true), count(false), skipped.len()));
    lines
}
