//! Rounds without the threads around them.

use super::*;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::task::{Context, Wake, Waker};

use d_engine_core::{MetaStore, StorageEngine as _};
use d_engine_kv::KvStateMachine;
use d_engine_mem::{MemKvStore, MemStorageEngine};
use d_engine_net::Hello;

use crate::NodeConfig;
use crate::clock::BootClock;
use crate::disk::DiskQueue;
use crate::inbox::Bounds;
use crate::prepare::{Stores, prepare};
use crate::state_machine_handler::ApplyQueue;

/// The loop of a single node, without the threads around it.
fn runtime(tokio: &Handle) -> Runtime {
    runtime_by(Arc::new(BootClock), tokio)
}

fn runtime_by(clock: Arc<dyn Clock>, tokio: &Handle) -> Runtime {
    let engine = MemStorageEngine::new();
    let machine = KvStateMachine::new(MemKvStore::new()).unwrap();
    let log: Arc<dyn LogStore> = engine.log_store();
    let config = NodeConfig::for_dir("unused");
    let meta: Arc<dyn MetaStore> = engine.meta_store();
    let stores = Stores { log: &*log, meta: &*meta, machine: &machine, is_volatile: true };
    let prepared = prepare(&config, stores, &BootClock, tokio).unwrap();
    let published = Published::new(prepared.driver.status(BootClock.now()), Hello::new(1, 0));
    Runtime {
        driver: prepared.driver,
        clock,
        inbox: Arc::new(Inbox::new(Bounds { callers: 10, bytes: 100, messages: 10 })),
        writer: Writer::new(Arc::new(DiskQueue::new()), Some((log.clone(), meta)), tokio.clone()),
        applying: Arc::new(Applying::new(Arc::new(ApplyQueue::new()))),
        log,
        wire: Wire::Nowhere,
        published: Arc::new(published),
        applied: Arc::default(),
        snapshots: prepared.snapshots,
        transfer_bytes_per_s: 1 << 20,
        tokio: tokio.clone(),
        work: Work::new(),
    }
}

/// Looks at the published status at the moment of the answer.
struct Witness {
    published: Arc<Published>,
    answers: AtomicUsize,
    early: AtomicUsize,
}

impl Wake for Witness {
    fn wake(self: Arc<Self>) {
        self.answers.fetch_add(1, Ordering::SeqCst);
        self.early.fetch_add(usize::from(self.published.failure().is_none()), Ordering::SeqCst);
    }
}

#[test]
fn whoever_is_answered_finds_what_was_decided_in_the_status() {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let runtime = runtime(tokio.handle());
    let inbox = Arc::clone(&runtime.inbox);
    let witness = Arc::new(Witness {
        published: Arc::clone(&runtime.published),
        answers: AtomicUsize::new(0),
        early: AtomicUsize::new(0),
    });
    let waker = Waker::from(Arc::clone(&witness));
    let mut context = Context::from_waker(&waker);
    let (mut read, mut write) = (inbox.read(false).unwrap(), inbox.propose(bytes::Bytes::new()).unwrap());
    assert!(std::pin::pin!(&mut read).poll(&mut context).is_pending());
    assert!(std::pin::pin!(&mut write).poll(&mut context).is_pending());
    inbox.complete(Input::StorageFailed { why: "the plug was pulled".into() });
    inbox.close();
    runtime.run();
    assert_eq!(witness.answers.load(Ordering::SeqCst), 2);
    assert_eq!(witness.early.load(Ordering::SeqCst), 0);
}

#[test]
fn whatever_may_change_the_leader_is_shown_at_once_and_the_rest_soon() {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut runtime = runtime(tokio.handle());
    runtime.publish();
    let news = &mut runtime.work.news;
    for usual in [Input::Persisted { seq: 1 }, Input::Read { id: 1, by_lease: false }, Input::Applied { index: 1 }] {
        news.take_in(&usual.into());
    }
    news.shown_at = Instant::now();
    assert!(!news.is_due(&runtime.driver) && news.due_in().is_some_and(|time| time <= STATUS_AGE_MAX));
    news.take_in(&Input::StorageFailed { why: String::new() }.into());
    assert!(news.is_due(&runtime.driver));
    runtime.publish();
    assert!(!runtime.work.news.is_due(&runtime.driver));
    runtime.work.news.shown = (9, Role::Leader, Some(1));
    assert!(runtime.work.news.is_due(&runtime.driver), "term, part and leader are not those of the driver");
}

/// Panics at the wish of the test.
#[derive(Default)]
struct BrokenClock(AtomicBool);

impl Clock for BrokenClock {
    fn now(&self) -> Duration {
        assert!(!self.0.load(Ordering::SeqCst), "the spring is broken");
        BootClock.now()
    }
}

#[test]
fn a_driver_that_panics_on_a_callers_thread_ends_the_node_and_not_the_thread() {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let clock = Arc::new(BrokenClock::default());
    let runtime = runtime_by(Arc::clone(&clock) as _, tokio.handle());
    let (inbox, published) = (Arc::clone(&runtime.inbox), Arc::clone(&runtime.published));
    let driver = std::thread::spawn(move || runtime.run());
    // Answered: it runs.
    assert!(inbox.transfer(9).unwrap().wait().unwrap().is_err());
    clock.0.store(true, Ordering::SeqCst);
    let answer = inbox.transfer(9).map(crate::inbox::Answered::wait);
    assert!(!matches!(answer, Ok(Ok(_))), "nobody answers");
    driver.join().unwrap();
    assert!(published.failure().unwrap().contains("the spring is broken"));
    assert!(inbox.read(false).is_err(), "nothing is taken in any more");
}

#[test]
fn a_proposal_on_stores_that_never_wait_is_written_and_commits_within_one_round() {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut runtime = runtime(tokio.handle());
    runtime.perform_all();
    while runtime.driver.leadership().1 != Role::Leader {
        runtime.handle_all();
        std::thread::yield_now();
    }
    let mut jobs = Vec::new();
    runtime.applying.queue().take_more(&mut jobs);
    jobs.clear();
    let inbox = Arc::clone(&runtime.inbox);
    let _answer = inbox.propose(bytes::Bytes::from_static(b"c")).unwrap();
    runtime.handle_all();
    runtime.applying.queue().take_more(&mut jobs);
    assert!(matches!(jobs[..], [ApplyJob::Expect { .. }, ApplyJob::Apply { .. }]));
    assert!(runtime.writer.queue().look(<[_]>::is_empty));
}
