//! One replica by hand: inputs in, actions out. The disk speaks when a test lets it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use d_engine_core::{ClusterSettings, Entry, EntryKind, HardState, Identity, LogId, LogSummary, Member, MemberKind};
use d_engine_core::{MemberKind::Voter, Membership};
use d_engine_raft::{
    Action, Answer, Append, AppendOutcome, AppendReply, Body, Boot, Change, Config, Input, Message, Mutant, NodeId,
    Raft, Rejection, Restored, Role, SnapshotTask, Status, VoteRequest, Write,
};

/// The cluster that every node here belongs to.
pub(crate) const CLUSTER: u128 = 7;

pub(crate) fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(crate) fn id(term: u64, index: u64) -> LogId {
    LogId::new(term, index)
}

/// Incarnation of a node's only directory.
pub(crate) fn incarnation(node: NodeId) -> u128 {
    100 + u128::from(node)
}

pub(crate) fn membership(members: &[(NodeId, MemberKind)]) -> Membership {
    let member =
        |(node, kind): &(NodeId, MemberKind)| Member::new(*node, incarnation(*node), format!("n{node}"), *kind);
    Membership::new(CLUSTER, members.iter().map(member).collect(), ClusterSettings::new(500, 500, 1))
}

pub(crate) fn voters(count: u64) -> Membership {
    membership(&(1..=count).map(|node| (node, Voter)).collect::<Vec<_>>())
}

/// Entries of these terms from `first` on.
pub(crate) fn entries(first: u64, terms: &[u64]) -> Vec<Entry> {
    let entry = |(term, index): (&u64, u64)| Entry::new(index, *term, EntryKind::Command, [*term as u8, index as u8]);
    terms.iter().zip(first..).map(entry).collect()
}

/// An AppendEntries of the only stream.
pub(crate) fn append(prev: LogId, terms: &[u64], commit: u64) -> Append {
    let entries = entries(prev.index + 1, terms);
    Append { session: 1, prev, commit, matched: 0, receiver: incarnation(1), round: 0, entries }
}

/// What a node's disk holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    pub(crate) purged: LogId,
    pub(crate) log: Vec<Entry>,
}

impl Disk {
    fn take(&mut self, write: Write) {
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        if let Some(up_to) = write.purge {
            let holds = self.log.iter().any(|entry| entry.id() == up_to);
            self.log.retain(|entry| holds && entry.index > up_to.index);
            self.purged = up_to;
        }
        if let Some(from) = write.replace_from {
            self.log.retain(|entry| entry.index < from);
        }
        self.log.extend(write.entries);
    }

    fn restored(&self) -> Restored {
        let mut log = LogSummary::new(self.purged);
        self.log.iter().for_each(|entry| log.push(entry).unwrap());
        Restored { hard_state: Some(self.hard_state), log, ..Restored::default() }
    }
}

/// Node 1.
pub(crate) struct Node {
    pub(crate) raft: Raft,
    pub(crate) now: Duration,
    pub(crate) config: Config,
    pub(crate) disk: Disk,
    /// Writes that the disk has not completed.
    pub(crate) pending: Vec<Write>,
    /// Highest index handed out to be applied.
    pub(crate) handed_out: u64,
    /// Stream and round of the newest AppendEntries to each peer.
    streams: BTreeMap<NodeId, (u64, u64)>,
    boots: u64,
}

/// Defaults, and the breach that the environment asks for.
pub(crate) fn config() -> Config {
    let name = std::env::var("D_ENGINE_MUTANT").unwrap_or_default();
    let mutant = Mutant::ALL.iter().copied().find(|mutant| format!("{mutant:?}") == name).unwrap_or_default();
    Config { mutant, max_entries_behind_snapshot: 0, ..Config::new(1, "n1") }
}

impl Node {
    /// A voter among `count` with the formation entry and, behind it, entries of these terms. It has heard nobody for an
    /// election timeout.
    pub(crate) fn with_log(count: u64, terms: &[u64]) -> Self {
        Self::with_members(&voters(count), terms)
    }

