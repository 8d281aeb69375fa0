//! `cargo xtask bench peers`: three nodes of d-engine beside etcd and the crate of its name on crates.io, and consensus alone
//! beside openraft; rounds alternate in one run, under one load.
//!
//! `benches/peers` measures; here its figures meet the targets. What cannot be built or run is a line that says why.

use std::process::Command;

use d_engine_plot::{Bar, Group, Page, bars};
use serde_json::{Value, json};

use super::machine::Machine;
use super::report::{Table, met, number, thousands, time};
use super::{Measured, Places, RUN_LIMIT, SPACE_BYTES, Told, in_scratch, quiet};
use crate::Failed;

/// What to measure and how to say it.
#[derive(clap::Args)]
pub(crate) struct PeersArguments {
    #[command(flatten)]
    measured: Measured,
    /// Seconds that one round lasts
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Rounds of each measurement, after half a one that is not counted
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Callers, each with one call under way; one measurement each
    #[arg(long, default_value = "1,10,100,1000")]
    clients: String,
    /// Keys, written before anything is measured
    #[arg(long, default_value_t = 20_000)]
    keys: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
}

const IN_PROCESS: &str = "d-engine in process";
const OVER_GRPC: &str = "d-engine over gRPC";
const CONSENSUS: &str = "d-engine consensus";
const ETCD: &str = "etcd";
const OPENRAFT: &str = "openraft";
const PUBLISHED: &str = "published 0.2 in process";
const PUBLISHED_GRPC: &str = "published 0.2 over gRPC";
/// As many as openraft's own benchmark has.
const CONSENSUS_CLIENTS: &str = "1,64,1024";

