//! `cargo xtask fuzz`: builds the programs of `fuzz/` for libFuzzer and runs them, without cargo-fuzz and on the one
//! stable toolchain. Inputs of interest and findings go to `target/fuzz`, never into the source tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::process;
use crate::{Failed, cargo_path, root, target};

/// What makes the compiler count branches and comparisons for libFuzzer.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Longest input in bytes.
const LEN_MAX: u32 = 4096;
/// Seconds of one input after which it counts as a hang.
const HANG_SECONDS: u32 = 20;
/// What building and an input that hangs may take beside the time of fuzzing.
const BESIDE: Duration = Duration::from_secs(120);
const BUILD: Duration = Duration::from_secs(60 * 40);

/// Builds all programs and runs those that are asked for, each for so many seconds, as many at once as there are cores. With a
/// seed each run is the beginning of the same one, however fast the machine is.
pub(crate) fn fuzz(target: Option<&str>, seconds: u64, seed: Option<u32>) -> Result<(), Failed> {
    let names = targets()?;
    let chosen: Vec<&String> = names.iter().filter(|name| target.is_none_or(|target| target == *name)).collect();
    if chosen.is_empty() {
        let target = target.unwrap_or_default();
        return Err(Failed::Because(format!("there is no fuzz target {target}; the targets are {}", names.join(", "))));
    }
    let place = place()?;
    let programs = build(&place)?;
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let at_once = std::thread::available_parallelism().map_or(1, usize::from).min(chosen.len());
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(name) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(report) = run(&place, &programs, name, seconds, seed) {
                        println!("{name}: FAILED\n{report}");
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    match failed.into_inner() {
        0 => Ok(()),
        failed => Err(Failed::Because(format!("{failed} of {} fuzz targets found something", chosen.len()))),
    }
}

/// The names of the programs.
fn targets() -> Result<Vec<String>, Failed> {
    let dir = root().join("fuzz/fuzz_targets");
    let because = |error| Failed::Because(format!("{}: {error}", dir.display()));
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).map_err(because)? {
        let path = entry.map_err(because)?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// A directory beside what the other builds make.
fn place() -> Result<PathBuf, Failed> {
    let place = target().map_err(Failed::Because)?.join("fuzz");
    fs::create_dir_all(&place).map_err(|error| Failed::Because(format!("{}: {error}", place.display())))?;
    Ok(place)
}

/// Builds the programs; the directory they are in.
fn build(place: &Path) -> Result<PathBuf, Failed> {
    let host = host()?;
    let mut command = Command::new(cargo_path());
    // With a target named, the flags do not reach build scripts, which could not be linked with them.
    command
        .args(["build", "--release", "--locked", "--manifest-path", "fuzz/Cargo.toml", "--target", &host])
        .current_dir(root())
        .env("CARGO_TARGET_DIR", place)
        .env("CARGO_TERM_COLOR", "never")
        .env("CARGO_TERM_PROGRESS_WHEN", "never")
        .env("RUSTFLAGS", COVERAGE);
    let log = place.join("build.log");
    process::run(&mut command, &log, BUILD, |_| None).map_err(|why| {
        let said = fs::read_to_string(&log).unwrap_or_default();
        let end: Vec<&str> = said.lines().rev().take(20).collect();
        let end = end.into_iter().rev().collect::<Vec<_>>().join("\n");
        Failed::Because(format!("{end}\nbuilding the fuzz targets {why}; libFuzzer needs a C++ compiler"))
    })?;
    Ok(place.join(host).join("release"))
}

/// The triple that this toolchain builds for.
fn host() -> Result<String, Failed> {
    let rustc = std::env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from);
    let said = Command::new(rustc).arg("-vV").output();
    let said = said.map_err(|error| Failed::Because(format!("could not start rustc: {error}")))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| Failed::Because(format!("rustc -vV names no host: {said}")))
}

/// Runs one program. It begins with the committed corpus and, without a seed, what earlier runs have added beside it.
fn run(place: &Path, programs: &Path, name: &str, seconds: u64, seed: Option<u32>) -> Result<(), String> {
    let added = place.join(if seed.is_some() { "seeded" } else { "corpus" }).join(name);
    let findings = place.join("findings");
    if seed.is_some() {
        // Of an earlier run, or not there at all.
        let _ = fs::remove_dir_all(&added);
    }
    for dir in [&added, &findings] {
        fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    let mut command = Command::new(programs.join(name));
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={LEN_MAX}"))
        .args(seed.map(|seed| format!("-seed={seed}")))
        .arg(format!("-timeout={HANG_SECONDS}"))
        .arg(format!("-artifact_prefix={}/{name}-", findings.display()))
        .args(["-print_final_stats=1", "-rss_limit_mb=2048"])
        .args([added, root().join("fuzz/corpus").join(name)])
        .current_dir(place);
    let log = place.join(format!("{name}.log"));
    let mut executed = String::new();
    let ended = process::run(&mut command, &log, Duration::from_secs(seconds) + BESIDE, |line| {
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            executed = count.trim().to_owned();
        }
        None
    });
    match ended {
        Ok(()) => {
            println!("{name}: {executed} inputs, nothing found");
            Ok(())
        }
        Err(why) => {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let told: Vec<&str> = said
                .lines()
                .filter(|line| line.contains("panicked at") || line.contains("Test unit written"))
                .collect();
            let (told, log, findings) = (told.join("\n"), log.display(), findings.display());
            Err(format!(
                "{told}\nit {why}; the whole log: {log}\nsee it again: cargo run -p fuzz-targets -- {name} {findings}/{name}-…"
            ))
        }
    }
}
