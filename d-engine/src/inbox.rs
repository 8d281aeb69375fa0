//! What waits for the driver: callers' proposals and reads, messages of peers, completions of the node's own threads.
//!
//! Each class has its bound. Callers beyond theirs are told `Busy` at once (counted from the call to its answer), messages
//! beyond theirs are dropped, and completions need none: each answers a command that was given out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use d_engine_core::LogId;
use d_engine_raft::{Event, Message, NodeId, Rejection};
use tokio::sync::oneshot;

use crate::queue::Queue;

/// One thing for the driver.
pub(crate) enum Inbound {
    /// An internal completion.
    Event(Event),
    /// A message of a peer.
    Message { from: NodeId, message: Message },
    /// A caller's command.
    Propose { command: Bytes, caller: Caller<Applied> },
    /// A caller asks for a read index.
    Read { caller: Caller<()> },
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
    _place: Place,
}

impl<T> Caller<T> {
    pub(crate) fn answer(self, answer: Result<T, Refusal>) {
        // A caller that has gone away wants no answer.
        let _ = self.answer.send(answer);
    }
}

/// A caller's place among those that may wait; given back when it is answered.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bounds of an [`Inbox`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) callers: usize,
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
    callers: Arc<AtomicUsize>,
    messages: AtomicUsize,
    dropped: AtomicUsize,
}

impl Inbox {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            queue: Queue::new(),
            bounds,
            callers: Arc::default(),
            messages: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
        }
    }

    /// Hands in a command; the receiver gets the answer once it is applied here.
    pub(crate) fn propose(&self, command: Bytes) -> Result<oneshot::Receiver<Result<Applied, Refusal>>, NotTaken> {
        self.call(|caller| Inbound::Propose { command, caller })
    }

    /// Asks for a read index; the receiver is told once it is applied here.
    pub(crate) fn read(&self) -> Result<oneshot::Receiver<Result<(), Refusal>>, NotTaken> {
        self.call(|caller| Inbound::Read { caller })
    }

    fn call<T>(
        &self,
        inbound: impl FnOnce(Caller<T>) -> Inbound,
    ) -> Result<oneshot::Receiver<Result<T, Refusal>>, NotTaken> {
        let before = self.callers.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(&self.callers));
        if before >= self.bounds.callers {
            return Err(NotTaken::Busy);
        }
        let (answer, answered) = oneshot::channel();
        self.queue.push(inbound(Caller { answer, _place: place })).map_err(|_| NotTaken::Closed)?;
        Ok(answered)
    }

    /// Takes in a peer's message, or drops it.
    pub(crate) fn deliver(&self, from: NodeId, message: Message) {
        if self.messages.fetch_add(1, Ordering::Relaxed) >= self.bounds.messages {
            self.messages.fetch_sub(1, Ordering::Relaxed);
            if self.dropped.fetch_add(1, Ordering::Relaxed).is_multiple_of(1000) {
                tracing::warn!(from, "messages of peers arrive faster than they are handled; some are dropped");
            }
        } else {
            // A node that has stopped needs no messages.
            let _ = self.queue.push(Inbound::Message { from, message });
        }
    }

    /// Reports what became of a command.
    pub(crate) fn complete(&self, event: Event) {
        // After the driver's end nobody needs to know.
        let _ = self.queue.push(Inbound::Event(event));
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
    pub(crate) fn take_all(&self, into: &mut Vec<Inbound>, timeout: Option<Duration>) -> bool {
        let open = self.queue.take_all(into, timeout);
        let messages = into.iter().filter(|inbound| matches!(inbound, Inbound::Message { .. })).count();
        if messages > 0 {
            self.messages.fetch_sub(messages, Ordering::Relaxed);
        }
        open
    }

    /// How many callers wait for an answer.
    pub(crate) fn callers(&self) -> usize {
        self.callers.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use d_engine_raft::Body;

    fn message() -> Message {
        Message { term: 1, incarnation: 1, group: 0, body: Body::FormationProbe }
    }

    #[test]
    fn a_caller_beyond_the_bound_is_told_at_once_until_another_is_answered() {
        let inbox = Inbox::new(Bounds { callers: 1, messages: 1 });
        let mut waiting = inbox.propose(Bytes::new()).unwrap();
        assert_eq!(inbox.read().unwrap_err(), NotTaken::Busy);
        let mut taken = Vec::new();
        assert!(inbox.take_all(&mut taken, None));
        assert_eq!(inbox.read().unwrap_err(), NotTaken::Busy, "a place is held until the answer");
        let Some(Inbound::Propose { caller, .. }) = taken.pop() else { panic!("no proposal") };
        caller.answer(Err(Refusal::Stopping));
        assert!(matches!(waiting.try_recv(), Ok(Err(Refusal::Stopping))));
        let _read = inbox.read().unwrap();
    }

    #[test]
    fn messages_beyond_the_bound_are_dropped_and_completions_never() {
        let inbox = Inbox::new(Bounds { callers: 1, messages: 2 });
        (0..5).for_each(|from| inbox.deliver(from, message()));
        (0..5).for_each(|seq| inbox.complete(Event::Persisted { seq }));
        let mut taken = Vec::new();
        assert!(inbox.take_all(&mut taken, None));
        assert_eq!(taken.len(), 2 + 5);
        inbox.deliver(9, message());
        taken.clear();
        assert!(inbox.take_all(&mut taken, None));
        assert_eq!(taken.len(), 1, "taking makes room");
    }

    #[test]
    fn a_closed_inbox_says_so() {
        let inbox = Inbox::new(Bounds { callers: 1, messages: 1 });
        inbox.close();
        assert_eq!(inbox.read().unwrap_err(), NotTaken::Closed);
        assert_eq!(inbox.callers(), 0);
    }
}
