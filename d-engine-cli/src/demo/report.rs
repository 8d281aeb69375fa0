//! What the demo found: one table, or one JSON object.

use d_engine::NodeConfig;
use serde_json::json;

use crate::output::{print, print_table, thousands};

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
    /// Some of the lost writes and wrong reads in words.
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
        self.failure.is_none() && self.lost_writes == 0 && self.wrong_reads == 0 && self.digests_equal
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
            "digests_equal": self.digests_equal,
            "idle_cpu_percent": tenths,
            "rss_mib": self.rss_mib,
            "ok": self.ok(),
            "failure": (!self.ok()).then(|| self.reasons()),
        }));
    }

    pub(super) fn print_table(&self) {
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
            ("state digests of the replicas", if self.digests_equal { "equal" } else { "NOT SHOWN EQUAL" }.to_owned()),
            ("idle CPU per node", self.idle_cpu()),
            ("memory per node", self.rss()),
            ("result", if self.ok() { "everything is right" } else { "FAILED" }.to_owned()),
        ];
        print("");
        print_table(&["WHAT", "FOUND"], &rows.map(|(what, found)| vec![what.to_owned(), found]));
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

/// The nodes run with the default.
fn election_timeout_max_ms() -> u64 {
    NodeConfig::default().raft.election_timeout_max_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_correctness_decides() {
        let right = Report { digests_equal: true, failover_ms: Some(60_000), ..Report::new(3) };
        assert!(right.ok());
        assert!(!Report { lost_writes: 1, digests_equal: true, ..Report::new(3) }.ok());
        assert!(!Report { wrong_reads: 1, digests_equal: true, ..Report::new(3) }.ok());
        assert!(Report::new(3).reasons().contains("different states"));
        let mut cut_short = Report { digests_equal: true, ..Report::new(3) };
        cut_short.fail("interrupted".to_owned());
        assert_eq!((cut_short.ok(), cut_short.reasons().as_str()), (false, "interrupted"));
    }
}
