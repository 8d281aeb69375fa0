//! One round of the driver: feeds the [`Driver`] everything that waits and performs what it commands.
//!
//! It decides nothing. All that waits is handled before anything is performed, so that writes and messages are shared;
//! the disk and the network then work at the same time. Any thread may run a round ([`Inbox`]), so nothing here waits.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use d_engine_core::LogStore;
use d_engine_raft::{Answer as Outcome, Command, Driver, Event, Input, Message, NodeId, Rejection, Role, SnapshotTask};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::applying::Applying;
use crate::clock::Clock;
use crate::disk::DiskJob;
use crate::ending::cause;
use crate::groups::Groups;
use crate::inbox::{Applied, Caller, Inbound, Inbox, Outlook, Pruning, Refusal};
use crate::log_read::{Answer, LogRead};
use crate::pending::Numbered;
use crate::published::Published;
use crate::snapshot_store::SnapshotStore;
use crate::snapshot_transfer::Sending;
use crate::state_machine_handler::ApplyJob;
use crate::wire::Wire;
use crate::writer::Writer;

pub(crate) struct Runtime {
    pub(crate) driver: Driver,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) writer: Writer,
    pub(crate) applying: Arc<Applying>,
    pub(crate) log: Arc<dyn LogStore>,
    pub(crate) wire: Wire,
    pub(crate) published: Arc<Published>,
    pub(crate) applied: Arc<AtomicU64>,
    pub(crate) tokio: Handle,
    pub(crate) snapshots: Arc<SnapshotStore>,
    /// Bytes of a snapshot sent to one replica in a second, at most.
    pub(crate) transfer_bytes_per_s: u64,
    pub(crate) work: Work,
}

/// The status that everybody sees is at most so much older than the driver's; leadership is never.
const STATUS_AGE_MAX: Duration = Duration::from_millis(50);
/// How long the loop's end waits for a read of the log before it says so.
const LOG_READ_WAIT: Duration = Duration::from_secs(5);

/// What a round leaves to be applied, by whoever ran it, once the driver is free.
pub(crate) struct Committed {
    /// `None`: nothing that cannot wait.
    pub(crate) applying: Option<Arc<Applying>>,
    /// The disk has something to do.
    pub(crate) writes_wait: bool,
}

/// What the loop keeps from one round to the next.
pub(crate) struct Work {
    taken: Vec<Inbound>,
    groups: Groups,
    proposals: Numbered<Caller<Applied>>,
    reads: Numbered<Caller<()>>,
    changes: Numbered<Caller<u64>>,
    transfers: Numbered<Caller<()>>,
    writes: Vec<DiskJob>,
    jobs: Vec<ApplyJob>,
    /// Jobs that cannot wait have been added, and nobody was woken.
    has_committed: bool,
    sends: Vec<(NodeId, Message)>,
    log_reads: Vec<JoinHandle<()>>,
    /// Snapshots on their way, one to each replica at most.
    sendings: BTreeMap<NodeId, JoinHandle<()>>,
    /// Answers that leave once the status shows what they show.
    refused_writes: Vec<(Caller<Applied>, Refusal)>,
    answered_reads: Vec<(Caller<()>, Result<(), Refusal>)>,
    answered_changes: Vec<(Caller<u64>, Result<u64, Refusal>)>,
    idle_jobs: Pruning,
    news: News,
    /// Nothing has been given to the apply thread since this node led.
    led: bool,
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

/// What the driver's number of a request begins with: a refusal names only the number.
#[derive(Clone, Copy)]
enum Kind {
    Proposal,
    Read,
    Change,
    Transfer,
}

impl Kind {
    /// The driver's number for the request of this kind with a number of its own.
    fn number(self, own: u64) -> u64 {
        own << 2 | self as u64
    }

