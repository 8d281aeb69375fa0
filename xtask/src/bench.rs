//! `cargo xtask bench storage`: one table of what the storage of d-engine costs, beside the device and the logs of others.
//!
//! Criterion measures the rows (`cargo bench` of the packages in [`BENCHES`]); the ratios come from `benches/peers`, where
//! the rounds of all logs alternate in one process. What cannot be built or ended is a line that says why, never a
//! figure. Everything is written below one directory, which goes at the end.

pub(crate) mod cluster;
mod figures;
pub(crate) mod gate;
pub(crate) mod kv;
mod machine;
pub(crate) mod peers;
mod report;
pub(crate) mod scale;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::libclang;
use crate::process;
use crate::{Failed, cargo_path, root, target};
use machine::Machine;
use report::Report;

/// Benchmarks of storage: package and name. A backend joins with a line here, and `benches/log.rs` of its own that
/// measures `NAME-log/append/N` in the directory `D_ENGINE_BENCH_DIR`.
const BENCHES: &[(&str, &str)] =
    &[("d-engine-file", "log"), ("d-engine-file", "kv"), ("d-engine-sled", "log"), (ROCKSDB, "log")];

const ROCKSDB: &str = "d-engine-rocksdb";

/// Begins the name of a directory that is written in; the number of the process follows.
const SCRATCH: &str = "d-engine-bench-";

/// Whoever writes more than this at one time is not one of these benchmarks.
const SPACE_BYTES: u64 = 8 << 30;
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);
const RUN_LIMIT: Duration = Duration::from_secs(20 * 60);

/// What to measure and how to say it.
#[derive(clap::Args)]
pub(crate) struct Measured {
    /// Prints JSON instead of the tables
    #[arg(long)]
    json: bool,
    /// Writes the report to this file as well: tables as Markdown, or a page with plots as HTML where there are plots
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The directory to measure in, on the disk that is meant; one below the target directory otherwise
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Measures although the machine is busy, and says so in the result
    #[arg(long)]
    force: bool,
}

/// What was found, in each form in which it is told.
trait Told {
    /// For people at a terminal.
    fn text(&self) -> String;

    /// For programs.
    fn json(&self) -> Value;

    /// The file that `--report` asks for.
    fn file(&self) -> String;
}

/// Measures storage.
pub(crate) fn storage(arguments: &Measured) -> Result<(), Failed> {
    in_scratch("storage", arguments, Places::measure)
}

/// Measures in a directory that goes at the end, and tells what was found.
fn in_scratch<T: Told>(
    name: &str,
    arguments: &Measured,
    measure: impl FnOnce(&Places, bool) -> Result<T, Failed>,
) -> Result<(), Failed> {
    let places = Places::new(name, arguments.dir.as_deref())?;
    let measured = measure(&places, arguments.force);
    places.remove();
    let found = measured?;
    if let Some(path) = &arguments.report {
        fs::write(path, found.file())
            .map_err(|error| format!("could not write the report {}: {error}", path.display()))?;
    }
    if arguments.json {
        println!("{:#}", found.json());
    } else {
        print!("{}", found.text());
    }
    Ok(())
}

/// Looks at the machine, builds, and looks whether the machine is quiet: on a busy one nothing is built in vain, and
/// once its own building is over, what is busy is something else.
fn quiet<T>(
    dir: &Path,
    space_bytes: u64,
    force: bool,
    build: impl FnOnce() -> Result<T, Failed>,
) -> Result<(Machine, T), Failed> {
    let mut machine = Machine::look(dir)?;
    machine.check_place(space_bytes)?;
    allow_busy(machine.cpu_is_busy(), force)?;
    let built = build()?;
    let (processors, disk) = (machine.cpu_is_busy(), machine.disk_is_busy(dir));
    allow_busy(processors.and(disk), force)?;
    Ok((machine, built))
}

/// Where things are while it runs.
struct Places {
    /// Everything that is written to be measured.
    scratch: PathBuf,
    /// What criterion and the builds say.
    logs: PathBuf,
    /// Of the peers: their dependencies are not the workspace's.
    peers_target: PathBuf,
}

impl Places {
    /// `name` is the benchmark's: what the builds and programs say is in a directory called after it, below the target
    /// directory.
    fn new(name: &str, dir: Option<&Path>) -> Result<Self, String> {
        let target = target()?;
        let parent = dir.unwrap_or(&target);
        remove_leftovers(parent);
        let scratch = parent.join(format!("{SCRATCH}{}", std::process::id()));
        let places = Self { scratch, logs: target.join(format!("bench-{name}")), peers_target: target.join("peers") };
        // What criterion found another time is no result of this one.
        let _ = fs::remove_dir_all(&places.logs);
        for made in [&places.scratch, &places.logs] {
            fs::create_dir_all(made).map_err(|error| format!("could not create {}: {error}", made.display()))?;
        }
        Ok(places)
    }

    fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.scratch) {
            eprintln!("could not remove {}: {error}", self.scratch.display());
        }
    }

    fn measure(&self, force: bool) -> Result<Report, Failed> {
        let (mut machine, (peers, built)) = quiet(&self.scratch, SPACE_BYTES, force, || {
            let peers = self.build_peers();
            Ok((peers, BENCHES.iter().map(|(package, bench)| self.build(package, bench)).collect::<Vec<_>>()))
        })?;

        let mut report = Report::default();
        match peers.and_then(|program| self.run_peers(&program)) {
            Ok(found) => report.add_peers(&found),
            Err(why) => report.skip("ratios to the device and to raft-engine", &why),
        }
        for ((package, bench), built) in BENCHES.iter().zip(built) {
            if let Err(why) = built.and_then(|()| self.bench(package, bench)) {
                report.skip(&format!("{bench} of {package}"), &why);
            }
        }
        report.add_criterion(&self.criterion())?;
        machine.look_again(&self.scratch);
        report.machine = Some(machine);
        Ok(report)
    }

    fn criterion(&self) -> PathBuf {
        self.logs.join("criterion")
    }

    /// Runs a command with a log of its own.
    fn step(&self, title: &str, log: &str, limit: Duration, command: &mut Command) -> Result<(), String> {
        eprintln!("… {title}");
        let log = self.logs.join(format!("{log}.log"));
        let mut error = None;
        let ended = process::run(command.current_dir(root()), &log, limit, |line| {
            if error.is_none() && line.starts_with("error") {
                error = Some(line.to_string());
            }
            None
        });
        ended.map_err(|end| match error {
            Some(error) => format!("{error} ({title} {end}; {})", log.display()),
            None => format!("{title} {end}; {}", log.display()),
        })
    }

    fn build(&self, package: &str, bench: &str) -> Result<(), String> {
        let benches = root().join(package).join("benches");
        if !benches.join(format!("{bench}.rs")).exists() && !benches.join(bench).is_dir() {
            return Err(format!("there is no {package}/benches/{bench}.rs"));
        }
        if package == ROCKSDB && !libclang::is_ready() {
            return Err(format!("a tool is missing; to get it: {}", libclang::INSTALL));
        }
        let mut command = cargo_for(package, &["bench", "--locked", "--no-run", "-p", package, "--bench", bench]);
        self.step(
            &format!("building {bench} of {package}"),
            &format!("build-{package}-{bench}"),
            BUILD_LIMIT,
            &mut command,
        )
    }

    fn bench(&self, package: &str, bench: &str) -> Result<(), String> {
        let mut command = cargo_for(package, &["bench", "--locked", "-p", package, "--bench", bench, "--", "--noplot"]);
        command.env("CRITERION_HOME", self.criterion()).env("D_ENGINE_BENCH_DIR", &self.scratch);
        self.step(&format!("measuring {bench} of {package}"), &format!("{package}-{bench}"), RUN_LIMIT, &mut command)
    }

    /// With all peers, or else with those that can be built: the device needs nothing that is not here.
    fn build_peers(&self) -> Result<(PathBuf, Option<String>), String> {
        const FEWER: [&[&str]; 2] = [&["--features", "raft-engine,openraft"], &[]];
        let build = |more: &[&str], log: &str| {
            // Its lock file gives the versions, but may lack what d-engine came to depend on since.
            let mut command = cargo(&["build", "--release", "--manifest-path", "benches/peers/Cargo.toml"]);
            command.args(more).arg("--target-dir").arg(&self.peers_target);
            self.step("building the peers", log, BUILD_LIMIT, &mut command)
        };
        let program = self.peers_target.join("release/d-engine-peers");
        let Err(mut why) = build(&[], "build-peers") else { return Ok((program, None)) };
        if !process::succeeds(Command::new("protoc").arg("--version")) {
            why =
                format!("protoc is missing, which a peer needs to be built: apt-get install protobuf-compiler ({why})");
        }
        for (place, features) in FEWER.into_iter().enumerate() {
            let arguments: Vec<&str> = ["--no-default-features"].iter().chain(features).copied().collect();
            if build(&arguments, &format!("build-fewer-peers-{place}")).is_ok() {
                return Ok((program, Some(why)));
            }
        }
        Err(why)
    }

    fn run_peers(&self, (program, without): &(PathBuf, Option<String>)) -> Result<Peers, String> {
        let mut command = Command::new(program);
        command.args(["log", "--dir"]).arg(&self.scratch);
        let found = self.json_of("the logs in turns", "peers", RUN_LIMIT, &mut command)?;
        Ok(Peers { found, without: without.clone() })
    }

    /// Measures with a program that prints one line of JSON, its last line that begins with a brace; the others say how
    /// far it is.
    fn json_of(&self, title: &str, log: &str, limit: Duration, command: &mut Command) -> Result<Value, String> {
        eprintln!("… measuring {title}");
        let log = self.logs.join(format!("{log}.log"));
        let mut found = None;
        let ended = process::run(command, &log, limit, |line| {
            if line.starts_with('{') {
                found = serde_json::from_str(line).ok();
            } else {
                eprintln!("… {line}");
            }
            None
        });
        let program = command.get_program().to_string_lossy();
        ended.map_err(|end| format!("{program} {end}; {}", log.display()))?;
        found.ok_or_else(|| format!("{program} said nothing that is JSON; {}", log.display()))
    }
}

/// What the peers' program found, and why peers are missing in it.
struct Peers {
    found: Value,
    without: Option<String>,
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(cargo_path());
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Cargo for a member: the build of RocksDB must be told where libclang is.
fn cargo_for(package: &str, arguments: &[&str]) -> Command {
    let mut command = cargo(arguments);
    if package == ROCKSDB {
        command.envs(libclang::environment());
    }
    command
}

fn allow_busy(busy: Result<(), String>, force: bool) -> Result<(), String> {
    match busy {
        Err(why) if force => {
            eprintln!("{why}; going on, as asked");
            Ok(())
        }
        Err(why) => Err(format!("{why}; figures would be worthless. Wait, or measure all the same with --force")),
        Ok(()) => Ok(()),
    }
}

/// Removes what processes that were killed have left.
fn remove_leftovers(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(SCRATCH)?.parse::<u32>().ok());
        let runs = |process: u32| !Path::new("/proc/self").exists() || Path::new(&format!("/proc/{process}")).exists();
        if process.is_some_and(|process| !runs(process)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
