//! What `cargo verify` checks, in the order of running, and what a step is.

use std::process::Command;
use std::time::Duration;

use crate::python;

/// Part of the names of tests that measure time.
pub(super) const TIMED: &str = "performance";

/// One thing to check.
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// Steps without which this one says nothing.
    pub(super) needs: &'static [&'static str],
    /// What a machine may lack.
    pub(super) tool: Option<Tool>,
    /// How long it may run before something must be wrong with it.
    pub(super) limit: Duration,
    pub(super) work: Work,
}

pub(super) enum Work {
    /// Cargo, with these arguments and environment; counts one.
    Cargo(&'static [&'static str], &'static [(&'static str, &'static str)]),
    /// This program, with these arguments; counts one.
    Xtask(&'static [&'static str]),
    /// Programs of the build step with their arguments, one after the other; counts one each.
    Programs(&'static [&'static [&'static str]]),
    /// `cargo test` with these arguments; counts its tests.
    Tests(&'static [&'static str]),
    /// The tests that the step above leaves aside; counts them, and takes them off the skipped ones.
    IgnoredTests(&'static [&'static str]),
    /// The same in the target directory of RocksDB, with what its build must be told.
    OnRocksdb(&'static Work),
}

/// What is not part of every machine with Rust.
#[derive(Clone, Copy)]
pub(super) struct Tool {
    pub(super) probe: Probe,
    /// The command that gets it.
    pub(super) install: &'static str,
    /// Whether a machine of the continuous integration must have it.
    pub(super) in_ci: bool,
}

/// How to tell whether a tool is there.
#[derive(Clone, Copy)]
pub(super) enum Probe {
    /// Cargo succeeds with these arguments.
    Cargo(&'static [&'static str]),
    /// This says so.
    Asks(fn() -> bool),
}

const RUSTFMT: Tool =
    Tool { probe: Probe::Cargo(&["fmt", "--version"]), install: "rustup component add rustfmt", in_ci: true };
pub(super) const CLIPPY: Tool =
    Tool { probe: Probe::Cargo(&["clippy", "--version"]), install: "rustup component add clippy", in_ci: true };
const CPLUSPLUS: Tool = Tool { probe: Probe::Asks(cplusplus), install: "apt-get install g++", in_ci: true };

const GRPC_IN_PYTHON: Tool = Tool { probe: Probe::Asks(python::is_there), install: python::INSTALL, in_ci: false };

/// Whether libFuzzer's own sources can be compiled.
fn cplusplus() -> bool {
    Command::new("c++").arg("--version").output().is_ok_and(|output| output.status.success())
}

