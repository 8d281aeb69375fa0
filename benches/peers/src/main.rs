//! d-engine beside others, in one process and one run: absolute figures of different runs or machines say little.
//!
//! `d-engine-peers log --dir DIR` measures logs (`log.rs`), `cluster` three nodes under load (`cluster.rs`), `consensus`
//! consensus without disk and network (`consensus.rs`); each prints JSON, which `cargo xtask bench` merges. DIR must be on
//! the disk that is meant. A peer of another kind gets a file and an arm below.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

mod alternate;
mod cluster;
mod consensus;
mod log;
mod peers;

use alternate::Rounds;

/// The longest time for one batch size; a quiet machine needs a fraction of it.
const LIMIT: Duration = Duration::from_secs(60);
const USAGE: &str = "usage: d-engine-peers log --dir DIR
       d-engine-peers cluster --dir DIR --clients N,… --keys N --value-bytes N --seconds S --rounds N
       d-engine-peers consensus --clients N,… --seconds S --rounds N";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
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

fn run(arguments: &[&str]) -> log::Result<serde_json::Value> {
    match *arguments {
        ["log", "--dir", dir] => log::measure(&PathBuf::from(dir), LIMIT),
        ["cluster", "--dir", dir, "--clients", clients, "--keys", keys, "--value-bytes", bytes, ref rounds @ ..] => {
            let rounds = Rounds::parse(clients, rounds)?;
            let data = cluster::Data { keys: keys.parse()?, value_bytes: bytes.parse()? };
            runtime()?.block_on(cluster::measure(Path::new(dir), data, &rounds))
        }
        ["consensus", "--clients", clients, ref rounds @ ..] => {
            runtime()?.block_on(consensus::measure(&Rounds::parse(clients, rounds)?))
        }
        _ => Err(USAGE.into()),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Runtime::new()
}