    /// The same with these members.
    pub(crate) fn with_members(members: &Membership, terms: &[u64]) -> Self {
        let mut log = vec![Entry::new(1, 1, EntryKind::Membership, members.encode())];
        log.extend(entries(2, terms));
        let identity = Identity::unformed(1, incarnation(1)).form(CLUSTER);
        let term = log.last().map_or(0, |entry| entry.term);
        let disk = Disk { hard_state: HardState::new(term, None, Some(identity)), purged: LogId::default(), log };
        Self::start(config(), disk, LogId::default())
    }

    pub(crate) fn start(config: Config, disk: Disk, last_applied: LogId) -> Self {
        Self::boot(config, disk, last_applied, None)
    }

    fn boot(config: Config, disk: Disk, last_applied: LogId, snapshot: Option<(LogId, Membership)>) -> Self {
        let boot = Boot { seed: 1, incarnation: incarnation(1), cluster: CLUSTER };
        let restored = Restored { last_applied, snapshot, ..disk.restored() };
        let raft = Raft::new(config.clone(), restored, boot, Duration::ZERO).unwrap();
        let (pending, streams, now) = (Vec::new(), BTreeMap::new(), config.election_timeout_min);
        Self { raft, now, config, disk, pending, handed_out: last_applied.index, streams, boots: 1 }
    }

    /// A node whose log was dropped behind this snapshot of its own.
    pub(crate) fn behind_snapshot(at: LogId, members: &Membership, terms: &[u64]) -> Self {
        let identity = Identity::unformed(1, incarnation(1)).form(CLUSTER);
        let term = terms.last().copied().unwrap_or(at.term);
        let hard_state = HardState::new(term, None, Some(identity));
        let disk = Disk { hard_state, purged: at, log: entries(at.index + 1, terms) };
        Self::boot(config(), disk, at, Some((at, members.clone())))
    }

    /// An empty directory that waits to be added.
    pub(crate) fn empty() -> Self {
        let boot = Boot { seed: 1, incarnation: incarnation(1), cluster: CLUSTER };
        let config = Config { join: true, ..config() };
        let raft = Raft::new(config.clone(), Restored::default(), boot, Duration::ZERO).unwrap();
        let (disk, now) = (Disk::default(), config.election_timeout_min);
        Self { raft, now, config, disk, pending: Vec::new(), handed_out: 0, streams: BTreeMap::new(), boots: 1 }
    }

    /// Loses power and starts again with what its disk holds; the state machine holds nothing.
    pub(crate) fn restart(&mut self) {
        self.boots += 1;
        self.handed_out = 0;
        self.pending.clear();
        let boot = Boot { seed: self.boots, incarnation: 0, cluster: 0 };
        self.raft = Raft::new(self.config.clone(), self.disk.restored(), boot, self.now).unwrap();
        self.now += self.config.election_timeout_min;
    }

    pub(crate) fn input(&mut self, input: Input) -> Out {
        self.raft.handle(self.now, input);
        self.drain()
    }

    pub(crate) fn drain(&mut self) -> Out {
        let out = Out(std::iter::from_fn(|| self.raft.poll_action()).collect());
        for action in &out.0 {
            match action {
                Action::Write(write) => self.pending.push(write.clone()),
                Action::Apply { up_to } => self.handed_out = *up_to,
                Action::Send { to, message: Message { body: Body::Append(append), .. } }
                | Action::SendEntries { to, append, .. } => {
                    self.streams.insert(*to, (append.session, append.round));
                }
                _ => {}
            }
        }
        out
    }

    /// A message of a member, in `term`.
    pub(crate) fn hear(&mut self, from: NodeId, term: u64, body: Body) -> Out {
        let message = Message { term, incarnation: incarnation(from), group: 0, body };
        self.input(Input::Message { from, message })
    }

    /// An AppendEntries of leader `from` in `term`.
    pub(crate) fn append(&mut self, from: NodeId, term: u64, append: Append) -> Out {
        self.hear(from, term, Body::Append(append))
    }

    /// The same, and then the disk completes.
    pub(crate) fn store(&mut self, from: NodeId, term: u64, append: Append) -> Out {
        let mut out = self.append(from, term, append);
        out.0.extend(self.persist().0);
        out
    }

