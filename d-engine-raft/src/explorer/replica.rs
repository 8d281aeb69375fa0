//! One node: the core, its disk, and what both make of an event.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use d_engine_core::{
    ClusterSettings, Entry, EntryKind, HardState, Identity, LogSummary, Member, MemberKind, Membership,
};

use super::envelope::Envelope;
use super::forget::{Numbering, incarnation};
use super::store::Renumber;
use super::{Bounds, NOW, laws};
use crate::raft::Part;
use crate::simulator::Breach;
use crate::{Action, Answer, Body, Boot, Config, Input, Message, NodeId, Raft, Restored, Role, Write};

const CLUSTER: u128 = 1;
const BOOT: Boot = Boot { seed: 0, incarnation: 0, cluster: 0 };

/// A core and its disk.
#[derive(Debug, Clone)]
pub(super) struct Replica {
    pub(super) raft: Raft,
    /// What a loss of power leaves.
    pub(super) hard_state: HardState,
    pub(super) durable: Vec<Entry>,
    /// Writes that the core has handed out and that are not synced, in order.
    pub(super) pending: VecDeque<Write>,
    /// The log with what is pending.
    pub(super) visible: Vec<Entry>,
}

/// What may happen to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Event {
    /// A message, by its number, arrives.
    Arrive(u32),
    /// The election timer fires, and a quorum would vote for it.
    Campaign,
    /// The election timer fires, and that is all: it follows nobody any more.
    LoseLeader,
    /// A leader's timer fires.
    Heartbeat,
    /// A leader's timer fires, and nobody has answered for an election timeout.
    LoseQuorum,
    /// Somebody's answer tells it of a newer term.
    Learn(u64),
    /// A client proposes its command of this number.
    Propose(u8),
    /// The disk completes the next write.
    Persist,
    /// It loses power and starts again; so many of the unsynced steps have reached the disk.
    Crash(u8),
}

/// Steps of a write that a loss of power may fall between.
enum Step<'a> {
    HardState(HardState),
    Truncate(u64),
    Append(&'a [Entry]),
}

impl Replica {
    /// A voter of a cluster that was formed and has done nothing since.
    pub(super) fn formed(node: NodeId, bounds: &Bounds) -> Result<Self, Breach> {
        let members =
            (1..=bounds.nodes).map(|node| Member::new(node, incarnation(node), "", MemberKind::Voter)).collect();
        let membership = Membership::new(CLUSTER, members, ClusterSettings::new(500, 500, 1));
        let identity = Identity::unformed(node, incarnation(node)).form(CLUSTER);
        let hard_state = HardState::new(1, None, Some(identity));
        let durable = vec![Entry::new(1, 1, EntryKind::Membership, membership.encode())];
        Self::start(config(node, bounds), hard_state, durable)
    }

    /// A start with what the disk holds. The state machine begins anew, as in Figure 2.
    fn start(config: Config, hard_state: HardState, durable: Vec<Entry>) -> Result<Self, Breach> {
        let refused =
            |error: String| Breach::new("An Honest Disk Is Accepted", format!("node {}: {error}", config.node));
        let mut log = LogSummary::new(Default::default());
        for entry in &durable {
            log.push(entry).map_err(|error| refused(error.to_string()))?;
        }
        let restored = Restored { hard_state: Some(hard_state), log, ..Restored::default() };
        let raft = Raft::new(config.clone(), restored, BOOT, NOW).map_err(|error| refused(error.to_string()))?;
        let mut replica = Self { raft, hard_state, visible: durable.clone(), durable, pending: VecDeque::new() };
        replica.raft.forget();
        Ok(replica)
    }

    pub(super) fn node(&self) -> NodeId {
        self.raft.config.node
    }

    pub(super) fn leads(&self) -> Option<u64> {
        (self.raft.role() == Role::Leader).then_some(self.raft.term)
    }

