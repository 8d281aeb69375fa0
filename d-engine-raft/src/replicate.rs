//! What a leader sends (§3.5): to each follower what its window takes, else a heartbeat if one is due.

use std::collections::VecDeque;

use d_engine_core::LogId;

use crate::leader::Leader;
use crate::log::Log;
use crate::progress::{Flow, Progress};
use crate::raft::{Part, Raft};
use crate::{Action, Append, Body, Config, Message, NodeId, SnapshotTask};

impl Raft {
    /// One round of messages.
    pub(crate) fn replicate(&mut self) {
        let header = self.message(Body::FormationProbe);
        let Part::Leader(leader) = &mut self.part else { return };
        let Leader { peers, reads, round, lease, .. } = &mut **leader;
        if reads.open_round(round, self.commit) {
            lease.sent(*round, self.now);
            peers.values_mut().for_each(|progress| progress.must_send = true);
        }
        let feed = Feed {
            config: &self.config,
            log: &self.log,
            header,
            cluster: self.identity.cluster,
            commit: self.commit,
            round: *round,
        };
        for (to, progress) in peers.iter_mut() {
            feed.serve(*to, progress, &mut self.actions);
        }
        self.confirm_reads();
    }
}

/// What the messages of one round have in common.
struct Feed<'a> {
    config: &'a Config,
    log: &'a Log,
    /// A message of this leader; only its body differs.
    header: Message,
    cluster: u128,
    commit: u64,
    round: u64,
}

impl Feed<'_> {
    fn serve(&self, to: NodeId, progress: &mut Progress, actions: &mut VecDeque<Action>) {
        while let Some(action) = self.next_entries(to, progress) {
            actions.push_back(action);
        }
        if progress.must_send && progress.flow == Flow::Probe && progress.next <= self.log.purged().index {
            progress.flow = Flow::Snapshot;
            progress.pinned = self.log.purged().index;
            let (session, term) = (progress.session, self.header.term);
            actions.push_back(Action::Snapshot(SnapshotTask::Send { to, session, term }));
        }
        if std::mem::take(&mut progress.must_send) {
            // It may have answered and forgotten the welcome in a crash; what it acknowledged it does not forget.
            if progress.matched == 0 {
                let receiver = progress.incarnation;
                actions.push_back(self.say(to, Body::Welcome { cluster: self.cluster, receiver }));
            }
            let prev = self.log.id_at(progress.next - 1).unwrap_or(self.log.purged());
            actions.push_back(self.say(to, Body::Append(self.append(progress, prev))));
        }
    }

    /// The next message with entries, if the follower's window takes one.
    fn next_entries(&self, to: NodeId, progress: &mut Progress) -> Option<Action> {
        let Config { max_inflight_messages, max_inflight_bytes, max_message_bytes, cold_read_bytes, .. } = *self.config;
        let is_flowing =
            progress.flow == Flow::Replicate && !progress.window_is_full(max_inflight_messages, max_inflight_bytes);
        if !is_flowing || progress.next > self.log.last().index {
            return None;
        }
        let prev = self.log.id_at(progress.next - 1)?;
        let (last, bytes) = self.log.message_end(progress.next, max_message_bytes, progress.cold_entries);
        let entries_term = self.log.term_at(last)?;
        let append = self.append(progress, prev);
        progress.sent(last, bytes.unwrap_or(cold_read_bytes));
        progress.must_send = false;
        Some(Action::SendEntries { to, term: self.header.term, append, entries_term, last })
    }

    fn append(&self, progress: &Progress, prev: LogId) -> Append {
        Append {
            session: progress.session,
            prev,
            commit: self.commit,
            matched: progress.matched,
            receiver: progress.incarnation,
            round: self.round,
            entries: Vec::new(),
        }
    }

    fn say(&self, to: NodeId, body: Body) -> Action {
        Action::Send { to, message: Message { body, ..self.header } }
    }
}
