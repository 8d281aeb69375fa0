//! Three nodes under the same load: 8-byte keys that exist, values of one size, everything on loopback and one disk.

use std::path::Path;

use serde_json::Value;

use crate::alternate::{Found, Rounds, Subject, Work};
use crate::log::Result;

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

/// Reads that are not linearizable are measured with these clients alone.
const CLIENTS_OF_OTHER_READS: [usize; 2] = [1, 100];

/// Measures all that can be started below `dir`.
pub async fn measure(dir: &Path, data: Data, rounds: &Rounds) -> Result<Value> {
    let scratch = tempfile::tempdir_in(dir)?;
    let mut found = Found::default();
    let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
    subjects.extend(ours::start(&scratch.path().join("ours"), data).await?);
    match etcd::Etcd::start(&scratch.path().join("etcd"), data).await {
        Ok(etcd) => subjects.push(Box::new(etcd)),
        Err(why) => found.skip("etcd", why),
    }
    #[cfg(feature = "published")]
    match published::start(&scratch.path().join("published"), data).await {
        Ok(published) => subjects.extend(published),
        Err(why) => found.skip("d-engine 0.2 of crates.io", why),
    }
    let mut filled = Vec::new();
    for mut subject in subjects {
        eprintln!("filling {} ({})", subject.name(), subject.about());
        match subject.fill().await {
            Ok(()) => filled.push(subject),
            Err(why) => {
                found.skip(subject.name(), format_args!("could not write the keys: {why}"));
                subject.stop().await?;
            }
        }
    }
    for work in Work::ALL {
        for &clients in &rounds.clients {
            if matches!(work, Work::Put | Work::Get) || CLIENTS_OF_OTHER_READS.contains(&clients) {
                eprintln!("{} with {clients} clients", work.name());
                found.measure(&filled, work, clients, rounds).await;
            }
        }
    }
    let found = found.json(&filled);
    for subject in filled {
        subject.stop().await?;
    }
    Ok(found)
}
