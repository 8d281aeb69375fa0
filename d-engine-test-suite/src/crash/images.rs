//! Crash images of a simulated disk, where the builder offers one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use d_engine_core::Error;

use super::enter;
use crate::law::{LawResult, Violation, Why, held, not_checked};
use crate::process::Child;
use crate::subject::{History, Style, Subject};

/// A disk that remembers which writes were synced, for a store whose file accesses can be diverted.
///
/// The store runs on it as on a real one. The suite lets the power go at chosen operations and opens the states that a
/// crash may leave: any part of what was not synced, torn in the middle of a sector or page.
pub trait SimulatedDisk<Store: ?Sized>: Send + Sync {
    /// Opens the store as the disk is now.
    ///
    /// # Errors
    /// What the store says.
    fn open(&self) -> Result<Arc<Store>, Error>;

    /// From now on so many operations are carried out; the power goes with the next one, and every further one fails.
    fn burn_after(&self, operations: u64);

    /// Whether the power has gone.
    fn is_dead(&self) -> bool;

    /// Another disk, as a loss of power at this moment may leave this one; the seed chooses among the possibilities.
    fn after_power_cut(&self, seed: u64) -> Box<dyn SimulatedDisk<Store>>;
}

const TIME: Duration = Duration::from_secs(3);
const HISTORIES: u64 = 200;
const LIVES: u64 = 5;
const IMAGES: u64 = 4;

/// Opens a simulated disk: a subject knows its store's handles.
pub(crate) trait Opens<Store> {
    fn open(&self) -> Result<Store, Error>;
    fn burn_after(&self, operations: u64);
    fn is_dead(&self) -> bool;
    fn after_power_cut(&self, seed: u64) -> Box<dyn Opens<Store>>;
}

impl<Store: ?Sized + 'static> Opens<Arc<Store>> for Box<dyn SimulatedDisk<Store>> {
    fn open(&self) -> Result<Arc<Store>, Error> {
        (**self).open()
    }

    fn burn_after(&self, operations: u64) {
        (**self).burn_after(operations);
    }

    fn is_dead(&self) -> bool {
        (**self).is_dead()
    }

    fn after_power_cut(&self, seed: u64) -> Box<dyn Opens<Arc<Store>>> {
        Box::new((**self).after_power_cut(seed))
    }
}

/// Every image of a crash opens in a state after some prefix of the calls, with all that was flushed.
pub(crate) async fn images<S: Subject>(child: &Child, why: Why) -> LawResult {
    let lab = enter!(S, child, why);
    let started = Instant::now();
    for seed in 0..HISTORIES {
        let Some(disk) = lab.subject.simulated_disk() else {
            return not_checked(
                "the builder offers no `simulated_disk()`; copies of a stopped process are looked at instead",
            );
        };
        if started.elapsed() > TIME {
            break;
        }
        one_history(&lab.subject, why, seed, disk).await?;
    }
    held()
}

async fn one_history<S: Subject>(
    subject: &S,
    why: Why,
    seed: u64,
    mut disk: Box<dyn Opens<S::Store>>,
) -> Result<(), Violation> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut possible = vec![subject.empty()];
    for life in 0..LIVES {
        let most = [6, 40, 200][random.usize(..3)];
        disk.burn_after(random.u64(1..most));
        if let Ok(store) = disk.open() {
            let shown = look(subject, why, &store, &possible, seed).await;
            if disk.is_dead() && shown.as_ref().is_ok_and(Option::is_none) {
                // The power went while it was read.
            } else if let Some(shown) = shown? {
                let durable = subject.writes_are_durable(&store);
                let mut history = History::new(subject, shown, random.u64(..), durable);
                write_until_dark(subject, &store, &mut history).await;
                possible = history.possible;
            }
        } else {
            let dead = disk.is_dead();
            why.holds("the store opens on a disk that works", dead, format!("an error, seed {seed}, life {life}"))?;
        }
        for _ in 0..IMAGES {
            look_at_image(subject, why, &*disk.after_power_cut(random.u64(..)), &possible, seed).await?;
        }
        disk = disk.after_power_cut(random.u64(..));
    }
    Ok(())
}

async fn write_until_dark<S: Subject>(subject: &S, store: &S::Store, history: &mut History<'_, S>) {
    for _ in 0..80 {
        let (call, durable) = history.step(Style::Mixed);
        if subject.run(store, call).await.is_err() {
            return;
        }
        if durable {
            history.settle();
        }
    }
}

async fn look_at_image<S: Subject>(
    subject: &S,
    why: Why,
    image: &dyn Opens<S::Store>,
    possible: &[S::State],
    seed: u64,
) -> Result<(), Violation> {
    let store = why.ok(&format!("opening an image of a crash (seed {seed})"), image.open())?;
    match look(subject, why, &store, possible, seed).await? {
        Some(_) => Ok(()),
        None => Err(why.violation(format!("an image of a crash (seed {seed}) is readable"), "a read failed")),
    }
}

/// What an open store shows; `None` if reading fails.
async fn look<S: Subject>(
    subject: &S,
    why: Why,
    store: &S::Store,
    possible: &[S::State],
    seed: u64,
) -> Result<Option<S::State>, Violation> {
    let Ok(shown) = subject.read(store).await else { return Ok(None) };
    if possible.contains(&shown) {
        return Ok(Some(shown));
    }
    let describe = |state: Option<&S::State>| state.map_or_else(String::new, |state| subject.describe(state));
    let expected = format!(
        "an image of a crash (seed {seed}) shows what was flushed and whole calls after it: from [{}] to [{}]",
        describe(possible.first()),
        describe(possible.last())
    );
    Err(why.violation(expected, subject.describe(&shown)))
}
