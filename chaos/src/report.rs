//! What a run did and found.

use std::collections::BTreeMap;

use serde_json::json;

/// Rounds in a quarter of a run that say something.
const QUARTER_MIN: usize = 4;

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
    /// Of the latest round, and of all.
    pub(crate) service_back_ms: u64,
    pub(crate) service_back_ms_max: u64,
    /// Highest resident memory of a node in each round, in bytes.
    pub(crate) resident: Vec<u64>,
    pub(crate) seconds: u64,
    /// Of each kind, how many were carried out, and how many an operator was refused.
    pub(crate) faults: BTreeMap<String, (u64, u64)>,
    pub(crate) violations: Vec<String>,
}

impl Report {
    pub(crate) fn fault_count(&self) -> u64 {
        self.faults.values().map(|(done, _)| done).sum()
    }

    pub(crate) fn resident_mib_max(&self) -> u64 {
        self.resident.iter().max().map_or(0, |bytes| bytes >> 20)
    }

    /// How much more memory nodes had in the last quarter of the rounds than in the one before; `None`: too few rounds.
    fn resident_growth_percent(&self) -> Option<f64> {
        let quarter = self.resident.len() / 4;
        let mean = |rounds: &[u64]| rounds.iter().sum::<u64>() as f64 / rounds.len() as f64;
        if quarter < QUARTER_MIN {
            return None;
        }
        let (rest, fourth) = self.resident.split_at(self.resident.len() - quarter);
        let third = &rest[rest.len() - quarter..];
        Some(((mean(fourth) / mean(third) - 1.0) * 1000.0).round() / 10.0)
    }

    fn resident(&self) -> String {
        let growth = self.resident_growth_percent();
        let growth = growth.map(|percent| format!(", {percent:+.1} % from the third to the fourth quarter"));
        format!("{} MiB at most{}", self.resident_mib_max(), growth.unwrap_or_default())
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
            "resident_mib_max": self.resident_mib_max(),
            "resident_growth_percent": self.resident_growth_percent(),
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
            ("memory of a node".to_owned(), self.resident()),
            ("time".to_owned(), format!("{} s", self.seconds)),
            ("violations".to_owned(), self.violations.len().to_string()),
        ]);
        rows.iter().map(|(what, found)| format!("{what:<36} {found}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_that_of_the_second_half() {
        let report = |resident| Report { resident, ..Report::default() };
        let rounds = [vec![1; 8], vec![100; 4], vec![104; 4]].concat();
        assert_eq!(report(rounds).resident_growth_percent(), Some(4.0));
        assert_eq!(report(vec![7; 15]).resident_growth_percent(), None, "too few rounds");
    }
}
