//! The laws of [`KvStore`]: an ordered map with atomic batches.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use d_engine_core::{Error, KvStore, WriteBatch};

use crate::law::Report;
use crate::performance;

pub mod laws;

/// Opens the store under test.
#[async_trait]
pub trait KvStoreBuilder: Send + Sync {
    /// The store under test.
    type Store: KvStore;

    /// Opens the store. Each call opens the same place; the laws of reopening drop the store before.
    async fn build(&self) -> Result<Arc<Self::Store>, Error>;

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
macro_rules! __kv_store_laws {
    ($callback:ident $arguments:tt) => {
        $crate::$callback! { $arguments
            checked {
                a_new_store_is_empty
                what_is_written_is_read
                a_batch_applies_in_order
                scans_follow_byte_order
                replace_all_replaces_everything
                a_failed_replace_all_changes_nothing
                views_stand_still
                get_many_answers_in_order
                reads_never_see_half_a_batch
                random_histories_match_the_model
                flushed_writes_survive_a_reopen
                a_reopen_shows_a_prefix_of_the_writes
                replace_all_is_durable_on_return
                a_second_open_is_locked
            }
            unchecked {
                crash_images_hold_a_prefix: "not checked: needs a simulated disk, which this suite does not have yet"
                kill_nine_loses_nothing_flushed: "not checked: needs a child process to kill, which this suite does not start yet"
                power_cut_loses_nothing_flushed: "not checked: needs a file system to shut down, which this suite does not mount yet"
                damage_is_corrupt_and_never_an_empty_store: "not checked: needs the store's files, which this suite does not damage yet"
                a_failed_write_or_sync_is_an_error: "not checked: needs a disk that fails, which this suite does not have yet"
            }
        }
    };
}

/// The laws of a [`KvStore`], as one call.
#[derive(Debug, Clone, Copy)]
pub struct KvStoreTestSuite;

impl KvStoreTestSuite {
    /// Checks every law, prints those that could not be checked and the totals.
    ///
    /// # Errors
    /// `Backend` with every broken law: what was expected, what was found, why it matters.
    pub async fn run_all_tests<B: KvStoreBuilder>(builder: B) -> Result<(), Error> {
        let mut report = Report::default();
        crate::__kv_store_laws! { __run_all { laws, report, builder } }
        report.finish("key-value store")
    }

    /// Checks the published times for batches of one put: 100 in less than a second, 1,000 in at most thirty times that,
    /// and 10,000 in less than a second. For a quiet machine.
    ///
    /// # Errors
    /// `Backend` for a time above its limit, and the store's own errors.
    pub async fn run_performance_tests<B: KvStoreBuilder>(builder: B) -> Result<(), Error> {
        let builder = &builder;
        performance::check("key-value store", |n| writing(builder, n)).await
    }
}

async fn writing<B: KvStoreBuilder>(builder: &B, n: u64) -> Result<Duration, Error> {
    builder.cleanup().await?;
    let store = builder.build().await?;
    store.replace_all(&mut std::iter::empty())?;
    performance::time(async {
        for i in 0..n {
            let mut batch = WriteBatch::new();
            batch.put(crate::entries::key(i), "value");
            store.write(batch)?;
        }
        Ok(())
    })
    .await
}
