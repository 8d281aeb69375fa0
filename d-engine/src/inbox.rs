//! What waits for the driver: callers' proposals and reads, messages of peers, completions of the node's own threads.
//!
//! Whoever brings something drives ([`Inbox::drive`]): no thread is woken to take it. Waking one costs two system calls and
//! two changes of context, more than what is to be done. Only one drives at a time; what others bring meanwhile is that one's
//! work too, and they go on. What may wait for an event that is near ([`Outlook`]) waits for it: it then shares its writes
//! and messages with what else has come by then.
//!
//! Of many callers the first one lets those go first that are about to call as well ([`Gathering`]): they share a round, and
//! its writes and messages.
//!
//! Each class has its bound. Calls beyond theirs, in number or in bytes, are told `Busy` at once; messages beyond theirs are
//! dropped, and completions need none: each answers a command that was given out.
//!
//! A call is counted from its beginning to its end, whether it waits for a leader, for another node or here. One that has
//! ended without an answer counts no more, although the node may decide its command much later: what is kept for it then
//! is bounded by what the core keeps, and looked through for callers that have gone ([`Pruning`]).

use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::Bytes;
use d_engine_core::LogId;
use d_engine_raft::{Change, Event, Message, NodeId, Rejection};

use crate::runtime::Runtime;

mod calls;
mod load;
mod waiting;

pub(crate) use calls::{Answered, Caller, NoAnswer};
use load::Load;
pub(crate) use load::Place;
pub(crate) use waiting::Outlook;
use waiting::{Gathered, Waiting};

/// One thing for the driver. Calls are by far the most, and small: what is large has a box of its own.
pub(crate) enum Inbound {
    /// An internal completion.
    Event(Box<Event>),
    /// A message of a peer.
    Message { from: NodeId, message: Box<Message> },
    /// A caller's command.
    Propose { command: Bytes, caller: Caller<Applied> },
    /// A caller asks for a read index.
    Read { by_lease: bool, caller: Caller<()> },
    /// A caller wants the membership changed.
    Change { change: Box<Change>, caller: Caller<u64> },
    /// A caller wants leadership handed over.
    Transfer { to: NodeId, caller: Caller<()> },
    /// A caller wants a snapshot of the state made.
    Snapshot { caller: Caller<LogId> },
}

const _: () = assert!(size_of::<Inbound>() <= 48);

impl Inbound {
    fn is_call(&self) -> bool {
        !matches!(self, Self::Event(_) | Self::Message { .. })
    }

    fn command_len(&self) -> usize {
        match self {
            Self::Propose { command, .. } => command.len(),
            _ => 0,
        }
    }
}

/// What a proposal's caller is told.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) at: LogId,
    pub(crate) response: Bytes,
}

/// How a call ended without success.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Certainly without effect.
    Rejected(Rejection),
    /// With or without effect; the reason in plain words.
    Unknown(String),
    /// The node stops; a proposal may have had an effect.
    Stopping,
}

/// Says when to look for callers that have gone: whenever twice as many wait as were left the last time.
pub(crate) struct Pruning {
    at: usize,
}

impl Pruning {
    /// So many are not worth a look.
    pub(crate) const MIN: usize = 1 << 12;

    pub(crate) fn new() -> Self {
        Self { at: Self::MIN }
    }

    pub(crate) fn is_due(&self, waiting: usize) -> bool {
        waiting >= self.at
    }

    pub(crate) fn done(&mut self, left: usize) {
        self.at = Self::MIN.max(left.saturating_mul(2));
    }
}

/// Bounds of an [`Inbox`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Calls under way.
    pub(crate) callers: usize,
    /// Bytes of their commands and queries.
    pub(crate) bytes: usize,
    /// Messages of peers that wait.
    pub(crate) messages: usize,
}

/// Why a call was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// As many callers wait as may.
    Busy,
    /// The node has stopped, or is stopping.
    Closed,
}

/// Between two looks whether calls have ended that another thread has.
const ASK_AGAIN_MIN: Duration = Duration::from_millis(1);
const ASK_AGAIN_MAX: Duration = Duration::from_millis(50);

/// A call's end, and what its caller is to do before it waits for that.
type Along<'a, T> = (Answered<T>, Option<Gathering<'a>>);

