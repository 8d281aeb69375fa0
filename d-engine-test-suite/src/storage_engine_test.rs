//! The laws of [`StorageEngine`]: the Raft log and the hard state.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use d_engine_core::{Error, LogStore, StorageEngine};

pub use crate::create_test_entry;
use crate::law::Report;
use crate::performance;

pub mod laws;

/// Opens the engine under test.
#[async_trait]
pub trait StorageEngineBuilder: Send + Sync {
    /// The engine under test.
    type Engine: StorageEngine;

    /// Opens the engine. Each call opens the same place; the laws of reopening drop the engine before.
    async fn build(&self) -> Result<Arc<Self::Engine>, Error>;

    /// Empties the place. Runs before each law, while nothing is open.
    async fn cleanup(&self) -> Result<(), Error>;

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
macro_rules! __storage_engine_laws {
    ($callback:ident $arguments:tt) => {
        $crate::$callback! { $arguments
            checked {
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
            unchecked {
                crash_images_hold_a_prefix: "not checked: needs a simulated disk, which this suite does not have yet"
                kill_nine_loses_nothing_flushed: "not checked: needs a child process to kill, which this suite does not start yet"
                power_cut_loses_nothing_flushed: "not checked: needs a file system to shut down, which this suite does not mount yet"
                a_torn_tail_is_cut: "not checked: needs the store's files, which this suite does not damage yet"
                damage_is_corrupt_and_never_a_hole: "not checked: needs the store's files, which this suite does not damage yet"
                unreadable_hard_state_is_an_error: "not checked: needs the store's files, which this suite does not damage yet"
                a_failed_write_or_sync_poisons: "not checked: needs a disk that fails, which this suite does not have yet"
                a_full_disk_is_clean_and_retryable: "not checked: needs a full disk, which this suite does not have yet"
                purge_shrinks_disk_use: "not checked: needs the store's files, which this suite does not measure yet"
            }
        }
    };
}

/// The laws of a [`StorageEngine`], as one call.
#[derive(Debug, Clone, Copy)]
pub struct StorageEngineTestSuite;

impl StorageEngineTestSuite {
    /// Checks every law, prints those that could not be checked and the totals.
    ///
    /// # Errors
    /// `Backend` with every broken law: what was expected, what was found, why it matters.
    pub async fn run_all_tests<B: StorageEngineBuilder>(builder: B) -> Result<(), Error> {
        let mut report = Report::default();
        crate::__storage_engine_laws! { __run_all { laws, report, builder } }
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
