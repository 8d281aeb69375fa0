//! What the demo found: one table, or one JSON object.

use std::path::Path;

use d_engine::NodeConfig;
use d_engine_plot::Page;
use serde_json::{Value, json};

use crate::output::{print, print_table, thousands};
use crate::processes::Processes;

/// Everything that was measured and checked so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    nodes: u64,
    pub(super) acked_writes: u64,
    pub(super) unknown_writes: u64,
    pub(super) lost_writes: u64,
    pub(super) wrong_reads: u64,
    pub(super) writes_per_s: u64,
    pub(super) reads_per_s: Option<u64>,
    pub(super) failover_ms: Option<u64>,
    pub(super) caught_up_ms: Option<u64>,
    pub(super) digests_equal: bool,
    /// Per node.
    pub(super) idle_cpu_percent: Vec<f64>,
    /// Per node.
    pub(super) rss_mib: Vec<u64>,
    /// Changes that each of the watches was told; `None`: they were not checked.
    pub(super) watched: Option<u64>,
    /// Changes that a watch was told twice, not at all, or out of order.
    pub(super) wrong_events: u64,
    /// Operations of the history that was checked; `None`: none was.
    pub(super) history: Option<u64>,
    /// Contradictions that no order of the history explains.
    pub(super) not_linearizable: u64,
    /// What the writes around the leader's death looked like, as SVG.
    pub(super) plots: Vec<String>,
    /// What stays when the demo has ended.
    pub(super) kept: Option<Kept>,
    /// Some of the lost writes, wrong reads and wrong events in words.
    pub(super) examples: Vec<String>,
    failure: Option<String>,
}

impl Report {
    pub(super) fn new(nodes: u64) -> Self {
        Self { nodes, ..Self::default() }
    }

    /// The demo could not be run to its end.
    pub(super) fn fail(&mut self, why: String) {
        self.failure = Some(why);
    }

    /// Whether everything is right. Times and rates do not count: they are the machine's.
    pub(super) fn ok(&self) -> bool {
        self.failure.is_none()
            && self.lost_writes == 0
            && self.wrong_reads == 0
            && self.watches_right()
            && self.is_linearizable()
            && self.digests_equal
    }

    /// Every watch was told everything once and in order.
    fn watches_right(&self) -> bool {
        self.watched.is_some() && self.wrong_events == 0
    }

    fn is_linearizable(&self) -> bool {
        self.history.is_some() && self.not_linearizable == 0
    }

    /// Why it is not [`ok`](Report::ok).
    pub(super) fn reasons(&self) -> String {
        let mut reasons: Vec<String> = self.failure.iter().cloned().collect();
        if self.lost_writes > 0 {
            reasons.push(format!("{} acknowledged writes are lost", self.lost_writes));
        }
        if self.wrong_reads > 0 {
            reasons.push(format!("{} reads were wrong", self.wrong_reads));
        }
        if self.not_linearizable > 0 {
            reasons.push(format!("the history is not shown linearizable, for {} reasons", self.not_linearizable));
        }
        if self.wrong_events > 0 {
            reasons.push(format!("watches were told {} changes twice, too late or not at all", self.wrong_events));
        }
        if !self.digests_equal && self.failure.is_none() {
            reasons.push("the replicas hold different states".to_owned());
        }
        reasons.extend(self.examples.iter().cloned());
        reasons.join("; ")
    }

    pub(super) fn print_json(&self) {
        let tenths: Vec<f64> = self.idle_cpu_percent.iter().map(|percent| (percent * 10.0).round() / 10.0).collect();
        print(json!({
            "nodes": self.nodes,
            "acked_writes": self.acked_writes,
            "lost_writes": self.lost_writes,
            "wrong_reads": self.wrong_reads,
            "unknown_writes": self.unknown_writes,
            "failover_ms": self.failover_ms,
            "election_timeout_max_ms": election_timeout_max_ms(),
            "caught_up_ms": self.caught_up_ms,
            "writes_per_s": self.writes_per_s,
            "reads_per_s": self.reads_per_s,
            "watched_events": self.watched,
            "wrong_events": self.wrong_events,
            "history_operations": self.history,
            "not_linearizable": self.not_linearizable,
            "digests_equal": self.digests_equal,
            "idle_cpu_percent": tenths,
            "rss_mib": self.rss_mib,
            "kept": self.kept.as_ref().map(Kept::to_json),
            "ok": self.ok(),
            "failure": (!self.ok()).then(|| self.reasons()),
        }));
    }

    pub(super) fn print_table(&self) {
        print("");
        print_table(&["WHAT", "FOUND"], &self.rows());
    }

