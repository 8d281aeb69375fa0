//! What clients asked for, what they were told, and what that allows later answers to be.

use bytes::Bytes;
use d_engine_core::{Entry, EntryKind, LogId, MemberKind, Membership};
use fastrand::Rng;

use super::Breach;
use super::report::roll;
use crate::{Change, NodeId};

/// Registers of the simulated state machine.
pub(super) const KEYS: usize = 8;

/// What a client knows of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// No answer yet, or never: the node may have crashed.
    Unknown,
    /// A proposal has a place in the log.
    Accepted(LogId),
    /// A proposal was applied at this index, or a read was answered from the state after it.
    Done(u64),
    /// Refused, without effect.
    Rejected,
    /// Another entry stands in the proposal's place, so it was not applied.
    Replaced,
    /// A membership change may still take effect; its leader leads no more.
    Lost,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Write,
    Read,
    Change(Goal),
    Transfer,
}

/// What must be true of a configuration once a change is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Goal {
    Member { node: NodeId, incarnation: u128 },
    Voter { node: NodeId },
    Absent { node: NodeId },
    Voters { nodes: Vec<NodeId> },
    Any,
}

impl Goal {
    pub(super) fn of(change: &Change) -> Self {
        match change {
            Change::AddLearner { node, incarnation, .. } | Change::Replace { node, incarnation, .. } => {
                Self::Member { node: *node, incarnation: *incarnation }
            }
            Change::Promote { node } => Self::Voter { node: *node },
            Change::Remove { node } => Self::Absent { node: *node },
            Change::SetVoters { voters } => Self::Voters { nodes: voters.clone() },
            Change::SetAddress { .. } | Change::RaiseFeatureLevel { .. } => Self::Any,
        }
    }

    fn is_met(&self, membership: &Membership) -> bool {
        let votes = |node: NodeId| membership.member(node).is_some_and(|member| member.kind == MemberKind::Voter);
        !membership.is_joint()
            && match self {
                Self::Member { node, incarnation } => {
                    membership.member(*node).is_some_and(|member| member.incarnation == *incarnation)
                }
                Self::Voter { node } => votes(*node),
                Self::Absent { node } => membership.member(*node).is_none(),
                Self::Voters { nodes } => {
                    membership.members.iter().all(|member| votes(member.node) == nodes.contains(&member.node))
                }
                Self::Any => true,
            }
    }
}

#[derive(Debug)]
struct Request {
    kind: Kind,
    /// A read that only waits for its node to apply.
    is_ready: bool,
    key: usize,
    outcome: Outcome,
    /// The highest index any client had learned of when the request was made.
    floor: u64,
    /// Index of the newest acknowledged write to `key` at that time.
    written: u64,
    /// Where the command was chosen.
    chosen_at: u64,
    /// The node that was asked, and in which of its lives; it owes an answer as long as it lives.
    asked: (NodeId, u32),
}

/// All requests of a run. A request's number is its place here.
#[derive(Debug, Default)]
pub(super) struct Clients {
    requests: Vec<Request>,
    /// The highest index that any client has learned of.
    floor: u64,
    /// Index of the newest acknowledged write to each key.
    written: [u64; KEYS],
    pub(super) acknowledged: u64,
    pub(super) reads: u64,
    pub(super) changes: u64,
    pub(super) transfers: u64,
    /// Membership changes without an answer.
    open_changes: Vec<u64>,
}

impl Clients {
    /// A new command and its number.
    pub(super) fn propose(&mut self, rng: &mut Rng, padding: usize) -> (u64, Bytes) {
        let id = self.begin(Kind::Write, rng.usize(..KEYS));
        let mut command = vec![0; 16 + padding];
        command[..8].copy_from_slice(&id.to_le_bytes());
        command[8..16].copy_from_slice(&(self.requests[id as usize].key as u64).to_le_bytes());
        (id, command.into())
    }

    /// The number of a new read.
    pub(super) fn read(&mut self, rng: &mut Rng) -> u64 {
        self.begin(Kind::Read, rng.usize(..KEYS))
    }

