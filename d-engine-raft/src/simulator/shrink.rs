//! Makes a failing seed small: the fewest disturbances that still break the same law, and the command that replays them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::mask::{Disturbance, Kept, Millis, Occurrence};
use super::run::{Attempt, attempt};
use super::{Options, Violation};

/// Steps that all attempts together may take: a few seconds.
const BUDGET: u64 = 4_000_000;
/// Lines of the trace kept for the result; the relevant ones among them are shown.
const TRACE_LINES: usize = 1 << 16;

/// A small run that breaks the same law.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Shrunk {
    /// What to run to see it again.
    pub options: Options,
    /// The breach there.
    pub violation: Violation,
    /// Disturbances of the run that was found.
    pub before: usize,
    /// Disturbances that are left.
    pub after: usize,
    /// Runs it took.
    pub runs: u64,
}

/// Looks for the fewest disturbances of the violation's seed that break the same law; `None` if the seed does not break it
/// under these options.
pub fn shrink(violation: &Violation, options: &Options) -> Option<Shrunk> {
    let quiet = Options { echo: false, trace_lines: 1, ..options.clone() };
    let mut search = Search::new(violation, quiet)?;
    let before = search.kept.len();
    search.with_fewer_nodes();
    search.without_whole_kinds();
    search.without_parts();
    let options = Options { trace_lines: TRACE_LINES, ..search.options(&search.kept) };
    let violation = attempt(search.seed, &options, search.settles).result.err()?;
    let options = Options { trace_lines: Options::default().trace_lines, ..options };
    Some(Shrunk { options, violation: *violation, before, after: search.kept.len(), runs: search.runs })
}

/// The smallest failing run so far.
struct Search {
    seed: u64,
    property: String,
    base: Options,
    /// Whether the law breaks only after the faults have stopped.
    settles: bool,
    kept: BTreeSet<Occurrence>,
    runs: u64,
    steps: u64,
}

impl Search {
    fn new(violation: &Violation, base: Options) -> Option<Self> {
        let mut search = Self {
            seed: violation.seed,
            property: violation.property.clone(),
            base,
            settles: true,
            kept: BTreeSet::new(),
            runs: 0,
            steps: 0,
        };
        search.begin().then_some(search)
    }

    /// The whole run, its end fixed in time: without some of its disturbances it takes fewer steps to get there.
    fn begin(&mut self) -> bool {
        let Some((violation, kept)) = self.run(&self.base.clone()) else { return false };
        self.settles = violation.faults_until < violation.time;
        let base = Options { until: Some(violation.faults_until), ..self.base.clone() };
        let fails = self.run(&base);
        (self.base, self.kept) = (base, kept);
        fails.is_some()
    }

    fn options(&self, kept: &BTreeSet<Occurrence>) -> Options {
        Options { only: Some(Arc::new(Kept(kept.clone()))), without: Vec::new(), ..self.base.clone() }
    }

    /// The violation of the same law that this run ends in, and the disturbances that took place.
    fn run(&mut self, options: &Options) -> Option<(Box<Violation>, BTreeSet<Occurrence>)> {
        let Attempt { result, occurred, steps } = attempt(self.seed, options, self.settles);
        self.runs += 1;
        self.steps += steps;
        let violation = result.err().filter(|violation| violation.property == self.property)?;
        Some((violation, occurred.into_iter().filter(|occurrence| options.keeps(*occurrence)).collect()))
    }

    /// Keeps only `kept`, if that still breaks the law.
    fn narrow(&mut self, kept: &BTreeSet<Occurrence>) -> bool {
        let options = self.options(kept);
        let Some((violation, occurred)) = self.run(&options) else { return false };
        self.kept = occurred;
        self.base.until = self.base.until.map(|until| until.min(violation.faults_until));
        true
    }

    fn has_budget(&self) -> bool {
        self.steps < BUDGET
    }

    /// The same seed with fewer nodes is another world, which may break the same law.
    fn with_fewer_nodes(&mut self) {
        let size = self.base.nodes.unwrap_or_else(|| super::World::new(self.seed, self.base.clone()).size());
        for nodes in 2..size {
            let base = Options { nodes: Some(nodes), until: None, ..self.base.clone() };
            let mut smaller =
                Self { base, kept: BTreeSet::new(), settles: true, property: self.property.clone(), ..*self };
            let begins = smaller.begin();
            (self.runs, self.steps) = (smaller.runs, smaller.steps);
            if begins {
                return *self = smaller;
            }
        }
    }

    fn without_whole_kinds(&mut self) {
        let kinds: BTreeSet<Disturbance> = self.kept.iter().map(|occurrence| occurrence.kind).collect();
        for kind in kinds {
            let kept = self.kept.iter().copied().filter(|occurrence| occurrence.kind != kind).collect();
            self.narrow(&kept);
        }
    }

    /// Delta debugging: leaves out ever smaller parts, until no single disturbance can be left out.
    fn without_parts(&mut self) {
        let mut size = self.kept.len().div_ceil(2).max(1);
        while self.has_budget() {
            let has_shrunk = self.without_parts_of(size);
            if size == 1 && !has_shrunk {
                return;
            }
            size = if size == 1 { 1 } else { size.div_ceil(2) };
        }
    }

    fn without_parts_of(&mut self, size: usize) -> bool {
        let mut has_shrunk = false;
        let mut from = 0;
        while from < self.kept.len() && self.has_budget() {
            let kept: Vec<_> = self.kept.iter().copied().collect();
            let to = (from + size).min(kept.len());
            let rest = kept[..from].iter().chain(&kept[to..]).copied().collect();
            if self.narrow(&rest) {
                has_shrunk = true;
            } else {
                from = to;
            }
        }
        has_shrunk
    }
}

/// The command that runs `seed` with these options again.
pub fn replay(seed: u64, options: &Options) -> String {
    format!("cargo xtask simulate {}", arguments(seed, options).join(" "))
}

/// What differs from the default, as flags.
fn arguments(seed: u64, options: &Options) -> Vec<String> {
    let usual = Options::default();
    let mut flags = vec![format!("--seed {seed}")];
    let mut flag = |is_unusual: bool, text: String| {
        if is_unusual {
            flags.push(text);
        }
    };
    if let Some(nodes) = options.nodes {
        flag(true, format!("--nodes {nodes}"));
    }
    flag(options.mutant != usual.mutant, format!("--mutant {:?}", options.mutant));
    flag(options.steps != usual.steps && options.until.is_none(), format!("--steps {}", options.steps));
    flag(options.fault_permille != usual.fault_permille, format!("--faults {}", options.fault_permille));
    flag(options.lease, "--lease".to_owned());
    flag(!options.changes, "--no-changes".to_owned());
    flag(!options.strict, "--lenient".to_owned());
    if !options.without.is_empty() {
        let names: Vec<_> = options.without.iter().map(|kind| kind.name()).collect();
        flag(true, format!("--without {}", names.join(",")));
    }
    if let Some(until) = options.until {
        flag(true, format!("--until {}", Millis(until.as_micros() as u64)));
    }
    if let Some(only) = &options.only {
        flag(true, format!("--only {only}"));
    }
    flags
}
