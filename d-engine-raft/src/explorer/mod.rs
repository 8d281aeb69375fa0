//! The small-scope exhaustive check: every state that a small cluster can reach, breadth first.
//!
//! The nodes are real: each is a [`Raft`](crate::Raft) core beside a simulated disk, and each step hands the core one of its
//! own inputs. What the search adds is the choice: which message arrives next, if at all; whose timer fires; whose disk
//! completes its next write; who loses power, and how much of what was not synced survives.
#![doc = include_str!("README.md")]

mod envelope;
mod forget;
mod history;
mod laws;
mod replica;
mod search;
mod store;
mod tale;

use std::fmt;
use std::time::Duration;

use crate::Mutant;

pub use search::explore;

/// Nodes of a search, at most.
pub const MAX_NODES: u64 = 5;
/// Messages in flight, at most.
pub const MAX_MESSAGES: usize = 8;

/// How far a search goes. Within these bounds it leaves nothing out.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Voters; all of them are formed before the search begins.
    pub nodes: u64,
    /// Terms in which somebody may campaign.
    pub terms: u64,
    /// Commands that clients propose. The no-op of each leader comes on top.
    pub entries: u8,
    /// Crashes, each with a restart.
    pub crashes: u8,
    /// Messages in flight. Whatever more is sent takes the place of one that is then lost.
    pub messages: usize,
    /// Messages that arrive twice.
    pub duplicates: u8,
    /// Disks that lag behind at once; the others are quick.
    pub lagging: usize,
    /// Replication streams that a leader may open after its first one: how often it may find that a follower's log differs.
    pub streams: u64,
    /// States after which the search gives up.
    pub states: usize,
    /// Also demand what has no consequence yet: that promises leave after the disk has spoken.
    pub strict: bool,
    /// Take states that differ only by the names of the nodes for one.
    pub symmetry: bool,
    /// The rule to break; needs the feature `mutants`.
    pub mutant: Mutant,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            nodes: 3,
            terms: 2,
            entries: 1,
            crashes: 0,
            messages: 1,
            duplicates: 0,
            lagging: 1,
            streams: 1,
            states: 100_000_000,
            strict: true,
            symmetry: true,
            mutant: Mutant::None,
        }
    }
}

impl Bounds {
    /// Scopes that together look at elections, replication, slow disks, crashes, delayed and doubled messages, each
    /// small enough to be exhausted in a minute.
    pub fn scopes() -> Vec<Self> {
        let base = Self::default;
        vec![
            Self { crashes: 1, ..base() },
            Self { crashes: 1, duplicates: 1, lagging: 0, ..base() },
            Self { terms: 1, entries: 2, crashes: 1, ..base() },
            Self { entries: 2, lagging: 0, ..base() },
            Self { entries: 0, messages: 2, lagging: 0, ..base() },
        ]
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, terms, entries, crashes, messages, duplicates, lagging, streams, .. } = self;
        write!(
            f,
            "{nodes} nodes, {terms} terms, {entries} entries, {crashes} crashes, {messages} messages in flight, {duplicates} \
             duplicates, {lagging} disks that lag, {streams} more streams"
        )
    }
}

/// How far a search has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Distinct states.
    pub states: usize,
    /// Steps from one state to another, or to itself.
    pub steps: u64,
    /// Steps from the beginning to the states that are looked at now.
    pub depth: usize,
    /// Distinct states of a single node.
    pub replicas: usize,
    /// Distinct messages.
    pub messages: usize,
}

/// What a search found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// How far it came.
    pub progress: Progress,
    /// Whether every state within the bounds was looked at.
    pub is_exhausted: bool,
    /// The shortest way to a state that breaks a law.
    pub counterexample: Option<Counterexample>,
}

/// A way to a state that breaks a law; none is shorter.
#[derive(Debug)]
#[non_exhaustive]
pub struct Counterexample {
    /// The law.
    pub property: String,
    /// How it is broken.
    pub detail: String,
    /// The steps, one line each.
    pub steps: Vec<String>,
    /// The nodes before the last step, one line each.
    pub nodes: Vec<String>,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:>4}  {step}", number + 1)?;
        }
        for node in &self.nodes {
            writeln!(f, "      {node}")?;
        }
        write!(f, "{}: {}", self.property, self.detail)
    }
}

/// A moment of every node's clock; time is a matter of choice here, and never passes by itself.
const NOW: Duration = Duration::ZERO;
