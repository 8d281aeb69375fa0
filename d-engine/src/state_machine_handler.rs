//! Gives committed entries to the state machine in order and answers the callers that wait for them.
//!
//! What to apply and install, and when, is the driver's decision, and on which thread that of [`Applying`]; this carries it
//! out. An error of the machine ends it: the node stops taking part. Snapshots of the own state are its one policy of its
//! own ([`Snapshots`]).
//!
//! [`Applying`]: crate::applying::Applying

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use d_engine_core::{ApplyResult, Entry, EntryKind, Error, LogId, LogStore, Severity, StateMachine};
use d_engine_raft::Input;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::at_once::{Begun, begun, poll_once};
use crate::inbox::{Applied, Caller, Inbox, Refusal};
use crate::machine_clock::MachineClock;
use crate::pace::Pace;
use crate::pending::{Decided, PendingReads, PendingWrites, not_leader};
use crate::queue::{Queue, Sleep};
use crate::snapshot_policy::{Built, Snapshots};

/// What is to be applied, and what goes with it; bounded because the core bounds what is not applied, and the inbox the callers that have
/// not gone.
pub(crate) type ApplyQueue = Queue<ApplyJob>;

/// So many entries are not gathered any further.
const GATHERED_MAX: usize = 256;
/// So many jobs are not few.
const FEW_JOBS: usize = 1024;

pub(crate) enum ApplyJob {
    /// The caller's command has this place in the log.
    Expect { at: LogId, caller: Caller<Applied> },
    /// The caller may read once `index` is applied.
    ReadAt { index: u64, caller: Caller<()> },
    /// Apply entries `first..=last`; empty: read them from the log.
    Apply { first: u64, last: u64, entries: Vec<Entry> },
    /// Install the received snapshot of this entry.
    Install { last_included: LogId },
    /// Remove the received snapshot of this entry.
    Discard { last_included: LogId },
    /// Make a snapshot now; the caller is told of which entry.
    Snapshot { caller: Caller<LogId> },
    /// A snapshot that was being built is there, or is not.
    Built(Built),
    /// The node takes part no more: nothing will be applied.
    Fail { why: String },
}

impl ApplyJob {
    /// Whether it changes the state, which may take long; the others come one for each call, and take no time.
    fn is_work(&self) -> bool {
        matches!(self, Self::Apply { .. } | Self::Install { .. })
    }

    /// Whether it can wait until there is something else to do; at a follower nobody waits for what is applied.
    pub(crate) fn is_quiet(&self, leads: bool) -> bool {
        match self {
            Self::Expect { .. } => true,
            Self::Apply { .. } => !leads && self.few_entries().is_some(),
            _ => false,
        }
    }

    /// How many entries there are to apply, if they are few.
    fn few_entries(&self) -> Option<usize> {
        match self {
            // None: they are read from the log, and are many.
            Self::Apply { entries, .. } => Some(entries.len()).filter(|count| (1..GATHERED_MAX).contains(count)),
            _ => None,
        }
    }

    /// Whether it only serves a caller that has gone.
    pub(crate) fn is_idle(&self) -> bool {
        match self {
            Self::Expect { caller, .. } => caller.has_gone(),
            Self::ReadAt { caller, .. } => caller.has_gone(),
            Self::Snapshot { caller } => caller.has_gone(),
            Self::Apply { .. } | Self::Install { .. } | Self::Discard { .. } | Self::Built(_) | Self::Fail { .. } => {
                false
            }
        }
    }
}

/// Whether these are a follower's few entries, which nobody waits for.
pub(crate) fn is_worth_gathering(jobs: &[ApplyJob]) -> bool {
    let few = jobs.iter().try_fold(0, |count, job| job.few_entries().map(|more| count + more));
    few.is_some_and(|count| (1..GATHERED_MAX).contains(&count))
}

