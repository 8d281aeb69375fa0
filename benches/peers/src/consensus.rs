//! Consensus without disk, network and encoding, in the shape of openraft's own benchmark: three nodes in one process that
//! hand each other messages, logs in memory, a machine that only counts, commands of a few bytes.

use serde_json::Value;

use crate::alternate::{Found, Rounds, Subject, Work};
use crate::log::Result;

#[cfg(feature = "openraft")]
mod openraft;
mod ours;

/// Measures writes.
pub async fn measure(rounds: &Rounds) -> Result<Value> {
    let mut found = Found::default();
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(ours::Ours::start().await?)];
    #[cfg(feature = "openraft")]
    match openraft::Openraft::start().await {
        Ok(openraft) => subjects.push(Box::new(openraft)),
        Err(why) => found.skip("openraft", why),
    }
    for &clients in &rounds.clients {
        eprintln!("consensus with {clients} clients");
        found.measure(&subjects, Work::Put, clients, rounds).await;
    }
    let found = found.json(&subjects);
    for subject in subjects {
        subject.stop().await?;
    }
    Ok(found)
}
