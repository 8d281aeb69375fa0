//! d-engine beside others in one run: absolute figures of different runs or machines say little.
//!
//! `d-engine-peers log --dir DIR` measures logs (`log.rs`), `cluster` three nodes under load (`cluster.rs`), `consensus`
//! consensus without disk and network (`consensus.rs`); each prints JSON, which `cargo xtask bench` merges. DIR must be on
//! the disk that is meant.
//!
//! Whoever is not measured is stopped: every system, callers and nodes, is this program once more (`system NAME`,
//! `serve.rs`), started and directed by the first one (`system.rs`). A peer gets a file that implements `Subject`, and a
//! name in `cluster.rs` or `consensus.rs`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

mod alternate;
mod cluster;
mod consensus;
mod log;
mod peers;
mod serve;
mod subject;
mod system;
mod unary;

use alternate::Rounds;
use cluster::Data;

/// The longest time for one batch size; a quiet machine needs a fraction of it.
const LIMIT: Duration = Duration::from_secs(60);
const USAGE: &str = "usage: d-engine-peers log --dir DIR
       d-engine-peers cluster --dir DIR --clients N,… --keys N --value-bytes N --seconds S --rounds N
       d-engine-peers consensus --dir DIR --clients N,… --seconds S --rounds N";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(Some(found)) => {
            println!("{found}");
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> log::Result<Option<serde_json::Value>> {
    let found = match *arguments {
        ["log", "--dir", dir] => log::measure(&PathBuf::from(dir), LIMIT)?,
        ["cluster", "--dir", dir, "--clients", clients, "--keys", keys, "--value-bytes", bytes, ref rounds @ ..] => {
            let data = Data { keys: keys.parse()?, value_bytes: bytes.parse()? };
            cluster::measure(Path::new(dir), data, &Rounds::parse(clients, rounds)?)?
        }
        ["consensus", "--dir", dir, "--clients", clients, ref rounds @ ..] => {
            consensus::measure(Path::new(dir), &Rounds::parse(clients, rounds)?)?
        }
        ["system", name, dir, keys, bytes] => {
            let data = Data { keys: keys.parse()?, value_bytes: bytes.parse()? };
            serve::serve(name, Path::new(dir), data)?;
            return Ok(None);
        }
        _ => return Err(USAGE.into()),
    };
    Ok(Some(found))
}
