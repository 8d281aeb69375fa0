//! Torn writes: a write that was not flushed is on the disk as far as some byte of it.

use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use d_engine_core::Error;

use super::jobs::{announce, judged_elsewhere};
use super::{Lab, enter};
use crate::law::{LawResult, Violation, Why, held, not_checked};
use crate::process::{Child, copy_dir, files_below, in_memory};
use crate::subject::{History, Style, Subject, Unreadable};

const WHY: Why = Why("");
const TIME: Duration = Duration::from_millis(2500);
const ATTEMPTS: u64 = 5;
/// The calls before the one that is torn.
const BEFORE: u64 = 4;

/// Calls of the writing process: a few that are flushed, and one that is not.
const PHASES: [(Style, u64); 3] = [(Style::Unflushed, BEFORE), (Style::Flush, 1), (Style::Unflushed, 1)];

/// Whatever part of an unflushed write is there: the store shows it whole or not at all, and what is appended then is
/// there after the next restart.
pub(crate) async fn torn<S: Subject>(child: &Child, why: Why) -> LawResult {
    let lab = enter!(S, child, why);
    if lab.durable_writes {
        return not_checked("every write of the store is durable on return; none is left unflushed");
    }
    for seed in 0..ATTEMPTS {
        let work = why.ok("making a temporary directory", in_memory().map_err(Error::from))?;
        let work = work.path();
        write(&lab, work, seed).await?;
        let changed = why.ok("comparing two copies", changes(work).map_err(Error::from))?;
        if let [_] = &changed[..] {
            let seed = OsString::from(seed.to_string());
            return judged_elsewhere(child, why, &["torn".as_ref(), S::NAME.as_ref(), work.as_os_str(), &seed]);
        }
    }
    not_checked(format!("no write in {ATTEMPTS} attempts changed exactly one file before it was flushed"))
}

/// Leaves copies from before and after an unflushed call, in `before` and `after`.
async fn write<S: Subject>(lab: &Lab<'_, S>, work: &Path, seed: u64) -> Result<(), Violation> {
    let why = lab.why;
    let place = work.join("place");
    why.ok("making a directory", fs::create_dir_all(&place).map_err(Error::from))?;
    let Some(subject) = S::at(&place) else { return Ok(()) };
    let state = lab.look_at(&subject, "when it is new").await?;
    let mut writer = lab.open_writer(&place, &state, seed, &PHASES)?;
    writer.wait_for("end")?;
    why.ok("going on", writer.process.send_word().map_err(Error::from))?;
    writer.wait_for("end")?;
    why.ok("copying the directory", copy_dir(&place, &work.join("before")).map_err(Error::from))?;
    why.ok("going on", writer.process.send_word().map_err(Error::from))?;
    writer.wait_for("end")?;
    why.ok("copying the directory", copy_dir(&place, &work.join("after")).map_err(Error::from))?;
    writer.kill()
}

/// A file that differs between the two copies, by its path below them, and where.
struct Change {
    file: PathBuf,
    bytes: Range<usize>,
}

fn changes(work: &Path) -> std::io::Result<Vec<Change>> {
    let (before, after) = (work.join("before"), work.join("after"));
    let mut changes = Vec::new();
    for path in files_below(&after)? {
        let file = path.strip_prefix(&after).unwrap_or(&path).to_owned();
        let new = fs::read(&path)?;
        // A file that was not there before is as good as an empty one.
        let old = fs::read(before.join(&file)).unwrap_or_default();
        let differs = |at: &usize| old.get(*at) != new.get(*at);
        let all = 0..new.len().max(old.len());
        if let (Some(first), Some(last)) = (all.clone().find(differs), all.rev().find(differs)) {
            changes.push(Change { file, bytes: first..last + 1 });
        }
    }
    Ok(changes)
}

