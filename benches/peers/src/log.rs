//! Logs: the same entries, appended and made durable one batch at a time.
//!
//! Rounds alternate between the subjects, so that whatever slows the machine down meets all of them, and each round
//! begins with another one. A ratio is the median of the ratios of the rounds.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use d_engine_core::{Entry, EntryKind};
use serde_json::{Value, json};

use crate::peers::locked_version;

mod device;
mod file;
#[cfg(feature = "raft-engine")]
mod raft_engine;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

const VALUE_BYTES: usize = 256;
/// Length in bytes of a file of any subject; whole files are recycled.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Entries per batch, and batches per round.
const SIZES: [(u64, u32); 4] = [(1, 400), (10, 400), (100, 300), (1000, 150)];
const ROUNDS: usize = 21;
/// Fewer rounds than this have no median worth printing.
const ROUNDS_MIN: usize = 5;

/// One log. What it does outside of [`Subject::append`] is not timed.
trait Subject {
    fn name(&self) -> &'static str;

    /// The index of the next entry.
    fn next_index(&self) -> u64;

    /// Called before each batch: makes the form of the entries that the log takes, and may recycle old files.
    fn prepare(&mut self, entries: Vec<Entry>) -> Result<()>;

    /// Appends what was prepared; durable on return.
    fn append(&mut self) -> Result<()>;
}

/// Measures all subjects in `dir` and says what was found, as JSON.
pub fn measure(dir: &Path, limit: Duration) -> Result<Value> {
    let scratch = tempfile::tempdir_in(dir)?;
    let mut subjects: Vec<Box<dyn Subject>> =
        vec![Box::new(file::FileLog::open(scratch.path())?), Box::new(device::Device::create(scratch.path())?)];
    #[cfg(feature = "raft-engine")]
    subjects.push(Box::new(raft_engine::RaftEngineLog::open(scratch.path())?));

    let (mut medians, mut ratios) = (Vec::new(), Vec::new());
    for (batch, batches) in SIZES {
        let rounds = rounds(&mut subjects, batch, batches, limit)?;
        for (at, subject) in subjects.iter().enumerate() {
            let name = subject.name();
            let seconds = middle(rounds.iter().map(|round| round[at]));
            medians.push(json!({
                "log": name,
                "batch": batch,
                "seconds_per_batch": seconds,
                "entries_per_second": batch as f64 / seconds,
            }));
            if at > 0 {
                let ratio = || rounds.iter().map(|round| round[at] / round[0]);
                ratios.push(json!({
                    "log": subjects[0].name(),
                    "against": name,
                    "batch": batch,
                    "ratio": middle(ratio()),
                    "lowest": ratio().fold(f64::MAX, f64::min),
                    "highest": ratio().fold(0.0, f64::max),
                    "rounds": rounds.len(),
                }));
            }
        }
    }
    Ok(json!({ "value_bytes": VALUE_BYTES, "peers": peers(), "medians": medians, "ratios": ratios }))
}

/// Seconds per batch of each subject, in each round.
fn rounds(subjects: &mut [Box<dyn Subject>], batch: u64, batches: u32, limit: Duration) -> Result<Vec<Vec<f64>>> {
    for subject in subjects.iter_mut() {
        round(subject.as_mut(), batch, batches / 4)?;
    }
    let started = Instant::now();
    let mut rounds = Vec::new();
    while rounds.len() < ROUNDS && (rounds.len() < ROUNDS_MIN || started.elapsed() < limit) {
        let mut seconds = vec![0.0; subjects.len()];
        for turn in 0..subjects.len() {
            let at = (turn + rounds.len()) % subjects.len();
            seconds[at] = round(subjects[at].as_mut(), batch, batches)?.as_secs_f64() / f64::from(batches);
        }
        rounds.push(seconds);
    }
    Ok(rounds)
}

fn round(subject: &mut dyn Subject, batch: u64, batches: u32) -> Result<Duration> {
    let mut total = Duration::ZERO;
    for _ in 0..batches {
        let first = subject.next_index();
        let entry = |index| Entry::new(index, 1, EntryKind::Command, [index as u8; VALUE_BYTES]);
        subject.prepare((first..first + batch).map(entry).collect())?;
        let start = Instant::now();
        subject.append()?;
        total += start.elapsed();
    }
    Ok(total)
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Versions of the peers, as the lock file of this build has them.
fn peers() -> Value {
    let names: &[&str] = if cfg!(feature = "raft-engine") { &["raft-engine"] } else { &[] };
    names
        .iter()
        .map(|name| (name.to_string(), Value::from(locked_version(name, ""))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