    /// A request for this node's vote.
    pub(crate) fn ask_vote(&mut self, from: NodeId, term: u64, last: LogId) -> Out {
        self.hear(from, term, Body::RequestVote(VoteRequest { last, transfer: false }))
    }

    /// The same, and whether the vote is given once the disk has completed.
    pub(crate) fn votes_for(&mut self, from: NodeId, term: u64, last: LogId) -> bool {
        let mut out = self.ask_vote(from, term, last);
        out.0.extend(self.persist().0);
        out.votes() == [true]
    }

    /// The disk completes everything that waits.
    pub(crate) fn persist(&mut self) -> Out {
        let Some(seq) = self.pending.last().map(|write| write.seq) else { return Out(Vec::new()) };
        self.pending.drain(..).for_each(|write| self.disk.take(write));
        self.input(Input::Persisted { seq })
    }

    /// Lets time pass to the next timeout.
    pub(crate) fn timeout(&mut self) -> Out {
        self.now = self.now.max(self.raft.poll_timeout().unwrap());
        self.input(Input::Timeout)
    }

    /// Lets time pass; the timeouts that fall due happen.
    pub(crate) fn wait(&mut self, time: Duration) -> Out {
        let end = self.now + time;
        let mut out = Out(Vec::new());
        while self.raft.poll_timeout().is_some_and(|at| at <= end) {
            out.0.extend(self.timeout().0);
        }
        self.now = end;
        out
    }

    pub(crate) fn reply(&mut self, from: NodeId, outcome: AppendOutcome) -> Out {
        let (session, round) = self.streams[&from];
        let term = self.status().term;
        self.hear(from, term, Body::AppendReply(AppendReply { session, round, outcome }))
    }

    /// Follower `from` holds everything up to `matched`, durably.
    pub(crate) fn accepts(&mut self, from: NodeId, matched: u64) -> Out {
        self.reply(from, AppendOutcome::Accepted { matched })
    }

    /// Times out, wins the pre-votes of a quorum and asks for votes.
    pub(crate) fn campaign(&mut self) -> Out {
        let asked = self.timeout();
        let Some((_, Body::PreVote { round, .. })) = asked.messages().into_iter().next() else { return asked };
        let mut out = Out(Vec::new());
        for from in self.others() {
            out.0.extend(self.hear(from, self.status().term, Body::PreVoteReply { round: *round, granted: true }).0);
        }
        out
    }

    /// Wins an election: what it does then.
    pub(crate) fn lead(&mut self) -> Out {
        self.campaign();
        let mut out = self.persist();
        for from in self.others() {
            let term = self.status().term;
            out.0.extend(self.hear(from, term, Body::VoteReply { granted: true }).0);
            if self.role() == Role::Leader {
                return out;
            }
        }
        assert_eq!(self.role(), Role::Leader);
        out
    }

    /// A leader among `count` whose no-op has committed and reached everybody.
    pub(crate) fn leader(count: u64, terms: &[u64]) -> Self {
        let mut node = Self::with_log(count, terms);
        node.lead_and_commit();
        node
    }

    /// Leads, and everybody takes the no-op.
    pub(crate) fn lead_and_commit(&mut self) {
        self.lead();
        self.persist();
        let last = self.status().last.index;
        for from in self.others() {
            self.accepts(from, last - 1);
            self.accepts(from, last);
        }
        assert_eq!(self.status().commit, last);
        self.input(Input::Applied { index: last });
    }

    pub(crate) fn propose(&mut self, id: u64) -> Out {
        self.input(Input::Propose { id, command: Bytes::from_static(b"x") })
    }

    pub(crate) fn change(&mut self, id: u64, change: Change) -> Out {
        self.input(Input::ChangeMembership { id, base: None, change })
    }

    pub(crate) fn status(&self) -> Status {
        self.raft.status(self.now)
    }

    pub(crate) fn role(&self) -> Role {
        self.status().role
    }

    pub(crate) fn matched(&self, node: NodeId) -> u64 {
        self.status().peers.iter().find(|peer| peer.node == node).unwrap().matched
    }

