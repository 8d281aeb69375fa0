//! Runs of whole seeds, and what they report.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::FaultCounts;
use super::mask::{Disturbance, Kept, Occurrence};
use super::world::World;
use crate::Mutant;

/// How a run is set up. Everything that is not fixed here, the seed draws.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of nodes; `None`: 1, 3 or 5, mostly 3 and 5.
    pub nodes: Option<u64>,
    /// Steps with faults. The steps until everything has settled come on top.
    pub steps: u64,
    /// Memberships change, nodes are replaced and snapshots are made in some seeds; false: in none.
    pub changes: bool,
    /// Leases are on, also in worlds without faults.
    pub lease: bool,
    /// How often faults happen, in thousandths of what the seed draws; 0: none.
    pub fault_permille: u32,
    /// Leave these kinds of disturbances out.
    pub without: Vec<Disturbance>,
    /// Leave out every disturbance but these.
    pub only: Option<Arc<Kept>>,
    /// Faults stop at this virtual time, whatever [`Options::steps`] says.
    pub until: Option<Duration>,
    /// Also demand what has no consequence yet: that promises leave after the disk has spoken, and that leaders commit
    /// by entries of their own term.
    pub strict: bool,
    /// Lines of the trace that a violation carries.
    pub trace_lines: usize,
    /// Print every line to standard error as it happens.
    pub echo: bool,
    /// The rule to break; needs the feature `mutants`.
    pub mutant: Mutant,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: None,
            steps: 10_000,
            changes: true,
            lease: false,
            fault_permille: 1_000,
            without: Vec::new(),
            only: None,
            until: None,
            strict: true,
            trace_lines: 200,
            echo: false,
            mutant: Mutant::None,
        }
    }
}

impl Options {
    /// Whether a run with these options keeps a disturbance.
    pub(super) fn keeps(&self, occurrence: Occurrence) -> bool {
        self.only.as_ref().is_none_or(|only| only.0.contains(&occurrence)) && !self.without.contains(&occurrence.kind)
    }
}

/// What a run without violation did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Steps taken.
    pub steps: u64,
    /// Virtual time that passed.
    pub time: Duration,
    /// Virtual time from the end of the faults until everything had settled and served again.
    pub settled_after: Duration,
    /// Faults by kind.
    pub faults: FaultCounts,
    /// Terms that had a leader.
    pub elections: u64,
    /// Entries committed.
    pub committed: u64,
    /// Proposals acknowledged.
    pub acknowledged: u64,
    /// Reads answered.
    pub reads: u64,
    /// Membership changes done.
    pub changes: u64,
    /// Transfers of leadership done.
    pub transfers: u64,
    /// Snapshots made.
    pub snapshots: u64,
    /// Snapshots of a leader installed.
    pub installed: u64,
    /// Hash over the whole trace: equal for equal seeds and options.
    pub trace_hash: u64,
}

/// A law that did not hold, and all that is needed to look at it again.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The seed.
    pub seed: u64,
    /// The step.
    pub step: u64,
    /// Virtual time.
    pub time: Duration,
    /// Virtual time at which the faults stopped; that of the violation if they had not.
    pub faults_until: Duration,
    /// The law.
    pub property: String,
    /// How it was broken.
    pub detail: String,
    /// What led to it, as far as the trace was kept.
    pub trace: Vec<String>,
    /// The state of each node in a line.
    pub nodes: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.trace.iter().chain(&self.nodes) {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "{}: {}", self.property, self.detail)?;
        write!(f, "seed {}, step {}, {:.3} s of virtual time", self.seed, self.step, self.time.as_secs_f64())
    }
}

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{self}")
    }
}

impl std::error::Error for Violation {}

/// One seed's run.
#[derive(Debug, Clone)]
pub struct Simulation {
    seed: u64,
    options: Options,
}

impl Simulation {
    /// The run of `seed`.
    pub fn new(seed: u64, options: Options) -> Self {
        Self { seed, options }
    }

    /// Runs: faults and requests for [`Options::steps`], then peace, in which the cluster must agree and serve.
    ///
    /// # Errors
    /// The first law that does not hold; a panic inside a node is one too.
    pub fn run(self) -> Result<Summary, Box<Violation>> {
        attempt(self.seed, &self.options, true).result
    }
}

/// A run and what there is to know of it even if it fails.
pub(super) struct Attempt {
    pub(super) result: Result<Summary, Box<Violation>>,
    /// Every disturbance, kept or left out.
    pub(super) occurred: Vec<Occurrence>,
    pub(super) steps: u64,
}

/// Runs a seed; `settles`: through the peace after its faults.
pub(super) fn attempt(seed: u64, options: &Options, settles: bool) -> Attempt {
    let mut world = World::new(seed, options.clone());
    let steps = options.steps;
    let result = match catch_unwind(AssertUnwindSafe(|| world.run(steps, settles))) {
        Ok(result) => result,
        Err(panic) => Err(world.panicked(panic.as_ref())),
    };
    Attempt { result, steps: world.steps, occurred: world.occurred }
}

/// What many seeds did.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Report {
    /// Seeds run.
    pub seeds: u64,
    /// Sums over the seeds without violation; `settled_after` is the longest, `trace_hash` the sum.
    pub total: Summary,
    /// The seed that took longest to settle.
    pub slowest_seed: u64,
    /// Every violation, in order of its seed.
    pub violations: Vec<Violation>,
}

impl Report {
    fn add(&mut self, seed: u64, result: Result<Summary, Box<Violation>>) {
        self.seeds += 1;
        match result {
            Ok(summary) => {
                self.total.steps += summary.steps;
                self.total.time += summary.time;
                if summary.settled_after > self.total.settled_after {
                    self.total.settled_after = summary.settled_after;
                    self.slowest_seed = seed;
                }
                self.total.faults += summary.faults;
                self.total.elections += summary.elections;
                self.total.committed += summary.committed;
                self.total.acknowledged += summary.acknowledged;
                self.total.reads += summary.reads;
                self.total.changes += summary.changes;
                self.total.transfers += summary.transfers;
                self.total.snapshots += summary.snapshots;
                self.total.installed += summary.installed;
                self.total.trace_hash = self.total.trace_hash.wrapping_add(summary.trace_hash);
            }
            Err(violation) => self.violations.push(*violation),
        }
    }
}

/// Violations after which a run of many seeds ends early.
const ENOUGH_VIOLATIONS: usize = 10;

/// Runs seeds `first..first + count` on `threads` threads; calls `progress` after each seed with what is known so far,
/// and ends early after ten violations or when `progress` answers false.
pub fn run_seeds(
    first: u64,
    count: u64,
    threads: usize,
    options: &Options,
    progress: impl Fn(&Report) -> bool + Sync,
) -> Report {
    let next = AtomicU64::new(0);
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    let seed = first.wrapping_add(number);
                    let result = Simulation::new(seed, options.clone()).run();
                    let mut report = report.lock().expect("no thread panics while it holds the report");
                    report.add(seed, result);
                    if !progress(&report) || report.violations.len() >= ENOUGH_VIOLATIONS {
                        next.store(count, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut report = report.into_inner().expect("no thread panics while it holds the report");
    report.violations.sort_by_key(|violation| violation.seed);
    report
}
