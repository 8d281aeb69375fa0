//! Rows, ratios and their targets, as text, Markdown or JSON.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use d_engine_plot::Page;
use serde_json::{Value, json};

use super::machine::Machine;
use super::{Peers, Told};

/// What a figure has to be.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// Elements per second.
    Rate(f64),
    /// Median in seconds.
    Median(f64),
    /// The longest of all samples, in seconds.
    Longest(f64),
}

/// By criterion's names.
const TARGETS: &[(&str, Target)] = &[
    ("file-log/append/1000", Target::Rate(1e6)),
    ("file-log/persist/10000 without flush", Target::Rate(1e5)),
    ("file-log/entry/memory", Target::Median(1e-3)),
    ("file-log/entry/disk", Target::Median(1e-3)),
    ("file-log/get_entries of 10000/memory", Target::Median(0.5e-3)),
    ("file-log/get_entries of 10000/page cache", Target::Median(2e-3)),
    ("file-log/get_entries of 10000/disk", Target::Median(2e-3)),
    ("file-log/last_index", Target::Median(100e-6)),
    ("file-log/purge of 10000/nothing remains", Target::Median(10e-3)),
    ("file-log/purge of 10000/10000 remain", Target::Median(10e-3)),
    ("file-log/purge of 10000/1000000 remain", Target::Median(10e-3)),
    ("file-log/truncate/10000", Target::Median(10e-3)),
    ("file-log/reset/10000", Target::Median(100e-3)),
    ("file-log/open/1 GiB", Target::Median(0.5)),
    ("kv-mem/view/1000000", Target::Median(1e-3)),
    ("kv-file/view/1000000", Target::Median(1e-3)),
    ("kv-mem/longest write beside a snapshot/1000000", Target::Longest(10e-3)),
    ("kv-file/longest write beside a snapshot/1000000", Target::Longest(10e-3)),
];

/// The same of the key-value state machine.
const KV_TARGETS: &[(&str, Target)] = &[
    ("kv-apply/mem, puts of 32 bytes, 100000 keys", Target::Rate(5e5)),
    ("kv-apply/file, puts of 32 bytes, 100000 keys", Target::Rate(5e5)),
    ("kv-apply/mem, transactions of 3 compares and 3 puts, 100000 keys", Target::Rate(1e5)),
    ("kv-apply/file, transactions of 3 compares and 3 puts, 100000 keys", Target::Rate(1e5)),
];

/// Speed of the file log over that of another one: against, batch, at least.
const RATIO_TARGETS: &[(&str, u64, f64)] = &[
    ("device", 1, 0.85),
    ("device", 10, 0.9),
    ("device", 100, 0.9),
    ("device", 1000, 0.85),
    ("raft-engine", 1, 1.0),
    ("raft-engine", 10, 1.0),
    ("raft-engine", 100, 1.5),
    ("raft-engine", 1000, 1.5),
];

/// One figure.
struct Row {
    what: String,
    median: f64,
    longest: Option<f64>,
    /// Elements or bytes per second.
    rate: Option<(f64, &'static str)>,
    target: Option<Target>,
}

/// One ratio.
struct Ratio {
    what: String,
    ratio: f64,
    lowest: f64,
    highest: f64,
    target: Option<f64>,
}

/// One figure that a benchmark has judged itself.
struct Figure {
    what: String,
    value: f64,
    unit: String,
    least: Option<f64>,
    most: Option<f64>,
}

/// Everything that was found.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) machine: Option<Machine>,
    rows: Vec<Row>,
    ratios: Vec<Ratio>,
    figures: Vec<Figure>,
    peers: Vec<String>,
    skipped: Vec<String>,
}

impl Report {
    pub(crate) fn skip(&mut self, what: &str, why: &str) {
        self.skipped.push(format!("{what}: {why}"));
    }

