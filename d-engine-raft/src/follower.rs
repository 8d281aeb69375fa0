//! The receiver of AppendEntries (§3.5, Figure 2).

use d_engine_core::{Entry, EntryKind, LogId, Membership};

use crate::raft::{Part, Raft};
use crate::status::Bad;
use crate::{Append, AppendOutcome, AppendReply, Body, Mutant, NodeId};

impl Raft {
    pub(crate) fn on_append(&mut self, from: NodeId, term: u64, append: Append) {
        let (session, round) = (append.session, append.round);
        let reply = |outcome| Body::AppendReply(AppendReply { session, round, outcome });
        if term < self.term && !self.config.breaks(Mutant::AcceptStaleTerm) {
            return self.send(from, reply(AppendOutcome::Stale));
        }
        if self.leader.is_some_and(|leader| leader != from) {
            return self.bad_message(Bad::RivalLeader);
        }
        let is_of_the_future = append.entries.last().is_some_and(|entry| entry.term > term);
        if !append.is_well_formed() || is_of_the_future || !append.entries.iter().all(is_readable) {
            return self.bad_message(Bad::Malformed);
        }
        self.hear_leader(from);
        self.leader_session = session;
        if let Some(why) = self.lost_promise(&append) {
            return self.fail(why);
        }
        let is_heartbeat = append.entries.is_empty();
        let commit = append.commit;
        match self.take_entries(append) {
            Ok(matched) => {
                self.maybe_join();
                self.verified = self.verified.max(matched);
                self.acknowledge(from, session, round, matched, is_heartbeat);
                let beyond = self.config.breaks(Mutant::CommitBeyondMessageEnd);
                self.follow_commit(commit.min(if beyond { self.log.last().index } else { matched }));
            }
            Err(Refusal::Mismatch { prev, hint }) => self.send(from, reply(AppendOutcome::Rejected { prev, hint })),
            Err(Refusal::Fork(why)) => self.fail(why),
        }
    }

    /// Within a term a follower keeps what it has acknowledged to the leader. If it is gone, the disk was put back to an
    /// older state or lied about a sync, and nothing else it holds can be trusted.
    fn lost_promise(&self, append: &Append) -> Option<String> {
        // A late message may be meant for the directory that this one replaced.
        if append.receiver != self.identity.incarnation {
            return None;
        }
        let acknowledged = append.matched;
        let last = self.log.last();
        (acknowledged > last.index).then(|| {
            format!(
                "this node acknowledged entries up to {acknowledged} in term {}, but its log ends at {last}: an older copy of \
                 its directory was put back, or its disk lost what it had reported as synced",
                self.term
            )
        })
    }

    /// An append or heartbeat of the current leader, refused or not, restarts the election timer.
    pub(crate) fn hear_leader(&mut self, from: NodeId) {
        if self.leader != Some(from) || !matches!(self.part, Part::Follower) {
            self.follow(Some(from));
        }
        self.heard_at = Some(self.now);
        self.reset_election_timer();
    }

    /// Brings the log in line with the message; returns the message's end.
    fn take_entries(&mut self, append: Append) -> Result<u64, Refusal> {
        let (end, prev) = (append.end(), append.prev);
        let purged = self.log.purged();
        if end <= purged.index {
            return Ok(end);
        }
        let skip_check =
            self.config.breaks(Mutant::AppendWithoutConsistencyCheck) && prev.index <= self.log.last().index;
        if prev.index >= purged.index && self.log.term_at(prev.index) != Some(prev.term) && !skip_check {
            let hint = self.log.newest_at_most(prev.index, prev.term);
            return Err(Refusal::Mismatch { prev: prev.index, hint });
        }
        let at_boundary = append.entries.iter().find(|entry| entry.index == purged.index);
        if let Some(entry) = at_boundary.filter(|entry| entry.term != purged.term) {
            return Err(Refusal::Fork(format!(
                "the leader of term {} holds {} where this node's log was purged up to {purged}: two histories exist. Stop \
                 the cluster and compare the logs",
                self.term,
                entry.id()
            )));
        }
        let mut entries = append.entries;
        let present = entries
            .iter()
            .take_while(|entry| entry.index <= purged.index || self.log.term_at(entry.index) == Some(entry.term));
        let present = present.count();
        entries.drain(..present);
        if let Some(first) = entries.first().filter(|first| first.index <= self.log.last().index) {
            self.replace_from(first.index, append.prev)?;
        }
        let drops_rest = self.config.breaks(Mutant::TruncateWithoutConflict) && entries.is_empty();
        if drops_rest && end >= self.commit && end < self.log.last().index {
            self.replace_from(end + 1, append.prev)?;
        }
        for entry in entries {
            self.append_entry(entry).expect("memberships are readable, or the whole message is dropped");
        }
        if self.config.breaks(Mutant::AcknowledgeOwnLastIndex) {
            return Ok(self.log.last().index);
        }
        Ok(end)
    }

    /// Truncates at a real conflict of terms, and only there.
    fn replace_from(&mut self, from: u64, prev: LogId) -> Result<(), Refusal> {
        if from <= self.commit {
            let commit = self.commit;
            return Err(Refusal::Fork(format!(
                "the leader of term {} wants to replace entry {from} (after {prev}), but everything up to {commit} is \
                 committed here: two histories exist. Stop the cluster and compare the logs",
                self.term
            )));
        }
        let by_index = self.config.breaks(Mutant::PersistedByIndexOnly);
        let earlier = self.writes.stage_truncate(from, self.now, self.log.last().index, by_index);
        self.actions.extend(earlier.map(crate::Action::Write));
        if self.config.breaks(Mutant::MembershipNotRolledBack) {
            self.log.truncate_entries(from);
        } else {
            self.log.truncate(from);
        }
        self.on_membership_changed();
        Ok(())
    }

    /// Acknowledges the end of the message once the disk has it. Heartbeats and new confirmation rounds are echoed at
    /// once: they ask who leads, not what is durable.
    fn acknowledge(&mut self, to: NodeId, session: u64, round: u64, matched: u64, is_heartbeat: bool) {
        let reply = |outcome| Body::AppendReply(AppendReply { session, round, outcome });
        let accepted = reply(AppendOutcome::Accepted { matched });
        let is_durable = matched <= self.writes.persisted_index() && self.writes.is_hard_state_durable();
        if is_durable || self.config.breaks(Mutant::AcknowledgeBeforePersist) {
            self.echoed_round = self.echoed_round.max(round);
            return self.send(to, accepted);
        }
        if is_heartbeat || round > self.echoed_round {
            self.echoed_round = self.echoed_round.max(round);
            self.send(to, reply(AppendOutcome::Pending));
        }
        // While a disk hangs, heartbeats must not pile up acknowledgements: the same one is held already.
        if self.promised != Some((session, matched)) {
            if self.promised.is_some_and(|(promised, _)| promised != session) {
                self.writes.forget_acknowledgements(Some(session));
            }
            self.promised = Some((session, matched));
            self.promise(to, accepted);
        }
    }

    /// The leader says this much is committed, and the log up to there equals the leader's.
    pub(crate) fn follow_commit(&mut self, commit: u64) {
        if commit > self.commit {
            self.commit = commit;
            self.maybe_apply();
        }
    }
}

/// A message is taken whole or not at all, so this is asked before anything is truncated or appended.
fn is_readable(entry: &Entry) -> bool {
    entry.kind != EntryKind::Membership || Membership::decode(&entry.data).is_ok()
}

/// Why entries were not taken.
enum Refusal {
    Mismatch { prev: u64, hint: LogId },
    Fork(String),
}
