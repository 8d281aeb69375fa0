//! The stream that carries our messages to one peer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use d_engine_raft::{Body, Message};
use futures_util::{Stream, stream};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Streaming;

use crate::channel::{dial, stream_end};
use crate::convert::{hello_from_wire, hello_to_wire, message_to_wire};
use crate::generated::v1;
use crate::generated::v1::peer_client::PeerClient;
use crate::generated::v1::peer_frame::Frame;
use crate::peer::{PeerEvent, Shared, lock};
use crate::{FRAME_LEN_MAX, FRAME_LEN_TARGET, Hello};

/// A peer answers our Hello within so long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// While nothing waits to be sent.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// While something waits to be sent: a peer that restarted is found again within this time.
const BACKOFF_MAX_WANTED: Duration = Duration::from_millis(400);
/// A connection that lasted so long was a good one: what fails afterwards is told anew, and retried at once.
const STABLE: Duration = Duration::from_secs(1);
/// Causes that are logged between two good connections; the same one never twice.
const NAMED_MAX: usize = 8;
/// Messages that may wait for one peer.
const QUEUE_MAX: usize = 4096;
/// Bytes of messages that may wait for one peer; a single larger message still travels.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// What a message costs beside its entries, at most.
const MESSAGE_OVERHEAD: usize = 160;
/// What an entry costs beside its own bytes, at most.
const ENTRY_OVERHEAD: usize = 8;
/// Bytes of messages in one frame, at most: the rest is for what is around them.
const MESSAGES_LEN_MAX: usize = FRAME_LEN_MAX - 64;

/// One peer and what waits to be sent to it.
pub(crate) struct Link {
    to: u64,
    queue: Mutex<Queue>,
    /// A message was dropped that no frame can carry; said once.
    oversized: AtomicBool,
    /// Something waits in the queue.
    filled: Notify,
    /// The peer lives: do not wait any longer.
    dial_now: Notify,
    /// `None`: the peer is no member any more.
    address: watch::Sender<Option<String>>,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<(Message, usize)>,
    len: usize,
    /// Messages were dropped since the queue was last taken from; said once.
    overflowed: bool,
}

impl Queue {
    fn push(&mut self, message: Message) {
        let len = message_len(&message);
        self.len += len;
        self.messages.push_back((message, len));
    }

    fn is_full_for(&self, len: usize) -> bool {
        self.messages.len() >= QUEUE_MAX || (self.len + len > QUEUE_BYTES_MAX && !self.messages.is_empty())
    }

    /// Everything that waits, up to the size of a frame, and never more than a receiver accepts.
    fn take(&mut self, incarnation: u128) -> Vec<v1::RaftMessage> {
        let mut taken = Vec::with_capacity(self.messages.len().min(256));
        let mut frame_len = 0;
        while frame_len < FRAME_LEN_TARGET
            && let Some((message, len)) = self.messages.pop_front_if(|(_, len)| frame_len + *len <= MESSAGES_LEN_MAX)
        {
            frame_len += len;
            taken.push(message_to_wire(message, incarnation));
        }
        self.len -= frame_len;
        self.overflowed = false;
        taken
    }
}

/// Bytes of a message on the wire, at most.
fn message_len(message: &Message) -> usize {
    let entries = match &message.body {
        Body::Append(append) => append.entries.iter().map(|entry| entry.encoded_len() + ENTRY_OVERHEAD).sum(),
        Body::Formation(entry) => entry.encoded_len() + ENTRY_OVERHEAD,
        _ => 0,
    };
    MESSAGE_OVERHEAD + entries
}

impl Link {
    pub(crate) fn new(to: u64, address: String) -> Self {
        Self {
            to,
            queue: Mutex::default(),
            oversized: AtomicBool::new(false),
            filled: Notify::new(),
            dial_now: Notify::new(),
            address: watch::Sender::new(Some(address)),
        }
    }

    pub(crate) fn send(&self, message: Message, shared: &Shared) {
        let len = message_len(&message);
        if len > MESSAGES_LEN_MAX {
            return self.drop_oversized(len);
        }
        let mut queue = lock(&self.queue);
        if !queue.is_full_for(len) {
            queue.push(message);
            drop(queue);
            self.filled.notify_one();
            return;
        }
        let first = !std::mem::replace(&mut queue.overflowed, true);
        drop(queue);
        if first {
            let why = "messages wait faster than the connection takes them; some are dropped".to_owned();
            (shared.sink)(PeerEvent::Unreachable { to: self.to, why });
        }
    }

    /// A message that no frame can carry would only break the stream, and each one after it.
    fn drop_oversized(&self, len: usize) {
        if !self.oversized.swap(true, Ordering::Relaxed) {
            tracing::error!(
                peer = self.to,
                len,
                limit = MESSAGES_LEN_MAX,
                "messages that are too large for the wire are dropped; the log holds entries that no configuration of a \
                 networked node allows"
            );
        }
    }

    pub(crate) fn set_address(&self, address: String) {
        self.address.send_if_modified(|current| {
            let changed = current.as_ref() != Some(&address);
            *current = Some(address);
            changed
        });
    }

