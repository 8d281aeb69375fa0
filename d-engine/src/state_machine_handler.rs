//! The apply thread: gives committed entries to the state machine in order and answers the callers that wait for them.
//!
//! What to apply and when is the driver's decision; this carries it out. An error of the machine ends it: the node stops
//! taking part.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use d_engine_core::{Entry, EntryKind, Error, LogStore, StateMachine};
use d_engine_raft::Input;
use tokio::runtime::Handle;

use crate::inbox::{Applied, Caller, Inbox, Refusal};
use crate::machine_clock::MachineClock;
use crate::pending::{Decided, PendingReads, PendingWrites, not_leader};
use crate::queue::Queue;

/// Work for the apply thread; bounded because the core bounds what is not applied, and the inbox the callers that have
/// not gone.
pub(crate) type ApplyQueue = Queue<ApplyJob>;

pub(crate) enum ApplyJob {
    /// The caller's command has this place in the log.
    Expect { at: d_engine_core::LogId, caller: Caller<Applied> },
    /// The caller may read once `index` is applied.
    ReadAt { index: u64, caller: Caller<()> },
    /// Apply entries `first..=last`; empty: read them from the log.
    Apply { first: u64, last: u64, entries: Vec<Entry> },
    /// The node takes part no more: nothing will be applied.
    Fail { why: String },
}

impl ApplyJob {
    /// Whether it only serves a caller that has gone.
    pub(crate) fn is_idle(&self) -> bool {
        match self {
            Self::Expect { caller, .. } => caller.has_gone(),
            Self::ReadAt { caller, .. } => caller.has_gone(),
            Self::Apply { .. } | Self::Fail { .. } => false,
        }
    }
}

/// Gives entries to the state machine.
pub(crate) struct StateMachineHandler {
    machine: Arc<dyn StateMachine>,
    log: Arc<dyn LogStore>,
    runtime: Handle,
    read_chunk_bytes: usize,
    applied: Arc<AtomicU64>,
    writes: PendingWrites,
    reads: PendingReads,
    /// Callers of the chunk that is being applied.
    decided: Vec<Decided>,
    clock: MachineClock,
    failed: Option<String>,
}

impl StateMachineHandler {
    /// `applied` is the index the machine has applied already; it is kept true from here on.
    pub(crate) fn new(
        machine: Arc<dyn StateMachine>,
        log: Arc<dyn LogStore>,
        runtime: Handle,
        read_chunk_bytes: usize,
        applied: Arc<AtomicU64>,
        clock: MachineClock,
    ) -> Self {
        Self {
            machine,
            log,
            runtime,
            read_chunk_bytes,
            applied,
            writes: PendingWrites::new(),
            reads: PendingReads::new(),
            decided: Vec::new(),
            clock,
            failed: None,
        }
    }

    /// Serves `queue` until it is closed and empty, then flushes and stops the machine.
    pub(crate) fn run(mut self, queue: &ApplyQueue, inbox: &Inbox) {
        let mut jobs = Vec::new();
        while queue.take_all(&mut jobs, Some(self.clock.wait())) {
            for job in jobs.drain(..) {
                self.perform(job, inbox);
            }
            self.clock.maybe_tell(self.failed.is_none().then_some(&*self.machine), inbox);
        }
        self.writes.stop();
        if self.failed.is_none()
            && let Err(error) = self.machine.flush().and_then(|()| self.machine.stop())
        {
            tracing::warn!(%error, "the state machine did not stop cleanly; the log restores its state at the next start");
        }
    }

    fn perform(&mut self, job: ApplyJob, inbox: &Inbox) {
        match job {
            ApplyJob::Expect { at, caller } => match &self.failed {
                None => self.writes.insert(at, caller),
                Some(why) => caller.answer(Err(Refusal::Unknown(why.clone()))),
            },
            ApplyJob::ReadAt { index, caller } => {
                self.reads.insert(index, caller);
                self.release_reads();
            }
            ApplyJob::Apply { first, last, entries } => {
                if self.failed.is_none() {
                    match self.apply_range(first, last, entries) {
                        Ok(()) => inbox.complete(Input::Applied { index: last }),
                        Err(error) => {
                            let why = format!("entries {first} to {last} cannot be applied: {error}");
                            tracing::error!(%why, "this node stops taking part");
                            // Before the answers: whoever has one and asks again is told the cause.
                            inbox.complete(Input::StorageFailed { why: why.clone() });
                            self.fail(why);
                        }
                    }
                }
            }
            ApplyJob::Fail { why } => self.fail(why),
        }
    }

    fn fail(&mut self, why: String) {
        refuse(std::mem::take(&mut self.decided), &why);
        self.writes.fail(&why);
        self.reads.fail(&why);
        self.failed.get_or_insert(why);
    }

    fn apply_range(&mut self, first: u64, last: u64, entries: Vec<Entry>) -> Result<(), Error> {
        if !entries.is_empty() {
            return self.apply(first, last, entries);
        }
        let mut next = first;
        while next <= last {
            let entries = self.runtime.block_on(self.log.read_limited(next..=last, self.read_chunk_bytes))?;
            let Some(end) = entries.last().map(|entry| entry.index) else {
                return Err(Error::corrupt(format!("log: committed entry {next} is not there")));
            };
            self.apply(next, end, entries)?;
            next = end + 1;
        }
        Ok(())
    }

    /// Applies `entries`, which are those of `first..=last`.
    fn apply(&mut self, first: u64, last: u64, mut entries: Vec<Entry>) -> Result<(), Error> {
        let whole = entries.len() as u64 == last - first + 1
            && entries.iter().zip(first..).all(|(entry, index)| entry.index == index);
        if !whole {
            return Err(Error::corrupt(format!("log: entries {first} to {last} have a hole")));
        }
        self.writes.decide(&entries, &mut self.decided);
        let term = entries.last().map(|entry| entry.term);
        entries.retain(|entry| entry.kind == EntryKind::Command);
        let results =
            if entries.is_empty() { Vec::new() } else { self.runtime.block_on(self.machine.apply(entries))? };
        // Before the answers, so that a caller who has its answer reads its own write.
        self.applied.store(last, Ordering::Release);
        if let Some(term) = term {
            self.clock.applied(term);
        }
        let mut results = results.into_iter().peekable();
        for decided in self.decided.drain(..) {
            match decided {
                Decided::Applied(at, caller) => {
                    while results.next_if(|result| result.index < at.index).is_some() {}
                    caller.answer(match results.next_if(|result| result.index == at.index) {
                        Some(result) => Ok(Applied { at, response: result.response }),
                        None => Err(Refusal::Unknown("the state machine gave no answer for the command".into())),
                    });
                }
                Decided::Replaced(caller) => not_leader(caller),
                Decided::Passed(caller) => {
                    caller.answer(Err(Refusal::Unknown("its place in the log was passed".into())))
                }
            }
        }
        self.release_reads();
        Ok(())
    }

    fn release_reads(&mut self) {
        match &self.failed {
            None => self.reads.release(self.applied.load(Ordering::Relaxed)),
            Some(why) => self.reads.fail(why),
        }
    }
}

/// Tells the callers of a chunk that failed that their fate is not known.
fn refuse(decided: Vec<Decided>, why: &str) {
    for decided in decided {
        match decided {
            Decided::Replaced(caller) => not_leader(caller),
            Decided::Applied(_, caller) | Decided::Passed(caller) => {
                caller.answer(Err(Refusal::Unknown(why.to_owned())));
            }
        }
    }
}