    pub(crate) fn add_peers(&mut self, peers: &Peers) {
        if let Some(why) = &peers.without {
            self.skip("some peers", why);
        }
        let text = |value: &Value| value.as_str().unwrap_or("of unknown version").to_string();
        let versions = peers.found["peers"].as_object().into_iter().flatten();
        self.peers = versions.map(|(name, version)| format!("{name} {}", text(version))).collect();
        for found in peers.found["medians"].as_array().into_iter().flatten() {
            let (log, batch) = (text(&found["log"]), found["batch"].as_u64().unwrap_or(0));
            self.rows.push(Row {
                what: format!("in turns: {log}, {batch} per batch"),
                median: number(&found["seconds_per_batch"]),
                longest: None,
                rate: Some((number(&found["entries_per_second"]), "")),
                target: None,
            });
        }
        for found in peers.found["ratios"].as_array().into_iter().flatten() {
            let (against, batch) = (text(&found["against"]), found["batch"].as_u64().unwrap_or(0));
            let target = RATIO_TARGETS.iter().find(|(name, size, _)| *name == against && *size == batch);
            self.ratios.push(Ratio {
                what: format!("{} ÷ {against}, {batch} per batch", text(&found["log"])),
                ratio: number(&found["ratio"]),
                lowest: number(&found["lowest"]),
                highest: number(&found["highest"]),
                target: target.map(|(_, _, least)| *least),
            });
        }
    }

    /// Adds a line of a benchmark that judges its figures itself.
    pub(crate) fn add_figure(&mut self, found: &Value) {
        let text = |name: &str| found[name].as_str().unwrap_or("?").to_string();
        self.figures.push(Figure {
            what: text("figure"),
            value: number(&found["value"]),
            unit: text("unit"),
            least: found["least"].as_f64(),
            most: found["most"].as_f64(),
        });
    }

    /// Adds what criterion has left in its directory, in the order of measuring.
    pub(crate) fn add_criterion(&mut self, home: &Path) -> Result<(), String> {
        let mut found = Vec::new();
        find_estimates(home, &mut found);
        found.sort();
        for (_, dir) in found {
            let row = criterion_row(&dir).map_err(|why| format!("criterion's files in {}: {why}", dir.display()))?;
            self.rows.push(row);
        }
        Ok(())
    }

    fn tables(&self) -> Vec<Table> {
        let facts = self.machine.iter().flat_map(Machine::facts).map(|(name, value)| vec![name.into(), value]);
        let rows = self.rows.iter().map(|row| {
            let target = row.target.map_or(String::new(), Target::text);
            let rate = row.rate.map_or(String::new(), |(rate, unit)| format!("{}{unit}/s", thousands(rate)));
            let longest = row.longest.map_or(String::new(), |longest| format!(", longest {}", time(longest)));
            vec![row.what.clone(), format!("{}{longest}", time(row.median)), rate, target, met(row.met())]
        });
        let ratios = self.ratios.iter().map(|ratio| {
            let target = ratio.target.map_or(String::new(), |target| format!("≥ {target:.2}"));
            let range = format!("{:.2}–{:.2}", ratio.lowest, ratio.highest);
            vec![ratio.what.clone(), format!("{:.2}", ratio.ratio), range, target, met(ratio.met())]
        });
        let figures = self.figures.iter().map(|figure| {
            let found = format!("{} {}", short(figure.value), figure.unit);
            vec![figure.what.clone(), found, figure.target(), met(figure.met())]
        });
        let mut tables = vec![
            Table::new(&["machine", ""], facts),
            Table::new(&["what", "median", "rate", "target", "met?"], rows),
            Table::new(&["speed", "median", "rounds", "target", "met?"], ratios),
            Table::new(&["what", "found", "target", "met?"], figures),
        ];
        tables.retain(|table| !table.rows.is_empty());
        tables
    }

    fn last_lines(&self) -> Vec<String> {
        let (rows, ratios) = (self.rows.iter().map(Row::met), self.ratios.iter().map(Ratio::met));
        let all: Vec<Option<bool>> = rows.chain(ratios).chain(self.figures.iter().map(Figure::met)).collect();
        let count = |wanted| all.iter().filter(|met| **met == Some(wanted)).count();
        let mut lines: Vec<String> = self.skipped.iter().map(|what| format!("skipped: {what}")).collect();
        if !self.peers.is_empty() {
            lines.push(format!("measured beside {}", self.peers.join(", ")));
        }
        lines.push(format!("{} targets met, {} missed, {} skipped", count(true), count(false), self.skipped.len()));
        lines
    }
}

impl Told for Report {
    fn text(&self) -> String {
        let tables = self.tables().iter().map(Table::text).collect::<Vec<_>>().join("\n");
        format!("{tables}\n{}\n", self.last_lines().join("\n"))
    }

