//! What must hold between the fields of one replica after every input; checked in builds with debug assertions.

use crate::raft::{Part, Raft};

impl Raft {
    /// Asserts the relations between fields that every handler must preserve.
    pub(crate) fn check_invariants(&self) {
        let last = self.log.last();
        let persisted = self.writes.persisted_index();
        assert!(self.apply_sent <= self.commit, "what is applied is committed");
        assert!(self.applied <= self.apply_sent, "what was applied was handed out");
        assert!(self.log.purged().index <= self.commit, "what is purged is committed");
        assert!(persisted <= last.index, "the disk holds no entries that the log does not");
        assert!(last.term <= self.term || !self.identity.formed, "no entry is newer than the term");
        match &self.part {
            Part::Leader(leader) => self.check_leader(leader),
            Part::Candidate(_) => {
                assert!(self.voted_for == Some(self.config.node), "a candidate has voted for itself");
                assert!(self.leader.is_none(), "a candidate follows nobody");
            }
            Part::PreCandidate(_) => assert!(self.leader.is_none(), "a pre-candidate follows nobody"),
            Part::Unformed(_) => assert!(self.commit == 0, "nothing commits before there is a cluster"),
            Part::Follower => assert!(self.leader != Some(self.config.node), "a follower does not lead"),
            Part::Failed(_) => {}
        }
    }

    fn check_leader(&self, leader: &crate::leader::Leader) {
        let last = self.log.last().index;
        assert!(self.leader == Some(self.config.node), "a leader follows itself");
        assert!(leader.noop <= last, "a leader's no-op stays in its log");
        let noop_term = self.log.term_at(leader.noop);
        let is_purged = leader.noop < self.log.purged().index;
        assert!(is_purged || noop_term == Some(self.term), "a leader opens its term with a no-op");
        for progress in leader.peers.values() {
            assert!(progress.matched < progress.next, "what matches is not sent again");
            assert!(progress.next <= last + 1, "nothing beyond the log is sent");
            assert!(progress.acked_round <= leader.round, "no round is confirmed before it was opened");
        }
    }
}