    pub(crate) fn close(&self) {
        self.address.send_replace(None);
    }

    pub(crate) fn dial_now(&self) {
        self.dial_now.notify_one();
    }

    /// Dials, sends, and dials again, until the link is closed or the peers are shut down.
    pub(crate) async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        let mut address = self.address.subscribe();
        let mut failures = 0;
        let mut named = Vec::new();
        loop {
            let target = address.borrow_and_update().clone();
            let Some(target) = target else { return };
            let session = tokio::select! {
                () = shared.stopped() => return,
                _ = address.changed() => continue,
                session = Session::open(&self, &shared, &target) => session,
            };
            let why = match session {
                Ok(session) => {
                    let since = Instant::now();
                    tracing::info!(peer = self.to, address = %target, "peer connected");
                    (shared.sink)(PeerEvent::Connected { to: self.to });
                    let ended = tokio::select! {
                        () = shared.stopped() => return,
                        _ = address.changed() => "its address changed".to_owned(),
                        why = session.ended() => why,
                    };
                    if since.elapsed() >= STABLE {
                        failures = 0;
                        named.clear();
                    }
                    // Of an earlier life: this one was dialled already.
                    self.forget_wish_to_dial();
                    ended
                }
                Err(why) => why,
            };
            self.report(&shared, &target, why, &mut named);
            self.back_off(&shared, &mut address, failures).await;
            failures += 1;
        }
    }

    /// What waited is as good as lost: raft sends anew what still matters.
    fn report(&self, shared: &Shared, target: &str, why: String, named: &mut Vec<String>) {
        *lock(&self.queue) = Queue::default();
        if named.len() < NAMED_MAX && !named.contains(&why) {
            tracing::warn!(peer = self.to, address = target, "peer unreachable: {why}");
            named.push(why.clone());
        }
        (shared.sink)(PeerEvent::Unreachable { to: self.to, why });
    }

    fn forget_wish_to_dial(&self) {
        let wish = std::pin::pin!(self.dial_now.notified());
        // Enabling takes a stored permit.
        wish.enable();
    }

    /// Waits longer after each failure, and less while something waits to be sent.
    async fn back_off(&self, shared: &Shared, address: &mut watch::Receiver<Option<String>>, failures: u32) {
        let base = BACKOFF_MIN * 2_u32.pow(failures.min(6));
        let jittered = |limit: Duration| base.min(limit).mul_f64(0.5 + fastrand::f64() / 2.0);
        let since = Instant::now();
        let (wanted, idle) = (since + jittered(BACKOFF_MAX_WANTED), since + jittered(BACKOFF_MAX));
        let something_waits = async {
            while lock(&self.queue).messages.is_empty() {
                self.filled.notified().await;
            }
            sleep_until(wanted).await;
        };
        tokio::select! {
            () = sleep_until(idle) => {}
            () = something_waits => {}
            () = self.dial_now.notified() => {}
            _ = address.changed() => address.mark_changed(),
            () = shared.stopped() => {}
        }
    }
}

/// A stream that the peer has accepted.
struct Session {
    answers: Streaming<v1::PeerFrame>,
    /// Dropping it ends the outgoing side, so that it takes no messages from its successor.
    _accept: watch::Sender<bool>,
}

impl Session {
    async fn open(link: &Arc<Link>, shared: &Arc<Shared>, address: &str) -> Result<Self, String> {
        let channel = dial(address).await?;
        let mut client =
            PeerClient::new(channel).max_decoding_message_size(FRAME_LEN_MAX).max_encoding_message_size(FRAME_LEN_MAX);
        let (accept, accepted) = watch::channel(false);
        let outgoing = Outgoing { link: link.clone(), hello: shared.hello.clone(), accepted, said: None };
        let greeting = async {
            let response = client.connect(outgoing.into_frames()).await.map_err(|status| stream_end(&status))?;
            let mut answers = response.into_inner();
            let first = answers.message().await.map_err(|status| stream_end(&status))?;
            check_answer(first, link.to, &shared.hello.borrow())?;
            Ok(answers)
        };
        let late = |_| Err("no answer to our Hello".to_owned());
        let answers = timeout(ANSWER_TIMEOUT, greeting).await.unwrap_or_else(late)?;
        accept.send_replace(true);
        Ok(Self { answers, _accept: accept })
    }

    /// Completes when the stream ends, with the cause.
    async fn ended(mut self) -> String {
        loop {
            match self.answers.message().await {
                Ok(Some(v1::PeerFrame { frame: Some(Frame::Refusal(v1::Refusal { why })) })) => return why,
                Ok(Some(_)) => {}
                Ok(None) => return "the peer ended the stream".to_owned(),
                Err(status) => return stream_end(&status),
            }
        }
    }
}

fn check_answer(first: Option<v1::PeerFrame>, to: u64, local: &Hello) -> Result<(), String> {
    match first.and_then(|frame| frame.frame) {
        Some(Frame::Hello(wire)) => {
            let remote = hello_from_wire(&wire).map_err(|error| error.to_string())?;
            if remote.node != to {
                return Err(format!("node {} answers at the address of node {to}", remote.node));
            }
            remote.objection(local).map_or(Ok(()), Err)
        }
        Some(Frame::Refusal(v1::Refusal { why })) => Err(why),
        Some(Frame::Messages(_)) | None => Err("the peer did not answer our Hello".to_owned()),
    }
}

