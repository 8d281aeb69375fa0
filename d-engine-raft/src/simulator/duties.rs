//! What a leader owes while it leads: to be heard, to refuse what it must, and to ignore what is old.

use d_engine_core::Membership;

use super::Breach;
use super::network::MAX_NODES;
use super::quorum::is_quorum;
use crate::message::Body;
use crate::progress::Progress;
use crate::raft::{Part, Raft};
use crate::{Answer, Command, Event, Input, NodeId, Role};

/// What a node has heard while it led.
#[derive(Debug, Default)]
pub(super) struct Duties {
    /// When each peer was last heard, in true time.
    heard: [u64; MAX_NODES + 1],
    /// Since when it leads its present configuration.
    since: u64,
    /// Whether it has just handled a timeout.
    is_due: bool,
    /// Proposals that came while it handed over.
    must_refuse: Vec<u64>,
}

/// A follower's progress before an answer that must not move it.
pub(super) struct Stale {
    from: NodeId,
    was: (u64, u64, u64),
}

fn progress(raft: &Raft, node: NodeId) -> Option<&Progress> {
    let Part::Leader(leader) = &raft.part else { return None };
    leader.peers.get(&node)
}

fn position(progress: &Progress) -> (u64, u64, u64) {
    (progress.session, progress.matched, progress.next)
}

impl Duties {
    /// Another leadership or configuration begins.
    pub(super) fn begin(&mut self, now: u64) {
        self.since = now;
    }

    /// The node is about to handle `event`.
    pub(super) fn before(&mut self, raft: &Raft, now: u64, event: &Event) -> Option<Stale> {
        match event {
            Event::Input(Input::Message { from, message }) => {
                if let Some(heard) = self.heard.get_mut(*from as usize) {
                    *heard = now;
                }
                let Body::AppendReply(reply) = &message.body else { return None };
                let progress = progress(raft, *from).filter(|progress| progress.session != reply.session)?;
                Some(Stale { from: *from, was: position(progress) })
            }
            Event::Input(Input::Timeout) => {
                self.is_due = true;
                None
            }
            Event::Input(Input::Propose { id, .. }) => {
                if matches!(&raft.part, Part::Leader(leader) if leader.transfer.is_some()) {
                    self.must_refuse.push(*id);
                }
                None
            }
            _ => None,
        }
    }

    /// The node has taken its step. `limit`: how long it may lead unheard, in true time.
    pub(super) fn after(
        &mut self,
        id: NodeId,
        raft: &Raft,
        commands: &[Command],
        membership: Option<&Membership>,
        now: u64,
        limit: u64,
    ) -> Result<(), Breach> {
        let refused = std::mem::take(&mut self.must_refuse);
        if !refused.is_empty() {
            let takes = |command: &&Command| matches!(command, Command::Answer(Answer::Accepted { id, .. }) if refused.contains(id));
            if let Some(Command::Answer(Answer::Accepted { id: request, at })) = commands.iter().find(takes) {
                let detail = format!("node {id} accepts #{request} at {at} while it hands over");
                return Err(Breach::new("Whoever Hands Over Takes No Proposals", detail));
            }
        }
        if !std::mem::take(&mut self.is_due) || raft.role() != Role::Leader || now < self.since + limit {
            return Ok(());
        }
        let is_heard = |node: NodeId, _| node == id || self.heard[node as usize] + limit >= now;
        if membership.is_none_or(|membership| is_quorum(membership, is_heard)) {
            return Ok(());
        }
        let detail = format!("node {id} has led for {} ms without an answer of a quorum", limit / 1000);
        Err(Breach::new("Nobody Leads Unheard", detail))
    }
}

impl Stale {
    /// Answers of older streams move nothing.
    pub(super) fn check(self, id: NodeId, raft: &Raft) -> Result<(), Breach> {
        match progress(raft, self.from).map(position) {
            Some(is) if is != self.was => {
                let detail =
                    format!("node {id} moves from {:?} to {is:?} for node {} by an old answer", self.was, self.from);
                Err(Breach::new("Answers Of Older Streams Are Ignored", detail))
            }
            _ => Ok(()),
        }
    }
}
