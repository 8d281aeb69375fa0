//! Figures as they are committed, and what is better or worse.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;

/// What one operation costs, by operation and by what was counted.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Figures {
    works: BTreeMap<String, BTreeMap<String, f64>>,
}

/// Of a figure beside the committed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Within what may differ.
    Same,
    /// Lower by more than a tenth.
    Better,
    /// Higher than may be.
    Worse,
    /// Nothing is committed for it.
    New,
    /// Committed, and not found: not counted on this machine, or costs nothing any more.
    Gone,
}

impl Verdict {
    /// Whether it fails the gate.
    pub(crate) fn is_failure(self) -> bool {
        matches!(self, Self::Worse | Self::New)
    }
}

/// One figure.
#[derive(Debug)]
pub(crate) struct Line {
    work: String,
    what: String,
    committed: Option<f64>,
    found: Option<f64>,
    pub(crate) verdict: Verdict,
}

/// How much more than committed is no reason to fail: relative, or so much for each operation if that is more.
const MORE: f64 = 0.03;
const MORE_ABSOLUTE: f64 = 0.005;
/// How much less is worth a new figure.
const LESS: f64 = 0.1;

impl Figures {
    /// Reads a file; none: no figures.
    pub(crate) fn read(file: &Path) -> Result<Self, Error> {
        match fs::read_to_string(file) {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|error| format!("{} has no figures: {error}", file.display()).into()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("{} cannot be read: {error}", file.display()).into()),
        }
    }

    /// Writes the file.
    pub(crate) fn write(&self, file: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(file, text + "\n").map_err(|error| format!("{} cannot be written: {error}", file.display()).into())
    }

    /// Adds a figure, to a thousandth.
    pub(crate) fn add(&mut self, work: &str, what: &str, count: f64) {
        let rounded = (count * 1_000.0).round() / 1_000.0;
        self.works.entry(work.to_owned()).or_default().insert(what.to_owned(), rounded);
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.works.is_empty()
    }

    fn lines(&self) -> BTreeMap<(&str, &str), f64> {
        let mut lines = BTreeMap::new();
        for (work, counts) in &self.works {
            lines.extend(counts.iter().map(|(what, count)| ((work.as_str(), what.as_str()), *count)));
        }
        lines
    }

    /// What `found` is beside these.
    pub(crate) fn judge(&self, found: &Self) -> Vec<Line> {
        let (committed, found) = (self.lines(), found.lines());
        let mut all: Vec<_> = committed.keys().chain(found.keys()).copied().collect();
        all.sort_unstable();
        all.dedup();
        let line = |at: (&str, &str)| {
            let (committed, found) = (committed.get(&at).copied(), found.get(&at).copied());
            let verdict = verdict(committed, found);
            Line { work: at.0.to_owned(), what: at.1.to_owned(), committed, found, verdict }
        };
        all.into_iter().map(line).collect()
    }
}

fn verdict(committed: Option<f64>, found: Option<f64>) -> Verdict {
    match (committed, found) {
        (None, _) => Verdict::New,
        (Some(_), None) => Verdict::Gone,
        (Some(committed), Some(found)) if found > committed + (committed * MORE).max(MORE_ABSOLUTE) => Verdict::Worse,
        (Some(committed), Some(found)) if found < committed * (1.0 - LESS) => Verdict::Better,
        (Some(_), Some(_)) => Verdict::Same,
    }
}

/// The lines as a table.
pub(crate) fn table(lines: &[Line]) -> String {
    let mut text = format!("{:<50} {:<24} {:>12} {:>12}\n", "one operation", "costs", "committed", "found");
    let figure = |figure: Option<f64>| figure.map_or_else(|| "—".to_owned(), |figure| format!("{figure:.3}"));
    for Line { work, what, committed, found, verdict } in lines {
        let word = match verdict {
            Verdict::Same => "",
            Verdict::Better => "  better",
            Verdict::Worse => "  WORSE",
            Verdict::New => "  NEW",
            Verdict::Gone => "  not found",
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{work:<50} {what:<24} {:>12} {:>12}{word}", figure(*committed), figure(*found));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_a_little_more_fails_and_so_does_what_nobody_has_committed() {
        assert_eq!(verdict(Some(10.0), Some(10.29)), Verdict::Same);
        assert_eq!(verdict(Some(10.0), Some(10.31)), Verdict::Worse);
        assert_eq!(verdict(Some(0.01), Some(0.014)), Verdict::Same);
        assert_eq!(verdict(Some(0.01), Some(0.016)), Verdict::Worse);
        assert_eq!(verdict(Some(10.0), Some(8.9)), Verdict::Better);
        assert_eq!(verdict(None, Some(1.0)), Verdict::New);
        assert_eq!(verdict(Some(1.0), None), Verdict::Gone);
        assert!(Verdict::Worse.is_failure() && Verdict::New.is_failure() && !Verdict::Gone.is_failure());
    }

    #[test]
    fn figures_are_the_same_after_a_file() -> Result<(), Error> {
        let file = tempfile::tempdir()?;
        let file = file.path().join("figures.json");
        assert!(Figures::read(&file)?.is_empty());
        let mut figures = Figures::default();
        figures.add("put", "allocations", 2.000_4);
        figures.write(&file)?;
        let lines = Figures::read(&file)?.judge(&figures);
        assert_eq!(lines.len(), 1);
        assert_eq!((lines[0].committed, lines[0].verdict), (Some(2.0), Verdict::Same));
        fs::write(&file, "{")?;
        assert!(Figures::read(&file).is_err());
        Ok(())
    }
}
