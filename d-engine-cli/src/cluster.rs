//! status: who leads, who is behind by how much, how many more nodes may fail.

use d_engine_net::{Client, NodeStatus};
use serde_json::{Value, json};

use crate::kv::Online;
use crate::output::{Failure, Format, print, print_error, print_table};

/// What asking one address gave.
struct Asked {
    address: String,
    /// Of the members' list; `None`: the address is one of the endpoints only.
    node: Option<u64>,
    answer: Result<NodeStatus, String>,
}

pub(crate) async fn status(online: Online) -> Result<(), Failure> {
    let client = online.client()?;
    let first = client.status().await.map_err(|error| {
        let endpoints = online.endpoints.join(", ");
        Failure::new(format!("none of {endpoints} answers: {error}"))
            .next("d-engine serve --data DIR --id N --listen HOST:PORT")
    })?;
    let asked = ask_everyone(&client, &online.endpoints, &first).await;
    match online.output {
        Format::Json => print(as_json(&asked)),
        format => print_rows(&asked, format),
    }
    Ok(())
}

/// Asks every member; while there is no cluster, the endpoints.
async fn ask_everyone(client: &Client, endpoints: &[String], first: &NodeStatus) -> Vec<Asked> {
    let mut targets: Vec<(Option<u64>, String)> =
        first.members.iter().map(|member| (Some(member.node), member.address.clone())).collect();
    // A cluster of one without an address, or nodes that wait for each other.
    if targets.is_empty() || targets.iter().all(|(_, address)| address.is_empty()) {
        targets = endpoints.iter().map(|endpoint| (None, endpoint.clone())).collect();
    }
    let mut answers = tokio::task::JoinSet::new();
    for (place, (_, address)) in targets.iter().enumerate() {
        let (client, address) = (client.clone(), address.clone());
        answers.spawn(async move { (place, client.status_of(&address).await) });
    }
    let mut asked: Vec<Asked> = targets
        .into_iter()
        .map(|(node, address)| Asked { address, node, answer: Err("no answer".to_owned()) })
        .collect();
    while let Some(answered) = answers.join_next().await {
        if let Ok((place, answer)) = answered {
            asked[place].answer = answer.map_err(|error| error.to_string());
        }
    }
    asked
}

/// The leader of the highest term among the answers.
fn leader(asked: &[Asked]) -> Option<&NodeStatus> {
    let answers = asked.iter().filter_map(|asked| asked.answer.as_ref().ok());
    answers.filter(|status| status.role == "leader").max_by_key(|status| status.term)
}

fn as_json(asked: &[Asked]) -> Value {
    let leader = leader(asked);
    let nodes: Vec<Value> = asked
        .iter()
        .map(|asked| match &asked.answer {
            Err(why) => json!({ "node": asked.node, "address": asked.address, "reachable": false, "error": why }),
            Ok(status) => json!({
                "node": status.node,
                "address": asked.address,
                "reachable": true,
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
        "cluster": asked.iter().find_map(|asked| asked.answer.as_ref().ok()).map(|status| format!("{:032x}", status.cluster)),
        "leader": leader.map(|leader| leader.node),
        "term": leader.map(|leader| leader.term),
        "nodes": nodes,
    })
}

fn print_rows(asked: &[Asked], format: Format) {
    let leader = leader(asked);
    let rows: Vec<Vec<String>> = asked.iter().map(|asked| row(asked, leader)).collect();
    if format == Format::Plain {
        rows.iter().for_each(|row| print(row.join("\t")));
        return;
    }
    print_table(&["NODE", "ADDRESS", "ROLE", "TERM", "COMMIT", "APPLIED", "BEHIND", "SYNC p50/p99", "NOTE"], &rows);
    print_error(summary(asked, leader));
}

fn row(asked: &Asked, leader: Option<&NodeStatus>) -> Vec<String> {
    let number = asked.node.map_or_else(|| "?".to_owned(), |node| node.to_string());
    let status = match &asked.answer {
        Ok(status) => status,
        Err(why) => {
            let dashes = ["unreachable", "-", "-", "-", "-", "-", why];
            return [number.as_str(), &asked.address].into_iter().chain(dashes).map(str::to_owned).collect();
        }
    };
    let behind =
        leader.map_or_else(|| "-".to_owned(), |leader| leader.commit.saturating_sub(status.applied).to_string());
    let sync = match (status.sync_micros_p50, status.sync_micros_p99) {
        (Some(p50), Some(p99)) => format!("{p50}/{p99} µs"),
        _ => "-".to_owned(),
    };
    let note = match &status.failure {
        Some(failure) => failure.clone(),
        None if !status.waiting_for.is_empty() => format!("waits for {}", joined(&status.waiting_for)),
        None => String::new(),
    };
    vec![
        status.node.to_string(),
        asked.address.clone(),
        status.role.clone(),
        status.term.to_string(),
        status.commit.to_string(),
        status.applied.to_string(),
        behind,
        sync,
        note,
    ]
}

/// One sentence: who leads, and how many more nodes may fail.
fn summary(asked: &[Asked], leader: Option<&NodeStatus>) -> String {
    let voters = asked.len();
    let healthy =
        asked.iter().filter(|asked| asked.answer.as_ref().is_ok_and(|status| status.failure.is_none())).count();
    let quorum = voters / 2 + 1;
    let Some(leader) = leader else {
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
    use super::*;

    fn node(node: u64, role: &str, term: u64, applied: u64) -> Asked {
        let status =
            NodeStatus { node, role: role.to_owned(), term, applied, commit: applied, ..NodeStatus::default() };
        Asked { address: format!("h{node}:1"), node: Some(node), answer: Ok(status) }
    }

    fn silent(node: u64) -> Asked {
        Asked { address: format!("h{node}:1"), node: Some(node), answer: Err("connection refused".to_owned()) }
    }

    #[test]
    fn a_deposed_leader_that_has_not_noticed_is_not_called_the_leader() {
        let asked = [node(1, "leader", 3, 9), node(2, "leader", 5, 12), node(3, "follower", 5, 10)];
        assert_eq!(leader(&asked).unwrap().node, 2);
        assert_eq!(row(&asked[2], leader(&asked))[6], "2");
    }

    #[test]
    fn the_summary_counts_how_many_more_may_fail() {
        let all = [node(1, "leader", 1, 5), node(2, "follower", 1, 5), node(3, "follower", 1, 5)];
        assert_eq!(summary(&all, leader(&all)), "node 1 leads; 1 more of the 3 nodes may fail");
        let two = [node(1, "leader", 1, 5), node(2, "follower", 1, 5), silent(3)];
        assert!(summary(&two, leader(&two)).contains("no further node may fail"));
        let one = [node(1, "follower", 1, 5), silent(2), silent(3)];
        assert!(summary(&one, leader(&one)).starts_with("no node leads; 1 of 3 answer, 2 are needed"));
    }
}
