//! status: who leads, who is behind by how much, how many more nodes may fail.

mod view;

use d_engine_net::{Client, NodeStatus};
use serde_json::{Value, json};

use crate::kv::Online;
use crate::output::{Failure, Format, print, print_error, print_table};
use view::{Answer, Row, View, bare, reference};

pub(crate) async fn status(online: Online) -> Result<(), Failure> {
    let client = online.client()?;
    let first = client.status().await.map_err(|error| {
        let endpoints = online.endpoints.join(", ");
        Failure::new(format!("none of {endpoints} answers: {error}"))
            .next("d-engine serve --data DIR --id N --listen HOST:PORT")
    })?;
    let view = View::of(&ask_everyone(&client, &online.endpoints, &first).await);
    match online.output {
        Format::Json => print(as_json(&view)),
        format => print_rows(&view, format),
    }
    match disagreement(&view) {
        None => Ok(()),
        Some((why, address)) => Err(Failure::new(why).next(format!("d-engine status --endpoints {address}"))),
    }
}

/// Asks the endpoints, and every member of the cluster that they show.
async fn ask_everyone(client: &Client, endpoints: &[String], first: &NodeStatus) -> Vec<Answer> {
    let members = |status: &NodeStatus| status.members.iter().map(|member| member.address.clone()).collect::<Vec<_>>();
    let mut answers = Vec::new();
    ask(client, [endpoints.to_vec(), members(first)].concat(), &mut answers).await;
    // The first to answer may belong to another cluster than the others.
    if let Some(addresses) = reference(&answers).map(members) {
        ask(client, addresses, &mut answers).await;
    }
    answers
}

/// Asks those addresses at the same time that have not been asked yet.
async fn ask(client: &Client, addresses: Vec<String>, answers: &mut Vec<Answer>) {
    let first = answers.len();
    for address in addresses {
        let known = answers.iter().any(|answer| bare(&answer.address) == bare(&address));
        // A cluster of one, embedded in a program, has no address.
        if !known && !address.is_empty() {
            answers.push(Answer { address, status: Err("no answer".to_owned()) });
        }
    }
    let mut asked = tokio::task::JoinSet::new();
    for (place, answer) in answers.iter().enumerate().skip(first) {
        let (client, address) = (client.clone(), answer.address.clone());
        asked.spawn(async move { (place, client.status_of(&address).await) });
    }
    while let Some(answered) = asked.join_next().await {
        if let Ok((place, status)) = answered {
            answers[place].status = status.map_err(|error| error.to_string());
        }
    }
}

/// Why the answers cannot all be meant, and an address to look at.
fn disagreement(view: &View) -> Option<(String, &str)> {
    let foreign: Vec<_> = view.foreign().collect();
    let (row, _) = foreign.first()?;
    let named = foreign.iter().map(|(row, status)| {
        format!("node {} at {} belongs to cluster {:032x}", status.node, row.address, status.cluster)
    });
    let why = format!(
        "the nodes asked belong to different clusters: {}, the others to {:032x}",
        named.collect::<Vec<_>>().join(", "),
        view.cluster
    );
    Some((why, &row.address))
}

fn as_json(view: &View) -> Value {
    let leader = view.leader();
    let nodes: Vec<Value> = view
        .rows
        .iter()
        .map(|row| match &row.status {
            Err(why) => json!({
                "node": row.node,
                "address": row.address,
                "reachable": false,
                "counts": false,
                "error": why,
            }),
            Ok(status) => json!({
                "node": status.node,
                "address": row.address,
                "reachable": true,
                "counts": row.counts,
                "cluster": format!("{:032x}", status.cluster),
                "note": row.note,
                "role": status.role,
                "term": status.term,
                "leader": status.leader,
                "commit": status.commit,
                "applied": status.applied,
                "persisted": status.persisted,
                "last": status.last,
                "failure": status.failure,
                "waiting_for": status.waiting_for,
                "version": status.version,
                "pid": status.pid,
                "sync_micros_p50": status.sync_micros_p50,
                "sync_micros_p99": status.sync_micros_p99,
            }),
        })
        .collect();
    json!({
        "cluster": format!("{:032x}", view.cluster),
        "leader": leader.map(|leader| leader.node),
        "term": leader.map(|leader| leader.term),
        "nodes": nodes,
    })
}

