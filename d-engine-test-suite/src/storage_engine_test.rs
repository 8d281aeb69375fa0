//! The laws of [`StorageEngine`]: the Raft log and the hard state.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use d_engine_core::{Error, LogStore, StorageEngine};

use crate::crash::SimulatedDisk;
pub use crate::create_test_entry;
use crate::law::{self, LawResult, Report};
use crate::performance;
use crate::process::{self, Child};

pub mod laws;
mod subject;

/// Opens the engine under test.
#[async_trait]
pub trait StorageEngineBuilder: Send + Sync {
    /// The engine under test.
    type Engine: StorageEngine;

    /// Opens the engine. Each call opens the same place; the laws of reopening drop the engine before.
    async fn build(&self) -> Result<Arc<Self::Engine>, Error>;

    /// Empties the place. Runs before each law, while nothing is open.
    async fn cleanup(&self) -> Result<(), Error>;

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
    fn simulated_disk(&self) -> Option<Box<dyn SimulatedDisk<Self::Engine>>> {
        None
    }
}

/// The list of the laws, from which the tests and `run_all_tests` are made.
#[doc(hidden)]
#[macro_export]
macro_rules! __storage_engine_laws {
    ($callback:ident $arguments:tt) => {
        $crate::$callback! { $arguments
            laws {
                a_new_store_is_empty
                persist_is_contiguous
                entries_come_back_as_they_were
                entry_answers_for_every_index
                get_entries_is_a_slice
                read_limited_ends_at_the_byte_limit
                summary_describes_the_log
                truncate_removes_the_suffix
                truncate_at_the_boundary_is_refused
                replace_from_replaces_the_suffix
                purge_keeps_what_follows_a_matching_entry
                purge_of_another_term_drops_the_whole_log
                purge_below_the_boundary_does_nothing
                reset_empties_the_log_and_keeps_the_vote
                reads_never_see_half_a_batch
                who_never_waits_is_ready_at_once
                random_histories_match_the_model
                hard_state_comes_back_as_it_was
                hard_state_is_durable_on_return
                handles_outlive_the_engine
                flushed_entries_survive_a_reopen
                a_closed_store_reopens_with_everything
                purge_is_durable_on_return
                truncated_entries_stay_away
                reset_is_durable_on_return
                a_second_open_is_locked
            }
            crash_laws {
                kill_nine_loses_nothing_flushed
                kill_nine_keeps_the_vote
                copies_of_a_stopped_process_hold_a_prefix
                crash_images_hold_a_prefix
                power_cut_loses_nothing_flushed
                power_cut_keeps_the_vote
                what_open_shows_is_durable
                a_torn_tail_is_cut
                damage_is_corrupt_and_never_a_hole
                unreadable_hard_state_is_an_error
                a_failed_write_or_sync_poisons
                a_failed_save_of_the_vote_poisons
                a_full_disk_is_clean_and_retryable
                purge_shrinks_disk_use
            }
            unchecked {
            }
        }
    };
}

/// The laws of a [`StorageEngine`], as one call.
#[derive(Debug, Clone, Copy)]
pub struct StorageEngineTestSuite;

impl StorageEngineTestSuite {
    /// Checks every law, prints those that could not be checked and the totals. The laws of crashes run the test binary
    /// once more as another process, and need the tests of the macro for that: here they are not checked.
    ///
    /// # Errors
    /// `Backend` with every broken law: what was expected, what was found, why it matters.
    pub async fn run_all_tests<B: StorageEngineBuilder>(builder: B) -> Result<(), Error> {
        Self::run_all_tests_with(builder, &Child::none()).await
    }

    /// [`run_all_tests`](Self::run_all_tests) with a test to run as another process.
    #[doc(hidden)]
    pub async fn run_all_tests_with<B: StorageEngineBuilder>(builder: B, child: &Child) -> Result<(), Error> {
        let mut report = Report::default();
        crate::__storage_engine_laws! { __run_all { laws, report, builder, child } }
        report.finish("storage engine")
    }

    /// Checks the published times: 100 entries persisted in less than a second, 1,000 in at most thirty times that, and
    /// 10,000 in less than a second. For a quiet machine.
    ///
    /// # Errors
    /// `Backend` for a time above its limit, and the store's own errors.
    pub async fn run_performance_tests<B: StorageEngineBuilder>(builder: B) -> Result<(), Error> {
        let builder = &builder;
        performance::check("storage engine", |n| persisting(builder, n)).await
    }
}

async fn persisting<B: StorageEngineBuilder>(builder: &B, n: u64) -> Result<Duration, Error> {
    builder.cleanup().await?;
    let log = builder.build().await?.log_store();
    log.reset().await?;
    let entries = crate::entries::entries(1, n, 1);
    performance::time(log.persist_entries(entries)).await
}

/// The body of the test that runs as another process; returns at once if this process is not one.
#[doc(hidden)]
pub fn run_child<B: StorageEngineBuilder>(_: impl FnOnce() -> B) {
    if let Some(job) = process::job() {
        law::on_a_runtime(Box::pin(async {
            crate::crash::run_job::<subject::Log<B>>(&job).await;
            crate::crash::run_job::<subject::Vote<B>>(&job).await;
        }));
    }
}

/// The result of a law, with what the builder says about it.
#[doc(hidden)]
pub fn weigh<B: StorageEngineBuilder>(builder: &B, law: &str, result: LawResult) -> LawResult {
    law::weigh(law, builder.known_failures(), result)
}
