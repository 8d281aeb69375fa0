//! The suite finds what is wrong: each store here breaks one law, and the toys that the faults are switched into break
//! none.

#![allow(clippy::unwrap_used, reason = "tests")]

mod fault;
mod in_memory;
mod toy_disk;
mod toy_file;
mod toy_kv;
mod toy_log;
mod toy_machine;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use d_engine_core::{Error, StateMachine};
use d_engine_test_suite::kv_store_test::{KvStoreBuilder, KvStoreTestSuite, laws as kv_laws};
use d_engine_test_suite::state_machine_test::{StateMachineBuilder, StateMachineTestSuite, laws as machine_laws};
use d_engine_test_suite::storage_engine_test::{StorageEngineBuilder, StorageEngineTestSuite, laws as log_laws};
use d_engine_test_suite::{Child, LawResult, SimulatedDisk};
use fault::Fault;
use tempfile::TempDir;
use toy_disk::ToyDisk;
use toy_kv::ToyKv;
use toy_log::ToyEngine;
use toy_machine::ToyMachine;

/// A toy in a directory of its own, or in one of the suite's.
struct Toy {
    place: PathBuf,
    _dir: Option<TempDir>,
}

impl Toy {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        Self { place: dir.path().join("store"), _dir: Some(dir) }
    }

    fn in_dir(dir: &Path) -> Option<Self> {
        Some(Self { place: dir.join("store"), _dir: None })
    }

    fn empty(&self) -> Result<(), Error> {
        match std::fs::remove_dir_all(&self.place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl StorageEngineBuilder for Toy {
    type Engine = ToyEngine;

    async fn build(&self) -> Result<Arc<ToyEngine>, Error> {
        Ok(Arc::new(ToyEngine::open(&self.place, None)?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        self.empty()
    }

    fn at(dir: &Path) -> Option<Self> {
        Self::in_dir(dir)
    }

    fn tells_torn_tail_from_damage(&self) -> bool {
        false
    }

    fn simulated_disk(&self) -> Option<Box<dyn SimulatedDisk<ToyEngine>>> {
        Some(Box::new(ToyDisk::new(0)))
    }
}

#[async_trait]
impl KvStoreBuilder for Toy {
    type Store = ToyKv;

    async fn build(&self) -> Result<Arc<ToyKv>, Error> {
        Ok(Arc::new(ToyKv::open(&self.place)?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        self.empty()
    }

    fn at(dir: &Path) -> Option<Self> {
        Self::in_dir(dir)
    }

    fn tells_torn_tail_from_damage(&self) -> bool {
        false
    }
}

#[async_trait]
impl StateMachineBuilder for Toy {
    async fn build(&self) -> Result<Arc<dyn StateMachine>, Error> {
        Ok(Arc::new(ToyMachine::open(&self.place)?))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        self.empty()
    }

    fn at(dir: &Path) -> Option<Self> {
        Self::in_dir(dir)
    }

    fn tells_torn_tail_from_damage(&self) -> bool {
        false
    }
}

d_engine_test_suite::storage_engine_tests!(correct_log, Toy::new());
d_engine_test_suite::kv_store_tests!(correct_kv, Toy::new());
d_engine_test_suite::state_machine_tests!(correct_machine, Toy::new());

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(future)
}

/// The test to run as another process, with the fault in its environment.
fn child(module: &str, fault: Fault) -> Child {
    Child::of(&format!("{}::{module}", module_path!())).with_variable(fault::VARIABLE, &fault.name())
}

/// The law finds the fault and says what was expected, what was found and why it matters.
fn expect_found(fault: Fault, law: &str, result: LawResult) {
    let said = match result {
        Err(violation) => violation.to_string(),
        Ok(outcome) => panic!("{law} does not find {fault:?}: {outcome:?}"),
    };
    for part in ["expected: ", "found: ", "why: "] {
        let (_, text) = said.split_once(part).unwrap_or_else(|| panic!("{law} does not say what is {part}{said}"));
        assert!(text.trim_start().len() > 10, "{law} on {fault:?}: {said}");
    }
}

/// A fault of crashes is found by its law, and by none of the laws of open and closed stores.
macro_rules! found_in_a_crash {
    ($($test:ident: $fault:ident, $module:ident, $laws:ident::$law:ident, $suite:ident;)*) => {
        $(
            #[test]
            fn $test() {
                fault::set(Fault::$fault);
                let law = wait($laws::$law(&Toy::new(), &child(stringify!($module), Fault::$fault)));
                if matches!(law, Ok(d_engine_test_suite::Outcome::NotChecked { .. })) {
                    // Said on the way; there is nothing to find it with.
                    return;
                }
                expect_found(Fault::$fault, stringify!($law), law);
                wait($suite::run_all_tests(Toy::new())).unwrap();
            }
        )*
    };
}

mod faults_of_crashes {
    use super::*;

    found_in_a_crash! {
        a_flush_that_does_not_sync: FlushDoesNotSync, correct_log, log_laws::power_cut_loses_nothing_flushed, StorageEngineTestSuite;
        a_flush_that_does_not_sync_on_a_simulated_disk: FlushDoesNotSync, correct_log, log_laws::crash_images_hold_a_prefix, StorageEngineTestSuite;
        a_flush_that_keeps_some_in_memory: FlushKeepsSomeInMemory, correct_log, log_laws::kill_nine_loses_nothing_flushed, StorageEngineTestSuite;
        an_open_that_shows_what_is_not_durable: OpenShowsWhatIsNotDurable, correct_log, log_laws::what_open_shows_is_durable, StorageEngineTestSuite;
        a_torn_tail_that_is_kept: TornTailIsKept, correct_log, log_laws::a_torn_tail_is_cut, StorageEngineTestSuite;
        a_torn_tail_that_is_refused: TornTailIsRefused, correct_log, log_laws::a_torn_tail_is_cut, StorageEngineTestSuite;
        a_batch_that_is_written_in_halves: BatchIsWrittenInHalves, correct_log, log_laws::a_torn_tail_is_cut, StorageEngineTestSuite;
        damage_that_is_taken_for_a_torn_tail: DamageIsTakenForATornTail, correct_log, log_laws::damage_is_corrupt_and_never_a_hole, StorageEngineTestSuite;
        an_unreadable_vote_that_is_none: UnreadableVoteIsNone, correct_log, log_laws::unreadable_hard_state_is_an_error, StorageEngineTestSuite;
        a_vote_that_is_not_synced: VoteIsNotSynced, correct_log, log_laws::power_cut_keeps_the_vote, StorageEngineTestSuite;
        a_failed_sync_that_is_retried: FailedSyncIsRetried, correct_log, log_laws::a_failed_write_or_sync_poisons, StorageEngineTestSuite;
        a_failure_that_is_forgotten: FailureIsForgotten, correct_log, log_laws::a_failed_write_or_sync_poisons, StorageEngineTestSuite;
        a_failed_save_of_the_vote_that_may_be_repeated: FailedSaveOfTheVoteIsRepeated, correct_log, log_laws::a_failed_save_of_the_vote_poisons, StorageEngineTestSuite;
        a_full_disk_that_poisons: FullDiskPoisons, correct_log, log_laws::a_full_disk_is_clean_and_retryable, StorageEngineTestSuite;
        a_replace_all_that_is_not_atomic: ReplaceAllIsNotAtomic, correct_kv, kv_laws::copies_of_a_stopped_process_hold_a_prefix, KvStoreTestSuite;
        a_marker_apart_from_the_data: MarkerIsApartFromTheData, correct_machine, machine_laws::kill_nine_leaves_one_moment, NoMachineSuite;
    }
}

/// Also a clean close without a flush shows the marker apart from the data, so that other laws find it as well.
struct NoMachineSuite;

impl NoMachineSuite {
    async fn run_all_tests(_: Toy) -> Result<(), Error> {
        Ok(())
    }
}

/// A fault of an open or cleanly closed store is found by its law, by that of random histories where it is no matter of
/// one call, and by no other.
macro_rules! found_without_a_crash {
    ($($test:ident: $fault:ident, $suite:ident, $($law:literal),+;)*) => {
        $(
            #[test]
            fn $test() {
                fault::set(Fault::$fault);
                let report = wait($suite::run_all_tests(Toy::new())).expect_err("the fault is found").to_string();
                let broken: Vec<&str> = report.split("the law `").skip(1).filter_map(|rest| rest.split('`').next()).collect();
                assert_eq!(broken, [$($law),+], "{report}");
            }
        )*
    };
}

mod faults_without_a_crash {
    use super::*;

    found_without_a_crash! {
        a_second_open_that_is_allowed: SecondOpenIsAllowed, StorageEngineTestSuite, "a_second_open_is_locked";
        a_purge_boundary_that_is_forgotten: PurgeBoundaryIsForgotten, StorageEngineTestSuite, "purge_is_durable_on_return";
        a_purge_that_gives_nothing_back: PurgeGivesNothingBack, StorageEngineTestSuite, "purge_shrinks_disk_use";
        a_last_index_that_is_wrong_after_a_purge: LastIndexIsWrongAfterAPurge, StorageEngineTestSuite, "purge_is_durable_on_return";
        a_truncate_that_is_not_written: TruncateIsNotWritten, StorageEngineTestSuite, "random_histories_match_the_model", "a_closed_store_reopens_with_everything", "truncated_entries_stay_away";
        a_replace_that_leaves_a_stale_suffix: ReplaceLeavesAStaleSuffix, StorageEngineTestSuite, "replace_from_replaces_the_suffix", "random_histories_match_the_model", "truncated_entries_stay_away";
        a_reset_that_wipes_the_vote: ResetWipesTheVote, StorageEngineTestSuite, "reset_empties_the_log_and_keeps_the_vote";
        an_empty_value_that_is_lost: EmptyValueIsLost, KvStoreTestSuite, "random_histories_match_the_model", "flushed_writes_survive_a_reopen";
        a_snapshot_that_takes_any_label: SnapshotTakesAnyLabel, StateMachineTestSuite, "a_snapshot_is_refused_under_another_label";
    }
}
