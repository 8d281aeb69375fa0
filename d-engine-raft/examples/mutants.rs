//! Breaks every rule, one at a time, and shows which seed finds it: `mutants [--seeds N] [--threads N] [--only NAME]`.
//! Exit code 1 if a breach is not found.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

use std::process::ExitCode;

use d_engine_raft::Mutant;
use d_engine_raft::simulator::{Options, run_seeds};

fn main() -> ExitCode {
    let (mut seeds, mut threads, mut only) = (2_000, std::thread::available_parallelism().map_or(1, usize::from), None);
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().unwrap_or_default();
        match flag.as_str() {
            "--seeds" => seeds = value.parse().unwrap_or(seeds),
            "--threads" => threads = value.parse().unwrap_or(threads),
            "--only" => only = Some(value),
            _ => {
                eprintln!("unknown flag {flag}");
                return ExitCode::from(2);
            }
        }
    }
    println!("{:<30} {:>6} {:>10}  found by", "rule", "seed", "steps");
    let mut missed = 0;
    for mutant in Mutant::ALL.iter().filter(|mutant| only.as_ref().is_none_or(|name| format!("{mutant:?}") == *name)) {
        let rule = format!("{mutant:?}");
        if let Some((_, scenario)) = DIRECTED.iter().find(|(directed, _)| directed == mutant) {
            println!("{rule:<30} {:>6} {:>10}  scenario {scenario}", "-", "-");
            continue;
        }
        // First the harm that the breach does; then the same where nothing but replication and elections goes on, which
        // rare breaches of these need; last what must never be seen although it did no harm in these seeds.
        let modes = [("", false, true), ("no changes: ", false, false), ("strict: ", true, true)];
        let found = modes.into_iter().find_map(|(mode, strict, changes)| {
            let options = Options { mutant: *mutant, strict, changes, ..Options::default() };
            find(mode, &options, seeds, threads)
        });
        match found {
            Some(found) => println!("{rule:<30} {found}"),
            None => {
                missed += 1;
                println!("{rule:<30} {:>6} {:>10}  NOT FOUND", "-", "-");
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Breaches that need a director; `tests/scenarios_leases.rs` fails if one is not noticed.
const DIRECTED: [(Mutant, &str); 3] = [
    (Mutant::NoStickiness, "a_voter_that_hears_the_leader_refuses_its_challenger_so_that_leases_hold"),
    (Mutant::VoteAtStartInsideLease, "a_voter_restarted_inside_a_lease_is_asked_at_once_and_refuses"),
    (Mutant::ChangeBeforeOwnTermCommit, "a_change_before_the_first_commit_of_a_term_is_refused"),
];

fn find(mode: &str, options: &Options, seeds: u64, threads: usize) -> Option<String> {
    let report = run_seeds(0, seeds, threads, options, |report| report.violations.is_empty());
    let found = report.violations.first()?;
    let steps = report.total.steps + found.step;
    Some(format!("{:>6} {steps:>10}  {mode}{}", found.seed, found.property))
}
