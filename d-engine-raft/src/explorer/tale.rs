//! A way to a breach, for people.

use std::fmt::Write;

use super::replica::{Event, Replica};
use super::search::{Search, State, Transition};
use crate::simulator::in_words;

/// One step in a line: what happens to whom, and what follows from it.
pub(super) fn step(search: &Search, state: &State, transition: &Transition) -> String {
    let before = search.all(state).nth(transition.at);
    let Some(before) = before else { return String::new() };
    let mut line = format!("node {}  ", before.node());
    // Writing to a string does not fail.
    let _ = match transition.event {
        Event::Arrive(number) => {
            let envelope = search.envelopes.get(number);
            let again = if transition.is_duplicated { " (and will again)" } else { "" };
            write!(line, "← {}  {}{again}", envelope.from, in_words(&envelope.message))
        }
        Event::Campaign => write!(line, "times out, wins its pre-vote and campaigns"),
        Event::LoseLeader => write!(line, "times out and follows nobody any more"),
        Event::Learn(term) => write!(line, "is answered in term {term}"),
        Event::Heartbeat => write!(line, "sends heartbeats"),
        Event::LoseQuorum => write!(line, "has heard from no quorum for an election timeout"),
        Event::Propose(number) => write!(line, "client proposes command {number}"),
        Event::Persist => write!(line, "disk completes its next write"),
        Event::Crash(survive) => {
            write!(line, "CRASHED; {survive} of {} unsynced steps reached the disk", before.unsynced_steps())
        }
    };
    let Ok(next) = &transition.next else { return line };
    if let Some(after) = search.all(next).nth(transition.at) {
        consequences(&mut line, before, after);
    }
    let sent = next.network.as_slice().iter().filter(|number| !state.network.as_slice().contains(number));
    for envelope in sent.map(|number| search.envelopes.get(*number)) {
        let _ = write!(line, "; → {}  {}", envelope.to, in_words(&envelope.message));
    }
    line
}

fn consequences(line: &mut String, before: &Replica, after: &Replica) {
    let (was, is) = (before.raft.leadership(), after.raft.leadership());
    if (was.0, was.1) != (is.0, is.1) {
        let _ = write!(line, "; is {} in term {}", part(after), is.0);
    }
    if after.pending.len() > before.pending.len()
        && let Some(write) = after.pending.back()
    {
        let _ = write!(line, "; to write:");
        if let Some(state) = write.hard_state {
            let _ = write!(line, " term {} vote {}", state.term, state.voted_for.unwrap_or_default());
        }
        if let Some(from) = write.replace_from {
            let _ = write!(line, " truncate from {from}");
        }
        for entry in &write.entries {
            let _ = write!(line, " {}", entry.id());
        }
    }
    if before.hard_state != after.hard_state || before.durable != after.durable {
        let _ = write!(line, "; on disk: {}", disk(after));
    }
    if after.raft.commit > before.raft.commit {
        let _ = write!(line, "; commits up to {}", after.raft.commit);
    }
}

/// A node in a line.
pub(super) fn node(replica: &Replica) -> String {
    let (term, ..) = replica.raft.leadership();
    let commit = replica.raft.commit;
    format!("node {}: {} of term {term}, commit {commit}; on disk: {}", replica.node(), part(replica), disk(replica))
}

fn part(replica: &Replica) -> &'static str {
    match replica.raft.role() {
        crate::Role::Leader => "LEADER",
        crate::Role::Candidate => "candidate",
        crate::Role::Failed => "failed",
        _ => "follower",
    }
}

fn disk(replica: &Replica) -> String {
    let vote = replica.hard_state.voted_for.map_or("no vote".to_owned(), |node| format!("vote for {node}"));
    let log: Vec<_> = replica.durable.iter().map(|entry| entry.id().to_string()).collect();
    format!("term {} {vote}, log {}", replica.hard_state.term, log.join(" "))
}