    /// The kind and the own number.
    fn of(number: u64) -> (Self, u64) {
        let kinds = [Self::Proposal, Self::Read, Self::Change, Self::Transfer];
        (kinds[(number & 3) as usize], number >> 2)
    }
}

impl Work {
    pub(crate) fn new() -> Self {
        Self {
            taken: Vec::new(),
            groups: Groups::new(),
            proposals: Numbered::new(),
            reads: Numbered::new(),
            changes: Numbered::new(),
            transfers: Numbered::new(),
            writes: Vec::new(),
            jobs: Vec::new(),
            has_committed: false,
            sends: Vec::new(),
            log_reads: Vec::new(),
            sendings: BTreeMap::new(),
            refused_writes: Vec::new(),
            answered_reads: Vec::new(),
            answered_changes: Vec::new(),
            idle_jobs: Pruning::new(),
            news: News { shown: (0, Role::Unformed, None), shown_at: Instant::now(), is_old: true, is_urgent: true },
            led: true,
            failed: false,
        }
    }
}

impl Runtime {
    /// Runs until the inbox is closed and empty.
    pub(crate) fn run(mut self) {
        // What the driver wants done from the start.
        self.perform_all();
        let inbox = Arc::clone(&self.inbox);
        if let Some(runtime) = inbox.serve(self) {
            runtime.end();
        }
    }

    /// Handles what waits. A panic ends the node and not the thread, which may be any; `None`: there is nothing to drive.
    pub(crate) fn round(held: &mut Option<Self>) -> Option<Committed> {
        let runtime = held.as_mut()?;
        // The state that a panic leaves behind is not looked at again.
        let panic = match catch_unwind(AssertUnwindSafe(|| runtime.handle_all())) {
            Ok(()) => return Some(runtime.committed()),
            Err(panic) => panic,
        };
        let what = cause(&*panic);
        tracing::error!(what, "the driver panicked");
        if let Some(Self { published, inbox, .. }) = held.take() {
            published.fail(format!("its driver panicked: {what}"));
            // Nobody answers any more: those that wait are told so by being dropped.
            inbox.abandon();
        }
        None
    }

    fn committed(&mut self) -> Committed {
        let has_committed = std::mem::take(&mut self.work.has_committed);
        Committed {
            applying: has_committed.then(|| Arc::clone(&self.applying)),
            writes_wait: has_committed && self.writer.queue().look(|writes| !writes.is_empty()),
        }
    }

    fn handle_all(&mut self) {
        let mut taken = std::mem::take(&mut self.work.taken);
        self.inbox.take_all(&mut taken);
        self.handle_each(&mut taken);
        let (min, _) = self.next_group();
        self.inbox.take_proposals(&mut taken, min);
        self.handle_each(&mut taken);
        self.work.taken = taken;
        let now = self.clock.now();
        if self.driver.poll_timeout().is_some_and(|at| at <= now) {
            self.work.news.is_old = true;
            self.driver.handle(now, Input::Timeout);
        }
        self.perform_all();
        let outlook = self.outlook();
        self.inbox.set_outlook(outlook);
    }

    /// Handles what has left the queue, at one time: a lease is judged at a moment at which each of these was under way.
    fn handle_each(&mut self, taken: &mut Vec<Inbound>) {
        if taken.is_empty() {
            return;
        }
        let now = self.clock.now();
        for inbound in taken.drain(..) {
            if let Some(event) = self.event_of(inbound) {
                self.handle(now, event);
            }
        }
    }

    fn handle(&mut self, now: Duration, event: Event) {
        self.work.news.take_in(&event);
        crate::budget::taken(&self.published, &event);
        self.driver.handle(now, event);
    }

    fn next_group(&mut self) -> (usize, Option<Instant>) {
        let tail = self.driver.uncommitted();
        self.work.groups.see(tail);
        self.work.groups.next(tail)
    }

    /// What is to be expected now.
    fn outlook(&mut self) -> Outlook {
        let (proposals_min, proposals_at) = self.next_group();
        let timeout = self.driver.poll_timeout().map(|at| at.saturating_sub(self.clock.now()));
        let timeout = timeout.into_iter().chain(self.work.news.due_in()).chain(self.applied_due_in()).min();
        let timeout = timeout.map(|timeout| Instant::now() + timeout);
        Outlook {
            proposals_min,
            proposals_at,
            reads_wait: self.driver.is_asking(),
            applied_waits: !self.driver.is_apply_full(),
            wake_at: timeout,
        }
    }

    /// Ends what the driver has begun.
    fn end(mut self) {
        self.published.lease.clear();
        self.publish();
        self.applying.queue().append(&mut self.work.jobs);
        // They end while the reads of the log are waited for.
        self.writer.queue().close();
        self.applying.queue().close();
        // What has arrived stays with the receivers, for the next leader's transfer.
        self.work.sendings.values().for_each(JoinHandle::abort);
        let until = Instant::now() + LOG_READ_WAIT;
        for read in self.work.log_reads.drain(..) {
            // Asked again and again, because the application's runtime, and its timers, may have ended.
            let mut is_late = false;
            while !read.is_finished() {
                if !is_late && Instant::now() >= until {
                    is_late = true;
                    tracing::warn!("a read of the log does not end; the log stays open until it does");
                }
                self.inbox.end_late_calls();
                std::thread::sleep(Duration::from_millis(1));
            }
            // It ended, or the tokio runtime did; either way it holds the log no more.
            let _ = self.tokio.block_on(read);
        }
    }

