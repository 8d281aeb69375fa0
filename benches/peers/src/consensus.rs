//! Consensus without disk, network and encoding, in the shape of openraft's own benchmark: three nodes in one process that
//! hand each other messages, logs in memory, a machine that only counts, commands of a few bytes.

use std::path::Path;

use serde_json::Value;

use crate::alternate::{Found, Rounds};
use crate::cluster::{Data, systems};
use crate::log::Result;
use crate::subject::{Subject, Work};

#[cfg(feature = "openraft")]
mod openraft;
mod ours;

/// The systems, in the order in which they are told.
const SYSTEMS: &[&str] = &["consensus", "openraft"];

/// Starts the system of this name in this process; none if it is no name of one.
pub async fn start(name: &str) -> Option<Result<Vec<Box<dyn Subject>>>> {
    Some(match name {
        "consensus" => ours::start().await,
        #[cfg(feature = "openraft")]
        "openraft" => openraft::start().await,
        _ => return None,
    })
}

/// Measures writes; nothing is written below `dir`.
pub fn measure(dir: &Path, rounds: &Rounds) -> Result<Value> {
    let mut found = Found::default();
    let mut systems = systems(SYSTEMS, dir, Data { keys: 0, value_bytes: 0 }, &mut found);
    eprintln!("consensus with {:?} clients", rounds.clients);
    found.measure(&mut systems, Work::Put, &rounds.clients, rounds);
    Ok(found.json(&systems))
}
