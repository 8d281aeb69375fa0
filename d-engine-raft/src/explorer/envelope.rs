//! A message on its way.

use super::forget::Numbering;
use super::replica::Replica;
use super::store::Renumber;
use crate::progress::{Flow, Progress};
use crate::raft::Part;
use crate::{AppendOutcome, AppendReply, Body, Message, NodeId};

/// A message with its sender and its receiver.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) message: Message,
}

impl Envelope {
    /// Whether `receiver` has no use for the message, now and for ever.
    pub(super) fn is_void_for(&self, receiver: &Replica) -> bool {
        let (term, raft) = (self.message.term, &receiver.raft);
        // Terms only grow, in memory and on disk. Whom an old message would tell of a newer term can learn of it anyway.
        if term < raft.term && term < receiver.hard_state.term {
            return true;
        }
        let asks_no_more = term <= raft.term && term <= receiver.hard_state.term;
        match (&self.message.body, &raft.part) {
            // A candidate may lose heart at any time, and anybody may learn of a newer term.
            (Body::VoteReply { granted: false }, _) => true,
            (Body::AppendReply(reply), _) if matches!(reply.outcome, AppendOutcome::Pending | AppendOutcome::Stale) => {
                true
            }
            // Nobody campaigns in the same term twice.
            (Body::VoteReply { .. }, Part::Candidate(ballot)) => asks_no_more && ballot.granted.contains(&self.from),
            (Body::AppendReply(reply), Part::Leader(leader)) => {
                asks_no_more && leader.peers.get(&self.from).is_none_or(|progress| is_void(reply, progress))
            }
            (Body::VoteReply { .. } | Body::AppendReply(_), _) => asks_no_more,
            _ => false,
        }
    }
}

/// Streams never come back, and what matches never goes back.
fn is_void(reply: &AppendReply, progress: &Progress) -> bool {
    let is_current = reply.session == progress.session;
    let is_news = match (reply.outcome, progress.flow) {
        (AppendOutcome::Accepted { .. }, Flow::Probe) => true,
        (AppendOutcome::Accepted { matched }, _) => matched > progress.matched,
        (AppendOutcome::Rejected { prev, .. }, Flow::Probe) => prev == progress.next - 1 && prev > progress.matched,
        (AppendOutcome::Rejected { prev, .. }, _) => prev > progress.matched,
        (AppendOutcome::Pending | AppendOutcome::Stale, _) => false,
    };
    !(is_current && is_news)
}

impl Renumber for Envelope {
    fn renumber(&mut self, names: &Numbering) {
        (self.from, self.to) = (names.of(self.from), names.of(self.to));
        names.message(&mut self.message);
    }
}
