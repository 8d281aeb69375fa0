//! What must hold: inside a node whenever it acts, and between the nodes after every step (Figure 3).

use d_engine_core::{Entry, HardState};

use super::history::History;
use super::replica::Replica;
use crate::simulator::Breach;
use crate::{AppendOutcome, Body, Message, NodeId, Raft, Role};

/// Between two moments of one life.
pub(super) fn one_life(before: &Replica, after: &Replica) -> Result<(), Breach> {
    let (was, is, node) = (&before.raft, &after.raft, after.node());
    if is.term < was.term {
        let detail = format!("node {node} goes from term {} to {}", was.term, is.term);
        return Err(Breach::new("Term And Vote Never Go Back", detail));
    }
    if is.commit < was.commit {
        let detail = format!("commit index of node {node} goes from {} to {}", was.commit, is.commit);
        return Err(Breach::new("Commit Never Goes Back", detail));
    }
    if is.log.last() != after.visible.last().map(Entry::id).unwrap_or_default() {
        let detail = format!("node {node} says its log ends at {}", is.log.last());
        return Err(Breach::new("Core And Log Agree", detail));
    }
    if is.role() == Role::Failed {
        return Err(Breach::new("Honest Peers Break Nobody", format!("node {node} stops taking part")));
    }
    Ok(())
}

/// A hard state is saved over another.
pub(super) fn never_goes_back(node: NodeId, old: &HardState, new: &HardState) -> Result<(), Breach> {
    let vote_changes = old.term == new.term && old.voted_for.is_some() && new.voted_for != old.voted_for;
    if new.term < old.term || vote_changes || new.identity != old.identity {
        let detail = format!(
            "node {node} saves term {} vote {:?} over term {} vote {:?}",
            new.term, new.voted_for, old.term, old.voted_for
        );
        return Err(Breach::new("Term And Vote Never Go Back", detail));
    }
    Ok(())
}

/// A node removes entries of its log from `from` on.
pub(super) fn may_truncate(raft: &Raft, commit: u64, from: u64) -> Result<(), Breach> {
    if raft.role() == Role::Leader {
        let detail = format!("leader {} of term {} truncates its log from {from}", raft.config.node, raft.term);
        return Err(Breach::new("Leader Append-Only", detail));
    }
    if from <= commit {
        let detail = format!("node {} truncates from {from} with commit index {commit}", raft.config.node);
        return Err(Breach::new("Committed Entries Stay", detail));
    }
    Ok(())
}

/// What a message promises is on the sender's disk when it leaves.
pub(super) fn sending(replica: &Replica, to: NodeId, message: &Message) -> Result<(), Breach> {
    let (node, saved) = (replica.node(), &replica.hard_state);
    let candidate = match &message.body {
        Body::VoteReply { granted: true } => to,
        Body::RequestVote(_) => node,
        Body::AppendReply(reply) => {
            let AppendOutcome::Accepted { matched } = reply.outcome else { return Ok(()) };
            if !holds_on_disk(replica, matched) || saved.term < message.term {
                let detail = format!("node {node} acknowledges index {matched}, which its disk does not hold");
                return Err(Breach::new("The Disk Speaks First", detail));
            }
            return Ok(());
        }
        _ => return Ok(()),
    };
    let is_saved = saved.term > message.term || (saved.term == message.term && saved.voted_for == Some(candidate));
    if !is_saved {
        let detail = format!(
            "node {node} votes for {candidate} in term {}, but its disk says term {} vote {:?}",
            message.term, saved.term, saved.voted_for
        );
        return Err(Breach::new("The Disk Speaks First", detail));
    }
    Ok(())
}

/// What the core counts on is on its disk.
pub(super) fn disk_speaks_first(replica: &Replica) -> Result<(), Breach> {
    let persisted = replica.raft.writes.persisted_index();
    if !holds_on_disk(replica, persisted) {
        let detail = format!("node {} counts on index {persisted}, which its disk does not hold", replica.node());
        return Err(Breach::new("The Disk Speaks First", detail));
    }
    Ok(())
}

fn holds_on_disk(replica: &Replica, index: u64) -> bool {
    let at = index as usize - 1;
    replica.durable.get(at).is_some_and(|entry| replica.visible.get(at) == Some(entry))
}