/// What a figure must reach.
#[derive(Clone, Copy)]
enum Target {
    /// So many times the calls per second of another.
    Times(&'static str, f64),
    /// So much of the median latency of another at most.
    OfMedian(&'static str, f64),
    /// Calls per second.
    Rate(f64),
    /// Seconds at most, of half of the calls.
    Median(f64),
    /// Seconds at most, of 99 of 100 calls.
    P99(f64),
}

/// The targets: subject, work, clients.
const TARGETS: &[(&str, &str, u64, Target)] = &[
    (IN_PROCESS, "put", 1, Target::Median(200e-6)),
    (IN_PROCESS, "put", 1, Target::Times(ETCD, 3.0)),
    (IN_PROCESS, "put", 100, Target::Times(PUBLISHED, 3.0)),
    (IN_PROCESS, "put", 1000, Target::Times(PUBLISHED, 3.0)),
    (IN_PROCESS, "put", 100, Target::Rate(200_000.0)),
    (IN_PROCESS, "put", 1000, Target::Rate(300_000.0)),
    (IN_PROCESS, "put", 100, Target::P99(5e-3)),
    (IN_PROCESS, "get", 100, Target::Rate(600_000.0)),
    (IN_PROCESS, "get-lease", 1, Target::Rate(3_000_000.0)),
    (OVER_GRPC, "put", 1, Target::OfMedian(ETCD, 0.6)),
    (OVER_GRPC, "put", 100, Target::Times(ETCD, 5.0)),
    (OVER_GRPC, "put", 100, Target::Times(PUBLISHED_GRPC, 5.0)),
    (OVER_GRPC, "put", 100, Target::Rate(85_000.0)),
    (OVER_GRPC, "get", 100, Target::Times(ETCD, 10.0)),
    (OVER_GRPC, "get", 100, Target::Times(PUBLISHED_GRPC, 5.0)),
    (OVER_GRPC, "get", 100, Target::Rate(115_000.0)),
    (CONSENSUS, "put", 64, Target::Times(OPENRAFT, 1.0)),
    (CONSENSUS, "put", 1024, Target::Times(OPENRAFT, 1.0)),
];

/// Measures all.
pub(crate) fn peers(arguments: &PeersArguments) -> Result<(), Failed> {
    in_scratch("peers", &arguments.measured, |places, force| measure(places, arguments, force))
}

fn measure(places: &Places, arguments: &PeersArguments, force: bool) -> Result<Found, Failed> {
    let (mut machine, (program, without)) = quiet(&places.scratch, SPACE_BYTES, force, || Ok(places.build_peers()?))?;
    let rounds =
        ["--seconds", &arguments.seconds.to_string(), "--rounds", &arguments.rounds.to_string()].map(str::to_owned);
    let mut found =
        Found { skipped: without.into_iter().map(|why| ("peers".to_owned(), why)).collect(), ..Found::default() };
    let mut cluster = Command::new(&program);
    cluster.args(["cluster", "--dir"]).arg(&places.scratch).args(["--clients", &arguments.clients]);
    cluster.args(["--keys", &arguments.keys.to_string(), "--value-bytes", &arguments.value_bytes.to_string()]);
    cluster.args(&rounds);
    found.add("three nodes", places.json_of("three nodes in turns", "cluster", RUN_LIMIT, &mut cluster));
    let mut consensus = Command::new(&program);
    consensus.args(["consensus", "--clients", CONSENSUS_CLIENTS]).args(&rounds);
    found.add("consensus alone", places.json_of("consensus in turns", "consensus", RUN_LIMIT, &mut consensus));
    machine.look_again(&places.scratch);
    found.machine = Some(machine);
    Ok(found)
}

/// Everything that was found.
#[derive(Default)]
struct Found {
    machine: Option<Machine>,
    /// Name, and what it is.
    subjects: Vec<(String, String)>,
    measured: Vec<Value>,
    ratios: Vec<Value>,
    skipped: Vec<(String, String)>,
}

/// One line of the table of targets.
struct Judged {
    what: String,
    target: String,
    found: String,
    met: Option<bool>,
}

impl Found {
    fn add(&mut self, what: &str, found: Result<Value, String>) {
        let found = match found {
            Ok(found) => found,
            Err(why) => return self.skipped.push((what.to_owned(), why)),
        };
        let list = |name: &str| found[name].as_array().cloned().unwrap_or_default();
        self.subjects.extend(list("subjects").iter().map(|one| (text(&one["name"]), text(&one["about"]))));
        self.measured.extend(list("measured"));
        self.ratios.extend(list("ratios"));
        self.skipped.extend(list("skipped").iter().map(|one| (text(&one["what"]), text(&one["why"]))));
    }

    fn of(&self, subject: &str, work: &str, clients: u64) -> Option<&Value> {
        self.measured.iter().find(|one| one["api"] == subject && one["work"] == work && one["clients"] == clients)
    }

    fn ratio(&self, subject: &str, against: &str, work: &str, clients: u64) -> Option<&Value> {
        self.ratios.iter().find(|one| {
            one["subject"] == subject && one["against"] == against && one["work"] == work && one["clients"] == clients
        })
    }

    fn judged(&self) -> Vec<Judged> {
        TARGETS.iter().map(|(subject, work, clients, target)| self.judge(subject, work, *clients, *target)).collect()
    }

    fn judge(&self, subject: &str, work: &str, clients: u64, target: Target) -> Judged {
        let measured = self.of(subject, work, clients);
        let seconds = |name: &str| measured.map(|one| number(&one["latency_ns"][name]) / 1e9);
        let ratio =
            |against: &str, name: &str| self.ratio(subject, against, work, clients).map(|one| number(&one[name]));
        let times = |ratio: f64| format!("{ratio:.2} ×");
        let (target, found, met) = match target {
            Target::Times(against, least) => {
                let found = ratio(against, "ratio");
                (format!("≥ {least} × {against}"), found.map(times), found.map(|ratio| ratio >= least))
            }
            Target::OfMedian(against, most) => {
                let found = ratio(against, "p50_ratio");
                (format!("p50 < {most} × {against}"), found.map(times), found.map(|ratio| ratio < most))
            }
            Target::Rate(least) => {
                let found = measured.map(|one| number(&one["per_second"]["median"]));
                let shown = |rate: f64| format!("{}/s", thousands(rate));
                (format!("≥ {}", shown(least)), found.map(shown), found.map(|rate| rate >= least))
            }
            Target::Median(most) => {
                let found = seconds("p50");
                (format!("p50 < {}", time(most)), found.map(time), found.map(|seconds| seconds < most))
            }
            Target::P99(most) => {
                let found = seconds("p99");
                (format!("p99 < {}", time(most)), found.map(time), found.map(|seconds| seconds < most))
            }
        };
        let what = format!("{subject}: {work}, {clients} clients");
        Judged { what, target, found: found.unwrap_or_else(|| "not measured".to_owned()), met }
    }

    fn tables(&self) -> [Table; 5] {
        let facts = self.machine.iter().flat_map(Machine::facts).map(|(name, value)| vec![name.into(), value]);
        let subjects = self.subjects.iter().map(|(name, about)| vec![name.clone(), about.clone()]);
        let measured = self.measured.iter().map(|one| {
            let rate = |name: &str| thousands(number(&one["per_second"][name]));
            let latency = |name: &str| time(number(&one["latency_ns"][name]) / 1e9);
            vec![
                text(&one["work"]),
                one["clients"].to_string(),
                text(&one["api"]),
                format!("{}/s", rate("median")),
                format!("{}–{}", rate("min"), rate("max")),
                latency("p50"),
                latency("p99"),
                format!("{:.1} µs", number(&one["cpu_us_per_call"])),
                errors(one),
            ]
        });
        let ratios = self.ratios.iter().map(|one| {
            vec![
                text(&one["work"]),
                one["clients"].to_string(),
                format!("{} ÷ {}", text(&one["subject"]), text(&one["against"])),
                format!("{:.2}", number(&one["ratio"])),
                format!("{:.2}–{:.2}", number(&one["lowest"]), number(&one["highest"])),
            ]
        });
        let judged = self.judged().into_iter().map(|one| vec![one.what, one.target, one.found, met(one.met)]);
        [
            Table::new(&["machine", ""], facts),
            Table::new(&["subject", "what it is"], subjects),
            Table::new(
                &["work", "clients", "subject", "calls", "rounds", "p50", "p99", "CPU/call", "errors"],
                measured,
            ),
            Table::new(&["work", "clients", "calls per second", "ratio", "rounds"], ratios),
            Table::new(&["what", "target", "found", "met?"], judged),
        ]
    }

    fn last_lines(&self) -> Vec<String> {
        let judged = self.judged();
        let count = |wanted| judged.iter().filter(|one| one.met == wanted).count();
        let mut lines: Vec<String> = self.skipped.iter().map(|(what, why)| format!("skipped: {what}: {why}")).collect();
        lines.push(format!(
            "{} targets met, {} missed, {} not measured; {} skipped",
            count(Some(true)),
            count(Some(false)),
            count(None),
            self.skipped.len()
        ));
        lines
    }

    /// Each kind of work, in the order of measuring.
    fn works(&self) -> Vec<String> {
        let mut works: Vec<String> = self.measured.iter().map(|one| text(&one["work"])).collect();
        works.dedup();
        works
    }

    /// One group of bars for each number of clients.
    fn groups(&self, work: &str, bar: impl Fn(&Value) -> Bar) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for one in self.measured.iter().filter(|one| one["work"] == work) {
            let name = format!("{} clients", one["clients"]);
            if groups.last().is_none_or(|group| group.name != name) {
                groups.push(Group { name, bars: Vec::new() });
            }
            groups.last_mut().expect("one was just pushed if there was none").bars.push(bar(one));
        }
        groups
    }
}

impl Told for Found {
    fn text(&self) -> String {
        let tables = self.tables().map(|table| table.text()).join("\n");
        format!("{tables}\n{}\n", self.last_lines().join("\n"))
    }