/// Held by the caller that gathers what others bring, before it drives. Dropping it drives: a caller that goes away leaves
/// nobody waiting.
pub(crate) struct Gathering<'a> {
    inbox: &'a Inbox,
    number: u64,
}

impl Gathering<'_> {
    /// Lets the tasks run that are ready: those that have just been answered, as a rule, which call again. In closed loops of ten and
    /// of a hundred callers puts were a tenth faster.
    pub(crate) async fn gather(self) {
        tokio::task::yield_now().await;
    }
}

impl Drop for Gathering<'_> {
    fn drop(&mut self) {
        self.inbox.gathered(self.number);
    }
}

/// Whose thread drives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// A caller's or a socket's.
    Guest,
    /// The disk's or the apply thread, which have work of their own.
    Worker,
}

impl By {
    /// Rounds that it drives for others before the driver's own thread goes on.
    const fn rounds_max(self) -> usize {
        match self {
            Self::Guest => 8,
            Self::Worker => 2,
        }
    }
}

pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    /// Wakes the driver's own thread.
    wake: Condvar,
    /// Held by whoever drives; `None` before the node runs, and after it.
    runtime: Mutex<Option<Runtime>>,
    bounds: Bounds,
    calls: Load,
    messages: AtomicUsize,
    dropped: AtomicUsize,
}

