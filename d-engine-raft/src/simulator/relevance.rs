//! Which lines of a trace lead to a broken law: no heartbeats, no nodes that nobody involved has listened to.

use std::collections::{BTreeMap, BTreeSet};

use super::trace::{Line, Says, What};
use crate::NodeId;

/// Lines that are shown of a long way to a breach.
const SHOWN: usize = 120;

/// The lines, oldest first, that may have led to the breach that `detail` describes.
pub(super) fn leading_to(lines: &[Line], detail: &str) -> Vec<Line> {
    let mut involved = named_in(detail);
    let end = lines.last().map_or(0, |line| line.step);
    involved.extend(lines.iter().rev().take_while(|line| line.step == end).map(|line| line.node));
    let is_about_reads = detail.contains("read");
    let fresh = fresh_acknowledgements(lines);
    let mut arrived = BTreeSet::new();
    let mut kept = Vec::new();
    for (number, line) in lines.iter().enumerate().rev() {
        if is_routine(line, is_about_reads) || !fresh.contains(&number) {
            continue;
        }
        if let What::Sent(says) = line.what
            && arrived.contains(&(line.n[0], line.node, says as u8, line.n[1..].to_vec()))
        {
            continue;
        }
        let concerns = involved.contains(&line.node);
        if let What::Got(says) = line.what
            && concerns
        {
            involved.insert(line.n[0]);
            arrived.insert((line.node, line.n[0], says as u8, line.n[1..].to_vec()));
        }
        // The end of all faults is no node's.
        if concerns || line.node == 0 {
            kept.push(*line);
        }
        if kept.len() == SHOWN {
            break;
        }
    }
    kept.reverse();
    kept
}

/// The nodes that a breach names: numbers that follow `node`, `nodes` or `leader`.
fn named_in(detail: &str) -> BTreeSet<NodeId> {
    let mut named = BTreeSet::new();
    let mut follows = false;
    for word in detail.split([' ', ':', ',', ';']) {
        match word.parse() {
            Ok(node) if follows => drop(named.insert(node)),
            _ => follows = matches!(word, "node" | "nodes" | "leader" | "leads") || follows && word == "and",
        }
    }
    named
}

/// What goes on all the time and decides nothing by itself.
fn is_routine(line: &Line, is_about_reads: bool) -> bool {
    match line.what {
        What::TimedOut | What::Hello | What::LogAsked | What::LogRead | What::Applying => true,
        What::Sent(says) | What::Got(says) | What::Lost(says) => match says {
            Says::Append => line.n[4] == 0,
            Says::AppendReply => line.n[2] == 0,
            Says::ReadIndex | Says::ReadIndexReply => !is_about_reads,
            _ => false,
        },
        _ => false,
    }
}

/// All lines but acknowledgements that say what the one before them said.
fn fresh_acknowledgements(lines: &[Line]) -> BTreeSet<usize> {
    let mut newest = BTreeMap::new();
    let is_fresh = |line: &Line| match line.what {
        What::Sent(Says::AppendReply) | What::Got(Says::AppendReply) | What::Lost(Says::AppendReply)
            if line.n[2] == 1 =>
        {
            let way = (line.node, line.n[0], matches!(line.what, What::Got(_)));
            newest.insert(way, (line.n[1], line.n[3])) != Some((line.n[1], line.n[3]))
        }
        _ => true,
    };
    let fresh = lines.iter().map(is_fresh).collect::<Vec<_>>();
    fresh.into_iter().enumerate().filter(|(_, fresh)| *fresh).map(|(number, _)| number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breach_names_its_nodes() {
        assert_eq!(named_in("nodes 1 and 3 both lead term 7"), BTreeSet::from([1, 3]));
        assert_eq!(named_in("node 2 commits 4.7, which 1 of 3 voters hold"), BTreeSet::from([2]));
        assert_eq!(named_in("read #12 may see index 7"), BTreeSet::new());
    }

    #[test]
    fn heartbeats_and_bystanders_are_left_out() {
        let line = |step, node, what, n: [u64; 8]| Line { at: step, step, node, what, n };
        let lines = [
            line(1, 3, What::Proposed, [7; 8]),
            line(2, 2, What::Sent(Says::VoteReply), [1, 5, 1, 0, 0, 0, 0, 0]),
            line(3, 1, What::Got(Says::VoteReply), [2, 5, 1, 0, 0, 0, 0, 0]),
            line(4, 1, What::Sent(Says::Append), [2, 5, 0, 0, 0, 0, 0, 0]),
            line(5, 2, What::Crashed, [0; 8]),
            line(6, 1, What::Committed, [9; 8]),
        ];
        let steps: Vec<_> = leading_to(&lines, "node 1 commits").iter().map(|line| line.step).collect();
        assert_eq!(steps, [3, 6], "node 2 matters for what it said before, and node 3 not at all");
    }
}