    /// The number of a new membership change.
    pub(super) fn change(&mut self, goal: Goal) -> u64 {
        let id = self.begin(Kind::Change(goal), 0);
        self.open_changes.push(id);
        id
    }

    /// The number of a new transfer of leadership.
    pub(super) fn transfer(&mut self) -> u64 {
        self.begin(Kind::Transfer, 0)
    }

    fn begin(&mut self, kind: Kind, key: usize) -> u64 {
        self.requests.push(Request {
            kind,
            is_ready: false,
            key,
            outcome: Outcome::Unknown,
            floor: self.floor,
            written: self.written[key],
            chosen_at: 0,
            asked: (0, 0),
        });
        self.requests.len() as u64 - 1
    }

    /// Request `id` reaches a node.
    pub(super) fn asked(&mut self, id: u64, node: NodeId, life: u32) {
        self.requests[id as usize].asked = (node, life);
    }

    /// Every node must have answered what it was asked in its present life; whether an accepted proposal keeps its place
    /// is another matter.
    pub(super) fn all_answered(&self, lives: impl Fn(NodeId) -> u32) -> Result<(), Breach> {
        let is_open = |request: &Request| {
            request.outcome == Outcome::Unknown
                && !request.is_ready
                && request.asked.0 != 0
                && lives(request.asked.0) == request.asked.1
        };
        match self.requests.iter().position(is_open) {
            Some(id) => {
                let request = &self.requests[id];
                let detail = format!("node {} never answers {:?} #{id}", request.asked.0, request.kind);
                Err(Breach::new("Every Request Is Answered", detail))
            }
            None => Ok(()),
        }
    }

    /// Whether a node may still begin a membership change, or be at it.
    pub(super) fn has_open_change(&self, lives: impl Fn(NodeId) -> u32) -> bool {
        self.open_changes.iter().any(|id| {
            let request = &self.requests[*id as usize];
            request.outcome == Outcome::Unknown && lives(request.asked.0) == request.asked.1
        })
    }

    pub(super) fn outcome(&self, id: u64) -> Outcome {
        self.requests[id as usize].outcome
    }

    pub(super) fn accepted(&mut self, id: u64, at: LogId) -> Result<(), Breach> {
        let request = &mut self.requests[id as usize];
        if request.kind != Kind::Write || request.outcome != Outcome::Unknown {
            return Err(Breach::new(
                "Requests Are Answered Once",
                format!("#{id} accepted at {at} after {:?}", request.outcome),
            ));
        }
        request.outcome = Outcome::Accepted(at);
        Ok(())
    }

    pub(super) fn rejected(&mut self, id: u64) -> Result<(), Breach> {
        let request = &mut self.requests[id as usize];
        if request.outcome != Outcome::Unknown {
            return Err(Breach::new(
                "Requests Are Answered Once",
                format!("#{id} rejected after {:?}", request.outcome),
            ));
        }
        if request.chosen_at != 0 {
            return Err(Breach::new(
                "Rejected Requests Have No Effect",
                format!("#{id} was rejected but stands in the log at {}", request.chosen_at),
            ));
        }
        request.outcome = Outcome::Rejected;
        Ok(())
    }

    /// The leader says the change is done, `membership` being what is committed at `index`.
    pub(super) fn changed(&mut self, id: u64, index: u64, membership: Option<&Membership>) -> Result<(), Breach> {
        let request = &mut self.requests[id as usize];
        let is_met = match (&request.kind, membership) {
            (Kind::Change(goal), Some(membership)) => goal.is_met(membership),
            _ => false,
        };
        if request.outcome != Outcome::Unknown || !is_met {
            let detail = format!(
                "#{id} {:?} is called done at {index}, where {} is committed",
                request.kind,
                membership.map_or("nothing".to_owned(), roll)
            );
            return Err(Breach::new("Changes That Are Done Are Committed", detail));
        }
        request.outcome = Outcome::Done(index);
        self.changes += 1;
        Ok(())
    }

    /// The leader of a change leads no more.
    pub(super) fn lost(&mut self, id: u64) -> Result<(), Breach> {
        self.end(id, Outcome::Lost)
    }

