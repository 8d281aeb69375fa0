//! What a run did and found.

use std::collections::BTreeMap;

use serde_json::json;

#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) nodes: u64,
    pub(crate) seed: u64,
    pub(crate) operations: u64,
    pub(crate) unknown: u64,
    pub(crate) refused: u64,
    pub(crate) keys: u64,
    pub(crate) events: u64,
    pub(crate) compacted: u64,
    pub(crate) rounds: u64,
    /// Of the faults, those that met another one.
    pub(crate) overlaps: u64,
    pub(crate) service_back_ms_max: u64,
    pub(crate) resident_mib_max: u64,
    pub(crate) seconds: u64,
    /// Of each kind, how many were carried out, and how many an operator was refused.
    pub(crate) faults: BTreeMap<String, (u64, u64)>,
    pub(crate) violations: Vec<String>,
}

impl Report {
    pub(crate) fn fault_count(&self) -> u64 {
        self.faults.values().map(|(done, _)| done).sum()
    }

    pub(crate) fn json(&self) -> String {
        let faults: BTreeMap<_, _> = self.faults.iter().map(|(kind, (done, _))| (kind, done)).collect();
        json!({
            "ok": self.violations.is_empty(),
            "nodes": self.nodes,
            "seed": self.seed,
            "checked_operations": self.operations,
            "unknown_outcomes": self.unknown,
            "refused": self.refused,
            "keys": self.keys,
            "watch_events": self.events,
            "watches_compacted": self.compacted,
            "rounds_with_equal_digests": self.rounds,
            "faults": self.fault_count(),
            "overlapping_faults": self.overlaps,
            "faults_by_kind": faults,
            "service_back_ms_max": self.service_back_ms_max,
            "resident_mib_max": self.resident_mib_max,
            "seconds": self.seconds,
            "violations": self.violations.iter().take(20).collect::<Vec<_>>(),
        })
        .to_string()
    }

    pub(crate) fn table(&self) -> String {
        let mut rows = vec![
            ("nodes, seed".to_owned(), format!("{}, {}", self.nodes, self.seed)),
            ("operations checked".to_owned(), self.operations.to_string()),
            ("of these with unknown outcome".to_owned(), self.unknown.to_string()),
            ("refused, without effect".to_owned(), self.refused.to_string()),
            ("keys".to_owned(), self.keys.to_string()),
            ("watch events checked".to_owned(), self.events.to_string()),
            ("watches told that changes are gone".to_owned(), self.compacted.to_string()),
            ("rounds, state digests equal".to_owned(), self.rounds.to_string()),
            ("faults".to_owned(), self.fault_count().to_string()),
            ("of these overlapping".to_owned(), self.overlaps.to_string()),
        ];
        rows.extend(self.faults.iter().map(|(kind, (done, refused))| {
            (format!("  {kind}"), if *refused > 0 { format!("{done}, {refused} refused") } else { done.to_string() })
        }));
        rows.extend([
            ("service back after a round".to_owned(), format!("{} ms at most", self.service_back_ms_max)),
            ("memory of a node".to_owned(), format!("{} MiB at most", self.resident_mib_max)),
            ("time".to_owned(), format!("{} s", self.seconds)),
            ("violations".to_owned(), self.violations.len().to_string()),
        ]);
        rows.iter().map(|(what, found)| format!("{what:<36} {found}\n")).collect()
    }
}