    fn file(&self) -> String {
        let mut page = Page::new("d-engine beside others");
        let [machine, subjects, measured, ratios, judged] = self.tables();
        page.paragraph(
            "Rounds alternate between the subjects in one run, under one load, on one machine; figures of different runs \
             or machines say little. Bars are medians of the rounds, thin lines their spread; with latencies, bars are \
             the median of all calls and thin lines reach to the 99th percentile.",
        );
        subjects.add_to(&mut page);
        page.heading("Targets");
        judged.add_to(&mut page);
        page.heading("Calls per second");
        for work in self.works() {
            page.plot(&bars(
                &work,
                "calls per second",
                &self.groups(&work, |one| {
                    let rate = |name: &str| number(&one["per_second"][name]);
                    Bar::new(&text(&one["api"]), rate("median")).range(rate("min"), rate("max"))
                }),
            ));
        }
        page.heading("Latencies");
        for work in self.works() {
            page.plot(&bars(
                &work,
                "µs",
                &self.groups(&work, |one| {
                    let micros = |name: &str| number(&one["latency_ns"][name]) / 1e3;
                    Bar::new(&text(&one["api"]), micros("p50")).range(micros("p50"), micros("p99"))
                }),
            ));
        }
        page.heading("Everything");
        measured.add_to(&mut page);
        ratios.add_to(&mut page);
        machine.add_to(&mut page);
        self.last_lines().iter().for_each(|line| page.paragraph(line));
        page.html()
    }

