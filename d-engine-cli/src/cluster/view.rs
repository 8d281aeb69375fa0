//! What the answers of several addresses say about one cluster. No I/O.
//!
//! A member counts only by an answer with its node id and the cluster's id. Where that answer was got does not matter: a
//! node may be reached under another address than the one that the membership has, and another node under that one.

use std::cmp::Reverse;

use d_engine_net::{MemberStatus, NodeStatus};

/// What asking one address gave.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) address: String,
    pub(super) status: Result<NodeStatus, String>,
}

/// One line of what is shown.
#[derive(Debug)]
pub(super) struct Row {
    /// Of the membership, or who answered; `None`: nobody knows who would.
    pub(super) node: Option<u64>,
    pub(super) address: String,
    /// `Err`: in words why there is none of this node.
    pub(super) status: Result<NodeStatus, String>,
    /// It is a member of the cluster that answered.
    pub(super) counts: bool,
    pub(super) note: String,
}

/// One cluster: its members first, then everybody else who was asked.
#[derive(Debug)]
pub(super) struct View {
    /// 0: nobody belongs to one.
    pub(super) cluster: u128,
    pub(super) rows: Vec<Row>,
    /// Members with a vote.
    pub(super) voters: usize,
    /// Voters that answered and have not failed.
    pub(super) healthy: usize,
}

impl View {
    pub(super) fn of(answers: &[Answer]) -> Self {
        let Some(reference) = reference(answers) else {
            let rows = answers.iter().map(|answer| stranger(answer, 0)).collect();
            return Self { cluster: 0, rows, voters: 0, healthy: 0 };
        };
        let cluster = reference.cluster;
        let members = if cluster == 0 { &[] } else { &reference.members[..] };
        let mut shown = vec![false; answers.len()];
        let mut rows: Vec<Row> =
            members.iter().map(|member| row_of_member(member, cluster, answers, &mut shown)).collect();
        for (place, answer) in answers.iter().enumerate() {
            if !shown[place] && !is_second_way(answer, &rows) {
                rows.push(stranger(answer, cluster));
            }
        }
        let votes = |row: &&Row| members.iter().any(|member| row.node == Some(member.node) && member.kind != "learner");
        let sound = |row: &&Row| row.counts && row.status.as_ref().is_ok_and(|status| status.failure.is_none());
        let healthy = rows.iter().filter(sound).filter(votes).count();
        let voters = members.iter().filter(|member| member.kind != "learner").count();
        Self { cluster, rows, voters, healthy }
    }

    /// The leader of the highest term among the members that answered.
    pub(super) fn leader(&self) -> Option<&NodeStatus> {
        let answers = self.rows.iter().filter(|row| row.counts).filter_map(|row| row.status.as_ref().ok());
        answers.filter(|status| status.role == "leader").max_by_key(|status| status.term)
    }

    /// Nodes that belong to another cluster.
    pub(super) fn foreign(&self) -> impl Iterator<Item = (&Row, &NodeStatus)> {
        let answers = self.rows.iter().filter_map(|row| Some((row, row.status.as_ref().ok()?)));
        answers.filter(|(_, status)| status.cluster != 0 && status.cluster != self.cluster)
    }
}

