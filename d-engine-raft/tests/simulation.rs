//! Seeds of the simulator: no law breaks, and breaches that were made on purpose are found.
//!
//! `D_ENGINE_SEEDS=100000` runs more seeds, `D_ENGINE_SEED=7` one alone.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use d_engine_raft::Mutant;
use d_engine_raft::simulator::{FAULTS, Options, Report, Simulation, run_seeds};

const SEEDS: u64 = 1_000;
const THREADS: usize = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

fn run(options: &Options, seeds: u64) -> Report {
    let (first, count) = match number("D_ENGINE_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("D_ENGINE_SEEDS").unwrap_or(seeds)),
    };
    run_seeds(first, count, THREADS, options, |_| true)
}

fn demand_none(report: &Report) {
    for violation in &report.violations {
        println!("{violation:?}");
        println!(
            "replay: D_ENGINE_SEED={} cargo test -p d-engine-raft --test simulation -- --nocapture",
            violation.seed
        );
    }
    let seeds: Vec<_> = report.violations.iter().map(|violation| violation.seed).collect();
    assert!(report.violations.is_empty(), "laws were broken by seeds {seeds:?}");
}

#[test]
fn no_violation_in_1000_seeds() {
    let report = run(&Options::default(), SEEDS);
    demand_none(&report);
    let total = &report.total;
    println!(
        "{} seeds, {} steps, {:.1} h, {}",
        report.seeds,
        total.steps,
        total.time.as_secs_f64() / 3600.0,
        total.faults
    );
    if report.seeds >= SEEDS {
        assert!(total.elections > 2 * SEEDS, "only {} elections: the seeds are too quiet", total.elections);
        assert!(total.acknowledged > 100 * SEEDS && total.reads > 50 * SEEDS, "clients were not served: {total:?}");
        assert!(total.changes > 4 * SEEDS && total.transfers > SEEDS, "memberships hardly changed: {total:?}");
        assert!(total.snapshots > 10 * SEEDS && total.installed > SEEDS, "snapshots were hardly needed: {total:?}");
        for fault in FAULTS {
            assert!(total.faults.count(fault) > 20, "{} happened too rarely to be tested", fault.name());
        }
    }
}

#[test]
fn no_violation_while_clusters_form() {
    demand_none(&run(&Options { steps: 250, ..Options::default() }, 2 * SEEDS));
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let hash = |seed| Simulation::new(seed, Options::default()).run().unwrap().trace_hash;
    for seed in 0..20 {
        assert_eq!(hash(seed), hash(seed), "seed {seed}");
    }
    assert_ne!(hash(1), hash(2));
}

/// The first seed that finds the breach.
fn first_find(mutant: Mutant, strict: bool) -> Option<(u64, String)> {
    let options = Options { mutant, strict, ..Options::default() };
    let report = run_seeds(0, SEEDS, THREADS, &options, |report| report.violations.is_empty());
    report.violations.first().map(|violation| (violation.seed, format!("{}: {}", violation.property, violation.detail)))
}

#[test]
fn vote_reply_before_hard_state_is_saved_is_found() {
    let (seed, what) = first_find(Mutant::VoteReplyBeforePersist, true).expect("not found within 1000 seeds");
    println!("found by seed {seed}: {what}");
}

/// Breaches that need more seeds or a director; `cargo run --release -p d-engine-raft --example mutants --features
/// mutants` shows them all.
const RARE: &[Mutant] = &[
    Mutant::CommitOldTermByCounting,
    Mutant::VoteReplyBeforePersist,
    Mutant::ReleaseHeldAcrossTerms,
    Mutant::LeaveJointBeforeCommitted,
    Mutant::ChangeBeforeOwnTermCommit,
    Mutant::InstallBeforeHardState,
    Mutant::ProgressSurvivesReplacement,
    Mutant::RemovedNeverCampaigns,
    Mutant::LeaseFromConfirmation,
    Mutant::LeaseSurvivesTransfer,
    Mutant::NoStickiness,
    Mutant::VoteAtStartInsideLease,
    Mutant::TermAndVoteSavedApart,
    Mutant::AcceptStaleTerm,
    Mutant::StrangerAcceptsWelcome,
];

#[test]
fn breaches_do_harm_within_200_seeds() {
    let mut missed = Vec::new();
    for mutant in Mutant::ALL.iter().filter(|mutant| !RARE.contains(mutant)) {
        let options = Options { mutant: *mutant, strict: false, ..Options::default() };
        let report = run_seeds(0, 200, THREADS, &options, |report| report.violations.is_empty());
        match report.violations.first() {
            Some(found) => println!("{mutant:?}: seed {}: {}: {}", found.seed, found.property, found.detail),
            None => missed.push(mutant),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
