//! Messages on their way: what is lost, doubled, late or overtaken.

use super::Breach;
use super::agenda::Happening;
use super::faults::Fault;
use super::trace::What;
use super::world::World;
use crate::{AppendOutcome, Body, Input, Message, NodeId};

impl World {
    pub(super) fn arrive(&mut self, from: NodeId, to: NodeId, message: Message) -> Result<(), Breach> {
        if self.network.is_cut(from, to) || self.node(to).driver.is_none() {
            self.trace.message(to, from, &message, What::Lost);
            self.maybe_notice(from, to);
            return Ok(());
        }
        self.trace.message(to, from, &message, What::Got);
        self.give(to, Input::Message { from, message })
    }

    /// Puts a message on its way.
    pub(super) fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        let passes = self.filter.as_mut().is_none_or(|filter| filter(from, to, &message));
        let is_known = (1..=self.nodes.len() as u64).contains(&to);
        let is_lost = self.profile.loses(&mut self.rng) && self.occurs(Fault::Loss);
        if !passes || !is_known || is_lost || self.network.is_cut(from, to) {
            self.trace.message(from, to, &message, What::Lost);
            if is_lost {
                self.faults.add(Fault::Loss);
            }
            self.maybe_notice(from, to);
            return;
        }
        self.trace.message(from, to, &message, What::Sent);
        if self.profile.duplicates(&mut self.rng) && self.occurs(Fault::Duplicate) {
            self.faults.add(Fault::Duplicate);
            self.travel(from, to, message.clone());
        }
        if self.profile.meets_stranger(&mut self.rng)
            && let Some(reply) = stranger(&message)
            && self.occurs(Fault::Stranger)
        {
            self.faults.add(Fault::Stranger);
            let incarnation = self.rng.u128(..);
            self.travel(from, to, Message { incarnation, ..reply });
        }
        self.travel(from, to, message);
    }

    fn travel(&mut self, from: NodeId, to: NodeId, message: Message) {
        let mut after = self.profile.delay(&mut self.rng);
        if let Some(more) = self.profile.lateness(&mut self.rng)
            && self.occurs(Fault::Late)
        {
            self.faults.add(Fault::Late);
            after += more;
        } else if !self.profile.reorders {
            after = self.network.in_order(from, to, self.now + after) - self.now;
        }
        self.schedule(after, Happening::Arrive { from, to, message });
    }

    /// The sender of a lost message may learn that the connection broke.
    fn maybe_notice(&mut self, from: NodeId, to: NodeId) {
        if self.profile.notices_loss(&mut self.rng) && self.occurs(Fault::Unreachable) {
            self.faults.add(Fault::Unreachable);
            let after = self.profile.delay(&mut self.rng);
            let life = self.node(from).life;
            self.schedule(after, Happening::Broken { node: from, life, to });
        }
    }
}

/// What another data directory, which has everything and grants everything, would say in place of this reply.
fn stranger(message: &Message) -> Option<Message> {
    let mut message = message.clone();
    match &mut message.body {
        Body::VoteReply { granted } | Body::PreVoteReply { granted, .. } => *granted = true,
        Body::AppendReply(reply) => reply.outcome = AppendOutcome::Accepted { matched: message.term << 8 },
        Body::ReadIndexReply { index, .. } => *index = Some(1),
        _ => return None,
    }
    Some(message)
}