/// An answer from the cluster that is meant: the one with the most nodes that answer, then with the most members.
pub(super) fn reference(answers: &[Answer]) -> Option<&NodeStatus> {
    let found = || answers.iter().filter_map(|answer| answer.status.as_ref().ok());
    let nodes = |cluster: u128| {
        let mut nodes: Vec<u64> = found().filter(|other| other.cluster == cluster).map(|other| other.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.len()
    };
    // Of equal ones the first: it is what was asked for first.
    found().min_by_key(|status| Reverse((status.cluster != 0, nodes(status.cluster), status.members.len())))
}

/// An address as it is compared.
pub(super) fn bare(address: &str) -> &str {
    address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/')
}

fn row_of_member(member: &MemberStatus, cluster: u128, answers: &[Answer], shown: &mut [bool]) -> Row {
    let here = |answer: &Answer| bare(&answer.address) == bare(&member.address);
    let is_member =
        |answer: &Answer| answer.status.as_ref().is_ok_and(|s| s.node == member.node && s.cluster == cluster);
    let at_its_address = answers.iter().position(here);
    let found =
        at_its_address.filter(|place| is_member(&answers[*place])).or_else(|| answers.iter().position(is_member));
    let row = |address: &str, status, counts, note| Row {
        node: Some(member.node),
        address: address.to_owned(),
        status,
        counts,
        note,
    };
    if let Some(place) = found {
        shown[place] = true;
        if let Some(silent) = at_its_address.filter(|place| answers[*place].status.is_err()) {
            shown[silent] = true;
        }
        let Answer { address, status } = &answers[place];
        let moved = !member.address.is_empty() && at_its_address != Some(place);
        let note = if moved { format!("members and clients look for it at {}", member.address) } else { String::new() };
        return row(address, status.clone(), true, note);
    }
    let Some(place) = at_its_address else {
        return row(&member.address, Err("was not asked".to_owned()), false, String::new());
    };
    shown[place] = true;
    match &answers[place].status {
        Err(why) => row(&member.address, Err(why.clone()), false, String::new()),
        Ok(status) if status.cluster == cluster => {
            let note = format!("answers as node {}, member is node {}", status.node, member.node);
            // That node has a line of its own.
            row(&member.address, Err(note), false, String::new())
        }
        Ok(status) => {
            let who = match status.node == member.node {
                true => String::new(),
                false => format!("answers as node {}, member is node {}; ", status.node, member.node),
            };
            let note = format!("{who}{}", foreign_note(status));
            row(&member.address, Ok(status.clone()), false, note)
        }
    }
}

/// The same node, reached under another address.
fn is_second_way(answer: &Answer, rows: &[Row]) -> bool {
    let same =
        |a: &NodeStatus, b: &NodeStatus| (a.node, a.cluster, a.incarnation) == (b.node, b.cluster, b.incarnation);
    let Ok(status) = &answer.status else { return false };
    rows.iter().any(|row| row.status.as_ref().is_ok_and(|shown| same(shown, status)))
}

fn stranger(answer: &Answer, cluster: u128) -> Row {
    let note = match &answer.status {
        Ok(status) if status.cluster != cluster => foreign_note(status),
        Ok(status) if cluster != 0 => format!("a second directory of node {}, or no member", status.node),
        _ => String::new(),
    };
    let node = answer.status.as_ref().ok().map(|status| status.node);
    Row { node, address: answer.address.clone(), status: answer.status.clone(), counts: false, note }
}

fn foreign_note(status: &NodeStatus) -> String {
    match status.cluster {
        0 => "belongs to no cluster".to_owned(),
        other => format!("belongs to another cluster, {other:032x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members() -> Vec<MemberStatus> {
        let member =
            |node| MemberStatus { node, address: format!("h{node}:1"), kind: "voter".into(), ..Default::default() };
        (1..=3).map(member).collect()
    }

    fn answer(address: &str, node: u64, cluster: u128) -> Answer {
        let incarnation = cluster * 10 + u128::from(node);
        let members = if cluster == 7 { members() } else { vec![] };
        let status = NodeStatus { node, cluster, incarnation, members, role: "follower".into(), ..Default::default() };
        Answer { address: address.to_owned(), status: Ok(status) }
    }

    fn leading(mut answer: Answer, term: u64) -> Answer {
        if let Ok(status) = &mut answer.status {
            (status.role, status.term) = ("leader".into(), term);
        }
        answer
    }

    fn silent(address: &str) -> Answer {
        Answer { address: address.to_owned(), status: Err("connection refused".to_owned()) }
    }

    #[test]
    fn a_deposed_leader_that_has_not_noticed_is_not_called_the_leader() {
        let view =
            View::of(&[leading(answer("h1:1", 1, 7), 3), leading(answer("h2:1", 2, 7), 5), answer("h3:1", 3, 7)]);
        assert_eq!(view.leader().unwrap().node, 2);
    }

    #[test]
    fn nodes_of_other_clusters_do_not_count_even_if_they_lead() {
        let view = View::of(&[leading(answer("h3:1", 3, 8), 9), answer("h1:1", 1, 7), answer("h2:1", 2, 7)]);
        assert_eq!((view.cluster, view.voters, view.healthy), (7, 3, 2));
        assert!(view.leader().is_none());
        assert!(view.rows[2].note.starts_with("belongs to another cluster, 0000"));
        assert_eq!(view.foreign().count(), 1);
        let view = View::of(&[answer("h3:1", 3, 0), answer("h1:1", 1, 7), silent("h2:1")]);
        assert_eq!((view.healthy, view.rows[2].note.as_str()), (1, "belongs to no cluster"));
        assert_eq!(view.foreign().count(), 0);
    }

    #[test]
    fn the_cluster_that_is_meant_is_the_one_with_more_nodes_then_with_more_members() {
        assert_eq!(reference(&[answer("x", 3, 8), answer("h1:1", 1, 7), answer("h2:1", 2, 7)]).unwrap().cluster, 7);
        assert_eq!(reference(&[answer("x", 3, 8), answer("h1:1", 1, 7)]).unwrap().cluster, 7);
        assert_eq!(reference(&[answer("x", 3, 0), answer("y", 2, 0), answer("h1:1", 1, 7)]).unwrap().cluster, 7);
        assert_eq!(reference(&[answer("x", 3, 9), answer("y", 3, 8)]).unwrap().cluster, 9);
    }

    #[test]
    fn a_member_is_found_under_another_address_and_listed_once() {
        let answers = [
            answer("h1:1", 1, 7),
            answer("http://h2:1/", 2, 7),
            silent("h3:1"),
            answer("new:3", 3, 7),
            answer("alias:1", 1, 7),
        ];
        let view = View::of(&answers);
        assert_eq!((view.rows.len(), view.healthy), (3, 3), "{view:?}");
        assert_eq!(
            (view.rows[2].address.as_str(), view.rows[2].note.as_str()),
            ("new:3", "members and clients look for it at h3:1")
        );
    }

    #[test]
    fn another_node_at_a_members_address_is_named() {
        let view = View::of(&[answer("h1:1", 1, 7), silent("h2:1"), answer("h3:1", 2, 7)]);
        assert_eq!(view.healthy, 2);
        assert_eq!(view.rows[2].status.as_ref().unwrap_err(), "answers as node 2, member is node 3");
        assert_eq!(view.rows[1].address, "h3:1");
    }

    #[test]
    fn a_second_directory_of_a_node_is_no_second_voice() {
        let mut copy = answer("copy:1", 1, 7);
        copy.status.as_mut().unwrap().incarnation = 99;
        let view = View::of(&[answer("h1:1", 1, 7), copy, silent("h2:1"), silent("h3:1")]);
        assert_eq!(view.healthy, 1);
        assert!(view.rows[3].note.contains("second directory"));
    }

    #[test]
    fn nodes_that_wait_for_each_other_are_listed_as_they_are() {
        let view = View::of(&[answer("a", 1, 0), answer("b", 2, 0), silent("c")]);
        assert_eq!((view.cluster, view.voters, view.rows.len()), (0, 0, 3));
        assert!(view.rows.iter().all(|row| row.note.is_empty()));
    }
}