/// The child's part: tears the write at every byte of it and judges what the store shows.
pub(super) async fn judge<S: Subject>(work: &Path, seed: u64) -> LawResult {
    let mut changed = WHY.ok("comparing two copies", changes(work).map_err(Error::from))?;
    let Some(Change { file, bytes }) = changed.pop() else { return held() };
    let read = |dir: &str| fs::read(work.join(dir).join(&file)).map_err(Error::from);
    let (old, new) = (WHY.ok("reading a copy", read("before"))?, WHY.ok("reading a copy", read("after"))?);
    let trial = work.join("trial");
    let started = Instant::now();
    let step = bytes.len().div_ceil(1500).max(1);
    let mut places: Vec<usize> = bytes.clone().step_by(step).chain([bytes.end]).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut places);
    for at in places {
        for cut in [true, false] {
            if started.elapsed() > TIME || (cut && new.len() <= old.len()) {
                continue;
            }
            let end = if cut { "the file ends there" } else { "what follows is as it was before" };
            let what = format!("a write to {} torn at byte {at} of {bytes:?}, where {end}", file.display());
            announce(&format!("opening and reading with {what}"));
            let content = tear(&old, &new, at, cut);
            WHY.ok("making a torn copy", make(work, &trial, &file, &content).map_err(Error::from))?;
            judge_one::<S>(&trial, seed, &what).await?;
        }
    }
    held()
}

/// The new content up to a byte, the old one after it: the end of the file, or zeros where it grew.
fn tear(old: &[u8], new: &[u8], at: usize, cut: bool) -> Vec<u8> {
    let mut content = old.to_vec();
    if cut {
        content.truncate(at.max(old.len()));
        content.resize(at.max(old.len()), 0);
    } else {
        content.resize(new.len().max(old.len()), 0);
    }
    let torn = at.min(new.len());
    content[..torn].copy_from_slice(&new[..torn]);
    content
}

fn make(work: &Path, trial: &Path, file: &Path, content: &[u8]) -> std::io::Result<()> {
    if trial.exists() {
        fs::remove_dir_all(trial)?;
    }
    copy_dir(&work.join("before"), trial)?;
    let path = trial.join(file);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, content)
}

async fn judge_one<S: Subject>(trial: &Path, seed: u64, what: &str) -> Result<(), Violation> {
    let Some(subject) = S::at(trial) else { return Ok(()) };
    let unreadable = |unreadable: Unreadable| {
        WHY.violation(format!("the store opens and is readable with {what}"), unreadable.describe())
    };
    let store = WHY.ok(&format!("opening with {what}"), subject.open().await)?;
    let shown = subject.read(&store).await.map_err(unreadable)?;
    let (before, after) = expected(&subject, seed);
    if shown != before && shown != after {
        let expected = format!(
            "with {what} the store shows that write whole or not at all: [{}] or [{}]",
            subject.describe(&before),
            subject.describe(&after)
        );
        return Err(WHY.violation(expected, subject.describe(&shown)));
    }
    let mut history = History::new(&subject, shown, seed + 1000, false);
    for style in [Style::Unflushed, Style::Flush] {
        let (call, _) = history.step(style);
        WHY.ok(&format!("writing after {what}"), subject.run(&store, call).await)?;
    }
    drop(store);
    let store = WHY.ok(&format!("opening again after {what} and a write"), subject.open().await)?;
    let shown = subject.read(&store).await.map_err(unreadable)?;
    let when = format!("what the store shows after {what}, a flushed write and a reopen");
    WHY.equal(&when, subject.describe(&shown), subject.describe(&history.state))
}

/// The states before and after the torn call. The history begins in an empty store.
fn expected<S: Subject>(subject: &S, seed: u64) -> (S::State, S::State) {
    let mut history = History::new(subject, subject.empty(), seed, false);
    for _ in 0..BEFORE {
        history.step(Style::Unflushed);
    }
    history.step(Style::Flush);
    let before = history.state.clone();
    history.step(Style::Unflushed);
    (before, history.state)
}
