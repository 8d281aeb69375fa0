//! The laws of Raft (Figure 3), checked over all nodes at once, in constant time for each thing that changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use d_engine_core::{Entry, EntryKind, HardState, LogId, Membership};

use super::Breach;
use super::clients::Clients;
use super::disk::{Log, STEPS};
use super::network::MAX_NODES;
use super::node::Node;
use super::quorum::Configurations;
use crate::message::{AppendOutcome, Body, Message};
use crate::{NodeId, Role, Write};

/// What a node looks like after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Glance {
    pub(super) role: Role,
    pub(super) term: u64,
    pub(super) commit: u64,
    pub(super) applied: u64,
    pub(super) persisted: u64,
    pub(super) last: LogId,
    pub(super) purged: LogId,
}

/// What was seen of a node in its present life.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    term: u64,
    commit: u64,
    leads: u64,
}

/// An entry as it first appeared anywhere, and the term of the one before it.
#[derive(Debug)]
struct Known {
    entry: Entry,
    previous: u64,
}

/// Everything the checks remember.
#[derive(Debug)]
pub(super) struct Checks {
    /// Also demand what has no consequence yet: promises only after the disk, commits by the leader's own term.
    strict: bool,
    /// By index: every entry that any log ever held there.
    known: Vec<Vec<Known>>,
    /// The committed log.
    chosen: Vec<Entry>,
    /// In which term each entry of `chosen` was first seen committed.
    chosen_in: Vec<u64>,
    /// By term: the node that led it, and in which of its lives.
    leaders: BTreeMap<u64, (NodeId, u32)>,
    /// Votes as they left: by term, voter and data directory.
    votes: BTreeMap<(u64, NodeId, u128), NodeId>,
    /// Every data directory that a configuration has ever named, committed or not.
    named: BTreeSet<(NodeId, u128)>,
    seen: [Seen; MAX_NODES + 1],
    pub(super) configurations: Configurations,
    pub(super) elections: u64,
    /// Snapshots made.
    pub(super) snapshots: u64,
    /// Snapshots of a leader installed.
    pub(super) installed: u64,
}

impl Checks {
    pub(super) fn new(strict: bool) -> Self {
        Self {
            strict,
            known: Vec::new(),
            chosen: Vec::new(),
            chosen_in: Vec::new(),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            named: BTreeSet::new(),
            seen: [Seen::default(); MAX_NODES + 1],
            configurations: Configurations::default(),
            elections: 0,
            snapshots: 0,
            installed: 0,
        }
    }

    /// The committed log.
    pub(super) fn chosen(&self) -> &[Entry] {
        &self.chosen
    }

    /// A node begins a life with what its disk kept.
    pub(super) fn started(&mut self, node: NodeId, hard_state: &Option<HardState>) {
        let term = hard_state.map_or(0, |state| state.term);
        self.seen[node as usize] = Seen { term, commit: 0, leads: 0 };
    }

    /// A node hands out a write, which its log does not show yet.
    pub(super) fn writing(&mut self, by: &Node, role: Role, write: &Write) -> Result<(), Breach> {
        let (node, log) = (by.id, &by.disk.visible);
        let seen = self.seen[node as usize];
        if let Some(up_to) = write.purge {
            self.purging(by, up_to)?;
        }
        if let Some(from) = write.replace_from.filter(|from| *from <= log.last_index()) {
            if role == Role::Leader {
                let detail = format!("leader {node} of term {} truncates its log from {from}", seen.term);
                return Err(Breach::new("Leader Append-Only", detail));
            }
            if from <= seen.commit {
                let detail = format!("node {node} truncates from {from} with commit index {}", seen.commit);
                return Err(Breach::new("Committed Entries Stay", detail));
            }
        }
        let mut previous = match (write.entries.first(), write.purge) {
            (Some(first), Some(up_to)) if first.index == up_to.index + 1 => up_to.term,
            (Some(first), _) => log.term(first.index - 1),
            (None, _) => return Ok(()),
        };
        for entry in &write.entries {
            // The founder of a cluster may lose its first entry and make another: nobody has heard of the first one.
            if entry.index > 1 {
                self.appear(entry, previous)?;
            }
            previous = entry.term;
        }
        Ok(())
    }

    /// What is purged is committed, and in a snapshot that a restart would find.
    fn purging(&self, by: &Node, up_to: LogId) -> Result<(), Breach> {
        let snapshot = by.shelf.newest.as_ref().map(|snapshot| snapshot.at).unwrap_or_default();
        if up_to.index > snapshot.index || self.id_of(up_to.index) != up_to {
            let detail = format!(
                "node {} purges up to {up_to}; its snapshot is {snapshot}, committed there is {}",
                by.id,
                self.id_of(up_to.index)
            );
            return Err(Breach::new("Purged ≤ Snapshot", detail));
        }
        if up_to.index > by.machine.applied {
            let detail = format!("node {} purges up to {up_to}, applied {}", by.id, by.machine.applied);
            return Err(Breach::new("Purged ≤ Snapshot ≤ Applied", detail));
        }
        Ok(())
    }

