//! What was found beside others, as text, HTML and JSON.

use d_engine_plot::{Bar, Group, Page, bars};
use serde_json::{Value, json};

use super::super::Told;
use super::super::machine::Machine;
use super::super::report::{Table, met, number, thousands, time};
use super::targets::{judged, times};
use super::{Found, text};

impl Found {
    fn tables(&self) -> [Table; 5] {
        let facts = self.machine.iter().flat_map(Machine::facts).map(|(name, value)| vec![name.into(), value]);
        let subjects = self.subjects.iter().map(|(name, about)| vec![name.clone(), about.clone()]);
        let measured = self.measured.iter().map(|one| {
            let rate = |name: &str| thousands(number(&one["per_second"][name]));
            let latency = |name: &str| match number(&one["latency_ns"][name]) {
                0.0 => "none".to_owned(),
                nanoseconds => time(nanoseconds / 1e9),
            };
            vec![
                text(&one["work"]),
                one["clients"].to_string(),
                text(&one["api"]),
                format!("{}/s", rate("median")),
                format!("{}–{}", rate("min"), rate("max")),
                latency("p50"),
                latency("p99"),
                per_call(one, "cpu_us_per_call", " µs"),
                per_call(one, "switches_per_call", ""),
                errors(one),
            ]
        });
        let ratios = self.ratios.iter().map(|one| {
            vec![
                text(&one["work"]),
                one["clients"].to_string(),
                format!("{} ÷ {}", text(&one["subject"]), text(&one["against"])),
                times(one, "ratio"),
                match (one["lowest"].as_f64(), one["highest"].as_f64()) {
                    (Some(lowest), Some(highest)) => format!("{lowest:.2}–{highest:.2}"),
                    _ => String::new(),
                },
            ]
        });
        let judged = judged(self).into_iter().map(|one| vec![one.what, one.target, one.found, met(one.met)]);
        [
            Table::new(&["machine", ""], facts),
            Table::new(&["subject", "what it is"], subjects),
            Table::new(
                &["work", "clients", "subject", "calls", "spread", "p50", "p99", "CPU/call", "switches/call", "errors"],
                measured,
            ),
            Table::new(&["work", "clients", "calls per second", "ratio", "spread"], ratios),
            Table::new(&["what", "target", "found", "met?"], judged),
        ]
    }

    fn last_lines(&self) -> Vec<String> {
        let judged = judged(self);
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
            "Rounds alternate between the systems, of which all but one are stopped, under one load, on one machine; figures \
             of other machines say little. Bars are medians of the rounds, or of the runs if there are several; thin \
             lines their spread; with latencies, bars are the median of all calls and thin lines reach to the 99th \
             percentile.",
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
        let judged = judged(self)
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

/// What a call costs, where one was answered.
fn per_call(one: &Value, name: &str, unit: &str) -> String {
    match number(&one["latency_ns"]["p50"]) {
        0.0 => String::new(),
        _ => format!("{:.1}{unit}", number(&one[name])),
    }
}

/// How many calls failed, and how the first one did.
fn errors(one: &Value) -> String {
    match (one["errors"].as_u64(), one["first_error"].as_str()) {
        (Some(count), Some(first)) => format!("{count}: {}", first.chars().take(60).collect::<String>()),
        _ => String::new(),
    }
}