/// A node has taken a step from `before`; `replicas` are all nodes as they are now. Answers what is to be remembered, if
/// that has changed.
pub(super) fn between(
    history: &History,
    before: &Replica,
    after: &Replica,
    replicas: &[&Replica],
) -> Result<Option<History>, Breach> {
    let mut next = None;
    if let Some(term) = after.leads().filter(|term| before.leads() != Some(*term)) {
        let history = next.get_or_insert_with(|| history.clone());
        elected(history, after, term)?;
    }
    if after.visible != before.visible {
        replicas.iter().filter(|other| other.node() != after.node()).try_for_each(|other| logs_match(after, other))?;
    }
    if after.raft.commit > before.raft.commit {
        let history = next.get_or_insert_with(|| history.clone());
        committed(history, before.raft.commit, after, replicas)?;
    }
    if after.durable != before.durable {
        let chosen = &next.as_ref().unwrap_or(history).chosen;
        chosen.iter().try_for_each(|(entry, _)| still_there(entry, before, after))?;
        let chosen = &next.as_ref().unwrap_or(history).chosen;
        chosen.iter().try_for_each(|(entry, _)| durable_quorum(entry, replicas))?;
    }
    Ok(next)
}

/// Election Safety and Leader Completeness.
fn elected(history: &mut History, leader: &Replica, term: u64) -> Result<(), Breach> {
    let node = leader.node();
    if history.led.contains(&term) {
        return Err(Breach::new(
            "Election Safety",
            format!("node {node} leads term {term}, which had a leader before"),
        ));
    }
    history.led.push(term);
    history.led.sort_unstable();
    let earlier = history.chosen.iter().filter(|(_, committed_in)| *committed_in < term);
    for (entry, committed_in) in earlier {
        if leader.visible.get(entry.index as usize - 1) != Some(entry) {
            let detail =
                format!("node {node} leads term {term} without {}, committed in term {committed_in}", entry.id());
            return Err(Breach::new("Leader Completeness", detail));
        }
    }
    Ok(())
}

/// Log Matching: logs that share an entry are equal up to it.
fn logs_match(a: &Replica, b: &Replica) -> Result<(), Breach> {
    let both = || a.visible.iter().zip(&b.visible);
    let last_shared = both().rposition(|(a, b)| a.term == b.term);
    match last_shared.and_then(|last| both().take(last + 1).find(|(a, b)| a != b)) {
        Some((x, y)) => {
            let detail =
                format!("nodes {} and {} hold {} and {} below an entry they share", a.node(), b.node(), x.id(), y.id());
            Err(Breach::new("Log Matching", detail))
        }
        None => Ok(()),
    }
}

/// State Machine Safety, and a durable quorum behind every commit.
fn committed(history: &mut History, from: u64, by: &Replica, replicas: &[&Replica]) -> Result<(), Breach> {
    let node = by.node();
    for index in from..by.raft.commit {
        let Some(entry) = by.visible.get(index as usize) else {
            let detail = format!("node {node} commits {} entries, its log has {}", by.raft.commit, by.visible.len());
            return Err(Breach::new("Only What Is There Commits", detail));
        };
        match history.chosen.get(index as usize) {
            Some((chosen, _)) if chosen == entry => {}
            Some((chosen, _)) => {
                let detail = format!("node {node} commits {} where {} was committed", entry.id(), chosen.id());
                return Err(Breach::new("State Machine Safety", detail));
            }
            None => {
                durable_quorum(entry, replicas)?;
                history.chosen.push((entry.clone(), by.raft.term));
            }
        }
    }
    Ok(())
}

/// Nobody removes what is committed.
fn still_there(entry: &Entry, before: &Replica, after: &Replica) -> Result<(), Breach> {
    let at = entry.index as usize - 1;
    if before.durable.get(at) == Some(entry) && after.durable.get(at) != Some(entry) {
        let detail = format!("node {} removes {}, which is committed, from its disk", after.node(), entry.id());
        return Err(Breach::new("Committed Entries Stay", detail));
    }
    Ok(())
}

/// A majority holds the committed entry on disk: when it commits, and ever after.
fn durable_quorum(entry: &Entry, replicas: &[&Replica]) -> Result<(), Breach> {
    let at = entry.index as usize - 1;
    let holders = replicas.iter().filter(|replica| replica.durable.get(at) == Some(entry)).count();
    if holders * 2 > replicas.len() {
        return Ok(());
    }
    let detail = format!("{holders} of {} voters hold {}, which is committed, on disk", replicas.len(), entry.id());
    Err(Breach::new("Commits Need A Durable Quorum", detail))
}
