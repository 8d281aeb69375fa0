//! What happened, as fixed-size lines: cheap to keep, hashed for determinism, turned into text only when asked for.

use std::fmt;

use crate::message::{AppendOutcome, Body, Message};
use crate::simulator::Fault;
use crate::simulator::relevance::leading_to;
use crate::{NodeId, Rejection, Write};

/// What a line is about. The numbers beside it mean what [`Line`]'s `Display` makes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Sent(Says),
    Got(Says),
    Lost(Says),
    TimedOut,
    Wrote,
    Persisted,
    StorageFailed,
    Applying,
    Applied,
    LogAsked,
    LogRead,
    Unreachable,
    Proposed,
    Asked,
    Accepted,
    ReadReady,
    Rejected,
    Started,
    Crashed,
    Wiped,
    Resumed,
    Injected(Fault),
    Role,
    Committed,
    Settling,
    SnapshotBegun,
    SnapshotMade,
    SnapshotSent,
    SnapshotReceived,
    SnapshotDiscarded,
    SnapshotInstalled,
    SnapshotAnswered,
    SnapshotResumed,
    Hello,
    ChangeAsked(Asks),
    Changed,
    LostChange,
    TransferAsked,
    Transferred,
    Full,
    Freed,
}

/// The kinds of membership changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    AddLearner,
    Promote,
    Remove,
    Replace,
    SetVoters,
    SetAddress,
}

/// The kinds of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    FormationProbe,
    FormationEmpty,
    Formation,
    FormationRefused,
    PreVote,
    PreVoteReply,
    RequestVote,
    VoteReply,
    Append,
    AppendReply,
    ReadIndex,
    ReadIndexReply,
    TimeoutNow,
    Welcome,
}

const NUMBERS: usize = 8;

/// One line of the trace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    /// Microseconds of virtual time.
    pub(super) at: u64,
    pub(super) step: u64,
    pub(super) node: NodeId,
    pub(super) what: What,
    pub(super) n: [u64; NUMBERS],
}

/// The last lines, and a hash over all of them.
#[derive(Debug)]
pub(super) struct Trace {
    ring: Vec<Line>,
    next: usize,
    capacity: usize,
    hash: u64,
    pub(super) at: u64,
    pub(super) step: u64,
    echo: bool,
}

impl Trace {
    /// A trace that keeps `capacity` lines; `echo` prints each one to standard error as it happens.
    pub(super) fn new(capacity: usize, echo: bool) -> Self {
        let capacity = capacity.max(1);
        Self { ring: Vec::with_capacity(capacity.min(1024)), next: 0, capacity, hash: 0, at: 0, step: 0, echo }
    }

