//! The driver loop: one thread that owns the [`Driver`], feeds it everything that waits and performs what it commands.
//!
//! It decides nothing. All that waits is handled before anything is performed, so that writes and messages are shared;
//! the disk and the network then work at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use d_engine_core::LogStore;
use d_engine_raft::{Command, Driver, Event, Message, NodeId, Rejection, Write};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::disk::DiskQueue;
use crate::inbox::{Applied, Caller, Inbound, Inbox, Refusal};
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

/// What the loop keeps from one round to the next.
pub(crate) struct Work {
    proposals: Numbered<Caller<Applied>>,
    reads: Numbered<Caller<()>>,
    writes: Vec<Write>,
    jobs: Vec<ApplyJob>,
    sends: Vec<(NodeId, Message)>,
    log_reads: Vec<JoinHandle<()>>,
    failed: bool,
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
            if !self.inbox.take_all(&mut waiting, timeout) {
                break;
            }
            for inbound in waiting.drain(..) {
                let event = self.event_of(inbound);
                self.driver.handle(self.clock.now(), event);
            }
            let now = self.clock.now();
            if self.driver.poll_timeout().is_some_and(|at| at <= now) {
                self.driver.handle(now, Event::Timeout);
            }
            self.perform_all();
        }
        for read in self.work.log_reads.drain(..) {
            // It ended, or the tokio runtime did; either way it holds the log no more.
            let _ = self.tokio.block_on(read);
        }
    }

    fn event_of(&mut self, inbound: Inbound) -> Event {
        match inbound {
            Inbound::Event(event) => event,
            Inbound::Message { from, message } => Event::Message { from, message },
            Inbound::Propose { command, caller } => {
                Event::Propose { id: self.work.proposals.insert(caller) << 1, command }
            }
            Inbound::Read { caller } => Event::Read { id: self.work.reads.insert(caller) << 1 | READ },
        }
    }

    fn perform_all(&mut self) {
        while let Some(command) = self.driver.poll() {
            self.perform(command);
        }
        // The disk first: it takes longest.
        self.disk.append(&mut self.work.writes);
        // Leader, term and commit are visible before any message or answer that shows them leaves.
        self.publish();
        self.apply.append(&mut self.work.jobs);
        for (to, message) in self.work.sends.drain(..) {
            self.wire.send(to, message);
        }
    }

    fn perform(&mut self, command: Command) {
        let work = &mut self.work;
        match command {
            Command::Write(write) => work.writes.push(write),
            Command::Send { to, message } => work.sends.push((to, message)),
            Command::ReadLog { ticket, first, last, max_bytes } => self.read_log(ticket, first, last, max_bytes),
            Command::Apply { first, last, entries } => work.jobs.push(ApplyJob::Apply { first, last, entries }),
            Command::Accepted { id, at } => {
                if let Some(caller) = work.proposals.take(id >> 1) {
                    work.jobs.push(ApplyJob::Expect { at, caller });
                }
            }
            Command::ReadReady { id, index } => {
                if let Some(caller) = work.reads.take(id >> 1) {
                    // Shows nothing that is not published: what is applied is committed.
                    if self.applied.load(Ordering::Acquire) >= index {
                        caller.answer(Ok(()));
                    } else {
                        work.jobs.push(ApplyJob::ReadAt { index, caller });
                    }
                }
            }
            Command::Rejected { id, why } => self.reject(id, why),
            // `Command` may grow; a command that is not carried out must not pass silently.
            other => tracing::error!(?other, "the driver asked for something this runtime does not know"),
        }
    }

    fn reject(&mut self, id: u64, why: Rejection) {
        let why = Refusal::Rejected(why);
        if id & READ == 0 {
            if let Some(caller) = self.work.proposals.take(id >> 1) {
                caller.answer(Err(why));
            }
        } else if let Some(caller) = self.work.reads.take(id >> 1) {
            caller.answer(Err(why));
        }
    }

    /// Reads entries that are no longer in memory, on tokio's threads for blocking work.
    fn read_log(&mut self, ticket: u64, first: u64, last: u64, max_bytes: usize) {
        let (log, inbox, tokio) = (Arc::clone(&self.log), Arc::clone(&self.inbox), self.tokio.clone());
        self.work.log_reads.retain(|read| !read.is_finished());
        self.work.log_reads.push(self.tokio.spawn_blocking(move || {
            let read = tokio.block_on(log.read_limited(first..=last, max_bytes));
            drop(log);
            inbox.complete(Event::LogRead { ticket, entries: read.map_err(|error| error.to_string()) });
        }));
    }

    fn publish(&mut self) {
        let status = self.driver.status(self.clock.now());
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
