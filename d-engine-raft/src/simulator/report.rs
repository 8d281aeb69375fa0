//! What a broken law leaves to read: what led to it, and the state of every node.

use std::time::Duration;

use d_engine_core::{MemberKind, Membership};

use super::node::{Node, glance};
use super::trace::ROLES;
use super::world::World;
use super::{Breach, Violation};

impl World {
    pub(super) fn violation(&self, breach: Breach) -> Box<Violation> {
        let trace = self.trace.leading_to(&breach.detail);
        Box::new(Violation {
            seed: self.seed,
            step: self.steps,
            time: Duration::from_micros(self.now),
            faults_until: Duration::from_micros(self.faults_until.unwrap_or(self.now)),
            property: breach.property.to_owned(),
            detail: breach.detail,
            trace,
            nodes: self.nodes.iter().map(state).collect(),
        })
    }

    /// A panic inside a node, as a violation.
    pub(super) fn panicked(&self, panic: &(dyn std::any::Any + Send)) -> Box<Violation> {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        self.violation(Breach::new("No Panic", text))
    }
}

/// A node in one line.
fn state(node: &Node) -> String {
    let part = match node.driver.as_ref().map(glance) {
        Some(glance) => format!(
            "{} of term {}, commit {}, applied {}{}",
            ROLES[glance.role as usize],
            glance.term,
            glance.commit,
            glance.applied,
            if node.is_paused { ", paused" } else { "" }
        ),
        None => "down".to_owned(),
    };
    let disk = node.disk.hard_state.map_or("no hard state".to_owned(), |saved| {
        let vote = saved.voted_for.map_or("no vote".to_owned(), |vote| format!("vote for {vote}"));
        let formed = if saved.identity.is_some_and(|identity| identity.formed) { "" } else { ", unformed" };
        format!("term {} {vote}{formed}", saved.term)
    });
    let (log, shown) = (&node.disk.durable, node.disk.visible.last());
    let unsynced = if shown == log.last() { String::new() } else { format!(" (shows {shown})") };
    let snapshot = node.shelf.newest.as_ref().map_or(String::new(), |snapshot| format!(", snapshot {}", snapshot.at));
    let incarnation = node.incarnation().map_or("-".to_owned(), short);
    let members = node.driver.as_ref().and_then(|driver| driver.raft().membership());
    let members = members.map_or("no membership".to_owned(), roll);
    let purged = log.purged().index;
    format!(
        "node {} #{incarnation}: {part}; disk: {disk}, log {purged}..{}{unsynced}{snapshot}; {members}",
        node.id,
        log.last()
    )
}

/// The beginning of an incarnation, enough to tell it from others.
fn short(incarnation: u128) -> String {
    format!("{:04x}", incarnation >> 112)
}

/// A membership in a few words, such as `voters 1#3f2a 2#90b1, learner 4#11c0`.
pub(super) fn roll(membership: &Membership) -> String {
    let kinds = [
        (MemberKind::Voter, "voters"),
        (MemberKind::Learner, "learners"),
        (MemberKind::Joining, "joining"),
        (MemberKind::Leaving, "leaving"),
        (MemberKind::Demoting, "demoting"),
    ];
    let named = |(kind, name): (MemberKind, &str)| {
        let members = membership.members.iter().filter(|member| member.kind == kind);
        let list: Vec<_> = members.map(|member| format!("{}#{}", member.node, short(member.incarnation))).collect();
        (!list.is_empty()).then(|| format!("{name} {}", list.join(" ")))
    };
    let level = membership.settings.feature_level;
    let level = if level > 1 { format!(", level {level}") } else { String::new() };
    kinds.into_iter().filter_map(named).collect::<Vec<_>>().join(", ") + &level
}