impl Inbox {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            waiting: Mutex::new(Waiting::new()),
            wake: Condvar::new(),
            runtime: Mutex::default(),
            bounds,
            calls: Load::default(),
            messages: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
        }
    }

    // A poisoned lock is used on: nothing that can panic runs under it.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call that holds so many bytes.
    pub(crate) fn enter(&self, bytes: usize) -> Result<Place<'_>, NotTaken> {
        self.calls.enter(bytes, &self.bounds)
    }

    /// Hands in a command; the receiver gets the answer once it is applied here.
    pub(crate) fn propose(&self, command: Bytes) -> Result<Answered<Applied>, NotTaken> {
        let (caller, answered) = calls::alone();
        self.call(Inbound::Propose { command, caller }).map(|()| answered)
    }

    /// [`propose`](Inbox::propose) of a caller that waits until then and no longer, and lets others go first, if there are many.
    pub(crate) fn propose_along(
        &self,
        command: Bytes,
        until: tokio::time::Instant,
    ) -> Result<Along<'_, Applied>, NotTaken> {
        self.call_along(command.len(), |waiting| {
            let (caller, answered) = waiting.begin_write(until);
            (Inbound::Propose { command, caller }, answered)
        })
    }

    /// Asks for a read index, which a leader may give by its lease if it is asked so; the receiver is told once it is applied
    /// here, or at `until`. Of many callers one lets others go first.
    pub(crate) fn read_along(&self, by_lease: bool, until: tokio::time::Instant) -> Result<Along<'_, ()>, NotTaken> {
        self.call_along(0, |waiting| {
            let (caller, answered) = waiting.begin_read(until);
            (Inbound::Read { by_lease, caller }, answered)
        })
    }

    #[cfg(test)]
    pub(crate) fn read(&self, by_lease: bool) -> Result<Answered<()>, NotTaken> {
        let later = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        self.read_along(by_lease, later).map(|(answered, _)| answered)
    }

    /// Asks for a change of the membership; the receiver is told the index of its configuration once it has committed.
    pub(crate) fn change(&self, change: Change) -> Result<Answered<u64>, NotTaken> {
        let (caller, answered) = calls::alone();
        self.call(Inbound::Change { change: Box::new(change), caller }).map(|()| answered)
    }

    /// Asks to hand leadership over.
    pub(crate) fn transfer(&self, to: NodeId) -> Result<Answered<()>, NotTaken> {
        let (caller, answered) = calls::alone();
        self.call(Inbound::Transfer { to, caller }).map(|()| answered)
    }

    /// Asks for a snapshot of the state; the receiver is told of which entry, once it is durable.
    pub(crate) fn snapshot(&self) -> Result<Answered<LogId>, NotTaken> {
        let (caller, answered) = calls::alone();
        self.call(Inbound::Snapshot { caller }).map(|()| answered)
    }

    /// Adds a call, and drives if that is due.
    fn call(&self, call: Inbound) -> Result<(), NotTaken> {
        let mut waiting = self.waiting();
        waiting.check_room(call.command_len(), &self.bounds)?;
        let is_urgent = waiting.add(call);
        self.let_go(waiting, is_urgent, By::Guest);
        Ok(())
    }

    /// Adds a call that may wait for others, and drives if there are enough together.
    fn call_along<T>(
        &self,
        bytes: usize,
        begin: impl FnOnce(&mut Waiting) -> (Inbound, Answered<T>),
    ) -> Result<Along<'_, T>, NotTaken> {
        let crowd = self.calls();
        let mut waiting = self.waiting();
        waiting.check_room(bytes, &self.bounds)?;
        let (call, answered) = begin(&mut waiting);
        let gathered = waiting.gather(call, crowd);
        let is_urgent = gathered == Gathered::Enough;
        self.let_go(waiting, is_urgent, By::Guest);
        let gathering = match gathered {
            Gathered::Begins(number) => Some(Gathering { inbox: self, number }),
            Gathered::Waits | Gathered::Enough => None,
        };
        Ok((answered, gathering))
    }

    /// Ends the calls that are late by now, whoever has them; false: no call waits.
    pub(crate) fn end_late_calls(&self) -> bool {
        let mut callers = Vec::new();
        let some_wait = self.waiting().end_late(Instant::now(), &mut callers);
        callers.into_iter().for_each(Waker::wake);
        some_wait
    }

    /// After the driver's end: ends what still waits in time, should the thread that has it hang.
    pub(crate) fn end_calls(&self) {
        let mut pause = ASK_AGAIN_MIN;
        loop {
            self.waiting().look_now(Instant::now());
            if !self.end_late_calls() {
                return;
            }
            std::thread::sleep(pause);
            pause = ASK_AGAIN_MAX.min(2 * pause);
        }
    }

    /// Takes in a peer's messages, in order, or drops those beyond the bound.
    pub(crate) fn deliver(&self, from: NodeId, messages: Vec<Message>) -> bool {
        let (count, max) = (messages.len(), self.bounds.messages);
        let mut messages = messages;
        let fitting = |waiting: usize| count.min(max.saturating_sub(waiting));
        let more = |waiting| Some(waiting + fitting(waiting));
        let before = self.messages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).unwrap_or(max);
        let taken = fitting(before);
        if taken < count {
            messages.truncate(taken);
            let dropped = self.dropped.fetch_add(count - taken, Ordering::Relaxed);
            if dropped == 0 || dropped / 1000 != (dropped + count - taken) / 1000 {
                tracing::warn!(from, "messages of peers arrive faster than they are handled; some are dropped");
            }
        }
        let is_open = self
            .add(messages.into_iter().map(|message| Inbound::Message { from, message: Box::new(message) }), By::Guest);
        if !is_open {
            self.messages.fetch_sub(taken, Ordering::Relaxed);
        }
        is_open
    }

    /// Reports what became of a command.
    pub(crate) fn complete(&self, event: impl Into<Event>) {
        // After the driver's end nobody needs to know.
        self.add([Inbound::Event(Box::new(event.into()))], By::Worker);
    }

    /// Adds all, and drives if that is due; false: nothing is taken in any more.
    fn add(&self, inbounds: impl IntoIterator<Item = Inbound>, by: By) -> bool {
        let mut waiting = self.waiting();
        if waiting.closed {
            return false;
        }
        // Whoever brought what else is urgent drives that.
        let is_urgent = inbounds.into_iter().fold(false, |urgent, inbound| waiting.add(inbound) | urgent);
        self.let_go(waiting, is_urgent, by);
        true
    }

    /// What was gathered waits no longer.
    fn gathered(&self, number: u64) {
        let mut waiting = self.waiting();
        let is_urgent = waiting.gathered(number);
        self.let_go(waiting, is_urgent, By::Guest);
    }

    /// Drives if that is due; otherwise wakes the driver's own thread, should it sleep too long for what waits now.
    fn let_go(&self, mut waiting: MutexGuard<'_, Waiting>, is_urgent: bool, by: By) {
        let must_wake = !is_urgent && waiting.must_wake();
        drop(waiting);
        if is_urgent {
            self.drive(by);
        } else if must_wake {
            self.wake.notify_one();
        }
    }

    /// Lets the driver handle what is urgent, on this thread, unless another one is at it: that one then handles it.
    fn drive(&self, by: By) {
        for _ in 0..by.rounds_max() {
            // Between adding and trying, as between letting go and looking: one of two threads sees what the other did.
            fence(Ordering::SeqCst);
            let mut held = match self.runtime.try_lock() {
                Ok(held) => held,
                // Whoever drives looks again afterwards.
                Err(TryLockError::WouldBlock) => return,
                Err(TryLockError::Poisoned(held)) => held.into_inner(),
            };
            let Some(committed) = Runtime::round(&mut held) else { return };
            drop(held);
            match committed.applying {
                // The next writes come before what waits for the last ones.
                Some(applying) if by == By::Worker && committed.writes_wait => applying.queue().wake(),
                Some(applying) => applying.drive(self),
                None => {}
            }
            fence(Ordering::SeqCst);
            // What came while this thread held the driver was left to it.
            if !self.waiting().is_urgent {
                return;
            }
        }
        self.waiting().is_called = true;
        self.wake.notify_one();
    }

    /// Drives what nobody else does, above all what time brings, until the inbox is closed and empty; then gives the driver
    /// back, unless it has panicked.
    pub(crate) fn serve(&self, runtime: Runtime) -> Option<Runtime> {
        *self.runtime.lock().unwrap_or_else(PoisonError::into_inner) = Some(runtime);
        loop {
            let mut held = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
            let committed = Runtime::round(&mut held)?;
            if let Some(applying) = committed.applying {
                // Heartbeats wait for no state machine.
                applying.queue().wake();
            }
            let waiting = self.waiting();
            if waiting.closed && waiting.is_empty() {
                drop(waiting);
                return held.take();
            }
            drop((waiting, held));
            self.end_late_calls();
            fence(Ordering::SeqCst);
            self.sleep();
        }
    }

    /// Waits until there is something to do for the driver's own thread.
    fn sleep(&self) {
        let mut waiting = self.waiting();
        loop {
            let wake_at = waiting.wake_at();
            let time = wake_at.map(|at| at.saturating_duration_since(Instant::now()));
            let is_due = waiting.is_called || waiting.closed || waiting.is_urgent;
            if is_due || time.is_some_and(|time| time.is_zero()) {
                waiting.is_called = false;
                return;
            }
            waiting.sleeps_until = Some(wake_at);
            waiting = match time {
                None => self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(time) => self.wake.wait_timeout(waiting, time).unwrap_or_else(PoisonError::into_inner).0,
            };
            waiting.sleeps_until = None;
        }
    }

    /// Says what the driver sees coming, after each round.
    pub(crate) fn set_outlook(&self, outlook: Outlook) {
        let mut waiting = self.waiting();
        waiting.see(outlook);
        let must_wake = waiting.must_wake();
        drop(waiting);
        if must_wake {
            self.wake.notify_one();
        }
    }

    /// Takes nothing in from now on.
    pub(crate) fn close(&self) {
        self.waiting().closed = true;
        self.wake.notify_one();
    }

    /// The driver has ended by a fault: drops everything that waits.
    pub(crate) fn abandon(&self) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        let dropped = (std::mem::take(&mut waiting.items), std::mem::take(&mut waiting.proposals));
        drop(waiting);
        drop(dropped);
        self.wake.notify_one();
    }

    /// Moves everything that waits into `into`, except proposals.
    pub(crate) fn take_all(&self, into: &mut Vec<Inbound>) {
        let mut waiting = self.waiting();
        waiting.take_items(into);
        drop(waiting);
        let messages = into.iter().filter(|inbound| matches!(inbound, Inbound::Message { .. })).count();
        self.messages.fetch_sub(messages, Ordering::Relaxed);
    }

    /// Moves the proposals that wait into `into` if there are at least `min`, or no more will come.
    pub(crate) fn take_proposals(&self, into: &mut Vec<Inbound>, min: usize) {
        let mut waiting = self.waiting();
        if waiting.proposals.len() < min && !waiting.closed {
            return;
        }
        waiting.take_proposals(into);
    }

    /// How many calls are under way.
    pub(crate) fn calls(&self) -> usize {
        self.calls.count()
    }
}

#[cfg(test)]
mod tests;
