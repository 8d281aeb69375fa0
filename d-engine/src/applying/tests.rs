//! Who applies, and that it makes no difference.

use super::*;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::thread::ThreadId;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{Entry, EntryKind, KvCommand, LogId, StorageEngine as _};
use d_engine_mem::MemStorageEngine;
use d_engine_raft::Event;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};

use crate::NodeConfig;
use crate::clock::Clock;
use crate::hooks::{HookedMachine, MachineHooks};
use crate::inbox::{Answered, Applied, Bounds, Inbound, Refusal};
use crate::machine_clock::MachineClock;
use crate::published::Leadership;
use crate::snapshot_policy::{Label, Progress, Snapshots};
use crate::snapshot_store::SnapshotStore;
use crate::state_machine_handler::ApplyJob;

/// Stands, once it is told to, long before the next time at which the machine is told of it: no tick brings what a lost
/// wake-up has left.
struct Standing(AtomicU64);

impl Clock for Standing {
    fn now(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

const QUICK: u8 = 0;
const SLOW: u8 = 1;
const WAITS: u8 = 2;
const PANICS: u8 = 3;

/// Notes what is applied, and on which thread.
struct Machine {
    mood: AtomicU8,
    /// It has come to the gate.
    waiting: AtomicBool,
    gate: Notify,
    applied: Mutex<Vec<(u64, ThreadId)>>,
    told: AtomicU64,
    /// Never to wait.
    promises: bool,
}

#[async_trait]
impl MachineHooks for Machine {
    async fn before_apply(&self, chunk: &[Entry]) {
        let begun = Instant::now();
        match self.mood.load(Ordering::SeqCst) {
            SLOW => while begun.elapsed() < Duration::from_millis(1) {},
            WAITS => {
                self.waiting.store(true, Ordering::SeqCst);
                self.gate.notified().await;
            }
            PANICS => panic!("the gears are jammed"),
            _ => {}
        }
        let on = std::thread::current().id();
        self.applied.lock().unwrap().extend(chunk.iter().map(|entry| (entry.index, on)));
    }

    fn never_waits(&self) -> bool {
        self.promises
    }

    fn told(&self) {
        self.told.fetch_add(1, Ordering::SeqCst);
    }
}

/// An apply thread, and what a driver has.
struct Stage {
    machine: Arc<HookedMachine<Machine>>,
    applying: Arc<Applying>,
    inbox: Arc<Inbox>,
    /// The last index that was given out; held by who drives.
    driver: Mutex<u64>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    _leader: watch::Sender<Leadership>,
    _tokio: Runtime,
    _dir: tempfile::TempDir,
}

impl Stage {
    fn new(leads: bool) -> Arc<Self> {
        Self::with_promise(leads, true)
    }

    fn with_promise(leads: bool, promises: bool) -> Arc<Self> {
        let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let machine = Arc::new(HookedMachine::new(Machine {
            mood: AtomicU8::new(QUICK),
            waiting: AtomicBool::new(false),
            gate: Notify::new(),
            applied: Mutex::default(),
            told: AtomicU64::new(0),
            promises,
        }));
        let clock = Arc::new(Standing(AtomicU64::new(1 << 30)));
        let (queue, inbox) =
            (Arc::new(ApplyQueue::new()), Arc::new(Inbox::new(Bounds { callers: 100, bytes: 10_000, messages: 10 })));
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SnapshotStore::temporary(dir.path().join("snapshots"), 1));
        let snapshots = Snapshots {
            node: 1,
            machine: machine.clone(),
            policy: NodeConfig::for_dir(dir.path()).snapshot,
            runtime: tokio.handle().clone(),
            queue: Arc::clone(&queue),
            progress: Progress::new(Label::default(), &store),
            store,
        };
        let (leader, leadership) = watch::channel(Leadership { term: 1, leader: Some(if leads { 1 } else { 2 }) });
        let handler = StateMachineHandler::new(
            machine.clone(),
            MemStorageEngine::new().log_store(),
            tokio.handle().clone(),
            1 << 20,
            Arc::default(),
            snapshots,
            MachineClock::new(1, clock.clone(), leadership),
        );
        let applying = Arc::new(Applying::new(queue));
        let run = {
            let (applying, inbox) = (Arc::clone(&applying), Arc::clone(&inbox));
            move || applying.run(handler, &inbox)
        };
        let thread = Mutex::new(Some(std::thread::spawn(run)));
        while machine.told.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        clock.0.store(0, Ordering::SeqCst);
        let driver = Mutex::new(0);
        Arc::new(Self { machine, applying, inbox, driver, thread, _leader: leader, _tokio: tokio, _dir: dir })
    }

    /// What a round leaves that commits a caller's command.
    fn commit(&self) -> Answered<Applied> {
        let mut last = self.driver.lock().unwrap();
        *last += 1;
        let at = LogId::new(1, *last);
        let (answer, mut taken) = (self.inbox.propose(Bytes::new()).unwrap(), Vec::new());
        self.inbox.take_proposals(&mut taken, 0);
        let Some(Inbound::Propose { caller, .. }) = taken.pop() else { panic!("no proposal") };
        let command = KvCommand::Put { key: "k".into(), value: "v".into() }.encode();
        let entries = vec![Entry::new(*last, 1, EntryKind::Command, command)];
        let apply = ApplyJob::Apply { first: *last, last: *last, entries };
        self.applying.queue().append_unannounced(&mut vec![ApplyJob::Expect { at, caller }, apply]);
        answer
    }

    fn put(&self) -> Result<Applied, Refusal> {
        let answer = self.commit();
        self.applying.drive(&self.inbox);
        answer.wait().unwrap()
    }

    /// Puts until this thread applies.
    fn warm_up(&self) {
        let me = std::thread::current().id();
        while self.machine.applied.lock().unwrap().last().is_none_or(|(_, on)| *on != me) {
            self.put().unwrap();
        }
    }

    fn applied(&self) -> Vec<u64> {
        self.machine.applied.lock().unwrap().iter().map(|(index, _)| *index).collect()
    }

    fn apply_thread(&self) -> ThreadId {
        self.thread.lock().unwrap().as_ref().unwrap().thread().id()
    }

    fn join(&self) {
        self.thread.lock().unwrap().take().unwrap().join().unwrap();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.applying.queue().close();
        if let Some(thread) = self.thread.lock().unwrap().take() {
            thread.join().unwrap();
        }
    }
}

#[test]
fn whoever_applies_each_entry_is_applied_once_in_order_and_its_caller_answered() {
    const THREADS: u64 = 6;
    const PUTS: u64 = 2000;
    let stage = Stage::new(true);
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let stage = Arc::clone(&stage);
            std::thread::spawn(move || {
                for put in 0..PUTS {
                    // Now and then it is not quick.
                    let mood = if thread == 0 && put % 400 == 399 { SLOW } else { QUICK };
                    stage.machine.mood.store(mood, Ordering::SeqCst);
                    stage.put().unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(stage.applied(), (1..=THREADS * PUTS).collect::<Vec<_>>());
    let apply_thread = stage.apply_thread();
    let elsewhere = stage.machine.applied.lock().unwrap().iter().filter(|(_, on)| *on != apply_thread).count();
    assert!(elsewhere > 0, "a quick machine is driven by others");
}

#[test]
fn a_slow_machine_is_left_to_the_apply_thread() {
    let stage = Stage::new(true);
    stage.warm_up();
    stage.machine.mood.store(SLOW, Ordering::SeqCst);
    // It is found out once.
    stage.put().unwrap();
    let before = stage.applied().len();
    (0..50).for_each(|_| drop(stage.put().unwrap()));
    let apply_thread = stage.apply_thread();
    assert!(stage.machine.applied.lock().unwrap()[before..].iter().all(|(_, on)| *on == apply_thread));
}

#[test]
fn a_machine_that_waits_keeps_no_driver_and_is_finished_before_anything_else_is_applied() {
    let stage = Stage::new(true);
    stage.warm_up();
    let before = stage.applied();
    stage.machine.mood.store(WAITS, Ordering::SeqCst);
    let waits = stage.commit();
    stage.applying.drive(&stage.inbox);
    // The apply thread may have had the handler just then.
    while !stage.machine.waiting.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    stage.machine.mood.store(QUICK, Ordering::SeqCst);
    let next = stage.commit();
    stage.applying.drive(&stage.inbox);
    assert_eq!(stage.applied(), before, "both wait");
    stage.machine.gate.notify_one();
    assert_eq!(waits.wait().unwrap().unwrap().at.index + 1, next.wait().unwrap().unwrap().at.index);
    (0..50).for_each(|_| drop(stage.put().unwrap()));
    assert_eq!(stage.applied(), (1..=stage.applied().len() as u64).collect::<Vec<_>>());
    let apply_thread = stage.apply_thread();
    let on_it = stage.machine.applied.lock().unwrap()[before.len()..].iter().all(|(_, on)| *on == apply_thread);
    assert!(on_it, "it may wait again");
}

#[test]
fn a_panic_of_the_machine_ends_the_nodes_part_and_not_the_thread_that_drives() {
    let stage = Stage::new(true);
    stage.warm_up();
    stage.inbox.take_all(&mut Vec::new());
    stage.machine.mood.store(PANICS, Ordering::SeqCst);
    let answer = stage.commit();
    stage.applying.drive(&stage.inbox);
    assert!(answer.wait().is_err(), "its fate is not known");
    let mut taken = Vec::new();
    stage.inbox.take_all(&mut taken);
    let Some(Inbound::Event(event)) = taken.first() else { panic!("nothing was told") };
    let Event::Input(Input::StorageFailed { why }) = &**event else { panic!("no failure") };
    assert!(why.contains("the gears are jammed"), "{why}");
    stage.join();
    assert!(stage.commit().wait().is_err(), "nothing is applied any more");
}

#[test]
fn what_a_follower_applies_is_left_to_gather_unless_a_reader_waits() {
    let stage = Stage::new(false);
    let me = std::thread::current().id();
    // Quick enough.
    for _ in 0..100 {
        stage.put().unwrap();
    }
    assert!(stage.machine.applied.lock().unwrap().iter().all(|(_, on)| *on != me));
    let read = || {
        let (answer, mut taken) = (stage.inbox.read(false).unwrap(), Vec::new());
        stage.inbox.take_all(&mut taken);
        let Some(Inbound::Read { caller, .. }) = taken.pop() else { panic!("no read") };
        let index = *stage.driver.lock().unwrap();
        stage.applying.queue().append_unannounced(&mut vec![ApplyJob::ReadAt { index, caller }]);
        answer
    };
    let by_me = || stage.machine.applied.lock().unwrap().last().is_some_and(|(_, on)| *on == me);
    while !by_me() {
        // Unless the apply thread has been at it.
        drop(stage.commit());
        let answer = read();
        stage.applying.drive(&stage.inbox);
        answer.wait().unwrap().unwrap();
    }
}

#[test]
fn a_machine_that_has_promised_nothing_is_applied_by_its_thread_alone() {
    let stage = Stage::with_promise(true, false);
    let me = std::thread::current().id();
    for _ in 0..200 {
        stage.put().unwrap();
    }
    assert!(stage.machine.applied.lock().unwrap().iter().all(|(_, on)| *on != me));
}
