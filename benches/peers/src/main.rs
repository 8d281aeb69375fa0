//! d-engine beside others, in one process and one run: absolute figures of different runs or machines say little.
//!
//! `d-engine-peers log --dir DIR` measures logs (`log.rs`) and prints JSON; `cargo xtask bench storage` builds it, runs it
//! and merges what it says. DIR must be on the disk that is meant. A peer of another kind gets a file and an arm below.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

mod log;

/// The longest time for one batch size; a quiet machine needs a fraction of it.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["log", "--dir", dir] => log::measure(&PathBuf::from(dir), LIMIT),
        _ => Err("usage: d-engine-peers log --dir DIR".into()),
    };
    match done {
        Ok(found) => {
            println!("{found}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
