//! Volatile stores with a fault each.

use std::ops::RangeInclusive;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{
    Direction, Entry, Error, KeyRange, KvStore, LogId, LogStore, Result, StorageEngine, WriteBatch, WriteOp,
};
use d_engine_mem::{MemKvStore, MemLogStore, MemMetaStore, MemStorageEngine};
use d_engine_test_suite::kv_store_test::{KvStoreBuilder, KvStoreTestSuite};
use d_engine_test_suite::storage_engine_test::{StorageEngineBuilder, StorageEngineTestSuite};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LogFault {
    None,
    AcceptsHoles,
    RangeWithoutItsEnd,
    PurgeKeepsAnotherHistory,
    PurgeMovesBack,
    TruncateForgetsOne,
    ResetKeepsTheBoundary,
    CompactedIsNone,
    WaitsAgainstItsPromise,
}

struct BrokenLog {
    inner: Arc<MemLogStore>,
    fault: LogFault,
}

#[async_trait]
impl LogStore for BrokenLog {
    async fn persist_entries(&self, entries: Vec<Entry>) -> Result<(), Error> {
        let hole = entries.first().is_some_and(|entry| entry.index > self.inner.last_index() + 1);
        if self.fault == LogFault::AcceptsHoles && hole {
            return Ok(());
        }
        if self.fault == LogFault::WaitsAgainstItsPromise {
            tokio::task::yield_now().await;
        }
        self.inner.persist_entries(entries).await
    }

    async fn entry(&self, index: u64) -> Result<Option<Entry>, Error> {
        match self.inner.entry(index).await {
            Err(Error::Compacted { .. }) if self.fault == LogFault::CompactedIsNone => Ok(None),
            result => result,
        }
    }

    async fn get_entries(&self, range: RangeInclusive<u64>) -> Result<Vec<Entry>, Error> {
        let mut found = self.inner.get_entries(range.clone()).await?;
        if self.fault == LogFault::RangeWithoutItsEnd && found.last().is_some_and(|e| e.index == *range.end()) {
            found.pop();
        }
        Ok(found)
    }

    async fn purge(&self, up_to: LogId) -> Result<(), Error> {
        let found = if up_to.index > self.purged().index { self.inner.entry(up_to.index).await? } else { None };
        match self.fault {
            LogFault::PurgeKeepsAnotherHistory if found.is_some() => {
                let rest = self.inner.get_entries(up_to.index + 1..=u64::MAX).await?;
                self.inner.purge(up_to).await?;
                if self.inner.last_index() == up_to.index { self.inner.persist_entries(rest).await } else { Ok(()) }
            }
            LogFault::PurgeMovesBack if up_to.index < self.purged().index => {
                self.inner.reset().await?;
                self.inner.purge(up_to).await
            }
            _ => self.inner.purge(up_to).await,
        }
    }

    async fn truncate(&self, from_index: u64) -> Result<(), Error> {
        let one_less = self.fault == LogFault::TruncateForgetsOne && from_index < self.last_index();
        self.inner.truncate(from_index + u64::from(one_less)).await
    }

    async fn flush(&self) -> Result<(), Error> {
        self.inner.flush().await
    }

    async fn reset(&self) -> Result<(), Error> {
        let purged = self.purged();
        self.inner.reset().await?;
        if self.fault == LogFault::ResetKeepsTheBoundary { self.inner.purge(purged).await } else { Ok(()) }
    }

    fn last_index(&self) -> u64 {
        self.inner.last_index()
    }

    fn purged(&self) -> LogId {
        self.inner.purged()
    }
}

struct BrokenEngine {
    log: Arc<BrokenLog>,
    meta: Arc<MemMetaStore>,
}

impl StorageEngine for BrokenEngine {
    type LogStore = BrokenLog;
    type MetaStore = MemMetaStore;

    fn log_store(&self) -> Arc<BrokenLog> {
        self.log.clone()
    }

    fn meta_store(&self) -> Arc<MemMetaStore> {
        self.meta.clone()
    }

    fn is_volatile(&self) -> bool {
        true
    }

    fn never_waits(&self) -> bool {
        true
    }
}

#[async_trait]
impl StorageEngineBuilder for LogFault {
    type Engine = BrokenEngine;

    async fn build(&self) -> Result<Arc<BrokenEngine>, Error> {
        let inner = MemStorageEngine::new();
        let log = Arc::new(BrokenLog { inner: inner.log_store(), fault: *self });
        Ok(Arc::new(BrokenEngine { log, meta: inner.meta_store() }))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Ok(())
    }
}

