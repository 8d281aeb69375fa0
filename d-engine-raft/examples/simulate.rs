//! Runs seeds of the simulator: `simulate [--seeds N] [--seed S] [--steps N] [--nodes N] [--threads N] [--mutant NAME]
//! [--lenient] [--no-changes] [--trace]`. Exit code 1 if a law did not hold.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

use std::process::ExitCode;
use std::time::Instant;

use d_engine_raft::Mutant;
use d_engine_raft::simulator::{Options, run_seeds};

struct Arguments {
    first: u64,
    count: u64,
    threads: usize,
    options: Options,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let Arguments { first, count, threads, options } = arguments;
    let began = Instant::now();
    let every = (count / 20).max(1);
    let report = run_seeds(first, count, threads, &options, |report| {
        if report.seeds.is_multiple_of(every) {
            let rate = report.total.steps as f64 / began.elapsed().as_secs_f64();
            println!("{:>8} seeds, {:.0} steps/s, {} violations", report.seeds, rate, report.violations.len());
        }
        true
    });
    for violation in &report.violations {
        println!("\n{violation:?}");
        println!("replay: cargo xtask simulate --seed {} --trace", violation.seed);
    }
    let total = &report.total;
    println!(
        "{} seeds, {} steps in {:.1} s, {:.1} h simulated, {} elections, {} committed, {} acknowledged, {} reads, {} changes, {} transfers, \
         {} snapshots made, {} installed",
        report.seeds,
        total.steps,
        began.elapsed().as_secs_f64(),
        total.time.as_secs_f64() / 3600.0,
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
    println!("trace hash {:016x}; {} violations", total.trace_hash, report.violations.len());
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut parsed = Arguments { first: 0, count: 1_000, threads, options: Options::default() };
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--seeds" => parsed.count = number(&value()?)?,
            "--seed" => (parsed.first, parsed.count) = (number(&value()?)?, 1),
            "--first" => parsed.first = number(&value()?)?,
            "--steps" => parsed.options.steps = number(&value()?)?,
            "--nodes" => parsed.options.nodes = Some(number(&value()?)?),
            "--threads" => parsed.threads = number(&value()?)? as usize,
            "--mutant" => parsed.options.mutant = mutant(&value()?)?,
            "--no-changes" => parsed.options.changes = false,
            "--lenient" => parsed.options.strict = false,
            "--trace" => parsed.options.echo = true,
            _ => return Err(format!("unknown flag {flag}")),
        }
    }
    Ok(parsed)
}

fn number(text: &str) -> Result<u64, String> {
    text.replace('_', "").parse().map_err(|_| format!("{text} is not a number"))
}

fn mutant(name: &str) -> Result<Mutant, String> {
    if cfg!(not(feature = "mutants")) {
        return Err("--mutant needs a build with the feature mutants".to_owned());
    }
    let found = Mutant::ALL.iter().find(|mutant| format!("{mutant:?}") == name);
    found.copied().ok_or(format!("no mutant is called {name}; there are {:?}", Mutant::ALL))
}
