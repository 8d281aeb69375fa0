//! Breaks every rule, one at a time, and shows which seed finds it; `mutants --help` lists the flags.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

mod common;
#[path = "../tests/directed/mod.rs"]
mod directed;
#[path = "../tests/world/mod.rs"]
mod world;

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use common::{positive, processors};
use d_engine_raft::Mutant;
use d_engine_raft::simulator::{Options, Simulation, replay};
use directed::DIRECTED;

const HELP: &str = "Breaks every rule, one at a time, and shows which seed of the simulator finds it.
Exit code 0: every breach is found; 1: one is not; 2: wrong arguments.

  --seeds N      seeds that each breach is looked for in (2000)
  --threads N    breaches that are looked for at once (one for each processor)
  --only NAMES   these rules alone, as in ReadWithoutRound,NoStickiness
  --replay       print for each breach the command that shows it again
";

/// What is looked for, and where. First the harm that a breach does; then the same where nothing but replication and
/// elections goes on, which rare breaches of these need; last what must never be seen although it did no harm so far.
const MODES: [(&str, bool, bool); 3] = [("", false, true), ("no changes: ", false, false), ("strict: ", true, true)];

/// Seeds of each mode before the rest of the first one is tried: a breach that does no harm must not take all of them.
const FIRST_SEEDS: u64 = 300;

/// Breaches that only delay others, or do no harm while everything else holds: demanded from the start.
const HARMLESS: [Mutant; 3] = [Mutant::NoCheckQuorum, Mutant::TransferTakesProposals, Mutant::OldSessionsCount];

/// Breaches that take longest, first, so that no thread is left alone with one of them at the end.
const SLOW: [Mutant; 4] = [
    Mutant::CommitOldTermByCounting,
    Mutant::ReleaseHeldAcrossTerms,
    Mutant::TermAndVoteSavedApart,
    Mutant::ForeignNonceCounts,
];

struct Arguments {
    seeds: u64,
    threads: usize,
    rules: Vec<Mutant>,
    replays: bool,
}

/// How a breach was found.
struct Found {
    seed: u64,
    steps: u64,
    by: String,
    again: String,
}

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    if given.iter().any(|flag| flag == "--help" || flag == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let arguments = match parse(given) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("error: {why}\nmutants --help lists the flags");
            return ExitCode::from(2);
        }
    };
    // Panics of nodes are breaches, and expected here.
    std::panic::set_hook(Box::new(|_| {}));
    let began = Instant::now();
    println!("{:<30} {:>6} {:>10} {:>7}  found by", "rule", "seed", "steps", "took");
    let missed = find_all(&arguments);
    let total = arguments.rules.len();
    println!("{total} rules broken in {:.0} s, {} found", began.elapsed().as_secs_f64(), total - missed);
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Looks for every breach, several at once; how many were not found.
fn find_all(arguments: &Arguments) -> usize {
    let mut waiting = arguments.rules.clone();
    // Taken from the end.
    waiting.sort_by_key(|rule| SLOW.contains(rule));
    let (waiting, missed) = (Mutex::new(waiting), Mutex::new(0));
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                loop {
                    let Some(rule) = waiting.lock().ok().and_then(|mut waiting| waiting.pop()) else { return };
                    let began = Instant::now();
                    let found = find(rule, arguments.seeds);
                    let took = began.elapsed().as_secs_f64();
                    let name = format!("{rule:?}");
                    let Some(Found { seed, steps, by, again }) = found else {
                        println!("{name:<30} {:>6} {:>10} {took:>5.1} s  NOT FOUND", "-", "-");
                        if let Ok(mut missed) = missed.lock() {
                            *missed += 1;
                        }
                        continue;
                    };
                    println!("{name:<30} {seed:>6} {steps:>10} {took:>5.1} s  {by}");
                    if arguments.replays {
                        println!("{:<30} {again}", "");
                    }
                }
            });
        }
    });
    missed.into_inner().unwrap_or(arguments.rules.len())
}

fn find(rule: Mutant, seeds: u64) -> Option<Found> {
    if let Some(directed) = DIRECTED.iter().find(|directed| directed.breaks == rule) {
        let (seed, steps, violation) = directed.first_find()?;
        let by = format!("scenario {}: {}", directed.name, violation.property);
        let again = format!("cargo test -p d-engine-raft --test scenarios_leases {}", directed.name);
        return Some(Found { seed, steps, by, again });
    }
    let mut steps = 0;
    let modes = if HARMLESS.contains(&rule) { &MODES[2..] } else { &MODES[..] };
    let mut ranges: Vec<_> = modes.iter().map(|mode| (mode, 0..seeds.min(FIRST_SEEDS))).collect();
    ranges.extend(modes.iter().map(|mode| (mode, FIRST_SEEDS..seeds)));
    ranges.into_iter().find_map(|((mode, strict, changes), seeds)| {
        let options = Options { mutant: rule, strict: *strict, changes: *changes, ..Options::default() };
        seeds.into_iter().find_map(|seed| match Simulation::new(seed, options.clone()).run() {
            Ok(summary) => {
                steps += summary.steps;
                None
            }
            Err(violation) => {
                steps += violation.step;
                let (by, again) = (format!("{mode}{}", violation.property), replay(seed, &options));
                Some(Found { seed, steps, by, again })
            }
        })
    })
}

fn parse(given: Vec<String>) -> Result<Arguments, String> {
    let mut parsed = Arguments { seeds: 2_000, threads: processors(), rules: Mutant::ALL.to_vec(), replays: false };
    let mut given = given.into_iter();
    while let Some(flag) = given.next() {
        let mut value = || given.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--seeds" => parsed.seeds = positive(&flag, &value()?)?,
            "--threads" => parsed.threads = positive(&flag, &value()?)?.min(1024) as usize,
            "--only" => parsed.rules = value()?.split(',').map(rule).collect::<Result<_, _>>()?,
            "--replay" => parsed.replays = true,
            _ => return Err(format!("there is no flag {flag}")),
        }
    }
    Ok(parsed)
}

fn rule(name: &str) -> Result<Mutant, String> {
    let found = Mutant::ALL.iter().find(|rule| format!("{rule:?}") == name);
    found.copied().ok_or_else(|| format!("no rule is called {name}; there are {:?}", Mutant::ALL))
}
