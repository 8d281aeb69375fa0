//! What clients asked for, what they were told, and what that allows later answers to be.

use bytes::Bytes;
use d_engine_core::{Entry, EntryKind, LogId};
use fastrand::Rng;

use super::Breach;
use crate::NodeId;

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
}

#[derive(Debug)]
struct Request {
    is_read: bool,
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
}

impl Clients {
    /// A new command and its number.
    pub(super) fn propose(&mut self, rng: &mut Rng, padding: usize) -> (u64, Bytes) {
        let id = self.begin(false, rng);
        let mut command = vec![0; 16 + padding];
        command[..8].copy_from_slice(&id.to_le_bytes());
        command[8..16].copy_from_slice(&(self.requests[id as usize].key as u64).to_le_bytes());
        (id, command.into())
    }

    /// The number of a new read.
    pub(super) fn read(&mut self, rng: &mut Rng) -> u64 {
        self.begin(true, rng)
    }

    fn begin(&mut self, is_read: bool, rng: &mut Rng) -> u64 {
        let key = rng.usize(..KEYS);
        self.requests.push(Request {
            is_read,
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
            request.outcome == Outcome::Unknown && request.asked.0 != 0 && lives(request.asked.0) == request.asked.1
        };
        match self.requests.iter().position(is_open) {
            Some(id) => {
                let request = &self.requests[id];
                let kind = if request.is_read { "read" } else { "proposal" };
                let detail = format!("node {} never answers {kind} #{id}", request.asked.0);
                Err(Breach::new("Every Request Is Answered", detail))
            }
            None => Ok(()),
        }
    }

    pub(super) fn outcome(&self, id: u64) -> Outcome {
        self.requests[id as usize].outcome
    }

    pub(super) fn accepted(&mut self, id: u64, at: LogId) -> Result<(), Breach> {
        let request = &mut self.requests[id as usize];
        if request.is_read || request.outcome != Outcome::Unknown {
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
        let request = &self.requests[id as usize];
        if !request.is_read || request.outcome != Outcome::Unknown {
            return Err(Breach::new("Requests Are Answered Once", format!("read #{id} after {:?}", request.outcome)));
        }
        if index < request.floor {
            return Err(Breach::new(
                "Linearizability",
                format!("read #{id} may see index {index}, but index {} was known before it began", request.floor),
            ));
        }
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