    /// Writes the table and the plots as HTML; the error says why that failed.
    pub(super) fn write_page(&self, path: &Path) -> Result<(), String> {
        let mut page = Page::new("d-engine demo");
        page.paragraph(
            "Three processes on one machine under load, whose leader is killed; every answer is checked. The plots show the \
             overwriting of keys around the leader's death, in steps of 50 ms.",
        );
        self.plots.iter().for_each(|plot| page.plot(plot));
        page.table(&["what".to_owned(), "found".to_owned()], &self.rows());
        if !self.ok() {
            page.paragraph(&self.reasons());
        }
        std::fs::write(path, page.html())
            .map_err(|error| format!("could not write the report {}: {error}", path.display()))
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let millis = |time: Option<u64>| time.map_or_else(|| "-".to_owned(), |time| format!("{} ms", thousands(time)));
        let rows = [
            ("nodes", format!("{} processes, file storage, every write synced", self.nodes)),
            ("acknowledged writes", thousands(self.acked_writes)),
            ("lost writes", thousands(self.lost_writes)),
            ("wrong reads", thousands(self.wrong_reads)),
            ("writes with unknown outcome", thousands(self.unknown_writes)),
            ("writes", format!("{} per s", thousands(self.writes_per_s))),
            (
                "linearizable reads",
                self.reads_per_s.map_or_else(|| "-".to_owned(), |r| format!("{} per s", thousands(r))),
            ),
            (
                "kill -9 of the leader until writes go on",
                format!("{} (election timeout up to {} ms)", millis(self.failover_ms), election_timeout_max_ms()),
            ),
            ("restart until caught up", millis(self.caught_up_ms)),
            ("watches across the leader's death", self.watches()),
            ("history of contending clients", self.linearizability()),
            ("state digests of the replicas", if self.digests_equal { "equal" } else { "NOT SHOWN EQUAL" }.to_owned()),
            ("idle CPU per node", self.idle_cpu()),
            ("memory per node", self.rss()),
            ("result", if self.ok() { "everything is right" } else { "FAILED" }.to_owned()),
        ];
        rows.map(|(what, found)| vec![what.to_owned(), found]).into()
    }

    fn linearizability(&self) -> String {
        match self.history {
            None => "NOT CHECKED".to_owned(),
            Some(operations) if self.not_linearizable == 0 => {
                format!("{} operations, linearizable", thousands(operations))
            }
            Some(_) => "NOT LINEARIZABLE".to_owned(),
        }
    }

    fn watches(&self) -> String {
        match self.watched {
            None => "NOT CHECKED".to_owned(),
            Some(told) if self.wrong_events == 0 => {
                format!("one on each node, {} changes, each once and in order", thousands(told))
            }
            Some(_) => format!("{} CHANGES WRONG", thousands(self.wrong_events)),
        }
    }

    pub(super) fn idle_cpu(&self) -> String {
        let shown: Vec<String> = self.idle_cpu_percent.iter().map(|percent| format!("{percent:.1} %")).collect();
        if shown.is_empty() { "-".to_owned() } else { shown.join(", ") }
    }

    pub(super) fn rss(&self) -> String {
        let shown: Vec<String> = self.rss_mib.iter().map(|mib| format!("{mib} MiB")).collect();
        if shown.is_empty() { "-".to_owned() } else { shown.join(", ") }
    }
}

/// A cluster that stays when the demo has ended.
#[derive(Debug)]
pub(super) struct Kept {
    endpoints: String,
    directory: String,
    pids: Vec<u32>,
}

impl Kept {
    pub(super) fn of(processes: &Processes) -> Self {
        Self {
            endpoints: processes.addresses().join(","),
            directory: processes.directory().display().to_string(),
            pids: processes.pids(),
        }
    }

    fn to_json(&self) -> Value {
        json!({ "endpoints": self.endpoints, "directory": self.directory, "pids": self.pids })
    }

    /// How to talk to it, to end it, and to start it again.
    pub(super) fn how_to_go_on(&self) -> Vec<String> {
        let pids: Vec<String> = self.pids.iter().map(u32::to_string).collect();
        vec![
            String::new(),
            "the cluster goes on running; to talk to it:".to_owned(),
            format!("  export D_ENGINE_ENDPOINTS={}", self.endpoints),
            "  d-engine status".to_owned(),
            "  d-engine put colour blue && d-engine get colour".to_owned(),
            "to end it:".to_owned(),
            format!("  kill {}", pids.join(" ")),
            "to start it again, or to remove it, once it has ended:".to_owned(),
            format!("  d-engine up --data {}", self.directory),
            format!("  rm -r {}", self.directory),
        ]
    }
}

/// The nodes run with the default.
fn election_timeout_max_ms() -> u64 {
    NodeConfig::default().raft.election_timeout_max_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_correctness_decides() {
        let right = || Report {
            digests_equal: true,
            watched: Some(1),
            history: Some(1),
            failover_ms: Some(60_000),
            ..Report::new(3)
        };
        assert!(right().ok());
        assert!(!Report { lost_writes: 1, ..right() }.ok());
        assert!(!Report { wrong_reads: 1, ..right() }.ok());
        assert!(!Report { wrong_events: 1, ..right() }.ok());
        assert!(!Report { watched: None, ..right() }.ok());
        assert!(!Report { not_linearizable: 1, ..right() }.ok());
        assert!(!Report { history: None, ..right() }.ok());
        assert!(Report::new(3).reasons().contains("different states"));
        let mut cut_short = right();
        cut_short.fail("interrupted".to_owned());
        assert_eq!((cut_short.ok(), cut_short.reasons().as_str()), (false, "interrupted"));
    }
}
