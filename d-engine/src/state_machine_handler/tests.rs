//! The machine is told of the time although it is busy.

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use async_trait::async_trait;
use d_engine_core::{KvCommand, StorageEngine as _};
use d_engine_mem::MemStorageEngine;
use tokio::sync::watch;

use super::*;
use crate::NodeConfig;
use crate::applying::Applying;
use crate::clock::Clock;
use crate::hooks::{HookedMachine, MachineHooks};
use crate::inbox::Bounds;
use crate::published::Leadership;
use crate::snapshot_policy::{Label, Progress};
use crate::snapshot_store::SnapshotStore;

/// Goes on only while something is applied.
#[derive(Default)]
struct WorkClock(AtomicU64);

impl Clock for WorkClock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// Takes 600 ms for each chunk, and counts how often it is asked what is due.
struct Slow {
    clock: Arc<WorkClock>,
    looks: AtomicUsize,
}

#[async_trait]
impl MachineHooks for Slow {
    async fn before_apply(&self, _: &[Entry]) {
        self.clock.0.fetch_add(600, Ordering::Relaxed);
    }

    fn asked(&self) {
        self.looks.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_machine_that_is_never_idle_is_asked_what_is_due_after_each_round() {
    const ROUNDS: u64 = 6;
    let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let clock = Arc::new(WorkClock::default());
    let machine = Arc::new(HookedMachine::new(Slow { clock: Arc::clone(&clock), looks: AtomicUsize::new(0) }));
    let (queue, inbox) = (Arc::new(ApplyQueue::new()), Inbox::new(Bounds { callers: 10, bytes: 100, messages: 10 }));
    for index in 1..=ROUNDS {
        let command = KvCommand::Put { key: "k".into(), value: "v".into() }.encode();
        let entries = vec![Entry::new(index, 1, EntryKind::Command, command)];
        assert!(queue.push(ApplyJob::Apply { first: index, last: index, entries }).is_ok());
    }
    queue.close();
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
    let (_leader, leadership) = watch::channel(Leadership { term: 1, leader: Some(1) });
    let log = MemStorageEngine::new().log_store();
    let handler = StateMachineHandler::new(
        machine.clone(),
        log,
        tokio.handle().clone(),
        1 << 20,
        Arc::default(),
        snapshots,
        MachineClock::new(1, clock, leadership),
    );
    Applying::new(queue).run(handler, &inbox);
    assert!(machine.looks.load(Ordering::Relaxed) >= ROUNDS as usize);
}