fn expect_broken(fault: impl std::fmt::Debug, result: Result<(), Error>, law: &str) {
    let report = result.expect_err(&format!("{fault:?} is found")).to_string();
    assert!(report.contains(&format!("the law `{law}` is broken")), "{fault:?}: {report}");
    for part in ["expected:", "found:", "why:"] {
        assert!(report.contains(part), "{fault:?}: {report}");
    }
}

#[tokio::test]
async fn broken_logs_are_found() {
    StorageEngineTestSuite::run_all_tests(LogFault::None).await.expect("the wrapper itself breaks nothing");
    for (fault, law) in [
        (LogFault::AcceptsHoles, "persist_is_contiguous"),
        (LogFault::RangeWithoutItsEnd, "get_entries_is_a_slice"),
        (LogFault::PurgeKeepsAnotherHistory, "purge_of_another_term_drops_the_whole_log"),
        (LogFault::PurgeMovesBack, "purge_below_the_boundary_does_nothing"),
        (LogFault::TruncateForgetsOne, "truncate_removes_the_suffix"),
        (LogFault::ResetKeepsTheBoundary, "reset_empties_the_log_and_keeps_the_vote"),
        (LogFault::CompactedIsNone, "entry_answers_for_every_index"),
        (LogFault::WaitsAgainstItsPromise, "who_never_waits_is_ready_at_once"),
    ] {
        expect_broken(fault, StorageEngineTestSuite::run_all_tests(fault).await, law);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KvFault {
    None,
    EmptyValuesAreRemovals,
    BatchInTwoSteps,
    BackwardLimitFromTheFront,
    ReplaceMerges,
    ReplaceIsNotAtomic,
}

struct BrokenKv {
    inner: MemKvStore,
    fault: KvFault,
}

impl KvStore for BrokenKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.inner.get(key)
    }

    fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>, Error> {
        if self.fault == KvFault::BackwardLimitFromTheFront && direction == Direction::Backward {
            let mut found = self.inner.scan(range, limit, Direction::Forward)?;
            found.reverse();
            return Ok(found);
        }
        self.inner.scan(range, limit, direction)
    }

    fn write(&self, mut batch: WriteBatch) -> Result<(), Error> {
        match self.fault {
            KvFault::EmptyValuesAreRemovals => {
                for op in &mut batch.ops {
                    if let WriteOp::Put(key, value) = op
                        && value.is_empty()
                    {
                        *op = WriteOp::Delete(key.clone());
                    }
                }
            }
            KvFault::BatchInTwoSteps => {
                let rest = batch.ops.split_off(batch.ops.len() / 2);
                self.inner.write(batch)?;
                // Long enough for a reader to look in between.
                std::thread::sleep(std::time::Duration::from_micros(200));
                batch = WriteBatch { ops: rest };
            }
            _ => {}
        }
        self.inner.write(batch)
    }

    fn replace_all(&self, sorted: &mut dyn Iterator<Item = Result<(Bytes, Bytes), Error>>) -> Result<(), Error> {
        match self.fault {
            KvFault::ReplaceMerges => {
                let mut batch = WriteBatch::new();
                for pair in sorted {
                    let (key, value) = pair?;
                    batch.put(key, value);
                }
                self.inner.write(batch)
            }
            KvFault::ReplaceIsNotAtomic => {
                self.inner.replace_all(&mut std::iter::empty())?;
                self.inner.replace_all(sorted)
            }
            _ => self.inner.replace_all(sorted),
        }
    }

    fn flush(&self) -> Result<(), Error> {
        self.inner.flush()
    }

    fn is_volatile(&self) -> bool {
        true
    }
}

#[async_trait]
impl KvStoreBuilder for KvFault {
    type Store = BrokenKv;

    async fn build(&self) -> Result<Arc<BrokenKv>, Error> {
        Ok(Arc::new(BrokenKv { inner: MemKvStore::new(), fault: *self }))
    }

    async fn cleanup(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[tokio::test]
async fn broken_key_value_stores_are_found() {
    KvStoreTestSuite::run_all_tests(KvFault::None).await.expect("the wrapper itself breaks nothing");
    for (fault, law) in [
        (KvFault::EmptyValuesAreRemovals, "what_is_written_is_read"),
        (KvFault::BatchInTwoSteps, "reads_never_see_half_a_batch"),
        (KvFault::BackwardLimitFromTheFront, "scans_follow_byte_order"),
        (KvFault::ReplaceMerges, "replace_all_replaces_everything"),
        (KvFault::ReplaceIsNotAtomic, "a_failed_replace_all_changes_nothing"),
    ] {
        expect_broken(fault, KvStoreTestSuite::run_all_tests(fault).await, law);
    }
}
