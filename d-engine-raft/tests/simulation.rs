//! Seeds of the simulator: no law breaks, and breaches that were made on purpose are found.
//!
//! `D_ENGINE_SEEDS=100000` runs more seeds, `D_ENGINE_SEED=7` one alone.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use d_engine_raft::Mutant;
use d_engine_raft::simulator::{
    Disturbance, FAULTS, Fault, Millis, Options, Report, Simulation, Violation, replay, run_seeds, shrink,
};

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

fn demand_none(options: &Options, report: &Report) {
    for (number, violation) in report.violations.iter().enumerate() {
        match shrink(violation, options).filter(|_| number == 0) {
            Some(small) => println!("{}\nreplay: {}", small.violation, replay(violation.seed, &small.options)),
            None => println!("{violation}\nreplay: {}", replay(violation.seed, options)),
        }
    }
    let seeds: Vec<_> = report.violations.iter().map(|violation| violation.seed).collect();
    assert!(report.violations.is_empty(), "laws were broken by seeds {seeds:?}");
}

#[test]
fn no_violation_in_1000_seeds() {
    let options = Options::default();
    let report = run(&options, SEEDS);
    demand_none(&options, &report);
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
    let options = Options { steps: 250, ..Options::default() };
    demand_none(&options, &run(&options, 2 * SEEDS));
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let hash = |seed| Simulation::new(seed, Options::default()).run().unwrap().trace_hash;
    for seed in 0..20 {
        assert_eq!(hash(seed), hash(seed), "seed {seed}");
    }
    assert_ne!(hash(1), hash(2));
}

/// A change of the core or the simulator may give others; a machine, a profile or a clock must not.
#[test]
fn every_machine_gives_the_same_traces() {
    let hashes = |options: &Options| -> Vec<_> {
        (0..6).map(|seed| Simulation::new(seed, options.clone()).run().unwrap().trace_hash).collect()
    };
    let short = Options { steps: 2_000, ..Options::default() };
    let calm = Options { fault_permille: 0, ..short.clone() };
    assert_eq!(
        (hashes(&short), hashes(&calm)),
        (TRACES.to_vec(), CALM_TRACES.to_vec()),
        "if runs were meant to change, commit the ones on the left"
    );
}

const TRACES: [u64; 6] = [
    14232072143937704123,
    16857145026286426578,
    11090571593470620211,
    7667851191266730359,
    3934420188958086621,
    15463601270981900681,
];
const CALM_TRACES: [u64; 6] = [
    17388226398906839113,
    1428090661468105663,
    11245510335963713990,
    8482331213324073038,
    818855241073211936,
    11932123785615600177,
];

fn first_violation(options: &Options) -> Violation {
    let report = run_seeds(0, SEEDS, 1, options, |report| report.violations.is_empty());
    report.violations.first().expect("the broken rule is noticed").clone()
}

#[test]
fn a_failing_seed_shrinks_to_few_disturbances_that_break_the_same_law() {
    for mutant in [Mutant::VoteWithoutLogCheck, Mutant::CommitBeyondMessageEnd, Mutant::ReadBeforeNoop] {
        let options = Options { mutant, strict: false, ..Options::default() };
        let found = first_violation(&options);
        let small = shrink(&found, &options).expect("the seed fails again");
        println!("{mutant:?}: {} of {} disturbances, {} runs", small.after, small.before, small.runs);
        assert_eq!(small.violation.property, found.property);
        assert!(small.after * 10 <= small.before, "{mutant:?}: {} of {} are left", small.after, small.before);
        let again = Simulation::new(found.seed, small.options.clone()).run().unwrap_err();
        assert_eq!((again.step, &again.detail), (small.violation.step, &small.violation.detail));
    }
}

#[test]
fn the_replay_command_says_everything_that_differs() {
    let options = Options { mutant: Mutant::VoteWithoutLogCheck, strict: false, ..Options::default() };
    let found = first_violation(&options);
    let small = shrink(&found, &options).unwrap();
    let command = replay(found.seed, &small.options);
    let value = |flag: &str| {
        let words: Vec<_> = command.split(' ').collect();
        words.iter().position(|word| *word == flag).map(|at| words[at + 1])
    };
    assert!(command.starts_with("cargo xtask simulate --seed") && command.contains("--lenient"), "{command}");
    assert_eq!(value("--mutant"), Some("VoteWithoutLogCheck"));
    let until = std::time::Duration::from_micros(value("--until").unwrap().parse::<Millis>().unwrap().0);
    let only = std::sync::Arc::new(value("--only").unwrap().parse().unwrap());
    let nodes = value("--nodes").map(|nodes| nodes.parse().unwrap());
    let parsed = Options { nodes, until: Some(until), only: Some(only), ..options };
    let again = Simulation::new(found.seed, parsed).run().unwrap_err();
    assert_eq!((again.step, &again.detail), (small.violation.step, &small.violation.detail));
}

#[test]
fn what_a_run_leaves_out_does_not_happen() {
    let options = Options { without: vec![Fault::Crash.into(), Disturbance::Operator], ..Options::default() };
    let report = run_seeds(0, 20, THREADS, &options, |_| true);
    demand_none(&options, &report);
    assert_eq!((report.total.faults.count(Fault::Crash), report.total.changes), (0, 0));
    assert!(report.total.faults.count(Fault::Pause) > 0);
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
    Mutant::VoteForgottenAtStart,
    Mutant::NoCheckQuorum,
    Mutant::TransferTakesProposals,
    Mutant::OldSessionsCount,
    Mutant::ForeignNonceCounts,
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