pub(super) const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// All of the steps, in the order of running. Cargo always gets the default members and one profile: another choice of
/// packages or profile would compile them a second time. What needs RocksDB comes after them: see [`super::rocksdb`].
pub(super) const STEPS: &[Step] = &[
    Step {
        name: "format",
        title: "the code is formatted",
        needs: &[],
        tool: Some(RUSTFMT),
        limit: minutes(5),
        work: Work::Cargo(&["fmt", "--all", "--check", "--", "--color=never"], &[]),
    },
    Step {
        name: "lints",
        title: "clippy has no complaints",
        needs: &[],
        tool: Some(CLIPPY),
        limit: minutes(40),
        work: Work::Cargo(&["clippy", "--locked", "--all-targets", "--", "-D", "warnings"], &[]),
    },
    Step {
        name: "build",
        title: "everything builds",
        needs: &[],
        tool: None,
        limit: minutes(50),
        work: Work::Cargo(&["build", "--locked", "--all-targets"], &[]),
    },
    Step {
        name: "tests",
        title: "unit, law, simulation, cluster and command-line tests, doctests",
        needs: &["build"],
        tool: None,
        limit: minutes(40),
        work: Work::Tests(&["test", "--locked", "--no-fail-fast"]),
    },
    Step {
        name: "gate",
        title: "the hot paths allocate no more and make no more system calls than committed",
        needs: &["build"],
        tool: None,
        limit: minutes(5),
        work: Work::Programs(&[&["gate", "check"]]),
    },
    Step {
        name: "docs",
        title: "the documentation builds without warnings",
        needs: &[],
        tool: None,
        limit: minutes(20),
        work: Work::Cargo(&["doc", "--locked", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")]),
    },
    Step {
        name: "codegen",
        title: "the generated code is what proto/ says",
        needs: &[],
        tool: None,
        limit: minutes(5),
        work: Work::Xtask(&["codegen", "--check"]),
    },
    Step {
        name: "simulation",
        title: "10,000 seeds beside the 1,000 of the tests, 100 million steps",
        needs: &["build"],
        tool: None,
        limit: minutes(20),
        work: Work::Programs(&[&["examples/simulate", "--first", "1000", "--seeds", "10000"]]),
    },
    Step {
        name: "explore",
        title: "every state of small clusters, elections, replication and crashes",
        needs: &["build"],
        tool: None,
        limit: minutes(20),
        work: Work::Programs(&[&["examples/explore"]]),
    },
    Step {
        name: "mutants",
        title: "every rule of consensus is broken, and the simulation finds it within 2,000 seeds",
        needs: &["build"],
        tool: None,
        limit: minutes(20),
        work: Work::Programs(&[&["examples/mutants", "--seeds", "2000"]]),
    },
    Step {
        name: "fuzz",
        title: "every fuzz target runs for 8 seconds beside the corpora of the tests",
        needs: &["build"],
        tool: Some(CPLUSPLUS),
        limit: minutes(45),
        // Always the same inputs: what a judge finds must not be chance. Others are for `cargo xtask fuzz`.
        work: Work::Xtask(&["fuzz", "--seconds", "8", "--seed", "1"]),
    },
    Step {
        name: "examples",
        title: "the examples run",
        needs: &["build"],
        tool: None,
        limit: minutes(5),
        work: Work::Programs(&[
            &["quick-start"],
            &["custom-state-machine"],
            &["custom-storage-engine"],
            &["three-nodes-embedded"],
            &["grow-one-to-three"],
            &["recipes"],
            &["sled-cluster"],
            &["three-nodes-standalone", "--check", "--engine", "file"],
            &["three-nodes-standalone", "--check", "--engine", "mem"],
            &["three-nodes-standalone", "--check", "--engine", "sled"],
        ]),
    },
    Step {
        name: "demo",
        title: "three processes, kill -9 of the leader under load, every answer checked",
        needs: &["build"],
        tool: None,
        limit: minutes(10),
        work: Work::Programs(&[&["d-engine", "demo", "--json"]]),
    },
    Step {
        name: "python",
        title: "a client in Python, from proto/ alone, across kill -9 of the leader",
        needs: &["build"],
        tool: Some(GRPC_IN_PYTHON),
        limit: minutes(5),
        work: Work::Xtask(&["python"]),
    },
    Step {
        name: "chaos",
        title: "three processes under 60 faults and more, 200,000 operations and more checked; then a sabotage is noticed",
        needs: &["build"],
        tool: None,
        limit: minutes(20),
        // Always the same faults: what a judge finds must not be chance. Others are for `cargo xtask chaos`.
        work: Work::Programs(&[
            &["chaos", "--json", "--seed", "1", "--operations", "200000", "--faults", "60"],
            &["chaos", "--json", "--seed", "1", "--sabotage"],
        ]),
    },
    Step {
        name: "timed",
        title: "performance tests, alone on the machine",
        needs: &["build"],
        tool: None,
        limit: minutes(20),
        // By name: other ignored tests are for people, and one of them writes the golden files.
        work: Work::IgnoredTests(&[
            "test",
            "--locked",
            "--no-fail-fast",
            "--tests",
            "--",
            "--ignored",
            "--test-threads=1",
            TIMED,
        ]),
    },
];
