//! What replicas say to each other.

use d_engine_core::{Entry, LogId};

/// One message. Who sent it stands beside it: the stream it came by knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The sender's term.
    pub term: u64,
    /// The sender's data directory; votes and acknowledgements of another than the membership names do not count.
    pub incarnation: u128,
    /// Raft group; 0 for now.
    pub group: u64,
    /// What is said.
    pub body: Body,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Body {
    /// From a node that belongs to no cluster yet: what are you?
    FormationProbe,
    /// Answer of another such node: I am empty too.
    FormationEmpty,
    /// The first entry of the log, from a node that has it.
    Formation(Entry),
    /// This cluster was formed without the asker's data directory.
    FormationRefused,
    /// Would you vote for me in `next_term`? (§9.6) Changes nobody's term.
    PreVote {
        /// The term the sender would campaign in.
        next_term: u64,
        /// The sender's round of pre-votes, echoed.
        round: u64,
        /// The sender's last entry.
        last: LogId,
    },
    /// Answer to [`Body::PreVote`].
    PreVoteReply {
        /// The round asked in.
        round: u64,
        /// Whether the vote would be granted.
        granted: bool,
    },
    /// RequestVote (§3.4).
    RequestVote(VoteRequest),
    /// Answer to [`Body::RequestVote`] in the message's term.
    VoteReply {
        /// Whether the vote is given; if so it is durable.
        granted: bool,
    },
    /// AppendEntries (§3.5), also as heartbeat.
    Append(Append),
    /// Answer to [`Body::Append`].
    AppendReply(AppendReply),
    /// Campaign now: the leader hands over (§3.10).
    TimeoutNow {
        /// The replication stream to the receiver; of another one it is stale.
        session: u64,
    },
    /// A leader greets a member whose data directory belongs to no cluster yet.
    Welcome {
        /// The cluster.
        cluster: u128,
        /// The data directory that is a member; another one under the same id is none.
        receiver: u128,
    },
    /// A follower asks for the leader's read index (§6.4).
    ReadIndex {
        /// Random number of the asker's start, so that counters of an earlier life are not confused.
        nonce: u64,
        /// The asker's count of such requests.
        counter: u64,
    },
    /// Answer to [`Body::ReadIndex`].
    ReadIndexReply {
        /// As asked.
        nonce: u64,
        /// As asked.
        counter: u64,
        /// The confirmed read index; `None`: not leading, ask elsewhere.
        index: Option<u64>,
    },
}

/// Arguments of RequestVote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoteRequest {
    /// The candidate's last entry.
    pub last: LogId,
    /// Set when the leader asked for this election (§3.10): stickiness does not apply.
    pub transfer: bool,
}

/// Arguments of AppendEntries. The entries follow `prev` without a gap and all have one term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// Replication stream, echoed; acknowledgements of an older one do not move progress.
    pub session: u64,
    /// The entry before the first of this message.
    pub prev: LogId,
    /// The leader's commit index.
    pub commit: u64,
    /// What the receiver has acknowledged in this term, as far as the leader knows: a receiver that lacks it has lost what
    /// it promised.
    pub matched: u64,
    /// The data directory that acknowledged it.
    pub receiver: u128,
    /// The leader's newest confirmation round, echoed (§6.4).
    pub round: u64,
    /// The entries; none in a heartbeat.
    pub entries: Vec<Entry>,
}

impl Append {
    /// The end of this message: index of its last entry, or of `prev`.
    pub fn end(&self) -> u64 {
        self.entries.last().map_or(self.prev.index, |entry| entry.index)
    }

    /// Whether the entries follow `prev` without a gap and have one term, not below `prev`'s.
    pub fn is_well_formed(&self) -> bool {
        let Some(first) = self.entries.first() else { return true };
        first.term >= self.prev.term
            && self
                .entries
                .iter()
                .zip(self.prev.index + 1..)
                .all(|(entry, index)| entry.index == index && entry.term == first.term)
    }
}

/// Results of AppendEntries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendReply {
    /// As in the request.
    pub session: u64,
    /// As in the request: the sender followed this leader when it arrived.
    pub round: u64,
    /// What became of the entries.
    pub outcome: AppendOutcome,
}

/// What became of an AppendEntries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AppendOutcome {
    /// Received; the disk has not spoken yet, another answer follows.
    Pending,
    /// Everything up to this index equals the leader's log and is durable.
    Accepted {
        /// End of the message, never the follower's own last index.
        matched: u64,
    },
    /// The log does not hold `prev`.
    Rejected {
        /// Index of the refused `prev`.
        prev: u64,
        /// The follower's newest entry that may still match: nothing after it can (skips whole terms).
        hint: LogId,
    },
    /// The request's term is old; the reply's term says how old.
    Stale,
}