    fn file(&self) -> String {
        let tables = self.tables().iter().map(Table::markdown).collect::<Vec<_>>().join("\n");
        let lines: Vec<String> = self.last_lines().iter().map(|line| format!("- {line}")).collect();
        format!("{tables}\n{}\n", lines.join("\n"))
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "what": row.what,
                "median_seconds": row.median,
                "longest_seconds": row.longest,
                "rate_per_second": row.rate.map(|(rate, _)| rate),
                "target": row.target.map(Target::text),
                "met": row.met(),
            })
        });
        let ratios = self.ratios.iter().map(|ratio| {
            json!({
                "what": ratio.what,
                "ratio": ratio.ratio,
                "lowest": ratio.lowest,
                "highest": ratio.highest,
                "target": ratio.target,
                "met": ratio.met(),
            })
        });
        let figures = self.figures.iter().map(|figure| {
            json!({
                "what": figure.what,
                "value": figure.value,
                "unit": figure.unit,
                "target": figure.target(),
                "met": figure.met(),
            })
        });
        json!({
            "machine": self.machine.as_ref().map(Machine::json),
            "rows": rows.collect::<Vec<_>>(),
            "ratios": ratios.collect::<Vec<_>>(),
            "figures": figures.collect::<Vec<_>>(),
            "peers": self.peers,
            "skipped": self.skipped,
        })
    }
}

impl Row {
    fn met(&self) -> Option<bool> {
        match self.target? {
            Target::Rate(least) => self.rate.map(|(rate, _)| rate >= least),
            Target::Median(most) => Some(self.median < most),
            Target::Longest(most) => self.longest.map(|longest| longest < most),
        }
    }
}

impl Figure {
    fn met(&self) -> Option<bool> {
        let least = self.least.map(|least| self.value >= least);
        least.or(self.most.map(|most| self.value < most))
    }

    fn target(&self) -> String {
        match (self.least, self.most) {
            (Some(least), _) => format!("≥ {} {}", short(least), self.unit),
            (_, Some(most)) => format!("< {} {}", short(most), self.unit),
            _ => String::new(),
        }
    }
}

impl Ratio {
    fn met(&self) -> Option<bool> {
        self.target.map(|target| self.ratio >= target)
    }
}

impl Target {
    fn text(self) -> String {
        match self {
            Self::Rate(least) => format!("≥ {}/s", thousands(least)),
            Self::Median(most) => format!("< {}", time(most)),
            Self::Longest(most) => format!("longest < {}", time(most)),
        }
    }
}

pub(super) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

pub(super) fn met(met: Option<bool>) -> String {
    met.map_or("", |met| if met { "yes" } else { "NO" }).to_string()
}

/// Directories below `dir` that hold a result, with the time when it was written.
fn find_estimates(dir: &Path, found: &mut Vec<(SystemTime, PathBuf)>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name() == "new" {
            let written = fs::metadata(path.join("estimates.json")).and_then(|metadata| metadata.modified());
            found.extend(written.map(|time| (time, path)));
        } else if path.is_dir() {
            find_estimates(&path, found);
        }
    }
}

fn criterion_row(dir: &Path) -> Result<Row, String> {
    let read = |name: &str| -> Result<Value, String> {
        let text = fs::read_to_string(dir.join(name)).map_err(|error| format!("{name}: {error}"))?;
        serde_json::from_str(&text).map_err(|error| format!("{name}: {error}"))
    };
    let (benchmark, estimates, sample) = (read("benchmark.json")?, read("estimates.json")?, read("sample.json")?);
    let what = benchmark["full_id"].as_str().ok_or("benchmark.json has no full_id")?.to_string();
    let nanoseconds = estimates["median"]["point_estimate"].as_f64().ok_or("estimates.json has no median")?;
    let median = nanoseconds / 1e9;
    let rate = |name: &str, unit| Some((benchmark["throughput"][name].as_f64()? / median, unit));
    let target = TARGETS.iter().chain(KV_TARGETS).find(|(name, _)| *name == what).map(|(_, target)| *target);
    let pairs = sample["times"].as_array().into_iter().flatten().zip(sample["iters"].as_array().into_iter().flatten());
    let longest = pairs.map(|(time, iterations)| number(time) / number(iterations) / 1e9).reduce(f64::max);
    let longest = longest.filter(|_| matches!(target, Some(Target::Longest(_))));
    Ok(Row { what, median, longest, rate: rate("Elements", "").or_else(|| rate("Bytes", " B")), target })
}