fn print_rows(view: &View, format: Format) {
    let rows: Vec<Vec<String>> = view.rows.iter().map(|row| cells(row, view.leader())).collect();
    if format == Format::Plain {
        rows.iter().for_each(|row| print(row.join("\t")));
        return;
    }
    print_table(&["NODE", "ADDRESS", "ROLE", "TERM", "COMMIT", "APPLIED", "BEHIND", "SYNC p50/p99", "NOTE"], &rows);
    print_error(summary(view));
}

fn cells(row: &Row, leader: Option<&NodeStatus>) -> Vec<String> {
    let number = row.node.map_or_else(|| "?".to_owned(), |node| node.to_string());
    let status = match &row.status {
        Ok(status) => status,
        Err(why) => {
            let dashes = ["unreachable", "-", "-", "-", "-", "-", why];
            return [number.as_str(), &row.address].into_iter().chain(dashes).map(str::to_owned).collect();
        }
    };
    let behind = leader.filter(|_| row.counts);
    let behind =
        behind.map_or_else(|| "-".to_owned(), |leader| leader.commit.saturating_sub(status.applied).to_string());
    let sync = match (status.sync_micros_p50, status.sync_micros_p99) {
        (Some(p50), Some(p99)) => format!("{p50}/{p99} µs"),
        _ => "-".to_owned(),
    };
    let waits = (!status.waiting_for.is_empty()).then(|| format!("waits for {}", joined(&status.waiting_for)));
    let notes = [Some(row.note.clone()), status.failure.clone().or(waits)];
    let notes: Vec<String> = notes.into_iter().flatten().filter(|note| !note.is_empty()).collect();
    vec![
        number,
        row.address.clone(),
        status.role.clone(),
        status.term.to_string(),
        status.commit.to_string(),
        status.applied.to_string(),
        behind,
        sync,
        notes.join("; "),
    ]
}

/// One sentence: who leads, and how many more nodes may fail.
fn summary(view: &View) -> String {
    let View { voters, healthy, .. } = *view;
    if view.cluster == 0 {
        return "no node that answers belongs to a cluster yet".to_owned();
    }
    let quorum = voters / 2 + 1;
    let Some(leader) = view.leader() else {
        return format!("no node leads; {healthy} of {voters} answer, {quorum} are needed");
    };
    match healthy.saturating_sub(quorum) {
        0 => format!(
            "node {} leads; no further node may fail: {healthy} of {voters} answer, {quorum} are needed",
            leader.node
        ),
        spare => format!("node {} leads; {spare} more of the {healthy} nodes may fail", leader.node),
    }
}

fn joined(nodes: &[u64]) -> String {
    nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use d_engine_net::MemberStatus;

    use super::*;

    fn answer(node: u64, role: &str, applied: u64) -> Answer {
        let member = |node| MemberStatus { node, address: format!("h{node}:1"), ..MemberStatus::default() };
        let members = (1..=3).map(member).collect();
        let status = NodeStatus {
            node,
            cluster: 7,
            members,
            role: role.to_owned(),
            applied,
            commit: applied,
            ..NodeStatus::default()
        };
        Answer { address: format!("h{node}:1"), status: Ok(status) }
    }

    #[test]
    fn the_summary_counts_how_many_more_may_fail() {
        let all = [answer(1, "leader", 12), answer(2, "follower", 12), answer(3, "follower", 10)];
        let view = View::of(&all);
        assert_eq!(summary(&view), "node 1 leads; 1 more of the 3 nodes may fail");
        assert_eq!(cells(&view.rows[2], view.leader())[6], "2");
        assert!(summary(&View::of(&all[..2])).contains("no further node may fail"));
        assert!(summary(&View::of(&all[1..2])).starts_with("no node leads; 1 of 3 answer, 2 are needed"));
    }

    #[test]
    fn nodes_of_different_clusters_are_a_failure_that_names_them() {
        let mut other = answer(2, "leader", 1);
        other.status.as_mut().unwrap().cluster = 8;
        let view = View::of(&[answer(1, "leader", 12), answer(3, "follower", 12), other]);
        let (why, address) = disagreement(&view).unwrap();
        assert!(why.contains("node 2 at h2:1 belongs to cluster 00000000000000000000000000000008"), "{why}");
        assert_eq!(address, "h2:1");
        assert!(disagreement(&View::of(&[answer(1, "leader", 12)])).is_none());
    }
}