    fn others(&self) -> Vec<NodeId> {
        self.status().membership.members.iter().map(|member| member.node).filter(|node| *node != 1).collect()
    }
}

/// What a node wants done.
#[derive(Debug)]
pub(crate) struct Out(pub(crate) Vec<Action>);

impl Out {
    /// Every message but those whose entries are still to be filled in.
    pub(crate) fn messages(&self) -> Vec<(NodeId, &Body)> {
        self.0
            .iter()
            .filter_map(|action| match action {
                Action::Send { to, message } => Some((*to, &message.body)),
                _ => None,
            })
            .collect()
    }

    /// Terms of the messages.
    pub(crate) fn terms(&self) -> Vec<u64> {
        self.0
            .iter()
            .filter_map(|action| match action {
                Action::Send { message, .. } => Some(message.term),
                _ => None,
            })
            .collect()
    }

    /// AppendEntries without entries.
    pub(crate) fn heartbeats(&self) -> Vec<(NodeId, &Append)> {
        self.messages()
            .into_iter()
            .filter_map(|(to, body)| match body {
                Body::Append(append) => Some((to, append)),
                _ => None,
            })
            .collect()
    }

    /// Messages with entries: receiver, `prev`, index of the last entry.
    pub(crate) fn entries(&self) -> Vec<(NodeId, LogId, u64)> {
        self.0
            .iter()
            .filter_map(|action| match action {
                Action::SendEntries { to, append, last, .. } => Some((*to, append.prev, *last)),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn writes(&self) -> Vec<&Write> {
        self.0
            .iter()
            .filter_map(|action| match action {
                Action::Write(write) => Some(write),
                _ => None,
            })
            .collect()
    }

    /// Answers to requests for votes.
    pub(crate) fn votes(&self) -> Vec<bool> {
        self.messages()
            .into_iter()
            .filter_map(|(_, body)| match body {
                Body::VoteReply { granted } => Some(*granted),
                _ => None,
            })
            .collect()
    }

    /// Who is asked for a vote.
    pub(crate) fn asked(&self) -> Vec<(NodeId, &VoteRequest)> {
        self.messages()
            .into_iter()
            .filter_map(|(to, body)| match body {
                Body::RequestVote(request) => Some((to, request)),
                _ => None,
            })
            .collect()
    }

    /// Answers to requests for pre-votes.
    pub(crate) fn pre_votes(&self) -> Vec<bool> {
        self.messages()
            .into_iter()
            .filter_map(|(_, body)| match body {
                Body::PreVoteReply { granted, .. } => Some(*granted),
                _ => None,
            })
            .collect()
    }

    /// Answers to AppendEntries.
    pub(crate) fn outcomes(&self) -> Vec<AppendOutcome> {
        self.messages()
            .into_iter()
            .filter_map(|(_, body)| match body {
                Body::AppendReply(reply) => Some(reply.outcome),
                _ => None,
            })
            .collect()
    }

    /// Up to where the state machine may go.
    pub(crate) fn applies(&self) -> Option<u64> {
        self.0
            .iter()
            .filter_map(|action| match action {
                Action::Apply { up_to } => Some(*up_to),
                _ => None,
            })
            .next_back()
    }

    pub(crate) fn answers(&self) -> Vec<&Answer> {
        self.0
            .iter()
            .filter_map(|action| match action {
                Action::Answer(answer) => Some(answer),
                _ => None,
            })
            .collect()
    }

    /// Why requests are refused, in words.
    pub(crate) fn refusals(&self) -> Vec<String> {
        self.rejections().into_iter().map(ToString::to_string).collect()
    }

    pub(crate) fn rejections(&self) -> Vec<&Rejection> {
        self.answers()
            .into_iter()
            .filter_map(|answer| match answer {
                Answer::Rejected { why, .. } => Some(why),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn snapshots(&self) -> Vec<SnapshotTask> {
        self.0
            .iter()
            .filter_map(|action| match action {
                Action::Snapshot(task) => Some(*task),
                _ => None,
            })
            .collect()
    }
}
