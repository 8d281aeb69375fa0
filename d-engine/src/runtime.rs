//! The driver loop: one thread that owns the [`Driver`], feeds it everything that waits and performs what it commands.
//!
//! It decides nothing. All that waits is handled before anything is performed, so that writes and messages are shared;
//! the disk and the network then work at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use d_engine_core::LogStore;
use d_engine_raft::{Answer as Outcome, Command, Driver, Event, Input, Message, NodeId, Rejection, Role, Write};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::disk::DiskQueue;
use crate::inbox::{Applied, Caller, Inbound, Inbox, Pruning, Refusal};
use crate::log_read::{Answer, LogRead};
use crate::pending::Numbered;
use crate::published::Published;
use crate::state_machine_handler::{ApplyJob, ApplyQueue};
use crate::wire::Wire;

pub(crate) struct Runtime {
    pub(crate) driver: Driver,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) disk: Arc<DiskQueue>,
    pub(crate) apply: Arc<ApplyQueue>,
    pub(crate) log: Arc<dyn LogStore>,
    pub(crate) wire: Wire,
    pub(crate) published: Arc<Published>,
    pub(crate) applied: Arc<AtomicU64>,
    pub(crate) tokio: Handle,
    pub(crate) work: Work,
}

/// The status that everybody sees is at most so much older than the driver's; leadership is never.
const STATUS_AGE_MAX: Duration = Duration::from_millis(50);
/// How long the loop's end waits for a read of the log before it says so.
const LOG_READ_WAIT: Duration = Duration::from_secs(5);

/// What the loop keeps from one round to the next.
pub(crate) struct Work {
    proposals: Numbered<Caller<Applied>>,
    reads: Numbered<Caller<()>>,
    writes: Vec<Write>,
    jobs: Vec<ApplyJob>,
    sends: Vec<(NodeId, Message)>,
    log_reads: Vec<JoinHandle<()>>,
    /// Answers that leave once the status shows what they show.
    refused_writes: Vec<(Caller<Applied>, Refusal)>,
    answered_reads: Vec<(Caller<()>, Result<(), Refusal>)>,
    idle_jobs: Pruning,
    news: News,
    failed: bool,
}

/// How much of what the driver knows everybody sees.
struct News {
    /// Term, part and leader that everybody sees.
    shown: (u64, Role, Option<NodeId>),
    shown_at: Instant,
    /// Something has happened since.
    is_old: bool,
    /// Something has happened that decides who is asked; it is shown at once.
    is_urgent: bool,
}

impl News {
    /// Everything but a change of leadership may be seen a little later: a status is not made for each round of a busy
    /// node.
    fn take_in(&mut self, event: &Event) {
        use Input::{Applied, Message, Persisted, Propose, Read};
        self.is_old = true;
        let is_usual = matches!(
            event,
            Event::LogRead { .. }
                | Event::Input(Message { .. } | Propose { .. } | Read { .. } | Persisted { .. } | Applied { .. })
        );
        self.is_urgent |= !is_usual;
    }

    /// When to show what has happened although nothing else happens; `None`: everything is shown.
    fn due_in(&self) -> Option<Duration> {
        self.is_old.then(|| STATUS_AGE_MAX.saturating_sub(self.shown_at.elapsed()))
    }

    fn is_due(&self, driver: &Driver) -> bool {
        self.is_urgent || self.shown != driver.leadership() || self.due_in().is_some_and(|time| time.is_zero())
    }
}

/// Set in the driver's number of a read, not in that of a proposal: a refusal names only the number.
const READ: u64 = 1;

impl Work {
    pub(crate) fn new() -> Self {
        Self {
            proposals: Numbered::new(),
            reads: Numbered::new(),
            writes: Vec::new(),
            jobs: Vec::new(),
            sends: Vec::new(),
            log_reads: Vec::new(),
            refused_writes: Vec::new(),
            answered_reads: Vec::new(),
            idle_jobs: Pruning::new(),
            news: News { shown: (0, Role::Unformed, None), shown_at: Instant::now(), is_old: true, is_urgent: true },
            failed: false,
        }
    }
}

