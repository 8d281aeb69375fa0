//! What is written at once, and what is not.

use super::*;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use d_engine_core::{Entry, EntryKind, HardState, LogId, StorageEngine as _};
use d_engine_mem::MemStorageEngine;

use crate::hooks::{HookedLog, LogHooks};

const WAITS: u8 = 1;
const FAILS: u8 = 2;
const PANICS: u8 = 3;

/// Breaks its promise when told to.
#[derive(Default)]
struct Log {
    mood: AtomicU8,
}

#[async_trait]
impl LogHooks for Log {
    async fn before_append(&self, _: &[Entry]) -> Result<(), Error> {
        match self.mood.load(Ordering::SeqCst) {
            WAITS => tokio::task::yield_now().await,
            FAILS => return Err(Error::backend("the tape is torn")),
            PANICS => panic!("the tape burns"),
            _ => {}
        }
        Ok(())
    }
}

struct Stage {
    tokio: tokio::runtime::Runtime,
    log: Arc<HookedLog<Log>>,
    meta: Arc<dyn MetaStore>,
    queue: Arc<DiskQueue>,
    writer: Writer,
}

impl Stage {
    fn new() -> Self {
        let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let engine = MemStorageEngine::new();
        let log = Arc::new(HookedLog::new(engine.log_store(), Log::default()));
        let (meta, queue): (Arc<dyn MetaStore>, _) = (engine.meta_store(), Arc::new(DiskQueue::new()));
        let here = Some((Arc::clone(&log) as _, Arc::clone(&meta)));
        let writer = Writer::new(Arc::clone(&queue), here, tokio.handle().clone());
        Self { tokio, log, meta, queue, writer }
    }

    fn write(&mut self, write: Write) -> Result<Option<u64>, Error> {
        self.writer.write(&mut vec![DiskJob::Write(write)])
    }

    fn queued(&self) -> Vec<u64> {
        self.queue.look(|jobs| jobs.iter().map(DiskJob::seq).collect())
    }
}

fn entry(seq: u64) -> Write {
    Write { seq, entries: vec![Entry::new(seq, 1, EntryKind::Command, b"")], ..Write::default() }
}

#[test]
fn a_store_that_never_waits_is_written_at_once() {
    let mut stage = Stage::new();
    let mut hard_state = HardState::default();
    hard_state.term = 7;
    let first = Write { hard_state: Some(hard_state), ..entry(1) };
    let replaced = Write { seq: 3, replace_from: Some(2), entries: entry(2).entries, ..Write::default() };
    let mut jobs: Vec<_> = [first, entry(2), replaced].map(DiskJob::Write).into();
    assert_eq!(stage.writer.write(&mut jobs).unwrap(), Some(3));
    assert_eq!((stage.log.last_index(), stage.meta.load_hard_state().unwrap()), (2, Some(hard_state)));
    assert!(stage.queued().is_empty());
    assert_eq!(stage.writer.write(&mut jobs).unwrap(), None, "nothing is to be written");
}

#[test]
fn nothing_overtakes_what_the_disk_thread_was_given() {
    let mut stage = Stage::new();
    assert_eq!(stage.write(entry(1)).unwrap(), Some(1));
    assert_eq!(stage.write(Write { seq: 2, purge: Some(LogId::new(1, 1)), ..Write::default() }).unwrap(), None);
    assert_eq!(stage.write(Write { seq: 3, ..entry(2) }).unwrap(), None);
    assert_eq!(stage.queued(), [2, 3]);
    stage.writer.persisted(2);
    assert_eq!(stage.write(Write { seq: 4, ..entry(3) }).unwrap(), None);
    stage.queue.take_more(&mut Vec::new());
    stage.writer.persisted(4);
    let hard_state = Some(HardState::default());
    assert_eq!(stage.write(Write { seq: 5, hard_state, ..Write::default() }).unwrap(), Some(5));
}

#[test]
fn a_write_that_waits_is_finished_by_the_disk_thread_and_so_are_all_later_ones() {
    let mut stage = Stage::new();
    stage.log.mood.store(WAITS, Ordering::SeqCst);
    assert_eq!(stage.write(entry(1)).unwrap(), None);
    stage.log.mood.store(0, Ordering::SeqCst);
    assert_eq!(stage.write(entry(2)).unwrap(), None);
    assert_eq!((stage.log.last_index(), stage.queued()), (0, vec![1, 2]));
    let mut jobs = Vec::new();
    stage.queue.take_more(&mut jobs);
    let DiskJob::Begun { writing, .. } = jobs.remove(0) else { panic!("it was begun") };
    stage.tokio.block_on(writing).unwrap();
    assert_eq!(stage.log.last_index(), 1);
    stage.writer.persisted(2);
    assert_eq!(stage.write(entry(3)).unwrap(), None, "its promise is broken");
}

#[test]
fn after_a_failure_nothing_is_written() {
    for (mood, what) in [(FAILS, "the tape is torn"), (PANICS, "the tape burns")] {
        let mut stage = Stage::new();
        stage.log.mood.store(mood, Ordering::SeqCst);
        assert!(stage.write(entry(1)).unwrap_err().to_string().contains(what));
        stage.log.mood.store(0, Ordering::SeqCst);
        assert_eq!(stage.write(entry(1)).unwrap(), None);
        assert_eq!((stage.log.last_index(), stage.queued()), (0, vec![]));
    }
}
