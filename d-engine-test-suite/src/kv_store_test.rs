//! The laws of [`KvStore`]: an ordered map with atomic batches.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use d_engine_core::{Error, KvStore, WriteBatch};

use crate::crash::SimulatedDisk;
use crate::law::{self, LawResult, Report};
use crate::performance;
use crate::process::{self, Child};

pub mod laws;
mod subject;

/// Opens the store under test.
#[async_trait]
pub trait KvStoreBuilder: Send + Sync {
    /// The store under test.
    type Store: KvStore;

    /// Opens the store. Each call opens the same place; the laws of reopening drop the store before.
    async fn build(&self) -> Result<Arc<Self::Store>, Error>;

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
    fn simulated_disk(&self) -> Option<Box<dyn SimulatedDisk<Self::Store>>> {
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
macro_rules! __kv_store_laws {
    ($callback:ident $arguments:tt) => {
        $crate::$callback! { $arguments
            laws {
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
            crash_laws {
                kill_nine_loses_nothing_flushed
                copies_of_a_stopped_process_hold_a_prefix
                crash_images_hold_a_prefix
                power_cut_loses_nothing_flushed
                a_torn_tail_is_cut
                damage_is_corrupt_and_never_an_empty_store
                a_failed_write_or_sync_is_an_error
                a_full_disk_is_clean_and_retryable
            }
            unchecked {
            }
        }
    };
}

/// The laws of a [`KvStore`], as one call.
#[derive(Debug, Clone, Copy)]
pub struct KvStoreTestSuite;

impl KvStoreTestSuite {
    /// Checks every law, prints those that could not be checked and the totals. The laws of crashes run the test binary
    /// once more as another process, and need the tests of the macro for that: here they are not checked.
    ///
    /// # Errors
    /// `Backend` with every broken law: what was expected, what was found, why it matters.
    pub async fn run_all_tests<B: KvStoreBuilder>(builder: B) -> Result<(), Error> {
        Self::run_all_tests_with(builder, &Child::none()).await
    }

    /// [`run_all_tests`](Self::run_all_tests) with a test to run as another process.
    #[doc(hidden)]
    pub async fn run_all_tests_with<B: KvStoreBuilder>(builder: B, child: &Child) -> Result<(), Error> {
        let mut report = Report::default();
        crate::__kv_store_laws! { __run_all { laws, report, builder, child } }
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

/// The body of the test that runs as another process; returns at once if this process is not one.
#[doc(hidden)]
pub fn run_child<B: KvStoreBuilder>(_: impl FnOnce() -> B) {
    if let Some(job) = process::job() {
        law::on_a_runtime(Box::pin(async {
            crate::crash::run_job::<subject::Kv<B>>(&job).await;
        }));
    }
}

/// The result of a law, with what the builder says about it.
#[doc(hidden)]
pub fn weigh<B: KvStoreBuilder>(builder: &B, law: &str, result: LawResult) -> LawResult {
    law::weigh(law, builder.known_failures(), result)
}
