//! Three nodes under the same load: 8-byte keys that exist, values of one size, everything on loopback and one disk.

use std::path::Path;

use serde_json::Value;

use crate::alternate::{Found, Rounds};
use crate::log::Result;
use crate::subject::{Subject, Work};
use crate::system::System;

mod echo;
mod etcd;
mod ours;
#[cfg(feature = "published")]
mod published;

/// What is written and read.
#[derive(Debug, Clone, Copy)]
pub struct Data {
    pub keys: u64,
    pub value_bytes: usize,
}

/// The systems, in the order in which they are told.
const SYSTEMS: &[&str] = &["ours", "echo", "etcd", "published"];

/// Reads that are not linearizable are measured with these clients alone.
const CLIENTS_OF_OTHER_READS: [usize; 2] = [1, 100];

/// Starts the system of this name below `dir`, in this process; none if it is no name of one.
pub async fn start(name: &str, dir: &Path, data: Data) -> Option<Result<Vec<Box<dyn Subject>>>> {
    Some(match name {
        "ours" => ours::start(dir, data).await,
        "echo" => echo::start(data).await,
        "etcd" => etcd::start(dir, data).await,
        #[cfg(feature = "published")]
        "published" => published::start(dir, data).await,
        _ => return None,
    })
}

/// Measures all that can be started below `dir`.
pub fn measure(dir: &Path, data: Data, rounds: &Rounds) -> Result<Value> {
    let scratch = tempfile::tempdir_in(dir)?;
    let mut found = Found::default();
    let mut systems = systems(SYSTEMS, scratch.path(), data, &mut found);
    for work in Work::ALL {
        let all = matches!(work, Work::Put | Work::Get);
        let clients: Vec<usize> =
            rounds.clients.iter().copied().filter(|count| all || CLIENTS_OF_OTHER_READS.contains(count)).collect();
        eprintln!("{} with {clients:?} clients", work.name());
        found.measure(&mut systems, work, &clients, rounds);
    }
    Ok(found.json(&systems))
}

/// Starts these systems, asleep; those that cannot be started are skipped.
pub fn systems(names: &[&str], dir: &Path, data: Data, found: &mut Found) -> Vec<System> {
    let mut systems = Vec::new();
    for name in names {
        eprintln!("starting {name}");
        match System::start(name, &dir.join(name), data) {
            Ok(system) => systems.push(system),
            Err(why) => found.skip(*name, why),
        }
    }
    systems
}
