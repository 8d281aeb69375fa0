//! `cargo xtask bench scale`: how cost grows with nodes, idle connections, keys and the size of values, and what an open loop
//! sees below the peak; `cluster-bench scale` measures, here it becomes a table.

use std::time::Duration;

use d_engine_plot::Page;
use serde_json::{Value, json};

use super::machine::Machine;
use super::report::{Table, met, number};
use super::{Measured, SPACE_BYTES, Told, cluster, in_scratch, quiet};
use crate::Failed;

/// A quiet machine needs a third of it.
const LIMIT: Duration = Duration::from_secs(8 * 60);

/// What to measure and how to say it.
#[derive(clap::Args)]
pub(crate) struct Scale {
    #[command(flatten)]
    measured: Measured,
    /// Goes to `cluster-bench scale`, as in `-- --connections 1000`; `-- --help` lists its flags
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Measures all.
pub(crate) fn scale(arguments: &Scale) -> Result<(), Failed> {
    in_scratch("scale", &arguments.measured, |places, force| {
        let (mut machine, mut bench) = quiet(&places.scratch, SPACE_BYTES, force, cluster::build)?;
        bench.args(["scale", "--dir"]).arg(&places.scratch).args(&arguments.arguments);
        let found = places.json_of("how cost grows", "scale", LIMIT, &mut bench)?;
        machine.look_again(&places.scratch);
        Ok(Grown { machine, found })
    })
}

/// What was found.
struct Grown {
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
        let mut page = Page::new("How d-engine's cost grows");
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
