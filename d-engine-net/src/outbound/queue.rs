//! What waits to be sent to one peer.

use std::collections::VecDeque;

use d_engine_raft::{Body, Message};

use crate::convert::message_to_wire;
use crate::generated::v1;
use crate::{FRAME_LEN_MAX, FRAME_LEN_TARGET};

/// Messages that may wait for one peer.
const QUEUE_MAX: usize = 4096;
/// Bytes of messages that may wait for one peer; a single larger message still travels.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// What a message costs beside its entries, at most.
const MESSAGE_OVERHEAD: usize = 160;
/// What an entry costs beside its own bytes, at most.
const ENTRY_OVERHEAD: usize = 8;
/// Bytes of messages in one frame, at most: the rest is for what is around them.
pub(super) const MESSAGES_LEN_MAX: usize = FRAME_LEN_MAX - 64;

#[derive(Default)]
pub(super) struct Queue {
    messages: VecDeque<(Message, usize)>,
    len: usize,
    /// Messages were dropped since the queue was last taken from; said once.
    pub(super) overflowed: bool,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Bytes that wait, at most.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// `len` is the message's [`message_len`].
    pub(super) fn push(&mut self, message: Message, len: usize) {
        self.len += len;
        self.messages.push_back((message, len));
    }

    pub(super) fn is_full_for(&self, len: usize) -> bool {
        self.messages.len() >= QUEUE_MAX || (self.len + len > QUEUE_BYTES_MAX && !self.messages.is_empty())
    }

    /// Everything that waits, up to the size of a frame, and never more than a receiver accepts. `incarnation` is the one of
    /// the latest Hello.
    pub(super) fn take(&mut self, incarnation: u128) -> Vec<v1::RaftMessage> {
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
pub(super) fn message_len(message: &Message) -> usize {
    let entries = match &message.body {
        Body::Append(append) => append.entries.iter().map(|entry| entry.encoded_len() + ENTRY_OVERHEAD).sum(),
        Body::Formation(entry) => entry.encoded_len() + ENTRY_OVERHEAD,
        _ => 0,
    };
    MESSAGE_OVERHEAD + entries
}

#[cfg(test)]
mod tests {
    use d_engine_core::{ENTRY_HEADER_LEN, Entry, EntryKind, LogId};
    use d_engine_raft::Append;
    use prost::Message as _;

    use super::*;
    use crate::generated::v1::peer_frame::Frame;

    fn message(term: u64) -> Message {
        Message { term, incarnation: 1, group: 0, body: Body::FormationProbe }
    }

    #[test]
    fn a_full_queue_is_bounded_and_drains_into_frames() {
        let mut queue = Queue::default();
        for term in 0..QUEUE_MAX as u64 {
            assert!(!queue.is_full_for(MESSAGE_OVERHEAD));
            queue.push(message(term), MESSAGE_OVERHEAD);
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
        let half = append(FRAME_LEN_TARGET / 2);
        let half_len = message_len(&half);
        queue.push(half, half_len);
        queue.push(largest, MESSAGES_LEN_MAX);
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
