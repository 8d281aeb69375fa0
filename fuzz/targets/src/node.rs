//! One replica among three, in any role: whatever messages come, nothing that was promised is taken back.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use d_engine_core::{
    ClusterSettings, Entry, EntryKind, HardState, Identity, LogId, LogSummary, Member, MemberKind, Membership,
};
use d_engine_raft::{
    Action, Append, AppendOutcome, AppendReply, Body, Boot, Config, Input, Message, NodeId, Raft, Restored, Role,
    Status, VoteRequest, Write,
};

use crate::source::Source;

const CLUSTER: u128 = 7;
const STEPS_MAX: usize = 200;

fn incarnation(node: NodeId) -> u128 {
    100 + u128::from(node)
}

fn membership() -> Membership {
    let member = |node| Member::new(node, incarnation(node), format!("n{node}"), MemberKind::Voter);
    Membership::new(CLUSTER, (1..=3).map(member).collect(), ClusterSettings::new(500, 500, 1))
}

/// A node takes inputs that the bytes decide. Reports of its own disk and machine are honest.
pub fn raft(data: &[u8]) {
    let mut source = Source(data);
    let mut node = Node::new(source.flag());
    for _ in 0..STEPS_MAX {
        if source.is_empty() {
            return;
        }
        let before = node.raft.status(node.now);
        let (vote, log) = (node.hard_state, node.log.clone());
        node.step(&mut source);
        node.check(&before, vote, &log);
    }
}

struct Node {
    raft: Raft,
    now: Duration,
    pending: VecDeque<Write>,
    handed_out: u64,
    /// On disk.
    hard_state: HardState,
    /// On disk.
    purged: LogId,
    /// On disk.
    log: Vec<Entry>,
}

impl Node {
    /// A member with two entries, or an empty directory that waits to be added.
    fn new(formed: bool) -> Self {
        let mut config = Config::new(1, "n1");
        config.join = !formed;
        config.max_entries_behind_snapshot = 0;
        let (mut hard_state, mut log) = (HardState::default(), Vec::new());
        let mut restored = Restored::default();
        if formed {
            hard_state = HardState::new(2, None, Some(Identity::unformed(1, incarnation(1)).form(CLUSTER)));
            log.push(Entry::new(1, 1, EntryKind::Membership, membership().encode()));
            log.push(Entry::new(2, 2, EntryKind::Noop, b""));
            let mut summary = LogSummary::new(LogId::default());
            log.iter().for_each(|entry| summary.push(entry).expect("the log is sound"));
            restored = Restored { hard_state: Some(hard_state), log: summary, ..restored };
        }
        let boot = Boot { seed: 1, incarnation: incarnation(1), cluster: CLUSTER };
        let now = config.election_timeout_min;
        let raft = Raft::new(config, restored, boot, Duration::ZERO).expect("the directory is sound");
        let mut node =
            Self { raft, now, pending: VecDeque::new(), handed_out: 0, hard_state, purged: LogId::default(), log };
        node.drain();
        node
    }

    fn step(&mut self, source: &mut Source<'_>) {
        let input = match source.byte() {
            0..160 => {
                let from = source.number();
                Input::Message { from, message: message(source, from, &self.raft.status(self.now)) }
            }
            160..185 => return self.persist(),
            185..200 => Input::Applied { index: self.handed_out },
            200..212 => match self.raft.poll_timeout() {
                Some(at) => {
                    self.now = self.now.max(at);
                    Input::Timeout
                }
                None => return,
            },
            212..220 => {
                self.now += Duration::from_millis(u64::from(source.u16() % 3000));
                return;
            }
            220..228 => Input::Propose { id: 1, command: Bytes::from_static(b"x") },
            228..234 => Input::Read { id: 2, by_lease: false },
            234..238 => Input::Transfer { id: 3, to: source.number() },
            238..242 => {
                let fitting = source.flag().then(|| source.number());
                Input::NotSent { to: source.number(), session: source.number(), fitting }
            }
            242..245 => Input::Unreachable { to: source.number() },
            245..249 => {
                let from = source.number();
                Input::PeerHello { from, incarnation: incarnation(from), feature_level: source.number() as u32 }
            }
            249..252 => Input::StorageFull { why: "full".into() },
            _ => Input::StorageFreed,
        };
        self.raft.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(action) = self.raft.poll_action() {
            match action {
                Action::Write(write) => self.pending.push_back(write),
                Action::Apply { up_to } => self.handed_out = up_to,
                _ => {}
            }
        }
    }

