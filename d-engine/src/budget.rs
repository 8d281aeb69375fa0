//! Where a call's time goes: events at the seams that it crosses, at level `trace` under the target `d_engine::budget`.
//!
//! Each has a `stage`, the `node`, the `peer` of a message (0: none), and `last`, the index or number that it reaches;
//! `cluster-bench budget` puts them together. While nobody listens to the target, a seam costs one relaxed load.

use d_engine_raft::{Answer, Body, Command, Event, Input, Message, NodeId};
use d_engine_raft::{AppendOutcome, AppendReply};
use tracing::Level;

use crate::published::Published;

const TARGET: &str = "d_engine::budget";

#[inline]
fn is_on() -> bool {
    tracing::enabled!(target: TARGET, Level::TRACE)
}

/// Something else than a message, of which `last` is the index or number.
#[inline]
pub(crate) fn reached(stage: &'static str, node: NodeId, last: u64) {
    tracing::trace!(target: TARGET, stage, node, peer = 0_u64, last);
}

/// A message leaves this node's driver for `peer`.
#[inline]
pub(crate) fn sent(node: NodeId, peer: NodeId, message: &Message) {
    if is_on() {
        message_at(["send", "send-probe", "send-reply"], node, peer, message);
    }
}

/// The driver takes something up.
#[inline]
pub(crate) fn taken(published: &Published, event: &Event) {
    if !is_on() {
        return;
    }
    let node = published.node();
    match event {
        Event::Input(Input::Message { from, message }) => {
            message_at(["take", "take-probe", "take-reply"], node, *from, message);
        }
        Event::Input(Input::Persisted { seq }) => reached("persisted", node, *seq),
        Event::Input(Input::Read { .. }) => reached("read", node, 0),
        _ => {}
    }
}

/// The driver wants something done.
#[inline]
pub(crate) fn commanded(published: &Published, command: &Command) {
    if !is_on() {
        return;
    }
    let node = published.node();
    match command {
        Command::Write(write) => {
            if let Some(entry) = write.entries.last() {
                // The number of the write, and the index it reaches: what is persisted is told by number.
                tracing::trace!(target: TARGET, stage = "write", node, peer = write.seq, last = entry.index);
            }
        }
        Command::Apply { last, .. } => reached("commit", node, *last),
        Command::Answer(Answer::ReadReady { index, .. }) => reached("ready", node, *index),
        _ => {}
    }
}

/// Names of an AppendEntries with entries, of one without, and of an answer that accepts.
fn message_at([append, probe, reply]: [&'static str; 3], node: NodeId, peer: NodeId, message: &Message) {
    let (stage, last) = match &message.body {
        Body::Append(message) if message.entries.is_empty() => (probe, message.round),
        Body::Append(message) => (append, message.end()),
        Body::AppendReply(AppendReply { outcome: AppendOutcome::Accepted { matched }, .. }) => (reply, *matched),
        _ => return,
    };
    tracing::trace!(target: TARGET, stage, node, peer, last);
}