impl Runtime {
    /// Runs until the inbox is closed and empty.
    pub(crate) fn run(mut self) {
        let mut waiting = Vec::new();
        // What the driver wants done from the start.
        self.perform_all();
        loop {
            let timeout = self.driver.poll_timeout().map(|at| at.saturating_sub(self.clock.now()));
            let timeout = timeout.into_iter().chain(self.work.news.due_in()).min();
            if !self.inbox.take_all(&mut waiting, timeout) {
                break;
            }
            for inbound in waiting.drain(..) {
                let event = self.event_of(inbound);
                self.work.news.take_in(&event);
                self.driver.handle(self.clock.now(), event);
            }
            let now = self.clock.now();
            if self.driver.poll_timeout().is_some_and(|at| at <= now) {
                self.work.news.is_old = true;
                self.driver.handle(now, Input::Timeout);
            }
            self.perform_all();
        }
        self.publish();
        self.apply.append(&mut self.work.jobs);
        // They end while the reads of the log are waited for.
        self.disk.close();
        self.apply.close();
        let until = Instant::now() + LOG_READ_WAIT;
        for read in self.work.log_reads.drain(..) {
            // Asked again and again, because the application's runtime, and its timers, may have ended.
            while !read.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            if !read.is_finished() {
                tracing::warn!("a read of the log does not end; the log stays open until it does");
            }
            // It ended, or the tokio runtime did; either way it holds the log no more.
            let _ = self.tokio.block_on(read);
        }
    }

    fn event_of(&mut self, inbound: Inbound) -> Event {
        match inbound {
            Inbound::Event(event) => event,
            Inbound::Message { from, message } => Input::Message { from, message }.into(),
            Inbound::Propose { command, caller } => {
                Input::Propose { id: self.work.proposals.insert(caller) << 1, command }.into()
            }
            Inbound::Read { caller } => Input::Read { id: self.work.reads.insert(caller) << 1 | READ }.into(),
        }
    }

    fn perform_all(&mut self) {
        while let Some(command) = self.driver.poll() {
            self.perform(command);
        }
        // The disk first: it takes longest.
        self.disk.append(&mut self.work.writes);
        // Leader and term are visible before any message or answer that shows them leaves.
        if self.work.news.is_due(&self.driver) {
            self.publish();
        }
        self.answer_all();
        if self.work.idle_jobs.is_due(self.apply.append(&mut self.work.jobs)) {
            // While the state machine hangs, callers give up and others come.
            self.work.idle_jobs.done(self.apply.retain(|job| !job.is_idle()));
        }
        for (to, message) in self.work.sends.drain(..) {
            self.wire.send(to, message);
        }
    }

    fn answer_all(&mut self) {
        for (caller, why) in self.work.refused_writes.drain(..) {
            caller.answer(Err(why));
        }
        for (caller, answer) in self.work.answered_reads.drain(..) {
            caller.answer(answer);
        }
    }

    fn perform(&mut self, command: Command) {
        let work = &mut self.work;
        match command {
            Command::Write(write) => work.writes.push(write),
            Command::Send { to, message } => work.sends.push((to, message)),
            Command::ReadLog { ticket, first, last, max_bytes } => self.read_log(ticket, first, last, max_bytes),
            Command::Apply { first, last, entries } => work.jobs.push(ApplyJob::Apply { first, last, entries }),
            Command::Answer(outcome) => self.pass_on(outcome),
            // `Command` may grow; a command that is not carried out must not pass silently.
            other => tracing::error!(?other, "the driver asked for something this runtime does not know"),
        }
    }