    /// The leader has handed over.
    pub(super) fn transferred(&mut self, id: u64) -> Result<(), Breach> {
        self.transfers += 1;
        self.end(id, Outcome::Done(0))
    }

    fn end(&mut self, id: u64, outcome: Outcome) -> Result<(), Breach> {
        let request = &mut self.requests[id as usize];
        if request.outcome != Outcome::Unknown {
            return Err(Breach::new("Requests Are Answered Once", format!("#{id} ends after {:?}", request.outcome)));
        }
        request.outcome = outcome;
        Ok(())
    }

    /// The entry is committed.
    pub(super) fn chosen(&mut self, entry: &Entry) -> Result<(), Breach> {
        let Some((id, _)) = decode(entry) else { return Ok(()) };
        let request = &mut self.requests[id as usize];
        if request.chosen_at != 0 {
            return Err(Breach::new(
                "Commands Are Applied At Most Once",
                format!("#{id} stands at {} and at {}", request.chosen_at, entry.index),
            ));
        }
        if matches!(request.outcome, Outcome::Rejected | Outcome::Replaced) {
            return Err(Breach::new(
                "Rejected Requests Have No Effect",
                format!("#{id} was {:?} and is committed at {}", request.outcome, entry.id()),
            ));
        }
        request.chosen_at = entry.index;
        Ok(())
    }

    /// A node that accepted proposal `id` at `at` has applied `entry` there.
    pub(super) fn applied(&mut self, id: u64, at: LogId, entry: &Entry) -> Result<(), Breach> {
        let request = &mut self.requests[id as usize];
        if entry.term != at.term {
            request.outcome = Outcome::Replaced;
            if request.chosen_at != 0 {
                return Err(Breach::new(
                    "Rejected Requests Have No Effect",
                    format!("#{id} was replaced at {at} but stands at {}", request.chosen_at),
                ));
            }
            return Ok(());
        }
        if decode(entry).map(|(found, _)| found) != Some(id) {
            return Err(Breach::new(
                "Proposals Stand Where They Were Accepted",
                format!("#{id} was accepted at {at}, where another command of that term stands"),
            ));
        }
        if at.index <= request.floor {
            return Err(Breach::new(
                "Linearizability",
                format!("#{id} got index {} but index {} was known before it was proposed", at.index, request.floor),
            ));
        }
        request.outcome = Outcome::Done(at.index);
        self.floor = self.floor.max(at.index);
        self.written[request.key] = self.written[request.key].max(at.index);
        self.acknowledged += 1;
        Ok(())
    }

    /// The node allows read `id` to be answered from `index` on.
    pub(super) fn read_ready(&mut self, id: u64, index: u64) -> Result<(), Breach> {
        let request = &mut self.requests[id as usize];
        if request.kind != Kind::Read || request.outcome != Outcome::Unknown || request.is_ready {
            return Err(Breach::new("Requests Are Answered Once", format!("read #{id} after {:?}", request.outcome)));
        }
        if index < request.floor {
            return Err(Breach::new(
                "Linearizability",
                format!("read #{id} may see index {index}, but index {} was known before it began", request.floor),
            ));
        }
        request.is_ready = true;
        Ok(())
    }

    /// Read `id` is answered from the state after `applied`, in which index `written[key]` wrote each key last.
    pub(super) fn read_done(&mut self, id: u64, applied: u64, written: &[u64; KEYS]) -> Result<(), Breach> {
        let request = &mut self.requests[id as usize];
        if written[request.key] < request.written {
            let detail = format!(
                "read #{id} saw key {} as of index {}, but the write at {} was acknowledged before it began",
                request.key, written[request.key], request.written
            );
            return Err(Breach::new("Linearizability", detail));
        }
        request.outcome = Outcome::Done(applied);
        self.floor = self.floor.max(applied);
        self.reads += 1;
        Ok(())
    }
}

/// Number and key of a command.
pub(super) fn decode(entry: &Entry) -> Option<(u64, usize)> {
    if entry.kind != EntryKind::Command {
        return None;
    }
    let number = |at: usize| Some(u64::from_le_bytes(entry.data.get(at..at + 8)?.try_into().ok()?));
    Some((number(0)?, number(8)? as usize % KEYS))
}