    /// When to look for what was applied although nothing else happens.
    fn applied_due_in(&self) -> Option<Duration> {
        self.driver.is_applying().then_some(STATUS_AGE_MAX)
    }

    /// What the driver is to handle; `None` for what is not its business.
    fn event_of(&mut self, inbound: Inbound) -> Option<Event> {
        Some(match inbound {
            Inbound::Event(event) => {
                if let Event::Input(Input::Persisted { seq }) = &*event {
                    self.writer.persisted(*seq);
                }
                *event
            }
            Inbound::Message { from, message } => Input::Message { from, message: *message }.into(),
            Inbound::Propose { command, caller } => {
                Input::Propose { id: Kind::Proposal.number(self.work.proposals.insert(caller)), command }.into()
            }
            Inbound::Read { by_lease, caller } => {
                Input::Read { id: Kind::Read.number(self.work.reads.insert(caller)), by_lease }.into()
            }
            Inbound::Change { change, caller } => {
                let id = Kind::Change.number(self.work.changes.insert(caller));
                Input::ChangeMembership { id, base: None, change: *change }.into()
            }
            Inbound::Transfer { to, caller } => {
                Input::Transfer { id: Kind::Transfer.number(self.work.transfers.insert(caller)), to }.into()
            }
            Inbound::Snapshot { caller } => {
                self.work.jobs.push(ApplyJob::Snapshot { caller });
                return None;
            }
        })
    }

    fn perform_all(&mut self) {
        self.take_commands();
        // The disk first: it takes longest. What is written at once may lead to more.
        while self.write() {
            self.take_commands();
        }
        // Before anything leaves that shows a commit, and before anybody is told to campaign.
        let (commit, lease_until) = self.driver.read_point();
        self.published.lease.publish(commit, lease_until);
        // Leader and term are visible before any message or answer that shows them leaves.
        if self.work.news.is_due(&self.driver) {
            self.publish();
        }
        self.answer_all();
        let jobs = &mut self.work.jobs;
        let leads = self.work.news.shown.1 == Role::Leader;
        // The apply thread of one that has just led sleeps as a leader's: only a loud job wakes it.
        let is_follower = !leads && !self.work.led;
        let is_quiet = jobs.iter().all(|job| job.is_quiet(!is_follower));
        let queue = self.applying.queue();
        let led = leads || self.work.led && jobs.is_empty();
        if std::mem::replace(&mut self.work.led, led) && !led {
            // From now on every job wakes it.
            queue.wake();
        }
        self.work.has_committed |= !is_quiet;
        let waiting = if is_quiet { queue.append_quietly(jobs) } else { queue.append_unannounced(jobs) };
        if self.work.idle_jobs.is_due(waiting) {
            // While the state machine hangs, callers give up and others come.
            self.work.idle_jobs.done(queue.retain(|job| !job.is_idle()));
        }
        self.wire.send(&mut self.work.sends);
    }

    fn take_commands(&mut self) {
        while let Some(command) = self.driver.poll() {
            self.perform(command);
        }
    }

    /// Has everything written; true: the driver knows of something that is written already, or cannot be.
    fn write(&mut self) -> bool {
        let input = match self.writer.write(&mut self.work.writes) {
            Ok(None) => return false,
            Ok(Some(seq)) => Input::Persisted { seq },
            Err(error) => {
                tracing::error!(%error, "the log or hard state cannot be written; this node stops taking part");
                Input::StorageFailed { why: error.to_string() }
            }
        };
        self.handle(self.clock.now(), input.into());
        true
    }

    fn answer_all(&mut self) {
        for (caller, why) in self.work.refused_writes.drain(..) {
            caller.answer(Err(why));
        }
        for (caller, answer) in self.work.answered_reads.drain(..) {
            caller.answer(answer);
        }
        for (caller, answer) in self.work.answered_changes.drain(..) {
            caller.answer(answer);
        }
    }