    /// Whether its disk has something to do.
    pub(super) fn lags(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Steps that a loss of power may cut off.
    pub(super) fn unsynced_steps(&self) -> u8 {
        self.pending.iter().map(|write| steps(write).len() as u8).sum()
    }

    /// What may happen to the node by itself. Crashes and commands are up to the search.
    pub(super) fn own_events(&self, bounds: &Bounds) -> Vec<Event> {
        let mut events = Vec::new();
        match &self.raft.part {
            Part::Leader(_) => events.extend([Event::Heartbeat, Event::LoseQuorum]),
            Part::Follower | Part::Candidate(_) | Part::PreCandidate(_) => {
                if self.raft.term < 1 + bounds.terms {
                    events.push(Event::Campaign);
                }
                if self.raft.leader.is_some() || matches!(self.raft.part, Part::Candidate(_)) {
                    events.push(Event::LoseLeader);
                }
            }
            Part::Failed(_) | Part::Unformed(_) => {}
        }
        if self.lags() {
            events.push(Event::Persist);
        }
        events
    }

    /// The node after an event, and what it sends. A panic inside it is a breach.
    ///
    /// `syncs`: its disk is quick, and has done everything before anything else happens.
    pub(super) fn after(
        &self,
        event: Event,
        arrives: Option<&Envelope>,
        syncs: bool,
        strict: bool,
    ) -> Result<Reaction, Breach> {
        let result = catch_unwind(AssertUnwindSafe(|| self.react(event, arrives, syncs, strict)));
        result.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(Breach::new("No Panic", format!("node {}: {}", self.node(), text.unwrap_or_default())))
        })
    }

    fn react(&self, event: Event, arrives: Option<&Envelope>, syncs: bool, strict: bool) -> Result<Reaction, Breach> {
        let commit = self.raft.commit;
        let mut reaction = Reaction { replica: self.clone(), sent: Vec::new() };
        let next = &mut reaction.replica;
        match (event, arrives) {
            (Event::Arrive(_), Some(envelope)) => {
                next.raft.handle(NOW, Input::Message { from: envelope.from, message: envelope.message.clone() });
            }
            (Event::Arrive(_), None) => {}
            (Event::LoseLeader | Event::Heartbeat, _) => next.raft.handle(NOW, Input::Timeout),
            (Event::Learn(term), _) => next.hear_of(term),
            (Event::Campaign, _) => next.win_pre_vote(),
            (Event::LoseQuorum, _) => {
                let late = next.raft.config.election_timeout_max * 2;
                next.raft.handle(late, Input::Timeout);
            }
            (Event::Propose(number), _) => {
                let command = Bytes::from(vec![0; usize::from(number) + 1]);
                next.raft.handle(NOW, Input::Propose { id: 0, command });
            }
            (Event::Persist, _) => next.persist()?,
            (Event::Crash(survive), _) => *next = next.crash(survive)?,
        }
        reaction.settle(commit, strict)?;
        while syncs && !reaction.replica.pending.is_empty() {
            reaction.replica.persist()?;
            reaction.settle(commit, strict)?;
        }
        if !matches!(event, Event::Crash(_)) {
            laws::one_life(self, &reaction.replica)?;
        }
        if strict {
            laws::disk_speaks_first(&reaction.replica)?;
        }
        let base = reaction.replica.raft.forget();
        reaction.replica.pending.iter_mut().for_each(|write| write.seq -= base);
        Ok(reaction)
    }

    /// The election timer fires. Pre-votes promise nothing (§9.6), so whether they are granted is a matter of choice.
    fn win_pre_vote(&mut self) {
        self.raft.handle(NOW, Input::Timeout);
        let others = self.raft.others();
        for from in others {
            if !matches!(self.raft.part, Part::PreCandidate(_)) {
                return;
            }
            let body = Body::PreVoteReply { round: self.raft.pre_vote_round, granted: true };
            let message = Message { term: self.raft.term, incarnation: incarnation(from), group: 0, body };
            self.raft.handle(NOW, Input::Message { from, message });
        }
    }

    /// Any answer in `term` will do: one that refuses a vote does nothing else.
    fn hear_of(&mut self, term: u64) {
        let Some(from) = self.raft.others().first().copied() else { return };
        let message =
            Message { term, incarnation: incarnation(from), group: 0, body: Body::VoteReply { granted: false } };
        self.raft.handle(NOW, Input::Message { from, message });
    }

    /// The next write is durable, and the core is told.
    fn persist(&mut self) -> Result<(), Breach> {
        let Some(write) = self.pending.pop_front() else { return Ok(()) };
        for step in steps(&write) {
            self.perform(step)?;
        }
        self.raft.handle(NOW, Input::Persisted { seq: write.seq });
        Ok(())
    }

    fn crash(&self, survive: u8) -> Result<Self, Breach> {
        let mut disk = self.clone();
        let pending = std::mem::take(&mut disk.pending);
        for step in pending.iter().flat_map(steps).take(usize::from(survive)) {
            disk.perform(step)?;
        }
        Self::start(disk.raft.config, disk.hard_state, disk.durable)
    }

    fn perform(&mut self, step: Step<'_>) -> Result<(), Breach> {
        match step {
            Step::HardState(state) => {
                laws::never_goes_back(self.node(), &self.hard_state, &state)?;
                self.hard_state = state;
                Ok(())
            }
            Step::Truncate(from) => {
                self.durable.truncate(from as usize - 1);
                Ok(())
            }
            Step::Append(entries) => append(&mut self.durable, entries),
        }
    }

    /// The core has decided to write.
    fn show(&mut self, write: &Write, commit: u64) -> Result<(), Breach> {
        if let Some(from) = write.replace_from.filter(|from| *from <= self.visible.len() as u64) {
            laws::may_truncate(&self.raft, commit, from)?;
            self.visible.truncate(from as usize - 1);
        }
        append(&mut self.visible, &write.entries)
    }
}

