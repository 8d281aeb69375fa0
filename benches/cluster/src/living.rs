//! What a living cluster costs: a node that rejoins, a restart, a follower far behind, a transfer of leadership.
//!
//! Three processes of `d-engine serve` on loopback and one disk; the load is here. What a row says is in its `detail`.

mod behind;
mod cluster;
mod logs;
mod rejoin;
mod restart;
mod samples;
mod transfer;
mod writes;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use d_engine_load::Load;
use serde_json::{Value, json};
use three_nodes::Result;

use crate::scale;
pub(crate) use scale::row;

/// Callers that find the peak.
const CLIENTS: usize = 100;
/// Calls of an open loop that may be under way: enough that none waits for a caller.
const OPEN_CLIENTS: usize = 2000;

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A wiped node rejoins, without load and beside one
    Rejoin,
    /// A killed node is started again
    Restart,
    /// A follower is far behind
    Behind,
    /// Leadership is handed over under load
    Transfer,
}

/// How much of everything.
#[derive(Debug, Args)]
pub(crate) struct Living {
    /// The directory to measure below, on the disk that is meant
    #[arg(long)]
    dir: PathBuf,
    /// The `d-engine` to run; the one beside this program
    #[arg(long)]
    program: Option<PathBuf>,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Transfer, Part::Behind, Part::Restart, Part::Rejoin])]
    only: Vec<Part>,
    /// A twentieth of everything: shows that it works, and no figure of worth
    #[arg(long)]
    small: bool,
    /// MiB of state that a wiped node gets
    #[arg(long, default_value_t = 1024)]
    state_mib: u64,
    /// Keys of a node that restarts
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Entries after its last snapshot
    #[arg(long, default_value_t = 200_000)]
    entries: u64,
    /// Entries that the follower is behind
    #[arg(long, default_value_t = 500_000)]
    behind: u64,
    /// Transfers of leadership
    #[arg(long, default_value_t = 10)]
    transfers: u64,
    /// Seconds of one round of load
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

impl Living {
    fn part_of(&self, whole: u64) -> u64 {
        if self.small { (whole / 20).max(1) } else { whole }
    }

    fn round(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.clamp(0.1, 60.0) / if self.small { 6.0 } else { 1.0 })
    }

    fn closed(&self) -> Load {
        Load { clients: CLIENTS, rate: None, round: self.round(), rounds: 3 }
    }

    fn open(&self, rate: u64) -> Load {
        Load { clients: OPEN_CLIENTS, rate: Some(rate), round: self.round(), rounds: 3 }
    }

    fn program(&self) -> Result<PathBuf> {
        let program = match &self.program {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("d-engine"),
        };
        if program.is_file() { Ok(program) } else { Err(format!("there is no {}", program.display()).into()) }
    }

    /// Measures all below a directory that goes at the end; what fails is a line that says why.
    pub(crate) async fn measure(&self) -> Result<Value> {
        let dir = tempfile::tempdir_in(&self.dir)?;
        let program = self.program()?;
        let (mut rows, mut skipped) = (Vec::new(), Vec::new());
        for part in &self.only {
            let place = dir.path().join(crate::name(part));
            let (what, found) = self.part(*part, &program, &place).await;
            match found {
                Ok(found) => rows.extend(found),
                Err(why) => skipped.push(json!({ "what": what, "why": format!("{why}{}", logs::ends(&place)) })),
            }
            std::fs::remove_dir_all(&place)?;
        }
        Ok(json!({ "rows": rows, "skipped": skipped }))
    }

    async fn part(&self, part: Part, program: &Path, place: &Path) -> (&'static str, Result<Vec<Value>>) {
        let what = match part {
            Part::Rejoin => "a wiped node rejoins",
            Part::Restart => "a killed node is started again",
            Part::Behind => "a follower far behind",
            Part::Transfer => "transfers of leadership under load",
        };
        eprintln!("{what}");
        let found = match part {
            Part::Rejoin => rejoin::measure(self, program, place).await,
            Part::Restart => restart::measure(self, program, place).await,
            Part::Behind => behind::measure(self, program, place).await,
            Part::Transfer => transfer::measure(self, program, place).await,
        };
        (what, found)
    }
}

/// The middle of what was measured several times, and the largest.
fn median_and_worst(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |place: usize| values.get(place).copied().unwrap_or(f64::NAN);
    (at(values.len() / 2), at(values.len().saturating_sub(1)))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// For people: MiB.
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