    /// Hash over every line so far.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn note(&mut self, node: NodeId, what: What, numbers: &[u64]) {
        let mut n = [0; NUMBERS];
        n[..numbers.len()].copy_from_slice(numbers);
        self.push(Line { at: self.at, step: self.step, node, what, n });
    }

    pub(super) fn message(&mut self, node: NodeId, peer: NodeId, message: &Message, wrap: fn(Says) -> What) {
        let (says, n) = numbers_of(peer, message);
        self.push(Line { at: self.at, step: self.step, node, what: wrap(says), n });
    }

    pub(super) fn write(&mut self, node: NodeId, write: &Write) {
        let (term, vote) = write.hard_state.map_or((0, 0), |hard| (hard.term, hard.voted_for.unwrap_or(0)));
        let first = write.entries.first().map_or(0, |entry| entry.index);
        let last = write.entries.last().map_or(Default::default(), |entry| entry.id());
        let replace = write.replace_from.unwrap_or(0);
        let purge = write.purge.unwrap_or_default().index;
        self.note(node, What::Wrote, &[write.seq, term, vote, replace, first, last.index, last.term, purge]);
    }

    pub(super) fn rejected(&mut self, node: NodeId, id: u64, why: &Rejection) {
        let (code, leader) = match why {
            Rejection::NotLeader { leader } => (0, leader.unwrap_or(0)),
            Rejection::Busy => (1, 0),
            Rejection::TooLarge { .. } => (2, 0),
            Rejection::Unavailable { .. } => (3, 0),
            Rejection::Change(_) => (4, 0),
            Rejection::NoTransfer { to, .. } => (5, *to),
            Rejection::StorageFull { .. } => (6, 0),
            Rejection::HandingOver => (7, 0),
        };
        self.note(node, What::Rejected, &[id, code, leader]);
    }

    fn push(&mut self, line: Line) {
        let mut hash = self.hash;
        for number in [line.at, line.node, tag(line.what)].into_iter().chain(line.n) {
            hash = (hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        self.hash = hash;
        if self.echo {
            echo(&line);
        }
        if self.ring.len() < self.capacity {
            self.ring.push(line);
        } else {
            self.ring[self.next] = line;
        }
        self.next = (self.next + 1) % self.capacity;
    }

    /// What led to the breach that `detail` describes, as text, oldest first.
    pub(super) fn leading_to(&self, detail: &str) -> Vec<String> {
        let split = if self.ring.len() < self.capacity { 0 } else { self.next };
        let lines: Vec<_> = self.ring[split..].iter().chain(&self.ring[..split]).copied().collect();
        leading_to(&lines, detail).iter().map(ToString::to_string).collect()
    }
}

#[expect(clippy::print_stderr, reason = "only when asked for with Options::echo")]
fn echo(line: &Line) {
    eprintln!("{line}");
}

fn tag(what: What) -> u64 {
    match what {
        What::Sent(says) => 100 + says as u64,
        What::Got(says) => 200 + says as u64,
        What::Lost(says) => 300 + says as u64,
        What::Injected(fault) => 400 + fault as u64,
        What::TimedOut => 1,
        What::Wrote => 2,
        What::Persisted => 3,
        What::StorageFailed => 4,
        What::Applying => 5,
        What::Applied => 6,
        What::LogAsked => 7,
        What::LogRead => 8,
        What::Unreachable => 9,
        What::Proposed => 10,
        What::Asked => 11,
        What::Accepted => 12,
        What::ReadReady => 13,
        What::Rejected => 14,
        What::Started => 15,
        What::Crashed => 16,
        What::Wiped => 17,
        What::Resumed => 18,
        What::Role => 19,
        What::Committed => 20,
        What::Settling => 21,
        What::SnapshotBegun => 22,
        What::SnapshotMade => 23,
        What::SnapshotSent => 24,
        What::SnapshotReceived => 25,
        What::SnapshotDiscarded => 26,
        What::SnapshotInstalled => 27,
        What::SnapshotAnswered => 28,
        What::SnapshotResumed => 29,
        What::Hello => 30,
        What::Changed => 31,
        What::LostChange => 32,
        What::TransferAsked => 33,
        What::Transferred => 34,
        What::Full => 35,
        What::Freed => 36,
        What::ChangeAsked(asks) => 500 + asks as u64,
    }
}

/// What a message says, as in a trace.
pub(crate) fn in_words(message: &Message) -> String {
    struct Words(Says, [u64; NUMBERS]);
    impl fmt::Display for Words {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            fmt_message(f, self.0, &self.1)
        }
    }
    let (says, numbers) = numbers_of(0, message);
    Words(says, numbers).to_string()
}

