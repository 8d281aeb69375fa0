//! The laws of [`StateMachine`]: what committed entries do.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{Error, StateMachine};

use crate::crash::SimulatedDisk;
pub use crate::create_test_entry;
use crate::law::{self, LawResult, Report};
use crate::process::{self, Child};
use crate::{entries, performance};

pub mod laws;
mod subject;

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

    /// A builder whose place is `dir`, an empty directory or one in which an earlier builder worked, perhaps in another
    /// process. It shares nothing with this one. The laws of crashes, damage and full disks need it; without it they are
    /// printed as not checked.
    fn at(_dir: &Path) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }

    /// Laws that the store is known to break, by name, with the evidence. They are printed as known failures, never as held,
    /// and fail no test. The documentation of the store should say the same.
    fn known_failures(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Whether damage to the last writes can never be taken for a write that a crash interrupted. A store that knows the end
    /// of its log from the bytes alone answers false; the laws of damage then also accept a state that ends earlier,
    /// after one of the groups of writes, and nothing else.
    fn tells_torn_tail_from_damage(&self) -> bool {
        true
    }

    /// Whether a call for which the disk has no space is refused with `NoSpace`, changes nothing and can be repeated. A
    /// store that cannot promise it answers false: it may then fail in any way, and must be sound after a reopen.
    fn refuses_cleanly_when_full(&self) -> bool {
        true
    }

    /// A new, empty disk in memory for which the suite chooses when its power goes, and what is left then: for stores
    /// whose file accesses can be diverted.
    fn simulated_disk(&self) -> Option<Box<dyn SimulatedDisk<dyn StateMachine>>> {
        None
    }

    /// False for a store that does not promise to keep flushed writes over a loss of power: the laws of power cuts are
    /// then not checked.
    fn survives_power_loss(&self) -> bool {
        true
    }
}

/// The list of the laws, from which the tests and `run_all_tests` are made.
#[doc(hidden)]
#[macro_export]
macro_rules! __state_machine_laws {
    ($callback:ident $arguments:tt) => {
        $crate::$callback! { $arguments
            laws {
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
            crash_laws {
                kill_nine_leaves_one_moment
                copies_of_a_stopped_process_hold_one_moment
                crash_images_hold_one_moment
                power_cut_leaves_one_moment
                damage_is_corrupt_and_never_another_state
                a_failed_write_or_sync_is_an_error
                a_full_disk_is_clean_and_retryable
            }
            unchecked {
                a_newer_command_stops_the_replica: "not checked: needs a command of a newer version, which builders do not provide yet"
            }
        }
    };
}

/// The laws of a [`StateMachine`], as one call.
#[derive(Debug, Clone, Copy)]
pub struct StateMachineTestSuite;

impl StateMachineTestSuite {
    /// Checks every law, prints those that could not be checked and the totals. The laws of crashes run the test binary
    /// once more as another process, and need the tests of the macro for that: here they are not checked.
    ///
    /// # Errors
    /// `Backend` with every broken law: what was expected, what was found, why it matters.
    pub async fn run_all_tests<B: StateMachineBuilder>(builder: B) -> Result<(), Error> {
        Self::run_all_tests_with(builder, &Child::none()).await
    }

    /// [`run_all_tests`](Self::run_all_tests) with a test to run as another process.
    #[doc(hidden)]
    pub async fn run_all_tests_with<B: StateMachineBuilder>(builder: B, child: &Child) -> Result<(), Error> {
        let mut report = Report::default();
        crate::__state_machine_laws! { __run_all { laws, report, builder, child } }
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

/// The body of the test that runs as another process; returns at once if this process is not one.
#[doc(hidden)]
pub fn run_child<B: StateMachineBuilder>(_: impl FnOnce() -> B) {
    if let Some(job) = process::job() {
        law::on_a_runtime(Box::pin(async {
            crate::crash::run_job::<subject::Machine<B>>(&job).await;
        }));
    }
}

/// The result of a law, with what the builder says about it.
#[doc(hidden)]
pub fn weigh<B: StateMachineBuilder>(builder: &B, law: &str, result: LawResult) -> LawResult {
    law::weigh(law, builder.known_failures(), result)
}
