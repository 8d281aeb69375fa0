//! Runs seeds of the simulator, and makes the first one that breaks a law small; `simulate --help` lists the flags.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

mod common;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Progress, number, positive, processors};
use d_engine_raft::Mutant;
use d_engine_raft::simulator::{
    Disturbance, Kept, MAX_NODES, Millis, Options, Report, Simulation, Violation, replay, run_seeds, shrink,
};

const HELP: &str = "Runs seeds of the simulator. Exit code 0: every law held; 1: one did not; 2: wrong arguments.

  --seeds N         how many seeds (1000)
  --first S         the first of them (0)
  --seed S          this seed alone
  --steps N         steps with faults in each seed (10000)
  --nodes N         nodes of each cluster at first; else the seed decides
  --minutes N       begin no more seeds after this time
  --threads N       seeds that run at once (one for each processor)
  --faults N        thousandths of the usual frequency of faults (1000); 0: none
  --lease           leases are on in every seed, not in a third of them
  --no-changes      no membership changes and no snapshots
  --lenient         demand only what does harm
  --mutant NAME     break this rule
  --trace           print every line of the trace to standard error
  --no-shrink       do not look for a smaller run that breaks the same law

Of a failing seed, as `simulate` prints them:
  --without KINDS   leave these kinds of disturbances out: loss,late,crash,request,operator,snapshot,…
  --only LIST       leave out all disturbances but these: crash@1203.344,request@1204.001,…; or nothing
  --until MS        faults stop at this virtual time
";

struct Arguments {
    first: u64,
    count: u64,
    threads: usize,
    limit: Option<Duration>,
    shrinks: bool,
    options: Options,
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
            eprintln!("error: {why}\nsimulate --help lists the flags");
            return ExitCode::from(2);
        }
    };
    quieten_panics();
    let Arguments { first, count, threads, limit, shrinks, options } = arguments;
    let progress = Progress::new(count);
    let report = run_seeds(first, count, threads, &options, |report| {
        progress.show(report.seeds, report.total.steps, report.violations.len());
        limit.is_none_or(|limit| progress.took() < limit)
    });
    progress.end();
    for (number, violation) in report.violations.iter().enumerate() {
        if number == 0 && shrinks {
            show_small(violation, &options);
        } else {
            println!("\n{}: {}\nreplay: {}", violation.property, violation.detail, replay(violation.seed, &options));
        }
    }
    summarise(&report, &progress);
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether panics are still news.
static PANICS_ARE_NEWS: AtomicBool = AtomicBool::new(true);

/// A panic is a broken law and printed as such; where it came from is said once.
fn quieten_panics() {
    std::panic::set_hook(Box::new(|panic| {
        if PANICS_ARE_NEWS.swap(false, Ordering::Relaxed) {
            eprintln!("{panic}");
        }
    }));
}

/// The violation in the smallest run that can be found, and the command that shows it again.
fn show_small(violation: &Violation, options: &Options) {
    PANICS_ARE_NEWS.store(false, Ordering::Relaxed);
    let Some(small) = shrink(violation, options) else {
        println!("\n{violation}\nreplay: {}", replay(violation.seed, options));
        return;
    };
    println!("\n{}", small.violation);
    println!("made small in {} runs: {} of {} disturbances are left", small.runs, small.after, small.before);
    let again = Simulation::new(violation.seed, small.options.clone()).run();
    let is_same =
        again.is_err_and(|again| (again.step, again.detail) == (small.violation.step, small.violation.detail));
    println!("replay{}: {}", if is_same { "" } else { " (differs)" }, replay(violation.seed, &small.options));
    println!("the whole of it: {}", replay(violation.seed, options));
}

fn summarise(report: &Report, progress: &Progress) {
    let total = &report.total;
    println!(
        "{} elections, {} committed, {} acknowledged, {} reads, {} changes, {} transfers, {} snapshots made, {} installed",
        total.elections,
        total.committed,
        total.acknowledged,
        total.reads,
        total.changes,
        total.transfers,
        total.snapshots,
        total.installed
    );
    println!("longest until settled: {:.3} s, seed {}", total.settled_after.as_secs_f64(), report.slowest_seed);
    println!("faults: {}", total.faults);
    println!("trace hash {:016x}", total.trace_hash);
    println!(
        "{} seeds, {} steps, {:.1} h of simulated time, {} faults in {:.1} s, {}, {} violations",
        report.seeds,
        total.steps,
        total.time.as_secs_f64() / 3600.0,
        total.faults.sum(),
        progress.took().as_secs_f64(),
        progress.speed(report.seeds, total.steps),
        report.violations.len()
    );
}

fn parse(given: Vec<String>) -> Result<Arguments, String> {
    let mut parsed = Arguments {
        first: 0,
        count: 1_000,
        threads: processors(),
        limit: None,
        shrinks: true,
        options: Options::default(),
    };
    let mut given = given.into_iter();
    while let Some(flag) = given.next() {
        let options = &mut parsed.options;
        match flag.as_str() {
            "--lease" => options.lease = true,
            "--no-changes" => options.changes = false,
            "--lenient" => options.strict = false,
            "--trace" => options.echo = true,
            "--no-shrink" => parsed.shrinks = false,
            _ if !VALUED.contains(&flag.as_str()) => return Err(format!("there is no flag {flag}")),
            _ => {
                let value = given.next().ok_or(format!("{flag} needs a value"))?;
                parsed.take(&flag, &value)?;
            }
        }
    }
    Ok(parsed)
}

/// Flags that a value follows.
const VALUED: [&str; 12] = [
    "--seeds",
    "--first",
    "--seed",
    "--steps",
    "--nodes",
    "--threads",
    "--minutes",
    "--faults",
    "--mutant",
    "--without",
    "--only",
    "--until",
];

impl Arguments {
    fn take(&mut self, flag: &str, value: &str) -> Result<(), String> {
        let options = &mut self.options;
        match flag {
            "--seeds" => self.count = positive(flag, value)?,
            "--first" => self.first = number(flag, value)?,
            "--seed" => (self.first, self.count) = (number(flag, value)?, 1),
            "--steps" => options.steps = positive(flag, value)?,
            "--nodes" => match positive(flag, value)? {
                nodes if nodes <= MAX_NODES as u64 => options.nodes = Some(nodes),
                nodes => return Err(format!("a world has at most {MAX_NODES} nodes, not {nodes}")),
            },
            "--threads" => self.threads = positive(flag, value)?.min(1024) as usize,
            "--minutes" => self.limit = Some(Duration::from_secs(60 * positive(flag, value)?.min(1 << 20))),
            "--faults" => match number(flag, value)? {
                permille @ 0..=1_000_000 => options.fault_permille = permille as u32,
                _ => return Err("--faults goes up to 1000000".to_owned()),
            },
            "--mutant" => options.mutant = mutant(value)?,
            "--without" => {
                options.without = value.split(',').map(str::parse::<Disturbance>).collect::<Result<_, _>>()?;
            }
            "--only" => options.only = Some(Arc::new(value.parse::<Kept>()?)),
            _ => options.until = Some(Duration::from_micros(value.parse::<Millis>()?.0)),
        }
        Ok(())
    }
}

fn mutant(name: &str) -> Result<Mutant, String> {
    if cfg!(not(feature = "mutants")) {
        return Err("--mutant needs a build with the feature mutants".to_owned());
    }
    let found = Mutant::ALL.iter().find(|mutant| format!("{mutant:?}") == name);
    found.copied().ok_or_else(|| format!("no rule is called {name}; there are {:?}", Mutant::ALL))
}
