//! What waits for the driver: callers' proposals and reads, messages of peers, completions of the node's own threads.
//!
//! Each class has its bound. Calls beyond theirs, in number or in bytes, are told `Busy` at once; messages beyond theirs are
//! dropped, and completions need none: each answers a command that was given out.
//!
//! A call is counted from its beginning to its end, whether it waits for a leader, for another node or here. One that has
//! ended without an answer counts no more, although the node may decide its command much later: what is kept for it then
//! is bounded by what the core keeps, and looked through for callers that have gone ([`Pruning`]).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use d_engine_core::LogId;
use d_engine_raft::{Change, Event, Message, NodeId, Rejection};
use tokio::sync::oneshot;

use crate::queue::{Queue, Sleep};

/// One thing for the driver.
pub(crate) enum Inbound {
    /// An internal completion.
    Event(Event),
    /// A message of a peer.
    Message { from: NodeId, message: Message },
    /// A caller's command.
    Propose { command: Bytes, caller: Caller<Applied> },
    /// A caller asks for a read index.
    Read { by_lease: bool, caller: Caller<()> },
    /// A caller wants the membership changed.
    Change { change: Change, caller: Caller<u64> },
    /// A caller wants leadership handed over.
    Transfer { to: NodeId, caller: Caller<()> },
    /// A caller wants a snapshot of the state made.
    Snapshot { caller: Caller<LogId> },
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

/// The end of a call that the node answers. Dropping it unanswered tells the caller that the node stops.
pub(crate) struct Caller<T> {
    answer: oneshot::Sender<Result<T, Refusal>>,
}

impl<T> Caller<T> {
    pub(crate) fn answer(self, answer: Result<T, Refusal>) {
        // A caller that has gone away wants no answer.
        let _ = self.answer.send(answer);
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn has_gone(&self) -> bool {
        self.answer.is_closed()
    }
}

/// A call's place among those that may be under way; given back at the call's end.
pub(crate) struct Place<'a> {
    calls: &'a Load,
    bytes: usize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.calls.remove(1, self.bytes);
    }
}

/// How many, and how many bytes they hold.
#[derive(Default)]
struct Load {
    count: AtomicUsize,
    bytes: AtomicUsize,
}

impl Load {
    /// Adds one unless that is too much.
    fn add(&self, bytes: usize, bounds: &Bounds) -> Result<(), NotTaken> {
        let count_before = self.count.fetch_add(1, Ordering::Relaxed);
        let bytes_before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if count_before < bounds.callers && bytes_before.saturating_add(bytes) <= bounds.bytes {
            return Ok(());
        }
        self.remove(1, bytes);
        Err(NotTaken::Busy)
    }

    fn remove(&self, count: usize, bytes: usize) {
        self.count.fetch_sub(count, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
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

pub(crate) struct Inbox {
    queue: Queue<Inbound>,
    bounds: Bounds,
    calls: Load,
    /// Of calls, those in the queue; also such that have ended meanwhile.
    queued: Load,
    messages: AtomicUsize,
    dropped: AtomicUsize,
}

impl Inbox {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            queue: Queue::new(),
            bounds,
            calls: Load::default(),
            queued: Load::default(),
            messages: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
        }
    }

    /// Begins a call that holds so many bytes.
    pub(crate) fn enter(&self, bytes: usize) -> Result<Place<'_>, NotTaken> {
        self.calls.add(bytes, &self.bounds)?;
        Ok(Place { calls: &self.calls, bytes })
    }

    /// Hands in a command; the receiver gets the answer once it is applied here.
    pub(crate) fn propose(&self, command: Bytes) -> Result<oneshot::Receiver<Result<Applied, Refusal>>, NotTaken> {
        self.call(command.len(), |caller| Inbound::Propose { command, caller })
    }

