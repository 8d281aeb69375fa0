//! Copies of a directory whose process is stopped for a moment: what a kill would have left, many times cheaper.

use std::time::Duration;

use d_engine_core::Error;
use tempfile::TempDir;

use super::enter;
use super::writer::FOR_EVER;
use crate::law::{LawResult, Why, held};
use crate::process::{Child, copy_dir};
use crate::subject::Subject;

const COPIES: u32 = 40;
/// Calls per process: a history that only grows makes slower copies.
const COPIES_PER_PROCESS: u32 = 10;

/// Each copy opens in a state after some prefix of the calls, with everything that was said to be durable.
pub(crate) async fn copies<S: Subject>(child: &Child, why: Why) -> LawResult {
    let lab = enter!(S, child, why);
    let mut random = fastrand::Rng::with_seed(2);
    for process in 0..COPIES / COPIES_PER_PROCESS {
        let dir = why.ok("making a temporary directory", TempDir::new().map_err(Error::from))?;
        let Some(subject) = S::at(dir.path()) else { return held() };
        let state = lab.look_at(&subject, "when it is new").await?;
        let seed = random.u64(..);
        let mut writer = lab.open_writer(dir.path(), &state, seed, FOR_EVER)?;
        for copy in 0..COPIES_PER_PROCESS {
            writer.let_run(random.u32(0..8), Duration::from_millis(60))?;
            std::thread::sleep(Duration::from_micros(random.u64(0..1000)));
            why.ok("stopping the writing process", writer.process.stop().map_err(Error::from))?;
            writer.drain()?;
            let copied = why.ok("making a temporary directory", TempDir::new().map_err(Error::from))?;
            why.ok("copying the directory", copy_dir(dir.path(), copied.path()).map_err(Error::from))?;
            let possible = writer.possible();
            why.ok("continuing the writing process", writer.process.go_on().map_err(Error::from))?;
            let Some(copy_of) = S::at(copied.path()) else { return held() };
            let when = format!("in copy {copy} of stopped process {process} (history with seed {seed})");
            lab.look_for(&copy_of, &possible, &when).await?;
        }
        writer.kill()?;
    }
    held()
}
