//! Damaged files: bits that flipped, ends that are missing, sectors that read as zeros.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use d_engine_core::Error;

use super::enter;
use super::jobs::{announce, judged_elsewhere};
use crate::law::{LawResult, Violation, Why, held};
use crate::process::{Child, copy_dir, files_below, in_memory};
use crate::subject::{History, Style, Subject, Unreadable};

/// Without damage to judge, the reason does not matter: the parent has its own.
const WHY: Why = Why("");
const TIME: Duration = Duration::from_millis(2500);
const CALLS: u64 = 14;
/// Up to this many bytes of a file that are not zeros at its end, each one is damaged.
const SMALL: usize = 3000;
const POSITIONS: usize = 1500;

/// Whatever is damaged, the store says so or shows exactly what was there.
pub(crate) async fn damage<S: Subject>(child: &Child, why: Why) -> LawResult {
    let lab = enter!(S, child, why);
    judged_elsewhere(child, why, &["damage".as_ref(), S::NAME.as_ref(), lab.dir().as_os_str()])
}

/// What was there, and what a store may show that cannot tell damage from a torn write.
struct Truth<State> {
    exact: State,
    /// Before the last group of calls.
    group_earlier: Vec<State>,
    /// At any time.
    ever: Vec<State>,
}

/// The child's part: builds a store, damages copies of it and judges what they show.
pub(super) async fn judge<S: Subject>(_dir: &Path) -> LawResult {
    let scratch = WHY.ok("making a temporary directory", in_memory().map_err(Error::from))?;
    let good = scratch.path().join("good");
    let trial = scratch.path().join("trial");
    WHY.ok("making a directory", fs::create_dir_all(&good).map_err(Error::from))?;
    let Some(subject) = S::at(&good) else { return held() };
    let truth = build(&subject).await?;
    let Some(damaged) = S::at(&trial) else { return held() };
    let mut damages = WHY.ok("listing the files", damages(&good).map_err(Error::from))?;
    fastrand::Rng::with_seed(6).shuffle(&mut damages);
    let started = Instant::now();
    for damage in &damages {
        if started.elapsed() > TIME {
            break;
        }
        announce(&format!("opening and reading with {}", damage.describe(&good)));
        WHY.ok("damaging a copy", damage.make(&good, &trial).map_err(Error::from))?;
        judge_one(&damaged, &truth, damage, &good).await?;
    }
    held()
}

/// Writes a short history, closes the store and checks that it opens with all of it.
async fn build<S: Subject>(subject: &S) -> Result<Truth<S::State>, Violation> {
    let unreadable = |unreadable: Unreadable| WHY.violation("an undamaged store is readable", unreadable.describe());
    let store = WHY.ok("opening an empty store", subject.open().await)?;
    let state = subject.read(&store).await.map_err(unreadable)?;
    let mut ever = vec![state.clone()];
    let mut history = History::new(subject, state, 5, subject.writes_are_durable(&store));
    let mut group_earlier = Vec::new();
    for number in 1..=CALLS {
        let style = if number % 2 == 0 { Style::Flush } else { Style::Unflushed };
        let (call, durable) = history.step(style);
        WHY.ok(&format!("{call:?}"), subject.run(&store, call.clone()).await)?;
        ever.push(history.state.clone());
        if durable {
            group_earlier = std::mem::take(&mut history.possible);
            history.settle();
        }
    }
    drop(store);
    let store = WHY.ok("opening the store again", subject.open().await)?;
    let shown = subject.read(&store).await.map_err(unreadable)?;
    WHY.equal("the content after a reopen", subject.describe(&shown), subject.describe(&history.state))?;
    Ok(Truth { exact: history.state, group_earlier, ever })
}

async fn judge_one<S: Subject>(
    subject: &S,
    truth: &Truth<S::State>,
    damage: &Damage,
    good: &Path,
) -> Result<(), Violation> {
    let shown = match subject.open().await {
        Err(_) => return Ok(()),
        Ok(store) => subject.read(&store).await,
    };
    let earlier = if damage.shortens() { &truth.ever } else { &truth.group_earlier };
    let found = match shown {
        Err(Unreadable::Refused(_)) => return Ok(()),
        Ok(state) if state == truth.exact => return Ok(()),
        Ok(state) if !subject.tells_torn_tail_from_damage() && earlier.contains(&state) => return Ok(()),
        Ok(state) => subject.describe(&state),
        Err(inconsistent) => inconsistent.describe(),
    };
    let expected = format!(
        "with {} the store refuses (Corrupt), or shows exactly what was there: [{}]",
        damage.describe(good),
        subject.describe(&truth.exact)
    );
    Err(WHY.violation(expected, found))
}

/// One damage of one file.
struct Damage {
    file: PathBuf,
    at: usize,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Flip { bit: u8 },
    Cut,
    ZeroSector,
}

impl Damage {
    fn shortens(&self) -> bool {
        !matches!(self.kind, Kind::Flip { .. })
    }

    fn describe(&self, base: &Path) -> String {
        let name = self.file.strip_prefix(base).unwrap_or(&self.file).display();
        match self.kind {
            Kind::Flip { bit } => format!("bit {bit} of byte {} of {name} flipped", self.at),
            Kind::Cut => format!("{name} cut after {} bytes", self.at),
            Kind::ZeroSector => format!("zeros from byte {} of {name} on, for 512 bytes", self.at),
        }
    }

    /// A copy of the good directory with this damage.
    fn make(&self, good: &Path, trial: &Path) -> std::io::Result<()> {
        if trial.exists() {
            fs::remove_dir_all(trial)?;
        }
        copy_dir(good, trial)?;
        let file = trial.join(self.file.strip_prefix(good).unwrap_or(&self.file));
        let mut bytes = fs::read(&file)?;
        match self.kind {
            Kind::Flip { bit } => bytes[self.at] ^= 1 << bit,
            Kind::Cut => bytes.truncate(self.at),
            Kind::ZeroSector => {
                let end = bytes.len().min(self.at + 512);
                bytes[self.at..end].fill(0);
            }
        }
        fs::write(&file, bytes)
    }
}

/// Damages of every file: at every byte of a small one, at seeded places of a large one.
fn damages(dir: &Path) -> std::io::Result<Vec<Damage>> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut damages = Vec::new();
    for file in files_below(dir)? {
        let bytes = fs::read(&file)?;
        // Space that was prepared and never used says little about the store.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let places: Vec<usize> = if used <= SMALL {
            (0..used).collect()
        } else {
            let interesting: Vec<usize> = (0..used).filter(|at| bytes[*at] != 0).collect();
            let mut somewhere = |n: usize| match random.choice(&interesting) {
                Some(at) if !n.is_multiple_of(5) => *at,
                _ => random.usize(..used),
            };
            (0..POSITIONS).map(&mut somewhere).collect()
        };
        for at in places {
            for kind in [Kind::Flip { bit: random.u8(..8) }, Kind::Cut] {
                damages.push(Damage { file: file.clone(), at, kind });
            }
            if at % 512 == 0 {
                damages.push(Damage { file: file.clone(), at, kind: Kind::ZeroSector });
            }
        }
    }
    Ok(damages)
}
