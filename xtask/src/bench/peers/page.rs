//! What was found beside others, as text, HTML and JSON.

use d_engine_plot::Page;
use serde_json::{Value, json};

use super::super::Told;
use super::super::figures::{self, text};
use super::super::machine::Machine;
use super::super::report::{Table, met};
use super::Found;
use super::targets::{judged, times};

impl Found {
    fn tables(&self) -> [Table; 5] {
        let facts = self.machine.iter().flat_map(Machine::facts).map(|(name, value)| vec![name.into(), value]);
        let subjects = self.subjects.iter().map(|(name, about)| vec![name.clone(), about.clone()]);
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
            figures::table(&self.measured),
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
        figures::add_plots(&mut page, &self.measured);
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
