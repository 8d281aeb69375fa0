//! Looks at every state that a small cluster can reach; `explore --help` lists the flags.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

mod common;

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::{number, positive, processors};
use d_engine_raft::Mutant;
use d_engine_raft::explorer::{Bounds, MAX_MESSAGES, MAX_NODES, Outcome, explore};

const HELP: &str =
    "Looks at every state that a small cluster can reach within bounds, breadth first, over the real core.
Without bounds: several scopes, one after the other. Exit code 0: every law held and every scope was exhausted;
1: a law broke, or a scope was not exhausted; 2: wrong arguments.

  --nodes N        voters (3)
  --terms N        terms in which somebody may campaign (2)
  --entries N      commands of clients (1); each leader's no-op comes on top
  --crashes N      crashes with a restart (0)
  --messages N     messages in flight; what is sent beyond takes the place of one, which is lost (1)
  --duplicates N   messages that arrive twice (0)
  --lagging N      disks that lag at once; the others complete a write before anything else happens (1)
  --streams N      further replication streams of one leader (1)
  --states N       give up after so many states (100_000_000)
  --lenient        demand only what does harm
  --no-symmetry    tell states apart that differ by the numbering of the nodes only
  --mutant NAME    break this rule
  --threads N      scopes that are searched at once (one for each processor)
";

/// Time between two lines about one scope.
const SAID: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    if given.iter().any(|flag| flag == "--help" || flag == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let (scopes, threads) = match parse(given) {
        Ok(parsed) => parsed,
        Err(why) => {
            eprintln!("error: {why}\nexplore --help lists the flags");
            return ExitCode::from(2);
        }
    };
    // Panics of nodes are broken laws, and printed as such.
    std::panic::set_hook(Box::new(|_| {}));
    let began = Instant::now();
    let (waiting, outcomes) = (Mutex::new(scopes.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.min(scopes.len()) {
            scope.spawn(|| {
                loop {
                    let Some(bounds) = waiting.lock().ok().and_then(|mut waiting| waiting.next()) else { return };
                    let outcome = search(bounds);
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.extend(outcome);
                    }
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_default();
    let exhausted = outcomes.iter().filter(|outcome| outcome.is_exhausted).count();
    let violations = outcomes.iter().filter(|outcome| outcome.counterexample.is_some()).count();
    let states: usize = outcomes.iter().map(|outcome| outcome.progress.states).sum();
    println!(
        "{exhausted} of {} scopes exhausted, {states} states in {:.0} s, {violations} violations",
        scopes.len(),
        began.elapsed().as_secs_f64()
    );
    if exhausted == scopes.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `None`: the bounds cannot be, which has been said.
fn search(bounds: &Bounds) -> Option<Outcome> {
    let (began, mut said) = (Instant::now(), Instant::now());
    let rate = |states: usize| states as f64 / began.elapsed().as_secs_f64().max(0.001) / 1000.0;
    let outcome = explore(bounds, |progress| {
        if said.elapsed() >= SAID {
            said = Instant::now();
            let (states, depth) = (progress.states, progress.depth);
            println!("{states:>10} states, depth {depth}, {:.0} thousand states/s: {bounds}", rate(states));
        }
    });
    let outcome = outcome.inspect_err(|why| eprintln!("error: {why}")).ok()?;
    if let Some(counterexample) = &outcome.counterexample {
        println!("\n{counterexample}\n");
    }
    let end = match (&outcome.counterexample, outcome.is_exhausted) {
        (Some(_), _) => "BROKEN",
        (None, true) => "exhausted",
        (None, false) => "NOT EXHAUSTED",
    };
    let progress = outcome.progress;
    println!(
        "{end}: {bounds}\n{:>10} states, {} steps, depth {}; {} states of a node, {} messages; {:.1} s, {:.0} thousand states/s",
        progress.states,
        progress.steps,
        progress.depth,
        progress.replicas,
        progress.messages,
        began.elapsed().as_secs_f64(),
        rate(progress.states)
    );
    Some(outcome)
}

/// The scopes, and how many to search at once.
fn parse(given: Vec<String>) -> Result<(Vec<Bounds>, usize), String> {
    let (mut bounds, mut is_bounded, mut threads) = (Bounds::default(), false, processors());
    let mut common = Bounds::default();
    let mut given = given.into_iter();
    while let Some(flag) = given.next() {
        match flag.as_str() {
            "--lenient" => common.strict = false,
            "--no-symmetry" => common.symmetry = false,
            _ if !VALUED.contains(&flag.as_str()) => return Err(format!("there is no flag {flag}")),
            _ => {
                let value = given.next().ok_or(format!("{flag} needs a value"))?;
                match flag.as_str() {
                    "--mutant" => common.mutant = mutant(&value)?,
                    "--threads" => threads = positive(&flag, &value)?.min(1024) as usize,
                    "--states" => common.states = positive(&flag, &value)?.min(u64::from(u32::MAX)) as usize,
                    _ => {
                        is_bounded = true;
                        bound(&mut bounds, &flag, &value)?;
                    }
                }
            }
        }
    }
    let scopes = if is_bounded { vec![bounds] } else { Bounds::scopes() };
    let Bounds { states, strict, symmetry, mutant, .. } = common;
    Ok((scopes.into_iter().map(|scope| Bounds { states, strict, symmetry, mutant, ..scope }).collect(), threads))
}

/// Flags that a value follows.
const VALUED: [&str; 11] = [
    "--nodes",
    "--terms",
    "--entries",
    "--crashes",
    "--messages",
    "--duplicates",
    "--lagging",
    "--streams",
    "--states",
    "--mutant",
    "--threads",
];

fn bound(bounds: &mut Bounds, flag: &str, value: &str) -> Result<(), String> {
    let small = |most: u64| match number(flag, value)? {
        number if number <= most => Ok(number),
        _ => Err(format!("{flag} goes up to {most}")),
    };
    match flag {
        "--nodes" => bounds.nodes = small(MAX_NODES)?.max(1),
        "--terms" => bounds.terms = small(100)?,
        "--entries" => bounds.entries = small(100)? as u8,
        "--crashes" => bounds.crashes = small(100)? as u8,
        "--messages" => bounds.messages = small(MAX_MESSAGES as u64)?.max(1) as usize,
        "--duplicates" => bounds.duplicates = small(100)? as u8,
        "--lagging" => bounds.lagging = small(MAX_NODES)? as usize,
        _ => bounds.streams = small(1_000)?,
    }
    Ok(())
}

fn mutant(name: &str) -> Result<Mutant, String> {
    if cfg!(not(feature = "mutants")) {
        return Err("--mutant needs a build with the feature mutants".to_owned());
    }
    let found = Mutant::ALL.iter().find(|mutant| format!("{mutant:?}") == name);
    found.copied().ok_or_else(|| format!("no rule is called {name}; there are {:?}", Mutant::ALL))
}