/// What a node has become, and what it sends.
#[derive(Debug)]
pub(super) struct Reaction {
    pub(super) replica: Replica,
    pub(super) sent: Vec<Envelope>,
}

impl Reaction {
    /// Does what the core wants done. What is to be applied is applied at once.
    /// `commit`: its commit index before.
    fn settle(&mut self, commit: u64, strict: bool) -> Result<(), Breach> {
        while let Some(action) = self.replica.raft.poll_action() {
            match action {
                Action::Write(write) => {
                    self.replica.show(&write, commit)?;
                    self.replica.pending.push_back(write);
                }
                // Whoever is formed drops a welcome; pre-votes have been answered.
                Action::Send { message: Message { body: Body::Welcome { .. } | Body::PreVote { .. }, .. }, .. } => {}
                Action::Send { to, message } => self.send(to, message, strict)?,
                Action::SendEntries { to, term, mut append, entries_term, last } => {
                    let (first, visible) = (append.prev.index as usize, &self.replica.visible);
                    append.entries = visible.get(first..last as usize).map(<[_]>::to_vec).unwrap_or_default();
                    if append.end() != last || append.entries.iter().any(|entry| entry.term != entries_term) {
                        let detail = format!("node {} is to send entries {}..={last}", self.replica.node(), first + 1);
                        return Err(Breach::new("Core And Log Agree", detail));
                    }
                    let incarnation = self.replica.raft.incarnation();
                    self.send(to, Message { term, incarnation, group: 0, body: Body::Append(append) }, strict)?;
                }
                Action::Apply { up_to } => {
                    if up_to > self.replica.durable.len() as u64 || up_to > self.replica.raft.commit {
                        let detail = format!("node {} applies up to {up_to}", self.replica.node());
                        return Err(Breach::new("Applied ≤ Persisted And Committed", detail));
                    }
                    self.replica.raft.handle(NOW, Input::Applied { index: up_to });
                }
                Action::Answer(Answer::Rejected { .. } | Answer::Accepted { .. }) => {}
                Action::Answer(_) | Action::Snapshot(_) => {
                    let detail = format!("node {} wants {action:?}, which nobody asked for", self.replica.node());
                    return Err(Breach::new("Nothing Comes From Nothing", detail));
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, to: NodeId, mut message: Message, strict: bool) -> Result<(), Breach> {
        if strict {
            laws::sending(&self.replica, to, &message)?;
        }
        if let Body::Append(append) = &mut message.body {
            // What the receiver is reminded of, the laws look at on its disk.
            append.matched = 0;
        }
        self.sent.push(Envelope { from: self.replica.node(), to, message });
        Ok(())
    }
}

impl Renumber for Replica {
    fn renumber(&mut self, names: &Numbering) {
        self.raft.renumber(names);
        self.hard_state = names.hard_state(self.hard_state);
        for state in self.pending.iter_mut().filter_map(|write| write.hard_state.as_mut()) {
            *state = names.hard_state(*state);
        }
    }
}

fn config(node: NodeId, bounds: &Bounds) -> Config {
    let config = Config::new(node, "");
    #[cfg(feature = "mutants")]
    let config = Config { mutant: bounds.mutant, ..config };
    #[cfg(not(feature = "mutants"))]
    let _ = bounds;
    config
}

fn steps(write: &Write) -> Vec<Step<'_>> {
    let hard_state = write.hard_state.map(Step::HardState);
    let truncate = write.replace_from.map(Step::Truncate);
    let append = (!write.entries.is_empty()).then_some(Step::Append(&write.entries));
    [hard_state, truncate, append].into_iter().flatten().collect()
}

fn append(log: &mut Vec<Entry>, entries: &[Entry]) -> Result<(), Breach> {
    for entry in entries {
        if entry.index != log.len() as u64 + 1 {
            let detail = format!("entry {} is to follow {} entries", entry.id(), log.len());
            return Err(Breach::new("Writes Are Contiguous", detail));
        }
        log.push(entry.clone());
    }
    Ok(())
}
