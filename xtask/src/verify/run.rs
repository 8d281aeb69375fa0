//! One run: does what steps ask, counts, and sums up.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::steps::{Probe, Step, TIMED, Tool, Work};
use crate::libclang;
use crate::process::{self, duration};
use crate::tests_log::TestsLog;
use crate::{Failed, cargo_path, root, target};

/// Lines of a log that are printed when its step fails.
const TAIL: usize = 30;

/// A run of the steps so far.
pub(super) struct Run {
    /// Cargo's target directory: that of this program.
    target: PathBuf,
    /// What cargo is told beside.
    environment: Vec<(&'static str, OsString)>,
    logs: PathBuf,
    /// A machine of the continuous integration must lack nothing.
    ci: bool,
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Tests left aside for the timed step.
    ignored: u64,
    /// Why tests were left aside, and how many for each reason.
    reasons: BTreeMap<String, u64>,
    failed_steps: Vec<&'static str>,
    /// Steps for which the machine lacks something, and those that need them.
    skipped_steps: Vec<&'static str>,
    notes: Vec<String>,
}

/// What a step's tests or the step itself amounted to.
struct Counts {
    passed: u64,
    failed: u64,
}

impl Run {
    pub(super) fn new() -> Result<Self, Failed> {
        let because = |what: &str, error: std::io::Error| Failed::Because(format!("{what}: {error}"));
        let target = target().map_err(Failed::Because)?;
        let logs = target.join("verify");
        fs::create_dir_all(&logs).map_err(|error| because(&format!("could not create {}", logs.display()), error))?;
        Ok(Self {
            target,
            environment: Vec::new(),
            logs,
            ci: std::env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1"),
            passed: 0,
            failed: 0,
            skipped: 0,
            ignored: 0,
            reasons: BTreeMap::new(),
            failed_steps: Vec::new(),
            skipped_steps: Vec::new(),
            notes: Vec::new(),
        })
    }

    pub(super) fn step(&mut self, step: &'static Step) {
        let undone = |needed: &&&str| self.failed_steps.contains(*needed) || self.skipped_steps.contains(*needed);
        if let Some(broken) = step.needs.iter().find(undone) {
            println!("        skipped: needs the step {broken}");
            self.skipped += 1;
            self.skipped_steps.push(step.name);
            self.notes.push(format!("skipped {}: needs the step {broken}", step.name));
            return;
        }
        if let Some(tool) = step.tool
            && !self.has(tool)
        {
            self.lacks(step, tool);
            return;
        }
        let started = Instant::now();
        let (counts, ended) = self.work(step, &step.work);
        let took = duration(started.elapsed());
        self.passed += counts.passed;
        self.failed += counts.failed;
        match ended {
            Ok(()) => println!("        ok, {took}"),
            Err(report) => {
                println!("{report}");
                let log = self.log(step);
                println!("        FAILED after {took}; the whole log: {}", log.display());
                self.failed_steps.push(step.name);
                self.notes.push(format!("FAILED {}: {}", step.name, log.display()));
            }
        }
    }

    fn has(&self, tool: Tool) -> bool {
        match tool.probe {
            Probe::Cargo(arguments) => {
                Command::new(cargo_path()).args(arguments).output().is_ok_and(|output| output.status.success())
            }
            Probe::Asks(is_there) => is_there(),
        }
    }

    fn lacks(&mut self, step: &'static Step, tool: Tool) {
        println!("        skipped: this machine lacks a tool; to get it: {}", tool.install);
        if self.ci && tool.in_ci {
            self.failed += 1;
            self.failed_steps.push(step.name);
            self.notes.push(format!("FAILED {}: CI is set, and this is missing: {}", step.name, tool.install));
        } else {
            self.skipped += 1;
            self.skipped_steps.push(step.name);
            self.notes.push(format!("skipped {}; to run it: {}", step.name, tool.install));
        }
    }

    fn log(&self, step: &Step) -> PathBuf {
        self.logs.join(format!("{}.log", step.name))
    }