    /// Asks for a read index, which a leader may give by its lease if it is asked so; the receiver is told once it is applied
    /// here.
    pub(crate) fn read(&self, by_lease: bool) -> Result<oneshot::Receiver<Result<(), Refusal>>, NotTaken> {
        self.call(0, |caller| Inbound::Read { by_lease, caller })
    }

    /// Asks for a change of the membership; the receiver is told the index of its configuration once it has committed.
    pub(crate) fn change(&self, change: Change) -> Result<oneshot::Receiver<Result<u64, Refusal>>, NotTaken> {
        self.call(0, |caller| Inbound::Change { change, caller })
    }

    /// Asks to hand leadership over.
    pub(crate) fn transfer(&self, to: NodeId) -> Result<oneshot::Receiver<Result<(), Refusal>>, NotTaken> {
        self.call(0, |caller| Inbound::Transfer { to, caller })
    }

    /// Asks for a snapshot of the state; the receiver is told of which entry, once it is durable.
    pub(crate) fn snapshot(&self) -> Result<oneshot::Receiver<Result<LogId, Refusal>>, NotTaken> {
        self.call(0, |caller| Inbound::Snapshot { caller })
    }

    fn call<T>(
        &self,
        bytes: usize,
        inbound: impl FnOnce(Caller<T>) -> Inbound,
    ) -> Result<oneshot::Receiver<Result<T, Refusal>>, NotTaken> {
        // Again a bound, because calls may end, and others begin, faster than the driver takes what they leave.
        self.queued.add(bytes, &self.bounds)?;
        let (answer, answered) = oneshot::channel();
        self.queue.push(inbound(Caller { answer })).map_err(|_| {
            self.queued.remove(1, bytes);
            NotTaken::Closed
        })?;
        Ok(answered)
    }

    /// Takes in a peer's message, or drops it; false: this node has ended.
    pub(crate) fn deliver(&self, from: NodeId, message: Message) -> bool {
        if self.messages.fetch_add(1, Ordering::Relaxed) >= self.bounds.messages {
            self.messages.fetch_sub(1, Ordering::Relaxed);
            if self.dropped.fetch_add(1, Ordering::Relaxed).is_multiple_of(1000) {
                tracing::warn!(from, "messages of peers arrive faster than they are handled; some are dropped");
            }
            return true;
        }
        let taken = self.queue.push(Inbound::Message { from, message }).is_ok();
        if !taken {
            self.messages.fetch_sub(1, Ordering::Relaxed);
        }
        taken
    }

    /// Reports what became of a command.
    pub(crate) fn complete(&self, event: impl Into<Event>) {
        // After the driver's end nobody needs to know.
        let _ = self.queue.push(Inbound::Event(event.into()));
    }

    /// [`complete`](Inbox::complete), for what the driver need not know before something else happens.
    pub(crate) fn complete_quietly(&self, event: impl Into<Event>) {
        self.queue.push_quietly(Inbound::Event(event.into()));
    }

    /// Takes nothing in from now on.
    pub(crate) fn close(&self) {
        self.queue.close();
    }

    /// The driver has ended by a fault: drops everything that waits.
    pub(crate) fn abandon(&self) {
        self.queue.abandon();
    }

    /// Moves everything that waits into `into`, waiting at most `timeout`; false: closed and empty.
    pub(crate) fn take_all(&self, into: &mut Vec<Inbound>, timeout: Option<Duration>, sleep: Sleep) -> bool {
        let open = self.queue.take_all(into, timeout, sleep);
        let (mut messages, mut calls, mut bytes) = (0, 0, 0);
        for inbound in &*into {
            match inbound {
                Inbound::Message { .. } => messages += 1,
                Inbound::Propose { command, .. } => {
                    calls += 1;
                    bytes += command.len();
                }
                Inbound::Read { .. } | Inbound::Change { .. } | Inbound::Transfer { .. } | Inbound::Snapshot { .. } => {
                    calls += 1
                }
                Inbound::Event(_) => {}
            }
        }
        self.messages.fetch_sub(messages, Ordering::Relaxed);
        self.queued.remove(calls, bytes);
        open
    }