    fn pass_on(&mut self, outcome: Outcome) {
        let work = &mut self.work;
        match outcome {
            Outcome::Accepted { id, at } => {
                if let Some(caller) = work.proposals.take(id >> 1) {
                    work.jobs.push(ApplyJob::Expect { at, caller });
                }
            }
            Outcome::ReadReady { id, index } => {
                if let Some(caller) = work.reads.take(id >> 1) {
                    if self.applied.load(Ordering::Acquire) >= index {
                        work.answered_reads.push((caller, Ok(())));
                    } else {
                        work.jobs.push(ApplyJob::ReadAt { index, caller });
                    }
                }
            }
            Outcome::Rejected { id, why } => self.reject(id, why),
            Outcome::Changed { .. } | Outcome::Lost { .. } | Outcome::Transferred { .. } => {
                tracing::error!(?outcome, "an answer to what this runtime never asks");
            }
        }
    }

    fn reject(&mut self, id: u64, why: Rejection) {
        let why = Refusal::Rejected(why);
        if id & READ == 0 {
            if let Some(caller) = self.work.proposals.take(id >> 1) {
                self.work.refused_writes.push((caller, why));
            }
        } else if let Some(caller) = self.work.reads.take(id >> 1) {
            self.work.answered_reads.push((caller, Err(why)));
        }
    }

    /// Reads entries that are no longer in memory, on tokio's threads for blocking work.
    fn read_log(&mut self, ticket: u64, first: u64, last: u64, max_bytes: usize) {
        let answer = Answer::new(Arc::clone(&self.inbox), ticket);
        let read = LogRead { log: Arc::clone(&self.log), range: first..=last, max_bytes, answer };
        let tokio = self.tokio.clone();
        self.work.log_reads.retain(|read| !read.is_finished());
        self.work.log_reads.push(self.tokio.spawn_blocking(move || read.run(&tokio)));
    }

    fn publish(&mut self) {
        let status = self.driver.status(self.clock.now());
        self.work.news =
            News { shown: self.driver.leadership(), shown_at: Instant::now(), is_old: false, is_urgent: false };
        if let Some(why) = &status.failure
            && !std::mem::replace(&mut self.work.failed, true)
        {
            self.work.jobs.push(ApplyJob::Fail { why: why.clone() });
        }
        if let Some(members) = self.published.publish(status) {
            self.wire.set_members(&members);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Wake, Waker};

    use d_engine_core::StorageEngine as _;
    use d_engine_kv::KvStateMachine;
    use d_engine_mem::{MemKvStore, MemStorageEngine};
    use d_engine_net::Hello;

    use crate::NodeConfig;
    use crate::clock::BootClock;
    use crate::inbox::Bounds;
    use crate::prepare::prepare;

    /// The loop of a single node, without the threads around it.
    fn runtime(tokio: &Handle) -> Runtime {
        let engine = MemStorageEngine::new();
        let machine = KvStateMachine::new(MemKvStore::new()).unwrap();
        let log: Arc<dyn LogStore> = engine.log_store();
        let config = NodeConfig::for_dir("unused");
        let prepared = prepare(&config, &*log, &*engine.meta_store(), &machine, &BootClock, tokio).unwrap();
        let published = Published::new(prepared.driver.status(BootClock.now()), Hello::new(1, 0));
        Runtime {
            driver: prepared.driver,
            clock: Arc::new(BootClock),
            inbox: Arc::new(Inbox::new(Bounds { callers: 10, bytes: 100, messages: 10 })),
            disk: Arc::new(DiskQueue::new()),
            apply: Arc::new(ApplyQueue::new()),
            log,
            wire: Wire::Nowhere,
            published: Arc::new(published),
            applied: Arc::default(),
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
        let (mut read, mut write) = (inbox.read().unwrap(), inbox.propose(bytes::Bytes::new()).unwrap());
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
        for usual in [Input::Persisted { seq: 1 }, Input::Read { id: 1 }, Input::Applied { index: 1 }] {
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
}