    /// Log Matching, by induction: an id stands for one entry and for one predecessor.
    fn appear(&mut self, entry: &Entry, previous: u64) -> Result<(), Breach> {
        let at = entry.index as usize;
        if self.known.len() <= at {
            self.known.resize_with(at + 1, Vec::new);
        }
        match self.known[at].iter().find(|known| known.entry.term == entry.term) {
            Some(known) if known.entry != *entry => {
                Err(Breach::new("Log Matching", format!("two different entries are called {}", entry.id())))
            }
            Some(known) if known.previous != previous => {
                let detail = format!(
                    "entry {} follows an entry of term {} in one log and of term {previous} in another",
                    entry.id(),
                    known.previous
                );
                Err(Breach::new("Log Matching", detail))
            }
            Some(_) => Ok(()),
            None => {
                if entry.kind == EntryKind::Membership
                    && let Ok(membership) = Membership::decode(&entry.data)
                {
                    self.named.extend(membership.members.iter().map(|member| (member.node, member.incarnation)));
                }
                self.known[at].push(Known { entry: entry.clone(), previous });
                Ok(())
            }
        }
    }

    /// The first `steps` steps of a write reach a disk that held `hard_state` and `log` before.
    pub(super) fn landing(
        &mut self,
        node: NodeId,
        write: &Write,
        steps: usize,
        hard_state: &Option<HardState>,
        log: &Log,
    ) -> Result<(), Breach> {
        if let (Some(old), Some(new)) = (hard_state, &write.hard_state) {
            let vote_changes = old.term == new.term && old.voted_for.is_some() && new.voted_for != old.voted_for;
            if new.term < old.term || vote_changes {
                let detail = format!(
                    "node {node} saves term {} vote {:?} over term {} vote {:?}",
                    new.term, new.voted_for, old.term, old.voted_for
                );
                return Err(Breach::new("Term And Vote Never Go Back", detail));
            }
            if let (Some(was), Some(is)) = (old.identity, new.identity)
                && (was.incarnation != is.incarnation || (was.formed && was != is))
            {
                let detail = format!("node {node} saves identity {is:?} over {was:?}");
                return Err(Breach::new("Identity Never Changes", detail));
            }
        }
        let formed = write.hard_state.and_then(|state| state.identity).filter(|identity| identity.formed);
        if let Some(identity) = formed.filter(|identity| !self.named.contains(&(node, identity.incarnation))) {
            let detail = format!(
                "node {node} belongs to the cluster as {:x}, which no configuration names",
                identity.incarnation
            );
            return Err(Breach::new("Whoever Is Formed Was Named", detail));
        }
        if let Some(from) = write.replace_from.filter(|from| steps > 2 && *from <= log.last_index())
            && let Some(chosen) = self.chosen.get(from as usize - 1)
            && log.holds(chosen.id())
        {
            let detail = format!("node {node} truncates its disk from {from}, which is committed as {}", chosen.id());
            return Err(Breach::new("Committed Entries Stay", detail));
        }
        match write.entries.first() {
            Some(first) if first.index == 1 && steps == STEPS => self.appear(first, 0),
            _ => Ok(()),
        }
    }

