//! Runs the client in Python against nodes of its own.
//!
//! It needs grpcio, which is looked for in the system's Python and in a virtual environment below the target directory. On a
//! machine of the continuous integration that environment is made.

use std::path::PathBuf;
use std::process::Command;

use crate::process::succeeds;
use crate::{Failed, root, run, target};

/// The command that gets what is missing.
pub(crate) const INSTALL: &str =
    "python3 -m venv target/python && target/python/bin/pip install -r examples/python-client/requirements.txt";

/// Whether a Python with grpcio is there, or could be made.
pub(crate) fn is_there() -> bool {
    find().is_some() || (std::env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1") && install())
}

/// `cargo xtask python`: the check of the client, with the binary of this program's target directory.
pub(crate) fn check() -> Result<(), Failed> {
    let python = find().ok_or_else(|| Failed::Because(format!("no Python with grpcio; to get it: {INSTALL}")))?;
    let binary = target().map_err(Failed::Because)?.join("debug/d-engine");
    let mut command = Command::new(python);
    command.arg(root().join("examples/python-client/check.py")).arg(binary);
    // The sources are not written to.
    run("the Python client's check", command.env("PYTHONDONTWRITEBYTECODE", "1"))
}

fn find() -> Option<PathBuf> {
    let candidates = [environment().join("bin/python"), PathBuf::from("python3")];
    candidates.into_iter().find(|python| succeeds(Command::new(python).args(["-c", "import grpc, grpc_tools"])))
}

fn install() -> bool {
    let environment = environment();
    succeeds(Command::new("python3").args(["-m", "venv"]).arg(&environment))
        && succeeds(
            Command::new(environment.join("bin/pip"))
                .args(["install", "--quiet", "--only-binary", ":all:", "-r"])
                .arg(root().join("examples/python-client/requirements.txt")),
        )
}

fn environment() -> PathBuf {
    target().unwrap_or_else(|_| "target".into()).join("python")
}