fn numbers_of(peer: NodeId, message: &Message) -> (Says, [u64; NUMBERS]) {
    let term = message.term;
    let mut n = [peer, term, 0, 0, 0, 0, 0, 0];
    let mut fill = |numbers: &[u64]| n[2..2 + numbers.len()].copy_from_slice(numbers);
    let says = match &message.body {
        Body::FormationProbe => Says::FormationProbe,
        Body::FormationEmpty => Says::FormationEmpty,
        Body::Formation(entry) => {
            fill(&[entry.term, entry.index]);
            Says::Formation
        }
        Body::FormationRefused => Says::FormationRefused,
        Body::PreVote { next_term, round, last } => {
            fill(&[*next_term, *round, last.term, last.index]);
            Says::PreVote
        }
        Body::PreVoteReply { round, granted } => {
            fill(&[*round, u64::from(*granted)]);
            Says::PreVoteReply
        }
        Body::RequestVote(request) => {
            fill(&[request.last.term, request.last.index, u64::from(request.transfer)]);
            Says::RequestVote
        }
        Body::VoteReply { granted } => {
            fill(&[u64::from(*granted)]);
            Says::VoteReply
        }
        Body::Append(append) => {
            let entries_term = append.entries.first().map_or(0, |entry| entry.term);
            let (prev, count) = (append.prev, append.entries.len() as u64);
            fill(&[prev.term, prev.index, count, entries_term, append.commit, append.session ^ (append.round << 32)]);
            Says::Append
        }
        Body::AppendReply(reply) => {
            let (code, a, b) = match reply.outcome {
                AppendOutcome::Pending => (0, 0, 0),
                AppendOutcome::Accepted { matched } => (1, matched, 0),
                AppendOutcome::Rejected { hint, .. } => (2, hint.term, hint.index),
                AppendOutcome::Stale => (3, 0, 0),
            };
            fill(&[code, a, b, 0, 0, reply.session ^ (reply.round << 32)]);
            Says::AppendReply
        }
        Body::ReadIndex { counter, .. } => {
            fill(&[*counter]);
            Says::ReadIndex
        }
        Body::TimeoutNow { session } => {
            fill(&[*session]);
            Says::TimeoutNow
        }
        Body::Welcome { .. } => Says::Welcome,
        Body::ReadIndexReply { counter, index, .. } => {
            fill(&[*counter, u64::from(index.is_some()), index.unwrap_or(0)]);
            Says::ReadIndexReply
        }
    };
    (says, n)
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = &self.n;
        write!(f, "{:>10.3} ms  step {:>6}  node {}  ", self.at as f64 / 1000.0, self.step, self.node)?;
        match self.what {
            What::Sent(says) => {
                write!(f, "→ {}  ", n[0])?;
                fmt_message(f, says, n)
            }
            What::Got(says) => {
                write!(f, "← {}  ", n[0])?;
                fmt_message(f, says, n)
            }
            What::Lost(says) => {
                write!(f, "↛ {}  ", n[0])?;
                fmt_message(f, says, n)
            }
            What::TimedOut => write!(f, "timeout"),
            What::Wrote => fmt_write(f, n),
            What::Persisted => write!(f, "disk holds everything up to write {}; log {}.{}", n[0], n[2], n[1]),
            What::StorageFailed => write!(f, "disk failed"),
            What::Full => write!(f, "disk full: entries wait for space"),
            What::Freed => write!(f, "disk has space again"),
            What::Applying => write!(f, "to apply {}..={}", n[0], n[1]),
            What::Applied => write!(f, "applied up to {}", n[0]),
            What::LogAsked => write!(f, "asks its log for {}..={}", n[0], n[1]),
            What::LogRead => write!(f, "log answers with {} entries from {}", n[1], n[0]),
            What::Unreachable => write!(f, "connection to {} broke", n[0]),
            What::Proposed => write!(f, "client proposes #{}", n[0]),
            What::Asked => write!(f, "client reads #{}", n[0]),
            What::Accepted => write!(f, "accepted #{} at {}.{}", n[0], n[1], n[2]),
            What::ReadReady => write!(f, "read #{} may be answered from {}", n[0], n[1]),
            What::Rejected => {
                write!(f, "rejected #{}: {}, leader {}", n[0], REJECTIONS[n[1] as usize], n[2])
            }
            What::Started => write!(f, "STARTED in term {}, log up to {}.{}, applied {}", n[0], n[1], n[2], n[3]),
            What::Crashed => {
                write!(f, "CRASHED; {} of {} unsynced steps reached the disk, log {}.{}", n[0], n[1], n[2], n[3])
            }
            What::Wiped => write!(f, "WIPED"),
            What::Resumed => write!(f, "resumed"),
            What::Injected(fault) => write!(f, "FAULT {}: {:b} {}", fault.name(), n[0], n[1]),
            What::Role => write!(f, "is {} in term {}", ROLES[n[0] as usize], n[1]),
            What::Committed => write!(f, "commit index {}", n[0]),
            What::Settling => write!(f, "faults stop"),
            What::SnapshotBegun => write!(f, "begins a snapshot at {}.{}", n[0], n[1]),
            What::SnapshotMade => write!(f, "snapshot at {}.{} is durable", n[0], n[1]),
            What::SnapshotSent => write!(f, "⇒ {}  snapshot at {}.{} in stream {}", n[0], n[1], n[2], n[3]),
            What::SnapshotReceived => write!(f, "⇐ {}  [{}] snapshot at {}.{}", n[0], n[1], n[2], n[3]),
            What::SnapshotDiscarded => write!(f, "discards the snapshot at {}.{}", n[0], n[1]),
            What::SnapshotInstalled => write!(f, "installed the snapshot at {}.{}", n[0], n[1]),
            What::SnapshotAnswered => {
                write!(f, "hears that {} holds snapshot {}.{}, stream {}", n[0], n[1], n[2], n[3])
            }
            What::SnapshotResumed => {
                let step = ["discards", "installs", "purges for"][n[0] as usize];
                write!(f, "resumes: {step} the snapshot at {}.{}", n[1], n[2])
            }
            What::Hello => write!(f, "hello from {}: feature level {}", n[0], n[1]),
            What::ChangeAsked(asks) => write!(f, "operator asks #{}: {asks:?} {} {:b}", n[0], n[1], n[2]),
            What::Changed => write!(f, "change #{} is done with entry {}", n[0], n[1]),
            What::LostChange => write!(f, "lost track of change #{}", n[0]),
            What::TransferAsked => write!(f, "operator asks #{}: transfer to {}", n[0], n[1]),
            What::Transferred => write!(f, "transfer #{} is done", n[0]),
        }
    }
}

