//! A leader of three whose followers and disk answer at once; what is measured of the core is measured on it.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use d_engine_core::{
    ClusterSettings, Entry, EntryKind, HardState, Identity, LogId, LogSummary, Member, MemberKind, Membership,
};
use d_engine_raft::{Action, AppendOutcome, AppendReply, Body, Boot, Config, Input, Message, Raft, Restored};

const INCARNATION: u128 = 7;

fn restored() -> Restored {
    let members = (1..=3).map(|node| Member::new(node, INCARNATION, "n:1", MemberKind::Voter)).collect();
    let membership = Membership::new(1, members, ClusterSettings::new(500, 500, 1));
    let mut log = LogSummary::new(LogId::default());
    let entry = Entry::new(1, 1, EntryKind::Membership, membership.encode());
    log.push(&entry).expect("the first entry continues an empty log");
    let identity = Identity::unformed(1, INCARNATION).form(1);
    Restored { hard_state: Some(HardState::new(1, None, Some(identity))), log, ..Restored::default() }
}

/// A leader of three whose followers and disk answer at once.
pub(crate) struct Cluster {
    pub(crate) raft: Raft,
    now: Duration,
    next: u64,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let config = Config { max_unapplied_bytes: usize::MAX, ..Config::new(1, "n:1") };
        let boot = Boot { seed: 1, incarnation: INCARNATION, cluster: 1 };
        let raft = Raft::new(config, restored(), boot, Duration::ZERO).expect("the restored state is sound");
        let mut cluster = Self { raft, now: Duration::from_secs(2), next: 0 };
        cluster.raft.handle(cluster.now, Input::Timeout);
        cluster.settle();
        cluster
    }

    fn answer(&mut self, from: u64, term: u64, body: Body) {
        let message = Message { term, incarnation: INCARNATION, group: 0, body };
        self.raft.handle(self.now, Input::Message { from, message });
    }

    pub(crate) fn settle(&mut self) {
        while let Some(action) = self.raft.poll_action() {
            match action {
                Action::Write(write) => self.raft.handle(self.now, Input::Persisted { seq: write.seq }),
                Action::SendEntries { to, term, append, last, .. } => {
                    let outcome = AppendOutcome::Accepted { matched: last };
                    let reply = AppendReply { session: append.session, round: append.round, outcome };
                    self.answer(to, term, Body::AppendReply(reply));
                }
                Action::Send { to, message } => self.reply(to, message),
                Action::Apply { up_to } => self.raft.handle(self.now, Input::Applied { index: up_to }),
                other => {
                    black_box(other);
                }
            }
        }
    }

    fn reply(&mut self, to: u64, message: Message) {
        let body = match message.body {
            Body::PreVote { round, .. } => Body::PreVoteReply { round, granted: true },
            Body::RequestVote(_) => Body::VoteReply { granted: true },
            Body::Append(append) => {
                let outcome = AppendOutcome::Accepted { matched: append.end() };
                Body::AppendReply(AppendReply { session: append.session, round: append.round, outcome })
            }
            _ => return,
        };
        self.answer(to, message.term, body);
    }

    pub(crate) fn propose(&mut self, command: Bytes) {
        self.next += 1;
        self.raft.handle(self.now, Input::Propose { id: self.next, command });
    }
}
