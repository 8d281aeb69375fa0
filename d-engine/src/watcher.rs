//! The application's end of a watch: a bounded mailbox that the state machine's thread fills.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use d_engine_core::command::WatchMessage;
use d_engine_core::{Error, WatchSink};
use tokio::sync::Notify;

/// Messages that wait for the application, at most; the machine keeps the watcher's place while so many do.
const MESSAGES_MAX: usize = 256;
/// Bytes of the messages that wait, unless it is a single one.
const BYTES_MAX: usize = 4 << 20;

/// The messages of one watch, in order. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watcher {
    mailbox: Arc<Mailbox>,
}

#[derive(Debug, Default)]
struct Mailbox {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Bytes>,
    bytes: usize,
    waker: Option<Waker>,
    /// Nothing comes any more.
    ended: bool,
    /// Nobody reads any more.
    gone: bool,
}

/// The state machine's end.
struct MailboxSink(Arc<Mailbox>);

impl Watcher {
    /// A watcher, and what to give to the state machine.
    pub(crate) fn new() -> (Self, Box<dyn WatchSink>) {
        let mailbox = Arc::new(Mailbox::default());
        (Self { mailbox: Arc::clone(&mailbox) }, Box::new(MailboxSink(mailbox)))
    }

    /// The next message; `None` behind the one that says why the watch has ended, or if the state machine dropped it. Cancel
    /// safe: a message is taken out only when it is returned.
    ///
    /// # Errors
    /// `Unsupported` and `Corrupt` if the message is not one of the built-in key-value machine.
    pub async fn next(&mut self) -> Result<Option<WatchMessage>, Error> {
        loop {
            let arrived = self.mailbox.arrived.notified();
            if let Some(taken) = self.mailbox.take() {
                return taken.map(WatchMessage::decode_bytes).transpose();
            }
            arrived.await;
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.mailbox.lock();
            state.gone = true;
            state.messages.clear();
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Mailbox {
    // A poisoned lock is used on: each change of what it guards is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first message, or `Some(None)` if none will come; `None`: wait.
    fn take(&self) -> Option<Option<Bytes>> {
        let mut state = self.lock();
        let was_full = !state.has_room();
        let Some(message) = state.messages.pop_front() else {
            return state.ended.then_some(None);
        };
        state.bytes -= message.len();
        let waker = if was_full && state.has_room() { state.waker.clone() } else { None };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Some(Some(message))
    }
}

impl State {
    fn has_room(&self) -> bool {
        self.messages.len() < MESSAGES_MAX && (self.bytes < BYTES_MAX || self.messages.is_empty())
    }

    fn push(&mut self, message: Bytes) {
        self.bytes += message.len();
        self.messages.push_back(message);
    }
}

impl WatchSink for MailboxSink {
    fn offer(&mut self, event: Bytes) -> bool {
        let mut state = self.0.lock();
        if state.gone || !state.has_room() {
            return false;
        }
        state.push(event);
        drop(state);
        self.0.arrived.notify_one();
        true
    }

    fn is_ready(&self) -> bool {
        let state = self.0.lock();
        // One that is gone refuses the next message, which ends the watch.
        state.gone || state.has_room()
    }

    fn set_waker(&mut self, waker: Waker) {
        self.0.lock().waker = Some(waker);
    }

    fn end(self: Box<Self>, event: Bytes) {
        self.0.lock().push(event);
    }
}

impl Drop for MailboxSink {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.arrived.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(revision: u64) -> Bytes {
        WatchMessage::Progress { revision }.encode()
    }

    #[tokio::test]
    async fn a_full_mailbox_is_not_ready_until_something_is_taken_out() {
        let (mut watcher, mut sink) = Watcher::new();
        let mut revision = 0;
        while sink.is_ready() {
            assert!(sink.offer(message(revision)));
            revision += 1;
        }
        assert_eq!(revision, MESSAGES_MAX as u64);
        assert!(!sink.offer(message(revision)));
        assert_eq!(watcher.next().await.unwrap(), Some(WatchMessage::Progress { revision: 0 }));
        assert!(sink.is_ready());
    }

    #[tokio::test]
    async fn the_last_message_comes_although_the_mailbox_is_full_and_then_nothing() {
        let (mut watcher, mut sink) = Watcher::new();
        while sink.offer(message(0)) {}
        sink.end(message(7));
        let mut last = None;
        while let Some(message) = watcher.next().await.unwrap() {
            last = Some(message);
        }
        assert_eq!(last, Some(WatchMessage::Progress { revision: 7 }));
        assert_eq!(watcher.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_watcher_that_is_dropped_refuses_the_next_message() {
        let (watcher, mut sink) = Watcher::new();
        while sink.offer(message(0)) {}
        drop(watcher);
        assert!(sink.is_ready() && !sink.offer(message(1)));
    }

    #[tokio::test]
    async fn a_sink_that_is_dropped_ends_the_watch() {
        let (mut watcher, sink) = Watcher::new();
        drop(sink);
        assert_eq!(watcher.next().await.unwrap(), None);
    }
}