    /// How many calls are under way.
    pub(crate) fn calls(&self) -> usize {
        self.calls.count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use d_engine_raft::Body;

    fn message() -> Message {
        Message { term: 1, incarnation: 1, group: 0, body: Body::FormationProbe }
    }

    const BOUNDS: Bounds = Bounds { callers: 2, bytes: 10, messages: 2 };

    #[test]
    fn a_call_beyond_the_bound_is_told_at_once_until_another_ends() {
        let inbox = Inbox::new(BOUNDS);
        let (first, second) = (inbox.enter(0).unwrap(), inbox.enter(0).unwrap());
        assert_eq!(inbox.enter(0).err(), Some(NotTaken::Busy));
        drop(first);
        let _third = inbox.enter(0).unwrap();
        assert_eq!(inbox.enter(0).err(), Some(NotTaken::Busy));
        drop(second);
        assert_eq!(inbox.calls(), 1);
    }

    #[test]
    fn calls_hold_only_so_many_bytes() {
        let inbox = Inbox::new(BOUNDS);
        let place = inbox.enter(6).unwrap();
        assert_eq!(inbox.enter(5).err(), Some(NotTaken::Busy));
        let _fits = inbox.enter(4).unwrap();
        drop(place);
        let _fits_now = inbox.enter(6).unwrap();
        assert_eq!(inbox.enter(usize::MAX).err(), Some(NotTaken::Busy));
    }

    #[test]
    fn a_call_that_ended_without_an_answer_keeps_no_place_while_the_node_decides() {
        let inbox = Inbox::new(Bounds { callers: 1, ..BOUNDS });
        let place = inbox.enter(1).unwrap();
        let answer = inbox.propose(Bytes::from_static(b"c")).unwrap();
        let mut taken = Vec::new();
        assert!(inbox.take_all(&mut taken, None, Sleep::Light));
        drop((place, answer));
        let Some(Inbound::Propose { caller, .. }) = taken.pop() else { panic!("no proposal") };
        assert!(caller.has_gone());
        let _next = inbox.enter(1).unwrap();
        let _taken_in = inbox.propose(Bytes::from_static(b"d")).unwrap();
    }

    #[test]
    fn what_calls_leave_in_the_queue_is_bounded_as_they_are() {
        let inbox = Inbox::new(BOUNDS);
        for command in [&b"12345"[..], b"1234"] {
            drop(inbox.propose(Bytes::from_static(command)).unwrap());
        }
        assert_eq!(inbox.propose(Bytes::new()).unwrap_err(), NotTaken::Busy, "two wait");
        let mut taken = Vec::new();
        assert!(inbox.take_all(&mut taken, None, Sleep::Light));
        drop(inbox.propose(Bytes::from_static(b"12345")).unwrap());
        assert_eq!(inbox.propose(Bytes::from_static(b"123456")).unwrap_err(), NotTaken::Busy, "too many bytes");
    }

    #[test]
    fn messages_beyond_the_bound_are_dropped_and_completions_never() {
        let inbox = Inbox::new(BOUNDS);
        assert!((0..5).all(|from| inbox.deliver(from, message())));
        (0..5).for_each(|seq| inbox.complete(d_engine_raft::Input::Persisted { seq }));
        let mut taken = Vec::new();
        assert!(inbox.take_all(&mut taken, None, Sleep::Light));
        assert_eq!(taken.len(), 2 + 5);
        assert!(inbox.deliver(9, message()));
        taken.clear();
        assert!(inbox.take_all(&mut taken, None, Sleep::Light));
        assert_eq!(taken.len(), 1, "taking makes room");
    }

    #[test]
    fn a_closed_inbox_says_so() {
        let inbox = Inbox::new(BOUNDS);
        inbox.close();
        assert_eq!(inbox.read(false).unwrap_err(), NotTaken::Closed);
        assert_eq!(inbox.queued.count.load(Ordering::Relaxed), 0);
    }
}