    /// A message leaves a node.
    pub(super) fn sending(&mut self, node: &Node, to: NodeId, message: &Message) -> Result<(), Breach> {
        let saved = node.disk.hard_state.map_or(0, |state| state.term);
        if self.strict && message.term < saved && matches!(message.body, Body::VoteReply { .. } | Body::AppendReply(_))
        {
            let detail = format!("node {} answers in term {}, its disk says term {saved}", node.id, message.term);
            return Err(Breach::new("Promises Keep To Their Term", detail));
        }
        match &message.body {
            Body::VoteReply { granted: true } => self.vote(node, message, to),
            Body::RequestVote(_) => self.vote(node, message, node.id),
            Body::Append(append) => {
                self.leads(node.id, node.life, message.term)?;
                if !append.is_well_formed() {
                    let detail = format!("leader {} sends entries with a gap or of several terms", node.id);
                    return Err(Breach::new("Messages Are Never Refilled", detail));
                }
                let mut previous = append.prev.term;
                for entry in &append.entries {
                    if entry.index > 1 {
                        self.appear(entry, previous)?;
                    }
                    previous = entry.term;
                }
                Ok(())
            }
            Body::AppendReply(reply) if self.strict => match reply.outcome {
                AppendOutcome::Accepted { matched } if !is_secured(node, matched) => {
                    let detail = format!(
                        "node {} acknowledges index {matched}, but its disk holds {}",
                        node.id,
                        node.disk.durable.last()
                    );
                    Err(Breach::new("The Disk Speaks First", detail))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Whom a data directory voted for.
    pub(super) fn vote_of(&self, term: u64, voter: NodeId, incarnation: u128) -> Option<NodeId> {
        self.votes.get(&(term, voter, incarnation)).copied()
    }

    fn vote(&mut self, node: &Node, message: &Message, candidate: NodeId) -> Result<(), Breach> {
        let key = (message.term, node.id, message.incarnation);
        let earlier = *self.votes.entry(key).or_insert(candidate);
        if earlier != candidate {
            let detail = format!("node {} votes for {earlier} and {candidate} in term {}", node.id, message.term);
            return Err(Breach::new("One Vote In A Term", detail));
        }
        let saved = node.disk.hard_state.unwrap_or_default();
        let is_saved = saved.term > message.term || (saved.term == message.term && saved.voted_for == Some(candidate));
        if self.strict && !is_saved {
            let detail = format!(
                "node {} votes for {candidate} in term {}, but its disk says term {} vote {:?}",
                node.id, message.term, saved.term, saved.voted_for
            );
            return Err(Breach::new("The Disk Speaks First", detail));
        }
        Ok(())
    }

    /// Election Safety.
    fn leads(&mut self, node: NodeId, life: u32, term: u64) -> Result<(), Breach> {
        match self.leaders.insert(term, (node, life)) {
            None => {
                self.elections += 1;
                Ok(())
            }
            Some(earlier) if earlier == (node, life) => Ok(()),
            Some((other, _)) if other == node => {
                Err(Breach::new("Election Safety", format!("node {node} leads term {term} again after a restart")))
            }
            Some((other, _)) => {
                Err(Breach::new("Election Safety", format!("nodes {other} and {node} both lead term {term}")))
            }
        }
    }

    /// A node has taken a step and its writes are visible in its log.
    pub(super) fn observe(
        &mut self,
        node: &Node,
        glance: Glance,
        before: Option<Arc<Membership>>,
        nodes: &[Node],
        clients: &mut Clients,
    ) -> Result<(), Breach> {
        let id = node.id;
        let seen = self.seen[id as usize];
        if glance.term < seen.term {
            let detail = format!("node {id} goes from term {} to {}", seen.term, glance.term);
            return Err(Breach::new("Term And Vote Never Go Back", detail));
        }
        if glance.commit < seen.commit {
            let detail = format!("commit index of node {id} goes from {} to {}", seen.commit, glance.commit);
            return Err(Breach::new("Commit Never Goes Back", detail));
        }
        if glance.applied > glance.commit {
            let detail = format!("node {id} has applied {} but committed {}", glance.applied, glance.commit);
            return Err(Breach::new("Only Committed Entries Are Applied", detail));
        }
        if glance.last != node.disk.visible.last() {
            let detail =
                format!("node {id} says its log ends at {}, it ends at {}", glance.last, node.disk.visible.last());
            return Err(Breach::new("Core And Log Agree", detail));
        }
        let visible = &node.disk.visible;
        if glance.purged != visible.purged() || glance.purged.index > glance.applied {
            let detail = format!(
                "node {id} says it has purged {}, its log {}; applied {}",
                glance.purged,
                visible.purged(),
                glance.applied
            );
            return Err(Breach::new("Purged ≤ Snapshot ≤ Applied", detail));
        }
        // A failed node counts on nothing; its machine may still install what was under way, which a restart purges for.
        if glance.role != Role::Failed && !is_secured(node, glance.persisted) {
            let held = node.disk.durable.last();
            let detail = format!("node {id} counts on index {}, its disk holds {held}", glance.persisted);
            return Err(Breach::new("The Disk Speaks First", detail));
        }
        if glance.role == Role::Leader && seen.leads != glance.term {
            self.leads(id, node.life, glance.term)?;
            self.elected(node, glance.term)?;
            self.leader_completeness(id, glance.term, visible)?;
        }
        if glance.commit > seen.commit {
            self.committed(node, glance, before, nodes, clients)?;
        }
        let leads = if glance.role == Role::Leader { glance.term } else { 0 };
        self.seen[id as usize] = Seen { term: glance.term, commit: glance.commit, leads };
        Ok(())
    }

    /// Leader Completeness: what was committed in earlier terms is in the new leader's log. By Log Matching it is enough
    /// to look at the last such entry.
    fn leader_completeness(&self, node: NodeId, term: u64, log: &Log) -> Result<(), Breach> {
        let earlier = self.chosen_in.partition_point(|committed_in| *committed_in < term);
        match self.chosen[..earlier].last() {
            Some(entry) if !log.holds(entry.id()) => {
                let detail = format!(
                    "node {node} leads term {term} with term {} at index {}, where {} is committed since term {}",
                    log.term(entry.index),
                    entry.index,
                    entry.id(),
                    self.chosen_in[earlier - 1]
                );
                Err(Breach::new("Leader Completeness", detail))
            }
            _ => Ok(()),
        }
    }

    /// State Machine Safety, and a durable quorum behind every commit.
    fn committed(
        &mut self,
        node: &Node,
        glance: Glance,
        earlier: Option<Arc<Membership>>,
        nodes: &[Node],
        clients: &mut Clients,
    ) -> Result<(), Breach> {
        let log = &node.disk.visible;
        let before = self.seen[node.id as usize].commit;
        if self.strict && glance.role == Role::Leader && log.term(glance.commit) != glance.term {
            let detail = format!(
                "leader {} of term {} commits up to {}.{}",
                node.id,
                glance.term,
                log.term(glance.commit),
                glance.commit
            );
            return Err(Breach::new("Leaders Commit Their Own Term", detail));
        }
        let known = self.chosen.len() as u64;
        if log.purged().index > known {
            let detail =
                format!("node {} has purged {}, but only {known} entries are committed", node.id, log.purged());
            return Err(Breach::new("Only Committed Entries Are Purged", detail));
        }
        for index in (before + 1).max(log.purged().index + 1)..=glance.commit {
            let Some(entry) = log.entry(index) else {
                let detail = format!("node {} commits {index}, its log ends at {}", node.id, log.last());
                return Err(Breach::new("Only What Is There Commits", detail));
            };
            match self.chosen.get(index as usize - 1) {
                Some(chosen) if chosen == entry => {}
                Some(chosen) => {
                    let detail = format!(
                        "node {} commits {} at index {index}, where {} was committed",
                        node.id,
                        entry.id(),
                        chosen.id()
                    );
                    return Err(Breach::new("State Machine Safety", detail));
                }
                None => {
                    let membership = self.configurations.in_force(log).ok_or_else(|| {
                        Breach::new("Commits Need A Quorum", format!("node {} commits without a membership", node.id))
                    })?;
                    // In one step a leader may commit in one configuration and append the next.
                    let by_new = self.durable_quorum(node.id, entry.id(), membership, nodes);
                    match &earlier {
                        Some(earlier) if by_new.is_err() => {
                            self.durable_quorum(node.id, entry.id(), earlier, nodes)?;
                        }
                        _ => by_new?,
                    }
                    self.chosen.push(entry.clone());
                    self.configurations.choose(entry)?;
                    self.chosen_in.push(glance.term);
                    clients.chosen(entry)?;
                }
            }
        }
        Ok(())
    }

    /// A node is about to apply up to `last`.
    pub(super) fn applying(&self, node: &Node, last: u64) -> Result<(), Breach> {
        let chosen = self.id_of(last);
        if chosen.index != last || !node.secures(chosen) {
            let detail = format!(
                "node {} applies up to {last}; committed: {}, on its disk: {}",
                node.id,
                self.chosen.len(),
                node.disk.durable.last()
            );
            return Err(Breach::new("Applied ≤ Persisted And Committed", detail));
        }
        Ok(())
    }

    /// A node applies an entry.
    pub(super) fn applied(&self, node: NodeId, entry: &Entry) -> Result<(), Breach> {
        match self.chosen.get(entry.index as usize - 1) {
            Some(chosen) if chosen == entry => Ok(()),
            chosen => {
                let chosen = chosen.map(Entry::id).unwrap_or_default();
                let detail = format!("node {node} applies {} where {chosen} is committed", entry.id());
                Err(Breach::new("State Machine Safety", detail))
            }
        }
    }

    /// The whole of every log against the committed one; slow, for the end of a run.
    pub(super) fn whole_logs(&self, nodes: &[Node]) -> Result<(), Breach> {
        for node in nodes {
            let commit = self.seen[node.id as usize].commit as usize;
            let log = &node.disk.visible;
            let from = (log.purged().index as usize).min(commit);
            if log.entries().get(..commit - from) != self.chosen.get(from..commit) {
                let detail = format!("the log of node {} differs below its commit index {commit}", node.id);
                return Err(Breach::new("State Machine Safety", detail));
            }
        }
        Ok(())
    }
}

/// Whether the disk holds what the log shows at `index`. Below the purge boundary the log shows nothing.
fn is_secured(node: &Node, index: u64) -> bool {
    let visible = &node.disk.visible;
    index < visible.purged().index || node.secures(LogId::new(visible.term(index), index))
}