/// The request side of a stream: polled by the task that writes to the socket.
struct Outgoing {
    link: Arc<Link>,
    hello: watch::Receiver<Hello>,
    accepted: watch::Receiver<bool>,
    /// The incarnation of the latest Hello on this stream.
    said: Option<u128>,
}

impl Outgoing {
    fn into_frames(self) -> impl Stream<Item = v1::PeerFrame> + Send {
        stream::unfold(self, async |mut outgoing| {
            let frame = outgoing.next().await?;
            Some((v1::PeerFrame { frame: Some(frame) }, outgoing))
        })
    }

    /// Hello first, and again when it changes; messages only after the peer has accepted it.
    async fn next(&mut self) -> Option<Frame> {
        let Some(incarnation) = self.said else { return Some(self.say_hello()) };
        // Marks it as seen: what changes afterwards is the end of the session.
        if self.accepted.wait_for(|accepted| *accepted).await.is_err() {
            return None;
        }
        loop {
            if self.accepted.has_changed().is_err() {
                // What woke this stream is its successor's.
                self.link.filled.notify_one();
                return None;
            }
            if self.hello.has_changed().unwrap_or(false) {
                return Some(self.say_hello());
            }
            let messages = lock(&self.link.queue).take(incarnation);
            if !messages.is_empty() {
                return Some(Frame::Messages(v1::MessageBatch { messages }));
            }
            tokio::select! {
                () = self.link.filled.notified() => {}
                Ok(()) = self.hello.changed() => return Some(self.say_hello()),
                _ = self.accepted.changed() => {}
            }
        }
    }

    fn say_hello(&mut self) -> Frame {
        let hello = self.hello.borrow_and_update().clone();
        self.said = Some(hello.incarnation);
        Frame::Hello(hello_to_wire(&hello, self.link.to))
    }
}

#[cfg(test)]
mod tests {

    use d_engine_core::{ENTRY_HEADER_LEN, Entry, EntryKind, LogId};
    use d_engine_raft::Append;
    use prost::Message as _;

    use super::*;

    fn message(term: u64) -> Message {
        Message { term, incarnation: 1, group: 0, body: Body::FormationProbe }
    }

    #[test]
    fn a_full_queue_is_bounded_and_drains_into_frames() {
        let mut queue = Queue::default();
        for term in 0..QUEUE_MAX as u64 {
            assert!(!queue.is_full_for(MESSAGE_OVERHEAD));
            queue.push(message(term));
        }
        assert!(queue.is_full_for(MESSAGE_OVERHEAD));
        let taken = queue.take(1);
        assert_eq!((taken.len(), taken[9].term, queue.len), (QUEUE_MAX, 9, 0));
        assert!(taken[0].incarnation.is_empty(), "the Hello has said it");
    }

    fn append(data_len: usize) -> Message {
        let entries = vec![Entry::new(1, 1, EntryKind::Command, vec![0; data_len])];
        let body = Body::Append(Append { session: u64::MAX, entries, ..empty_append() });
        Message { term: u64::MAX, incarnation: 2, group: u64::MAX, body }
    }

    fn empty_append() -> Append {
        let prev = LogId::new(u64::MAX, u64::MAX);
        Append {
            session: u64::MAX,
            prev,
            commit: u64::MAX,
            matched: u64::MAX,
            receiver: u128::MAX,
            round: u64::MAX,
            entries: Vec::new(),
        }
    }

    #[test]
    fn a_frame_ends_before_it_holds_more_than_a_receiver_accepts() {
        let mut queue = Queue::default();
        let largest = append(MESSAGES_LEN_MAX - MESSAGE_OVERHEAD - ENTRY_OVERHEAD - ENTRY_HEADER_LEN);
        assert_eq!(message_len(&largest), MESSAGES_LEN_MAX);
        queue.push(append(FRAME_LEN_TARGET / 2));
        queue.push(largest);
        for _ in 0..2 {
            let messages = queue.take(1);
            assert_eq!(messages.len(), 1);
            let frame = v1::PeerFrame { frame: Some(Frame::Messages(v1::MessageBatch { messages })) };
            assert!(frame.encoded_len() <= FRAME_LEN_MAX, "{}", frame.encoded_len());
        }
        assert_eq!(queue.len, 0);
    }

    #[test]
    fn the_length_of_a_message_is_never_estimated_too_short() {
        let many = (1..=1000).map(|index| Entry::new(index, 1, EntryKind::Command, vec![0; 200])).collect();
        let many = Body::Append(Append { entries: many, ..empty_append() });
        for message in [append(0), append(1 << 20), Message { body: many, ..append(0) }] {
            let len = message_len(&message);
            let batch = v1::MessageBatch { messages: vec![message_to_wire(message, 1)] };
            assert!(batch.encoded_len() <= len, "{} > {len}", batch.encoded_len());
        }
    }
}