const REJECTIONS: [&str; 8] =
    ["not leader", "busy", "too large", "unavailable", "change refused", "no transfer", "disk full", "handing over"];
pub(super) const ROLES: [&str; 6] = ["unformed", "follower", "pre-candidate", "candidate", "LEADER", "failed"];

fn fmt_write(f: &mut fmt::Formatter<'_>, n: &[u64; NUMBERS]) -> fmt::Result {
    write!(f, "write {}:", n[0])?;
    if n[1] != 0 || n[2] != 0 {
        write!(f, " term {} vote {}", n[1], n[2])?;
    }
    if n[7] != 0 {
        write!(f, " purge up to {}", n[7])?;
    }
    if n[3] != 0 {
        write!(f, " truncate from {}", n[3])?;
    }
    if n[4] != 0 {
        write!(f, " append {}..={} of term {}", n[4], n[5], n[6])?;
    }
    Ok(())
}

fn fmt_message(f: &mut fmt::Formatter<'_>, says: Says, n: &[u64; NUMBERS]) -> fmt::Result {
    let (session, round) = (n[7] & 0xffff_ffff, n[7] >> 32);
    write!(f, "[{}] ", n[1])?;
    match says {
        Says::FormationProbe => write!(f, "FormationProbe"),
        Says::FormationEmpty => write!(f, "FormationEmpty"),
        Says::Formation => write!(f, "Formation {}.{}", n[2], n[3]),
        Says::FormationRefused => write!(f, "FormationRefused"),
        Says::PreVote => write!(f, "PreVote for {} round {} last {}.{}", n[2], n[3], n[4], n[5]),
        Says::PreVoteReply => write!(f, "PreVoteReply round {} granted {}", n[2], n[3]),
        Says::RequestVote => write!(f, "RequestVote last {}.{} transfer {}", n[2], n[3], n[4]),
        Says::VoteReply => write!(f, "VoteReply granted {}", n[2]),
        Says::Append => write!(
            f,
            "Append prev {}.{} +{} of term {} commit {} session {session} round {round}",
            n[2], n[3], n[4], n[5], n[6]
        ),
        Says::AppendReply => {
            match n[2] {
                0 => write!(f, "AppendReply pending"),
                1 => write!(f, "AppendReply matched {}", n[3]),
                2 => write!(f, "AppendReply rejected, hint {}.{}", n[3], n[4]),
                _ => write!(f, "AppendReply stale"),
            }?;
            write!(f, " session {session} round {round}")
        }
        Says::ReadIndex => write!(f, "ReadIndex {}", n[2]),
        Says::TimeoutNow => write!(f, "TimeoutNow in stream {}", n[2]),
        Says::Welcome => write!(f, "Welcome"),
        Says::ReadIndexReply if n[3] == 0 => write!(f, "ReadIndexReply {}: not leading", n[2]),
        Says::ReadIndexReply => write!(f, "ReadIndexReply {}: {}", n[2], n[4]),
    }
}