/// How the apply thread is to wait.
pub(crate) struct Pause {
    pub(crate) at_most: Duration,
    pub(crate) sleep: Sleep,
}

/// Commands that a machine is applying.
type Commands = Begun<Result<Vec<ApplyResult>, Error>>;

/// How far a machine came at once.
enum Attempt {
    Done(Vec<ApplyResult>),
    /// It waits for something.
    Waits(Commands),
}

/// Entries `first..=last` on their way into the machine.
struct Chunk {
    first: u64,
    last: u64,
    term: Option<u64>,
}

/// A chunk for which the machine waits for something, and what was taken with it.
struct Unfinished {
    chunk: Chunk,
    commands: Commands,
    rest: Vec<ApplyJob>,
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
    snapshots: Snapshots,
    clock: MachineClock,
    /// Threads that have other work may apply.
    lends_itself: bool,
    pace: Pace,
    unfinished: Option<Unfinished>,
    jobs: Vec<ApplyJob>,
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
        snapshots: Snapshots,
        clock: MachineClock,
    ) -> Self {
        // The one thread of an application is not made to wait, however little.
        let has_others = runtime.runtime_flavor() != RuntimeFlavor::CurrentThread;
        Self {
            lends_itself: has_others && machine.never_waits(),
            machine,
            log,
            runtime,
            read_chunk_bytes,
            applied,
            writes: PendingWrites::new(),
            reads: PendingReads::new(),
            decided: Vec::new(),
            snapshots,
            clock,
            pace: Pace::new(),
            unfinished: None,
            jobs: Vec::new(),
            failed: None,
        }
    }

    /// How the apply thread is to wait for what comes next.
    pub(crate) fn pause(&self) -> Pause {
        let works = self.failed.is_none();
        let tick = self.clock.wait();
        let due = self.snapshots.due_in().filter(|_| works);
        // After a failure every caller is told at once.
        let sleep = if works && self.clock.leads() { Sleep::Deep } else { Sleep::Light };
        Pause { at_most: due.map_or(tick, |due| due.min(tick)), sleep }
    }

    /// Whether the next entries may wait a little for more: nobody waits for them.
    pub(crate) fn may_gather(&self) -> bool {
        self.failed.is_none() && !self.clock.leads() && self.reads.is_empty() && self.writes.is_empty()
    }

    /// Performs everything that waits, and what time brings; may take long.
    pub(crate) fn perform_all(&mut self, queue: &ApplyQueue, inbox: &Inbox) {
        let mut jobs = self.finish(inbox);
        queue.take_more(&mut jobs);
        for job in jobs.drain(..) {
            let is_work = job.is_work();
            self.perform(job, true, inbox);
            if is_work {
                // Not only once nothing waits any more: then a busy machine would never be told.
                self.tell_time(inbox);
            }
        }
        self.jobs = jobs;
        if self.failed.is_none() {
            self.snapshots.maybe_begin(inbox);
        }
        self.tell_time(inbox);
    }

    /// Performs what waits if it is little; false: there is something left for the apply thread.
    pub(crate) fn perform_few(&mut self, queue: &ApplyQueue, inbox: &Inbox) -> bool {
        if self.failed.is_some() || self.unfinished.is_some() || !self.lends_itself {
            return false;
        }
        let mut jobs = std::mem::take(&mut self.jobs);
        let leads = self.clock.leads();
        let are_taken = queue.take_if(&mut jobs, |jobs| are_few(jobs, leads, &self.pace));
        let mut left = jobs.drain(..);
        while self.unfinished.is_none()
            && let Some(job) = left.next()
        {
            self.perform(job, false, inbox);
        }
        if let Some(unfinished) = &mut self.unfinished {
            unfinished.rest = left.collect();
            return false;
        }
        drop(left);
        self.jobs = jobs;
        are_taken && !self.snapshots.is_due()
    }

    /// Finishes what the machine has waited for; gives the jobs that were taken with it.
    fn finish(&mut self, inbox: &Inbox) -> Vec<ApplyJob> {
        let Some(Unfinished { chunk, commands, rest }) = self.unfinished.take() else {
            return std::mem::take(&mut self.jobs);
        };
        let (first, last) = (chunk.first, chunk.last);
        let result = self.runtime.block_on(commands).map(|results| self.answer(&chunk, results));
        self.report(first, last, result, inbox);
        rest
    }

    /// There is nothing more to apply: flushes and stops the machine.
    pub(crate) fn end(mut self) {
        self.snapshots.finish();
        self.writes.stop();
        if self.failed.is_none()
            && let Err(error) = self.machine.flush().and_then(|()| self.machine.stop())
        {
            tracing::warn!(%error, "the state machine did not stop cleanly; the log restores its state at the next start");
        }
    }

    fn tell_time(&mut self, inbox: &Inbox) {
        self.clock.maybe_tell(self.failed.is_none().then_some(&*self.machine), inbox);
    }

    fn perform(&mut self, job: ApplyJob, may_wait: bool, inbox: &Inbox) {
        match job {
            ApplyJob::Expect { at, caller } => match &self.failed {
                None => self.writes.insert(at, caller),
                Some(why) => caller.answer(Err(Refusal::Unknown(why.clone()))),
            },
            ApplyJob::ReadAt { index, caller } => {
                self.reads.insert(index, caller);
                self.release_reads();
            }
            ApplyJob::Apply { .. } if self.failed.is_some() => {}
            ApplyJob::Apply { first, last, entries } if may_wait => {
                let result = self.apply_range(first, last, entries);
                self.report(first, last, result, inbox);
            }
            ApplyJob::Apply { first, last, entries } => {
                let result = self.apply_at_once(first, last, entries);
                if self.unfinished.is_none() {
                    self.report(first, last, result, inbox);
                }
            }
            ApplyJob::Install { last_included } if self.failed.is_none() => self.install(last_included, inbox),
            ApplyJob::Install { .. } => {}
            ApplyJob::Discard { last_included } => {
                let has_state = self.applied.load(Ordering::Relaxed) >= last_included.index;
                self.snapshots.store().discard(last_included, has_state);
            }
            ApplyJob::Snapshot { caller } => match &self.failed {
                None => self.snapshots.request(caller, inbox),
                Some(why) => caller.answer(Err(Refusal::Unknown(why.clone()))),
            },
            ApplyJob::Built(built) => self.snapshots.built(built, inbox),
            ApplyJob::Fail { why } => self.fail(why),
        }
    }

    /// Reports what became of entries `first..=last`.
    fn report(&mut self, first: u64, last: u64, result: Result<(), Error>, inbox: &Inbox) {
        match result {
            // Who waits for it is answered here; the driver only counts.
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

    /// Replaces the state by a received snapshot's. A file that the machine finds bad leaves the old state.
    fn install(&mut self, last_included: LogId, inbox: &Inbox) {
        let result = self.snapshots.install(last_included, &self.runtime);
        let ok = match result {
            Ok(()) => true,
            Err(error @ (Error::Io { .. } | Error::Poisoned { .. } | Error::Backend(_))) => {
                let why = format!("the snapshot of {last_included} cannot be installed: {error}");
                tracing::error!(%why, "this node stops taking part");
                inbox.complete(Input::StorageFailed { why: why.clone() });
                return self.fail(why);
            }
            Err(error) => {
                let is_local = error.severity() == Severity::Retryable;
                tracing::error!(%error, is_local, "a received snapshot is not installed; the old state stays");
                self.snapshots.store().discard(last_included, false);
                false
            }
        };
        if ok {
            self.applied.store(last_included.index, Ordering::Release);
            self.writes.pass(last_included.index);
            self.release_reads();
        }
        inbox.complete(Input::SnapshotInstalled { last_included, ok });
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
    fn apply(&mut self, first: u64, last: u64, entries: Vec<Entry>) -> Result<(), Error> {
        let (chunk, commands) = self.begin(first, last, entries)?;
        let results = match self.attempt(commands)? {
            Attempt::Done(results) => results,
            Attempt::Waits(commands) => self.runtime.block_on(commands)?,
        };
        self.answer(&chunk, results);
        Ok(())
    }

    /// The same on a thread that must not wait. If the machine waits for something, the chunk is unfinished.
    fn apply_at_once(&mut self, first: u64, last: u64, entries: Vec<Entry>) -> Result<(), Error> {
        let (chunk, commands) = self.begin(first, last, entries)?;
        match self.attempt(commands)? {
            Attempt::Done(results) => self.answer(&chunk, results),
            Attempt::Waits(commands) => self.unfinished = Some(Unfinished { chunk, commands, rest: Vec::new() }),
        }
        Ok(())
    }

    /// Gives commands to the machine, and takes note of how quick it is.
    fn attempt(&mut self, commands: Vec<Entry>) -> Result<Attempt, Error> {
        if commands.is_empty() {
            return Ok(Attempt::Done(Vec::new()));
        }
        let (count, since) = (commands.len(), Instant::now());
        let machine = Arc::clone(&self.machine);
        let mut commands: Commands = begun(async move { machine.apply(commands).await });
        let Poll::Ready(applied) = poll_once(&mut commands, &self.runtime) else {
            self.pace.waited();
            return Ok(Attempt::Waits(commands));
        };
        let results = applied?;
        self.pace.took(count, since.elapsed());
        Ok(Attempt::Done(results))
    }

    /// Checks the entries and gives the commands among them.
    fn begin(&mut self, first: u64, last: u64, mut entries: Vec<Entry>) -> Result<(Chunk, Vec<Entry>), Error> {
        let whole = entries.len() as u64 == last - first + 1
            && entries.iter().zip(first..).all(|(entry, index)| entry.index == index);
        if !whole {
            return Err(Error::corrupt(format!("log: entries {first} to {last} have a hole")));
        }
        self.writes.decide(&entries, &mut self.decided);
        self.snapshots.see(&entries);
        let term = entries.last().map(|entry| entry.term);
        entries.retain(|entry| entry.kind == EntryKind::Command);
        Ok((Chunk { first, last, term }, entries))
    }

    /// The chunk is applied: tells everybody who waits for it.
    fn answer(&mut self, chunk: &Chunk, results: Vec<ApplyResult>) {
        // Before the answers, so that a caller who has its answer reads its own write.
        self.applied.store(chunk.last, Ordering::Release);
        crate::budget::reached("apply", self.snapshots.node, chunk.last);
        self.snapshots.applied();
        if let Some(term) = chunk.term {
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
    }

    fn release_reads(&mut self) {
        match &self.failed {
            None => self.reads.release(self.applied.load(Ordering::Relaxed)),
            Some(why) => self.reads.fail(why),
        }
    }
}

/// Whether a thread that has other work may perform these jobs: they do not wait and take little time. At a follower entries
/// gather, unless a reader waits for them.
fn are_few(jobs: &[ApplyJob], leads: bool, pace: &Pace) -> bool {
    let mut entries_count = 0;
    let mut is_awaited = leads;
    let are_simple = jobs.len() <= FEW_JOBS
        && jobs.iter().all(|job| match job {
            ApplyJob::Apply { entries, .. } => {
                entries_count += entries.len();
                // None: they are read from the log.
                !entries.is_empty()
            }
            ApplyJob::ReadAt { .. } => {
                is_awaited = true;
                true
            }
            ApplyJob::Expect { .. } => true,
            _ => false,
        });
    are_simple && (is_awaited || entries_count == 0) && pace.is_quick(entries_count)
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

#[cfg(test)]
#[cfg(feature = "mem")]
mod tests;