    /// The disk completes its oldest write.
    fn persist(&mut self) {
        let Some(write) = self.pending.pop_front() else { return };
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        if let Some(up_to) = write.purge {
            let holds = self.log.iter().any(|entry| entry.id() == up_to);
            self.log.retain(|entry| holds && entry.index > up_to.index);
            self.purged = up_to;
        }
        if let Some(from) = write.replace_from {
            self.log.retain(|entry| entry.index < from);
        }
        for entry in write.entries {
            let last = self.log.last().map_or(self.purged, Entry::id);
            assert_eq!(entry.index, last.index + 1, "a write continues the log");
            self.log.push(entry);
        }
        self.raft.handle(self.now, Input::Persisted { seq: write.seq });
        self.drain();
    }

    fn check(&self, before: &Status, vote: HardState, log: &[Entry]) {
        let after = self.raft.status(self.now);
        assert!(after.term >= before.term, "terms go up");
        assert!(after.commit >= before.commit, "the commit index goes up");
        assert!(after.commit <= after.last.index && after.applied <= after.commit, "{after:?}");
        assert!(self.hard_state.term >= vote.term, "saved terms go up");
        let same_vote = vote.voted_for.is_none() || vote.voted_for == self.hard_state.voted_for;
        assert!(self.hard_state.term > vote.term || same_vote, "a vote stays with its term");
        let committed = |entry: &&Entry| entry.index <= before.commit.min(before.persisted);
        let kept = log.iter().filter(committed).filter(|entry| entry.index > self.purged.index);
        assert!(kept.into_iter().all(|entry| self.log.contains(entry)), "a committed entry is gone");
        assert!(before.role != Role::Failed || after.role == Role::Failed, "what failed stays so");
    }
}

fn log_id(source: &mut Source<'_>) -> LogId {
    LogId::new(source.number(), source.number())
}

/// A message that may fit what the node is at, or none that an honest sender sends.
fn message(source: &mut Source<'_>, from: NodeId, status: &Status) -> Message {
    let term = if source.flag() { status.term } else { source.number() };
    let incarnation = if source.byte() < 240 { incarnation(from) } else { 0 };
    let group = u64::from(source.byte() > 250);
    Message { term, incarnation, group, body: body(source, status) }
}

fn body(source: &mut Source<'_>, status: &Status) -> Body {
    match source.byte() % 20 {
        0 => Body::FormationProbe,
        1 => Body::FormationEmpty,
        2 => Body::FormationRefused,
        3 => Body::Formation(entry(source)),
        4 => Body::PreVote { next_term: source.number(), round: source.number(), last: log_id(source) },
        5 => Body::PreVoteReply { round: source.number(), granted: source.flag() },
        6 => Body::RequestVote(VoteRequest { last: log_id(source), transfer: source.flag() }),
        7 => Body::VoteReply { granted: source.flag() },
        8 => Body::TimeoutNow { session: source.number() },
        9 => Body::Welcome { cluster: CLUSTER, receiver: if source.flag() { incarnation(1) } else { 0 } },
        10 => Body::ReadIndex { nonce: source.number(), counter: source.number() },
        11 => Body::ReadIndexReply {
            nonce: source.number(),
            counter: source.number(),
            index: source.flag().then(|| source.number()),
        },
        12..15 => Body::AppendReply(AppendReply {
            session: source.number(),
            round: source.number(),
            outcome: match source.byte() % 4 {
                0 => AppendOutcome::Pending,
                1 => AppendOutcome::Stale,
                2 => AppendOutcome::Accepted { matched: source.number() },
                _ => AppendOutcome::Rejected { prev: source.number(), hint: log_id(source) },
            },
        }),
        _ => Body::Append(append(source, status)),
    }
}

fn append(source: &mut Source<'_>, status: &Status) -> Append {
    let prev = if source.flag() { status.last } else { log_id(source) };
    let count = u64::from(source.byte() % 4);
    let entries = if source.byte() < 200 {
        // As an honest leader's follow each other.
        let term = source.number();
        let first = prev.index.checked_add(1).filter(|first| first.checked_add(count).is_some());
        let entry = |index| Entry::new(index, term, EntryKind::Command, b"x");
        first.map(|first| (first..first + count).map(entry).collect()).unwrap_or_default()
    } else {
        (0..count).map(|_| entry(source)).collect()
    };
    Append {
        session: source.number(),
        prev,
        commit: source.number(),
        matched: source.number(),
        receiver: if source.flag() { incarnation(1) } else { 0 },
        round: source.number(),
        entries,
    }
}

fn entry(source: &mut Source<'_>) -> Entry {
    let LogId { term, index } = log_id(source);
    match source.byte() % 4 {
        0 => Entry::new(index, term, EntryKind::Noop, b""),
        1 => Entry::new(index, term, EntryKind::Membership, membership().encode()),
        2 => Entry::new(index, term, EntryKind::Membership, source.bytes(24)),
        _ => Entry::new(index, term, EntryKind::Command, source.bytes(8)),
    }
}
