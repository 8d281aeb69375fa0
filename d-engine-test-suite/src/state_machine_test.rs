//! The laws of [`StateMachine`]: what committed entries do.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{Error, StateMachine};

pub use crate::create_test_entry;
use crate::law::Report;
use crate::{entries, performance};

pub mod laws;

/// Opens the machine under test, and says what its commands look like.
#[async_trait]
pub trait StateMachineBuilder: Send + Sync {
    /// Opens the machine, not started. Each call opens the same place; the laws of reopening drop the machine before.
    async fn build(&self) -> Result<Arc<dyn StateMachine>, Error>;

    /// Empties the place. Runs before each law, while nothing is open.
    async fn cleanup(&self) -> Result<(), Error>;

    /// A command that makes the machine hold one item more, another one for each `n`. The default is the built-in put
    /// of [`create_test_entry`].
    fn command(&self, n: u64) -> Bytes {
        entries::put(n)
    }

    /// The key under which [`get`](StateMachine::get) finds what [`command`](StateMachineBuilder::command)`(n)` did;
    /// `None` if there is no such key. Override it together with `command`.
    fn key(&self, n: u64) -> Option<Bytes> {
        Some(entries::key(n))
    }

    /// A command that fails as a command and changes nothing; `None` if no command can. The default is a built-in
    /// compare-and-swap.
    fn failing_command(&self) -> Option<Bytes> {
        Some(entries::failing())
    }

    /// True if a restart of the process forgets everything: the laws of reopening are then not checked.
    fn is_volatile(&self) -> bool {
        false
    }

    /// A builder whose place is `dir`, for the laws that need a directory or another process; without it they are
    /// printed as not checked.
    fn at(_dir: &Path) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }
}

/// The list of the laws, from which the tests and `run_all_tests` are made.
#[doc(hidden)]
#[macro_export]
macro_rules! __state_machine_laws {
    ($callback:ident $arguments:tt) => {
        $crate::$callback! { $arguments
            checked {
                a_new_machine_is_empty
                it_runs_between_start_and_stop
                effects_and_marker_become_visible_together
                every_entry_gets_its_answer
                applied_entries_are_skipped
                indexes_that_do_not_increase_are_refused
                indexes_may_skip
                chunks_do_not_matter
                a_failing_command_costs_nothing_else
                reads_never_see_half_a_chunk
                reset_returns_to_the_start
                a_snapshot_restores_the_state
                a_snapshot_is_refused_under_another_label
                a_damaged_snapshot_leaves_the_old_state
                a_view_holds_its_moment
                flushed_state_survives_a_reopen
                a_reopen_shows_the_state_after_some_entry
                an_installed_snapshot_is_durable_on_return
                reset_is_durable_on_return
            }
            unchecked {
                crash_images_hold_one_moment: "not checked: needs a simulated disk, which this suite does not have yet"
                kill_nine_leaves_one_moment: "not checked: needs a child process to kill, which this suite does not start yet"
                power_cut_leaves_one_moment: "not checked: needs a file system to shut down, which this suite does not mount yet"
                a_newer_command_stops_the_replica: "not checked: needs a command of a newer version, which builders do not provide yet"
            }
        }
    };
}

/// The laws of a [`StateMachine`], as one call.
#[derive(Debug, Clone, Copy)]
pub struct StateMachineTestSuite;

impl StateMachineTestSuite {
    /// Checks every law, prints those that could not be checked and the totals.
    ///
    /// # Errors
    /// `Backend` with every broken law: what was expected, what was found, why it matters.
    pub async fn run_all_tests<B: StateMachineBuilder>(builder: B) -> Result<(), Error> {
        let mut report = Report::default();
        crate::__state_machine_laws! { __run_all { laws, report, builder } }
        report.finish("state machine")
    }

    /// Checks the published times: 100 entries applied in less than a second, 1,000 in at most thirty times that, and
    /// 10,000 in less than a second. For a quiet machine.
    ///
    /// # Errors
    /// `Backend` for a time above its limit, and the machine's own errors.
    pub async fn run_performance_tests<B: StateMachineBuilder>(builder: B) -> Result<(), Error> {
        let builder = &builder;
        performance::check("state machine", |n| applying(builder, n)).await
    }
}

async fn applying<B: StateMachineBuilder>(builder: &B, n: u64) -> Result<Duration, Error> {
    builder.cleanup().await?;
    let machine = builder.build().await?;
    machine.start()?;
    machine.reset().await?;
    let chunk = laws::commands(builder, 1..=n);
    let taken = performance::time(machine.apply_chunk(chunk)).await?;
    machine.stop()?;
    Ok(taken)
}