/// A time in seconds, for people.
pub(super) fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-6 => format!("{:.1} ns", s * 1e9),
        s if s < 1e-3 => format!("{:.1} µs", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// A number with as many digits as say something.
fn short(number: f64) -> String {
    match number.abs() {
        large if large >= 1_000.0 => thousands(number),
        whole if whole.fract() == 0.0 => format!("{number:.0}"),
        _ => format!("{number:.3}"),
    }
}

/// A number without its fraction, in groups of three digits.
pub(super) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Rows under a head.
pub(super) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Self {
        Self { head: head.iter().map(|name| name.to_string()).collect(), rows: rows.collect() }
    }

    pub(super) fn text(&self) -> String {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| lines().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut text = String::new();
        for line in lines() {
            let cells: Vec<String> = line
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    pub(super) fn add_to(&self, page: &mut Page) {
        page.table(&self.head, &self.rows);
    }

    pub(super) fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("{}|{}\n{rows}", line(&self.head), "---|".repeat(self.head.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files that criterion leaves for one benchmark.
    fn leave(home: &Path, name: &str, id: &str, median: f64, elements: u64) {
        let dir = home.join(name).join("new");
        fs::create_dir_all(&dir).unwrap();
        let write = |file: &str, value: Value| fs::write(dir.join(file), value.to_string()).unwrap();
        write("benchmark.json", json!({ "full_id": id, "throughput": { "Elements": elements } }));
        write("estimates.json", json!({ "median": { "point_estimate": median } }));
        write("sample.json", json!({ "iters": [1.0, 2.0], "times": [5e6, 24e6] }));
    }

    #[test]
    fn criterions_files_become_rows_with_their_targets() {
        let home = std::env::temp_dir().join(format!("d-engine-xtask-{}-criterion", std::process::id()));
        leave(&home, "a", "file-log/append/1000", 500_000.0, 1000);
        leave(&home, "b", "kv-mem/longest write beside a snapshot/1000000", 5e6, 1);
        leave(&home, "c/d", "other-log/append/1000", 2e6, 1000);
        let mut report = Report::default();
        report.add_criterion(&home).unwrap();
        fs::remove_dir_all(&home).unwrap();
        let found = |what: &str| report.rows.iter().find(|row| row.what.starts_with(what)).unwrap();
        assert_eq!((found("file-log").met(), found("other").met()), (Some(true), None));
        assert_eq!(found("file-log").rate.unwrap().0, 2e6);
        let longest = found("kv-mem");
        assert_eq!((longest.longest, longest.met()), (Some(0.012), Some(false)), "the median alone would do");
        assert!(report.text().contains("2,000,000/s") && report.text().contains("1 targets met, 1 missed"));
    }

    #[test]
    fn ratios_below_their_target_are_missed_and_what_is_missing_is_said() {
        let ratio = |against: &str, ratio: f64| {
            json!({ "log": "d-engine-file", "against": against, "batch": 100,
            "ratio": ratio, "lowest": 0.5, "highest": 2.0 })
        };
        let found = json!({ "peers": { "raft-engine": "0.4.2" }, "medians": [],
            "ratios": [ratio("device", 0.95), ratio("raft-engine", 1.4)] });
        let mut report = Report::default();
        report.add_peers(&Peers { found, without: None });
        assert_eq!(report.ratios.iter().map(Ratio::met).collect::<Vec<_>>(), [Some(true), Some(false)]);
        report.skip("log of another", "no compiler");
        assert!(report.file().contains("skipped: log of another: no compiler"));
        assert!(report.text().contains("raft-engine 0.4.2"));
        assert_eq!(report.json()["ratios"][1]["met"], false);
    }

    #[test]
    fn figures_that_were_judged_already_keep_their_targets() {
        let mut report = Report::default();
        let figure = |value: f64| json!({ "figure": "gets", "value": value, "unit": "×", "least": 1.8, "most": null });
        report.add_figure(&figure(1.9));
        report.add_figure(&figure(1.7));
        report.add_figure(&json!({ "figure": "entries", "value": 1.0, "unit": "entries", "least": null, "most": 2.0 }));
        report.add_figure(&json!({ "figure": "state", "value": 2.5, "unit": "MiB", "least": null, "most": null }));
        let judged: Vec<_> = report.figures.iter().map(Figure::met).collect();
        assert_eq!(judged, [Some(true), Some(false), Some(true), None]);
        assert!(report.text().contains("2 targets met, 1 missed") && report.text().contains("< 2 entries"));
        assert!(!report.text().contains("speed"), "no table without rows");
    }

    #[test]
    fn figures_are_written_for_people() {
        assert_eq!([time(2e-9), time(46e-6), time(2e-3), time(1.5)], ["2.0 ns", "46.0 µs", "2.00 ms", "1.50 s"]);
        assert_eq!([thousands(7.0), thousands(1234567.0)], ["7", "1,234,567"]);
    }
}
