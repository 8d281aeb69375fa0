//! From the machine's thread to a watcher's task: bounded, and never silent about why it ends.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use d_engine_core::WatchSink;
use d_engine_core::command::{WatchEnd, WatchMessage};
use futures_util::Stream;

use super::WatchStream;
use crate::peer::lock;
use crate::{ClientError, Result};

/// Messages of a watcher that wait to be taken hold so many bytes, and one message more, at most.
const WAITING_BYTES_MAX: usize = 256 << 10;

/// A sink for a state machine's watch, and what comes out of it.
///
/// A message waits in between while fewer than 256 KiB do. A watcher that does not take its messages in time ends with
/// [`WatchEnd::Slow`]; one whose machine is gone, with [`WatchEnd::Stopped`].
pub fn watch_queue() -> (Box<dyn WatchSink>, WatchStream) {
    let queue = Arc::new(Mutex::new(Queue::default()));
    let out = Out { queue: Arc::clone(&queue), next_revision: 0, has_ended: false };
    (Box::new(In { queue }), Box::pin(out))
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Bytes>,
    bytes: usize,
    /// The last message, for which there is always room.
    end: Option<Bytes>,
    /// A message was refused because the queue was full.
    overflowed: bool,
    /// Nothing comes in any more.
    sink_gone: bool,
    /// Nobody takes anything out any more.
    closed: bool,
    machine: Option<Waker>,
    reader: Option<Waker>,
}

impl Queue {
    fn has_room(&self) -> bool {
        self.bytes < WAITING_BYTES_MAX
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The machine's end.
struct In {
    queue: Arc<Mutex<Queue>>,
}

impl WatchSink for In {
    fn offer(&mut self, event: Bytes) -> bool {
        let mut queue = lock(&self.queue);
        if queue.closed || !queue.has_room() {
            queue.overflowed |= !queue.closed;
            return false;
        }
        queue.bytes += event.len();
        queue.waiting.push_back(event);
        let reader = queue.reader.take();
        drop(queue);
        wake(reader);
        true
    }

    fn is_ready(&self) -> bool {
        let queue = lock(&self.queue);
        // Of a closed one the machine learns by offering.
        queue.closed || queue.has_room()
    }

    fn set_waker(&mut self, waker: Waker) {
        lock(&self.queue).machine = Some(waker);
    }

    fn end(self: Box<Self>, event: Bytes) {
        lock(&self.queue).end = Some(event);
        // The reader is woken by the drop.
    }
}

impl Drop for In {
    fn drop(&mut self) {
        let mut queue = lock(&self.queue);
        queue.sink_gone = true;
        let reader = queue.reader.take();
        drop(queue);
        wake(reader);
    }
}

/// The watcher's end.
struct Out {
    queue: Arc<Mutex<Queue>>,
    /// The first revision that may not have been told whole; 0: none is known.
    next_revision: u64,
    has_ended: bool,
}

impl Out {
    fn poll_bytes(&mut self, context: &Context<'_>) -> Poll<Option<Bytes>> {
        let mut queue = lock(&self.queue);
        let had_room = queue.has_room();
        if let Some(event) = queue.waiting.pop_front() {
            queue.bytes -= event.len();
            let machine = if !had_room && queue.has_room() { queue.machine.clone() } else { None };
            drop(queue);
            wake(machine);
            return Poll::Ready(Some(event));
        }
        if queue.sink_gone {
            let end = queue.end.take();
            let slow = WatchEnd::Slow { next_revision: self.next_revision };
            let why = if queue.overflowed { slow } else { WatchEnd::Stopped };
            return Poll::Ready(Some(end.unwrap_or_else(|| WatchMessage::Ended(why).encode())));
        }
        queue.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Stream for Out {
    type Item = Result<WatchMessage>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(Some(bytes)) = self.poll_bytes(context) else { return Poll::Pending };
        let message = WatchMessage::decode_bytes(bytes).map_err(|error| {
            ClientError::unavailable(format!("the state machine tells its watchers something else: {error}"))
        });
        match &message {
            Ok(WatchMessage::Changes { revision, more, .. }) => self.next_revision = revision + u64::from(!more),
            Ok(WatchMessage::Created { revision } | WatchMessage::Progress { revision }) => {
                self.next_revision = self.next_revision.max(revision + 1);
            }
            Ok(_) | Err(_) => self.has_ended = true,
        }
        Poll::Ready(Some(message))
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        queue.waiting.clear();
        let machine = queue.machine.take();
        drop(queue);
        wake(machine);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use d_engine_core::KvRecord;
    use d_engine_core::command::KvChange;
    use futures_util::StreamExt as _;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn changes(revision: u64, len: usize, more: bool) -> Bytes {
        let record = KvRecord::new("k", vec![7; len], 1, revision, 1);
        WatchMessage::Changes { revision, changes: vec![KvChange::Put { record, prev: None }], more }.encode()
    }

    async fn end_of(stream: &mut WatchStream) -> WatchEnd {
        let mut last = None;
        while let Some(message) = stream.next().await {
            last = Some(message.unwrap());
        }
        match last {
            Some(WatchMessage::Ended(end)) => end,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_full_queue_waits_for_its_reader_and_then_wakes_the_machine() {
        let (mut sink, mut stream) = watch_queue();
        let woken = Arc::new(Woken::default());
        sink.set_waker(Arc::clone(&woken).into());
        assert!(sink.offer(changes(1, WAITING_BYTES_MAX, false)), "one message of any length");
        assert!(!sink.is_ready());
        assert!(matches!(stream.next().await, Some(Ok(WatchMessage::Changes { revision: 1, .. }))));
        assert!(sink.is_ready());
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        drop(stream);
        assert_eq!(woken.0.load(Ordering::Relaxed), 2, "and when the reader has gone");
        assert!(sink.is_ready() && !sink.offer(changes(2, 1, false)));
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_where_to_go_on() {
        for (more, next_revision) in [(false, 6), (true, 5)] {
            let (mut sink, mut stream) = watch_queue();
            assert!(sink.offer(changes(5, WAITING_BYTES_MAX, more)));
            assert!(!sink.offer(changes(6, 1, false)));
            drop(sink);
            assert_eq!(end_of(&mut stream).await, WatchEnd::Slow { next_revision });
        }
    }

    #[tokio::test]
    async fn the_machines_own_reason_comes_last_whatever_waits() {
        let (mut sink, mut stream) = watch_queue();
        assert!(sink.offer(changes(5, WAITING_BYTES_MAX, false)));
        sink.end(WatchMessage::Ended(WatchEnd::Compacted { first_revision: 9 }).encode());
        assert_eq!(end_of(&mut stream).await, WatchEnd::Compacted { first_revision: 9 });
        let (sink, mut stream) = watch_queue();
        drop(sink);
        assert_eq!(end_of(&mut stream).await, WatchEnd::Stopped);
    }
}
