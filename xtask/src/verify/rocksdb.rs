//! The steps of what needs RocksDB, which takes a C++ compiler and libclang.
//!
//! They have a target directory of their own, and always the same packages with the same features: so RocksDB is compiled
//! once, and not again when the choice of features around it changes.

use super::steps::{CLIPPY, Probe, Step, TIMED, Tool, Work, minutes};
use crate::libclang;

const FOR_ROCKSDB: Tool = Tool { probe: Probe::Asks(libclang::is_ready), install: libclang::INSTALL, in_ci: true };

/// Cargo's arguments for these packages: the command, then what only this step says.
macro_rules! cargo {
    ($command:literal $(, $argument:expr)*) => {
        &[
            $command,
            "--locked",
            "--package=d-engine",
            "--package=d-engine-cli",
            "--package=d-engine-rocksdb",
            "--package=mixed-cluster",
            "--package=rocksdb-cluster",
            "--package=three-nodes-standalone",
            "--features=d-engine/rocksdb,d-engine-cli/rocksdb,d-engine-cli/sled,three-nodes-standalone/rocksdb",
            $($argument),*
        ]
    };
}

pub(super) const STEPS: &[Step] = &[
    Step {
        name: "rocksdb-build",
        title: "RocksDB builds from its sources, and what uses it",
        needs: &[],
        tool: Some(FOR_ROCKSDB),
        limit: minutes(50),
        work: Work::OnRocksdb(&Work::Cargo(cargo!("build"), &[])),
    },
    Step {
        name: "rocksdb-lints",
        title: "clippy has no complaints about what uses RocksDB",
        needs: &["rocksdb-build"],
        tool: Some(CLIPPY),
        limit: minutes(20),
        work: Work::OnRocksdb(&Work::Cargo(cargo!("clippy", "--all-targets", "--", "-D", "warnings"), &[])),
    },
    Step {
        name: "rocksdb-tests",
        title: "storage laws on RocksDB, nodes on RocksDB",
        needs: &["rocksdb-build"],
        tool: None,
        limit: minutes(30),
        work: Work::OnRocksdb(&Work::Tests(cargo!(
            "test",
            "--no-fail-fast",
            "--lib",
            "--test=backends",
            "--test=laws",
            "--test=laws_in_one_call",
            "--test=log",
            "--test=performance",
            "--test=stores"
        ))),
    },
    Step {
        name: "rocksdb-doctests",
        title: "the examples in the documentation of what uses RocksDB run",
        needs: &["rocksdb-build"],
        tool: None,
        limit: minutes(20),
        work: Work::OnRocksdb(&Work::Tests(cargo!("test", "--no-fail-fast", "--doc"))),
    },
    Step {
        name: "rocksdb-examples",
        title: "the examples run on RocksDB",
        needs: &["rocksdb-build"],
        tool: None,
        limit: minutes(5),
        work: Work::OnRocksdb(&Work::Programs(&[
            &["rocksdb-cluster"],
            &["mixed-cluster"],
            &["three-nodes-standalone", "--check", "--engine", "rocksdb"],
        ])),
    },
    Step {
        name: "rocksdb-timed",
        title: "performance tests on RocksDB, alone on the machine",
        needs: &["rocksdb-build"],
        tool: None,
        limit: minutes(20),
        work: Work::OnRocksdb(&Work::IgnoredTests(cargo!(
            "test",
            "--no-fail-fast",
            "--test=laws",
            "--test=performance",
            "--",
            "--ignored",
            "--test-threads=1",
            TIMED
        ))),
    },
];