    /// Does what the step asks. An error holds what to print of it.
    fn work(&mut self, step: &Step, work: &Work) -> (Counts, Result<(), String>) {
        match work {
            Work::Cargo(arguments, environment) => {
                let mut command = self.cargo(arguments);
                command.envs(environment.iter().copied());
                let log = self.log(step);
                let ended = process::run(&mut command, &log, step.limit, |_| None);
                counted_as_one(&log, ended)
            }
            Work::Xtask(arguments) => {
                // The file this process was started from is gone if the build step made it anew.
                let program = self.target.join("debug/xtask");
                let log = self.log(step);
                let ended = process::run(Command::new(program).args(*arguments), &log, step.limit, |_| None);
                counted_as_one(&log, ended)
            }
            Work::Programs(programs) => self.programs(step, programs),
            Work::Tests(arguments) => {
                let (log, counts, ended) = self.tests(step, arguments);
                self.ignored += log.ignored;
                for (name, reason) in log.ignored_tests {
                    // The timed step's are no news.
                    if !name.contains(TIMED) {
                        *self.reasons.entry(reason).or_default() += 1;
                    }
                }
                (counts, ended)
            }
            Work::IgnoredTests(arguments) => {
                let (_, counts, ended) = self.tests(step, arguments);
                self.ignored = self.ignored.saturating_sub(counts.passed + counts.failed);
                (counts, ended)
            }
            Work::OnRocksdb(work) => {
                let target = self.target.join("rocksdb");
                let target = std::mem::replace(&mut self.target, target);
                self.environment = libclang::environment();
                let done = self.work(step, work);
                self.environment.clear();
                self.target = target;
                done
            }
        }
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(cargo_path());
        command
            .args(arguments)
            .current_dir(root())
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_TERM_COLOR", "never")
            .env("CARGO_TERM_PROGRESS_WHEN", "never")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs programs in an empty directory. The first one that fails ends the step.
    fn programs(&self, step: &Step, programs: &[&[&str]]) -> (Counts, Result<(), String>) {
        let directory = self.logs.join("run");
        // Left by an earlier run, or not there at all.
        let _ = fs::remove_dir_all(&directory);
        if let Err(error) = fs::create_dir_all(&directory) {
            return (Counts { passed: 0, failed: 1 }, Err(format!("{}: {error}", directory.display())));
        }
        let mut passed = 0;
        for (number, program) in programs.iter().enumerate() {
            let log = if number == 0 { self.log(step) } else { self.logs.join(format!("{}-{number}.log", step.name)) };
            let mut command = Command::new(self.target.join("debug").join(program[0]));
            command.args(&program[1..]).current_dir(&directory);
            // A line that begins with a brace is a result for programs, and short.
            let is_news =
                |line: &str| line.starts_with('{') || line.ends_with("violations") || line.ends_with(" found");
            let shown = |line: &str| is_news(line).then(|| line.to_string());
            let ended = process::run(&mut command, &log, step.limit, shown);
            if let (_, Err(report)) = counted_as_one(&log, ended) {
                let report = format!("        {} failed:\n{report}", program.join(" "));
                return (Counts { passed, failed: 1 }, Err(report));
            }
            passed += 1;
        }
        (Counts { passed, failed: 0 }, Ok(()))
    }

    fn tests(&self, step: &Step, arguments: &[&str]) -> (TestsLog, Counts, Result<(), String>) {
        let mut log = TestsLog::default();
        let ended = process::run(&mut self.cargo(arguments), &self.log(step), step.limit, |line| log.line(line));
        let mut counts = Counts { passed: log.passed, failed: log.failed };
        let Err(why) = ended else { return (log, counts, Ok(())) };
        // A test program that was killed reports no failed test, and yet something failed.
        counts.failed = counts.failed.max(1);
        let report =
            if log.failures.is_empty() { tail(&self.log(step), &why) } else { indented(log.failures.concat()) };
        (log, counts, Err(report))
    }

    pub(super) fn summary(&self, took: Duration) -> Result<(), Failed> {
        println!();
        for (reason, count) in &self.reasons {
            println!("skipped {count} tests: {reason}");
        }
        for note in &self.notes {
            println!("{note}");
        }
        println!("took {}; logs in {}", duration(took), self.logs.display());
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped + self.ignored);
        if self.failed == 0 && self.failed_steps.is_empty() { Ok(()) } else { Err(Failed::Reported) }
    }
}

fn counted_as_one(log: &Path, ended: Result<(), String>) -> (Counts, Result<(), String>) {
    match ended {
        Ok(()) => (Counts { passed: 1, failed: 0 }, Ok(())),
        Err(why) => (Counts { passed: 0, failed: 1 }, Err(tail(log, &why))),
    }
}

/// The end of a log, and why its process failed.
fn tail(log: &Path, why: &str) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let mut shown: Vec<String> = lines[lines.len().saturating_sub(TAIL)..].iter().map(ToString::to_string).collect();
    shown.push(why.to_string());
    indented(shown)
}

fn indented(lines: Vec<String>) -> String {
    lines.into_iter().map(|line| format!("        | {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::steps::minutes;
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_program_that_fails_is_counted_and_reported_and_what_needs_it_is_skipped() {
        let target = std::env::temp_dir().join(format!("d-engine-xtask-{}-programs", std::process::id()));
        // Left by a process of the same number that was killed.
        let _ = fs::remove_dir_all(&target);
        fs::create_dir_all(target.join("debug")).unwrap();
        fs::create_dir_all(target.join("verify")).unwrap();
        std::os::unix::fs::symlink("/bin/sh", target.join("debug/shell")).unwrap();
        let step = |name, needs, work| -> &'static Step {
            Box::leak(Box::new(Step { name, title: "", needs, tool: None, limit: minutes(1), work }))
        };
        const GOOD: &[&str] = &["shell", "-c", "pwd"];
        let first = step("first", &[], Work::Programs(&[GOOD, &["shell", "-c", "echo it is broken; exit 3"], GOOD]));
        let second = step("second", &["first"], Work::Programs(&[GOOD]));
        let third = step("third", &[], Work::Programs(&[GOOD]));

        let mut run = Run { target: target.clone(), logs: target.join("verify"), ..Run::new().ok().unwrap() };
        let (counts, ended) = run.work(first, &first.work);
        assert_eq!((counts.passed, counts.failed), (1, 1));
        assert!(ended.unwrap_err().contains("it is broken"));
        [first, second, third].into_iter().for_each(|step| run.step(step));
        assert_eq!((run.passed, run.failed, run.skipped), (2, 1, 1));
        assert!(run.summary(Duration::ZERO).is_err());
        fs::remove_dir_all(&target).unwrap();
    }
}