    fn json(&self) -> Value {
        let judged = self
            .judged()
            .into_iter()
            .map(|one| json!({ "what": one.what, "target": one.target, "found": one.found, "met": one.met }));
        json!({
            "machine": self.machine.as_ref().map(Machine::json),
            "subjects": self.subjects.iter().map(|(name, about)| json!({ "name": name, "about": about })).collect::<Vec<_>>(),
            "measured": self.measured,
            "ratios": self.ratios,
            "targets": judged.collect::<Vec<_>>(),
            "skipped": self.skipped.iter().map(|(what, why)| json!({ "what": what, "why": why })).collect::<Vec<_>>(),
        })
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("unknown").to_owned()
}

/// How many calls failed, and how the first one did.
fn errors(one: &Value) -> String {
    match (one["errors"].as_u64(), one["first_error"].as_str()) {
        (Some(count), Some(first)) => format!("{count}: {}", first.chars().take(60).collect::<String>()),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(subject: &str, work: &str, clients: u64, rate: f64, p50: u64) -> Value {
        json!({ "api": subject, "work": work, "clients": clients, "errors": 0, "cpu_us_per_call": 1.0,
            "per_second": { "median": rate, "min": rate, "max": rate }, "latency_ns": { "p50": p50, "p99": 2 * p50 } })
    }

    fn found() -> Found {
        let mut found = Found::default();
        let ratio = json!({ "subject": OVER_GRPC, "against": ETCD, "work": "put", "clients": 100,
            "ratio": 4.0, "lowest": 3.0, "highest": 5.0, "p50_ratio": 0.3 });
        let one = json!({
            "subjects": [{ "name": ETCD, "about": "3.4" }], "ratios": [ratio], "skipped": [{ "what": "x", "why": "y" }],
            "measured": [figures(OVER_GRPC, "put", 100, 90_000.0, 1_000_000), figures(IN_PROCESS, "put", 1, 9.0, 150_000)],
        });
        found.add("three nodes", Ok(one));
        found.add("consensus alone", Err("no compiler".into()));
        found
    }

    fn met_of(found: &Found, what: &str, target: &str) -> Option<bool> {
        let judged = found.judged();
        judged.iter().find(|one| one.what.starts_with(what) && one.target.contains(target)).unwrap().met
    }

    #[test]
    fn targets_are_met_missed_or_not_measured() {
        let found = found();
        assert_eq!(met_of(&found, "d-engine over gRPC: put, 100", "× etcd"), Some(false));
        assert_eq!(met_of(&found, "d-engine over gRPC: put, 100", "85,000"), Some(true));
        assert_eq!(met_of(&found, "d-engine in process: put, 1 ", "p50"), Some(true));
        assert_eq!(met_of(&found, "d-engine consensus: put, 64", "openraft"), None);
    }

    #[test]
    fn what_was_skipped_stands_in_every_form_of_the_report() {
        let found = found();
        let json = found.json().to_string();
        for form in [&found.text(), &found.file(), &json] {
            assert!(form.contains("no compiler"), "{form}");
        }
    }
}
