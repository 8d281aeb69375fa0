//! The laws of crashes and damage, written once over [`Subject`]: kill -9, power cut, stopped process, torn writes,
//! damaged files, failed system calls, a full disk.

mod copies;
mod damage;
mod failed_calls;
mod full_disk;
mod images;
mod jobs;
mod kill;
mod power;
mod torn;
mod writer;

use std::path::Path;

pub(crate) use copies::copies;
pub(crate) use damage::damage;
pub(crate) use failed_calls::failed_calls;
pub(crate) use full_disk::full_disk;
pub use images::SimulatedDisk;
pub(crate) use images::{Opens, images};
pub(crate) use jobs::run_job;
pub(crate) use kill::kill;
pub(crate) use power::{open_is_durable, power_cut};
use tempfile::TempDir;
pub(crate) use torn::torn;

use crate::law::{Outcome, Violation, Why};
use crate::process::{Child, open_patiently};
use crate::subject::{Subject, Unreadable};

/// What a law needs to begin: a directory of its own and a store in it that remembers.
struct Lab<'a, S: Subject> {
    child: &'a Child,
    why: Why,
    scratch: TempDir,
    subject: S,
    durable_writes: bool,
    survives_power_loss: bool,
}

impl<'a, S: Subject> Lab<'a, S> {
    /// A new store in a directory of its own; or why there is none.
    async fn enter(child: &'a Child, why: Why) -> Result<Result<Self, Outcome>, Violation> {
        if !child.is_there() {
            let text = "it runs the test binary once more, for which the tests of the macro are needed \
                        (`storage_engine_tests!` and its like)";
            return Ok(Err(Outcome::NotChecked { why: text.into() }));
        }
        let scratch = why.ok("making a temporary directory", TempDir::new().map_err(Into::into))?;
        let Some(subject) = S::at(scratch.path()) else {
            let text = "the builder opens no store in a directory of the suite's choice; give it `at(dir)`";
            return Ok(Err(Outcome::NotChecked { why: text.into() }));
        };
        let store = why.ok("opening a store in an empty directory", subject.open().await)?;
        if subject.is_volatile(&store) {
            return Ok(Err(Outcome::NotChecked { why: "the store is volatile".into() }));
        }
        let durable_writes = subject.writes_are_durable(&store);
        let survives_power_loss = subject.survives_power_loss(&store);
        drop(store);
        Ok(Ok(Self { child, why, scratch, subject, durable_writes, survives_power_loss }))
    }

    fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// Opens the store in the law's own directory and reads it.
    async fn look(&self, when: &str) -> Result<S::State, Violation> {
        self.look_at(&self.subject, when).await
    }

    /// Opens a store and reads it.
    async fn look_at(&self, subject: &S, when: &str) -> Result<S::State, Violation> {
        let store = self.why.ok(&format!("opening the store {when}"), open_patiently(|| subject.open()).await)?;
        self.read(subject, &store, when).await
    }

    async fn read(&self, subject: &S, store: &S::Store, when: &str) -> Result<S::State, Violation> {
        subject.read(store).await.map_err(|unreadable| self.unreadable(&unreadable, when))
    }

    fn unreadable(&self, unreadable: &Unreadable, when: &str) -> Violation {
        self.why.violation(format!("the store is readable {when}"), unreadable.describe())
    }

    /// Opens a store; what it shows must be one of the possible states.
    async fn look_for(&self, subject: &S, possible: &[S::State], when: &str) -> Result<S::State, Violation> {
        let found = self.look_at(subject, when).await?;
        self.expect_one_of(found, possible, when)
    }

    fn expect_one_of(&self, found: S::State, possible: &[S::State], when: &str) -> Result<S::State, Violation> {
        if possible.contains(&found) {
            return Ok(found);
        }
        let describe = |state: Option<&S::State>| state.map_or_else(String::new, |state| self.subject.describe(state));
        let expected = format!(
            "{when} the store holds what was flushed and whole calls after it: one of {} states from [{}] to [{}]",
            possible.len(),
            describe(possible.first()),
            describe(possible.last()),
        );
        Err(self.why.violation(expected, self.subject.describe(&found)))
    }
}

/// Enters the lab, or leaves the law with the outcome that says why not.
macro_rules! enter {
    ($subject:ty, $child:expr, $why:expr) => {
        match $crate::crash::Lab::<$subject>::enter($child, $why).await? {
            Ok(lab) => lab,
            Err(outcome) => return Ok(outcome),
        }
    };
}
use enter;

/// The laws of one suite that are checked over a [`Subject`].
macro_rules! crash_laws {
    ($builder:ident: $($(#[$doc:meta])* $law:ident = $check:ident of $subject:ident, $why:literal;)*) => {
        $(
            $(#[$doc])*
            pub async fn $law<B: $builder>(_builder: &B, child: &$crate::process::Child) -> $crate::law::LawResult {
                $crate::crash::$check::<$subject<B>>(child, $crate::law::Why($why)).await
            }
        )*
    };
}
pub(crate) use crash_laws;
