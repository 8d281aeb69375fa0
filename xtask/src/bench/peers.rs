//! `cargo xtask bench peers`: three nodes of d-engine beside etcd and the crate of its name on crates.io, and consensus alone
//! beside openraft; rounds alternate in one run, under one load.
//!
//! `benches/peers` measures; here its figures meet the targets. What cannot be built or run is a line that says why.

use std::process::Command;

use serde_json::Value;

use super::figures::text;
use super::machine::Machine;
use super::{Measured, Places, RUN_LIMIT, SPACE_BYTES, in_scratch, quiet};
use crate::Failed;

mod page;
mod runs;
mod targets;

/// What to measure and how to say it.
#[derive(clap::Args)]
pub(crate) struct PeersArguments {
    #[command(flatten)]
    measured: Measured,
    /// Runs of everything, each from the start; figures are the medians of theirs
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Seconds that one round lasts
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Rounds of each measurement in a run, each after a quarter of one that is not counted
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

/// As many as openraft's own benchmark has.
const CONSENSUS_CLIENTS: &str = "1,64,1024";

/// Measures all.
pub(crate) fn peers(arguments: &PeersArguments) -> Result<(), Failed> {
    in_scratch("peers", &arguments.measured, |places, force| measure(places, arguments, force))
}

fn measure(places: &Places, arguments: &PeersArguments, force: bool) -> Result<Found, Failed> {
    let (mut machine, (program, without)) = quiet(&places.scratch, SPACE_BYTES, force, || Ok(places.build_peers()?))?;
    let rounds =
        ["--seconds", &arguments.seconds.to_string(), "--rounds", &arguments.rounds.to_string()].map(str::to_owned);
    let data =
        ["--keys", &arguments.keys.to_string(), "--value-bytes", &arguments.value_bytes.to_string()].map(str::to_owned);
    let mut runs = Runs::default();
    for number in 1..=arguments.runs.max(1) {
        let mut add = |title: &str, name: &str, clients: &str, more: &[String]| {
            let mut command = Command::new(&program);
            command.arg(name).arg("--dir").arg(&places.scratch).args(["--clients", clients]).args(more).args(&rounds);
            let title = if arguments.runs > 1 { format!("{title}, run {number}") } else { title.to_owned() };
            let found = places.json_of(&title, &format!("{name}-{number}"), RUN_LIMIT, &mut command);
            runs.add(&title, found);
        };
        add("three nodes in turns", "cluster", &arguments.clients, &data);
        add("consensus in turns", "consensus", CONSENSUS_CLIENTS, &[]);
    }
    machine.look_again(&places.scratch);
    let mut found = runs.found();
    found.skipped.splice(0..0, without.into_iter().map(|why| ("peers".to_owned(), why)));
    found.machine = Some(machine);
    Ok(found)
}

/// What each run found.
#[derive(Default)]
struct Runs {
    subjects: Vec<(String, String)>,
    measured: Vec<Vec<Value>>,
    ratios: Vec<Vec<Value>>,
    skipped: Vec<(String, String)>,
}

impl Runs {
    fn add(&mut self, what: &str, found: Result<Value, String>) {
        let found = match found {
            Ok(found) => found,
            Err(why) => return self.skipped.push((what.to_owned(), why)),
        };
        let list = |name: &str| found[name].as_array().cloned().unwrap_or_default();
        for subject in list("subjects").iter().map(|one| (text(&one["name"]), text(&one["about"]))) {
            if !self.subjects.contains(&subject) {
                self.subjects.push(subject);
            }
        }
        self.measured.push(list("measured"));
        self.ratios.push(list("ratios"));
        let skipped = list("skipped");
        self.skipped.extend(skipped.iter().map(|one| (format!("{what}: {}", text(&one["what"])), text(&one["why"]))));
    }

    fn found(self) -> Found {
        Found {
            machine: None,
            subjects: self.subjects,
            measured: runs::measured(&self.measured),
            ratios: runs::ratios(&self.ratios),
            skipped: self.skipped,
        }
    }
}

/// Everything that was found.
struct Found {
    machine: Option<Machine>,
    /// Name, and what it is.
    subjects: Vec<(String, String)>,
    measured: Vec<Value>,
    ratios: Vec<Value>,
    skipped: Vec<(String, String)>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Told as _;
    use super::targets::judged;
    use super::*;

    const OVER_GRPC: &str = "d-engine over gRPC";
    const IN_PROCESS: &str = "d-engine in process";
    const ETCD: &str = "etcd";

    fn figures(subject: &str, work: &str, clients: u64, rate: f64, p50: u64) -> Value {
        json!({ "api": subject, "work": work, "clients": clients, "errors": 0, "cpu_us_per_call": 1.0, "switches_per_call": 2.0,
            "per_second": { "median": rate, "min": rate, "max": rate }, "latency_ns": { "p50": p50, "p99": 2 * p50 } })
    }

    fn found() -> Found {
        let mut runs = Runs::default();
        let silent = json!({ "subject": OVER_GRPC, "against": "published 0.2 over gRPC", "work": "put", "clients": 100,
            "why": "it answered nothing" });
        let ratio = json!({ "subject": OVER_GRPC, "against": ETCD, "work": "put", "clients": 100,
            "ratio": 4.0, "lowest": 3.0, "highest": 5.0, "p50_ratio": 0.3 });
        let one = json!({
            "subjects": [{ "name": ETCD, "about": "3.4" }], "ratios": [ratio, silent], "skipped": [{ "what": "x", "why": "y" }],
            "measured": [figures(OVER_GRPC, "put", 100, 90_000.0, 1_000_000), figures(IN_PROCESS, "put", 1, 9.0, 150_000)],
        });
        runs.add("three nodes", Ok(one));
        runs.add("consensus alone", Err("no compiler".into()));
        runs.found()
    }

    fn met_of(found: &Found, what: &str, target: &str) -> Option<bool> {
        judged(found).iter().find(|one| one.what.starts_with(what) && one.target.contains(target)).unwrap().met
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
            assert!(form.contains("no compiler") && form.contains("it answered nothing"), "{form}");
            assert!(!form.contains("NaN"), "{form}");
        }
    }
}