    fn perform(&mut self, command: Command) {
        crate::budget::commanded(&self.published, &command);
        let work = &mut self.work;
        match command {
            Command::Write(write) => work.writes.push(DiskJob::Write(write)),
            Command::Send { to, message } => work.sends.push((to, message)),
            Command::ReadLog { ticket, first, last, max_bytes } => self.read_log(ticket, first, last, max_bytes),
            Command::Apply { first, last, entries } => work.jobs.push(ApplyJob::Apply { first, last, entries }),
            Command::Answer(outcome) => self.pass_on(outcome),
            Command::Snapshot(task) => self.work_on_snapshot(task),
            // `Command` may grow; a command that is not carried out must not pass silently.
            other => tracing::error!(?other, "the driver asked for something this runtime does not know"),
        }
    }

    fn work_on_snapshot(&mut self, task: SnapshotTask) {
        let jobs = &mut self.work.jobs;
        match task {
            SnapshotTask::Install { last_included } => jobs.push(ApplyJob::Install { last_included }),
            SnapshotTask::Discard { last_included } => jobs.push(ApplyJob::Discard { last_included }),
            SnapshotTask::Send { to, session, term } => self.send_snapshot(to, session, term),
        }
    }

    /// Sends the newest snapshot, on the tasks of the application's runtime; an older transfer to the same replica ends.
    fn send_snapshot(&mut self, to: NodeId, session: u64, term: u64) {
        let sending = Sending {
            node: self.published.node(),
            to,
            term,
            bytes_per_s: self.transfer_bytes_per_s,
            store: Arc::clone(&self.snapshots),
            wire: self.wire.clone(),
            published: Arc::clone(&self.published),
        };
        let inbox = Arc::clone(&self.inbox);
        let task = self.tokio.spawn(async move {
            let installed = sending.run().await;
            inbox.complete(Input::SnapshotSent { to, session, installed });
        });
        self.work.sendings.retain(|_, sending| !sending.is_finished());
        if let Some(older) = self.work.sendings.insert(to, task) {
            older.abort();
        }
    }

    fn pass_on(&mut self, outcome: Outcome) {
        let work = &mut self.work;
        match outcome {
            Outcome::Accepted { id, at } => {
                if let Some(caller) = work.proposals.take(Kind::of(id).1) {
                    work.jobs.push(ApplyJob::Expect { at, caller });
                }
            }
            Outcome::ReadReady { id, index } => {
                if let Some(caller) = work.reads.take(Kind::of(id).1) {
                    if self.applied.load(Ordering::Acquire) >= index {
                        work.answered_reads.push((caller, Ok(())));
                    } else {
                        work.jobs.push(ApplyJob::ReadAt { index, caller });
                    }
                }
            }
            Outcome::Rejected { id, why } => self.reject(id, why),
            Outcome::Changed { id, index } => self.answer_change(id, Ok(index)),
            Outcome::Lost { id } => {
                let why = "this node leads no more; whether the change takes effect is not known";
                self.answer_change(id, Err(Refusal::Unknown(why.into())));
            }
            Outcome::Transferred { id } => {
                if let Some(caller) = work.transfers.take(Kind::of(id).1) {
                    work.answered_reads.push((caller, Ok(())));
                }
            }
        }
    }

    fn answer_change(&mut self, id: u64, answer: Result<u64, Refusal>) {
        if let Some(caller) = self.work.changes.take(Kind::of(id).1) {
            self.work.answered_changes.push((caller, answer));
        }
    }

    fn reject(&mut self, id: u64, why: Rejection) {
        let why = Refusal::Rejected(why);
        let work = &mut self.work;
        match Kind::of(id) {
            (Kind::Proposal, own) => {
                work.refused_writes.extend(work.proposals.take(own).map(|caller| (caller, why)));
            }
            (Kind::Read, own) => work.answered_reads.extend(work.reads.take(own).map(|caller| (caller, Err(why)))),
            (Kind::Change, own) => {
                work.answered_changes.extend(work.changes.take(own).map(|caller| (caller, Err(why))))
            }
            (Kind::Transfer, own) => {
                work.answered_reads.extend(work.transfers.take(own).map(|caller| (caller, Err(why))));
            }
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
        // What founders refuse may be added to the cluster yet: then there is something to apply.
        if let Some(why) = status.failure.as_ref().filter(|_| self.driver.has_failed())
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
mod tests;
