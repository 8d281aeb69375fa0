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
    }

    /// A leader that cannot write hands over to a voter that has the whole log. If nobody takes over within an election
    /// timeout, a leader whose disk hangs steps down; one whose disk is full goes on, for the sake of reads, and asks the
    /// next. An only voter has nobody to make room for.
    pub(crate) fn maybe_step_aside(&mut self) {
        let (is_full, is_alone) = (self.full.is_some(), self.is_only_voter());
        let is_sick = is_full || self.is_disk_stuck();
        let heir = if is_sick { self.heir() } else { None };
        let Part::Leader(leader) = &mut self.part else { return };
        if !is_sick {
            return leader.heirs.clear();
        }
        if leader.transfer.is_some() || is_alone {
            return;
        }
        if !is_full && !leader.heirs.is_empty() {
            return self.follow(None);
        }
        match heir {
            Some(heir) => {
                if leader.heirs.contains(&heir) {
                    leader.heirs.clear();
                }
                leader.heirs.push(heir);
                self.begin_transfer(None, heir);
            }
            None if is_full => {}
            None => self.follow(None),
        }
    }

    /// A leader's own write has been pending for an election timeout.
    fn is_disk_stuck(&self) -> bool {
        self.writes.oldest_pending().is_some_and(|since| since + self.config.election_timeout_max < self.now)
    }

    /// The voter that answers and holds most, of those that were not asked yet; of all if all were.
    fn heir(&self) -> Option<NodeId> {
        let (Part::Leader(leader), Some(membership)) = (&self.part, self.membership()) else { return None };
        let answers = |at: Duration| at + self.config.election_timeout_min >= self.now;
        let able = leader.peers.iter().filter(|(node, progress)| {
            let flows = progress.flow == Flow::Replicate && progress.has_answered && answers(progress.contact);
            flows && membership.voters().any(|voter| voter == **node)
        });
        let best = able.max_by_key(|(node, progress)| (!leader.heirs.contains(node), progress.matched));
        best.map(|(node, _)| *node)
    }
}
