//! A leader that cannot write makes room for one that can; a full disk waits for space, in order.
//!
//! A full disk is no failure: the write was refused before its first byte, so nothing is in doubt. The sequence of writes
//! waits there and nothing overtakes it, hence this node neither votes nor acknowledges meanwhile. What needs no write
//! goes on: it follows, or leads, and serves reads.

use std::time::Duration;

use crate::NodeId;
use crate::progress::Flow;
use crate::raft::{Part, Raft};

impl Raft {
    /// Writes wait for space.
    pub(crate) fn on_storage_full(&mut self, why: String) {
        self.full = Some(why);
        self.maybe_step_aside();
    }

    /// Writes go on.
    pub(crate) fn on_storage_freed(&mut self) {
        self.full = None;
        self.writes.restart_clock(self.now);
        if let Part::Leader(leader) = &mut self.part {
            leader.has_stepped_aside = false;
        }
    }

    /// A leader that cannot write hands over to a voter that has the whole log. If nobody takes over within an election
    /// timeout, a leader whose disk hangs steps down; one whose disk is full goes on, for the sake of reads, and tries
    /// again.
    pub(crate) fn maybe_step_aside(&mut self) {
        let is_full = self.full.is_some();
        if !(is_full || self.is_disk_stuck()) {
            return;
        }
        let heir = self.heir();
        let Part::Leader(leader) = &mut self.part else { return };
        if leader.transfer.is_some() {
            return;
        }
        let has_tried = std::mem::replace(&mut leader.has_stepped_aside, true);
        match heir {
            Some(heir) if is_full || !has_tried => self.begin_transfer(None, heir),
            _ if is_full => {}
            _ => self.follow(None),
        }
    }

    /// A leader's own write has been pending for an election timeout.
    fn is_disk_stuck(&self) -> bool {
        self.writes.oldest_pending().is_some_and(|since| since + self.config.election_timeout_max < self.now)
    }

    /// The voter that answers and holds most.
    fn heir(&self) -> Option<NodeId> {
        let (Part::Leader(leader), Some(membership)) = (&self.part, self.membership()) else { return None };
        let answers = |at: Duration| at + self.config.election_timeout_min >= self.now;
        let able = leader.peers.iter().filter(|(node, progress)| {
            let flows = progress.flow == Flow::Replicate && progress.has_answered && answers(progress.contact);
            flows && membership.is_voter(**node)
        });
        able.max_by_key(|(_, progress)| progress.matched).map(|(node, _)| *node)
    }
}
