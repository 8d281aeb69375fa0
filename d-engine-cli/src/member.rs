//! member, leader: what an operator changes, through any node of the cluster.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use d_engine_net::{Client, ClientError, MemberStatus, MembershipError, NodeStatus, Operation, Reason};
use serde_json::{Value, json};

use crate::kv::Online;
use crate::output::{Failure, Format, print, print_error, print_table};

/// Between two looks at how far a new member is.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(crate) enum Member {
    /// Lists the members
    List(Online),
    /// Adds a node that runs and waits to be added (`serve --join`), shows how it catches up, and lets it vote
    Add(Add),
    /// Lets a learner vote that has caught up
    Promote(One),
    /// Removes a member; refuses what would lose the quorum
    Remove(One),
    /// Takes a dead or wiped member out and another node in, in one step; both may have the same id
    Replace(Replace),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Leader {
    /// Says who leads
    Show(Online),
    /// Hands leadership over to a voter
    Transfer(One),
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Id of the new member
    node: u64,
    /// Where it is reached
    #[arg(value_name = "HOST:PORT")]
    address: String,
    /// Leaves it without a vote
    #[arg(long)]
    learner: bool,
    #[command(flatten)]
    online: Online,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// Its id
    node: u64,
    #[command(flatten)]
    online: Online,
}

#[derive(Debug, Args)]
pub(crate) struct Replace {
    /// Id of the member that goes
    old: u64,
    /// Id of the node that comes
    new: u64,
    /// Where it is reached; left out, where the old one was
    #[arg(value_name = "HOST:PORT")]
    address: Option<String>,
    #[command(flatten)]
    online: Online,
}

impl Member {
    pub(crate) fn output(&self) -> Format {
        match self {
            Self::List(online) => online.output,
            Self::Add(add) => add.online.output,
            Self::Promote(one) | Self::Remove(one) => one.online.output,
            Self::Replace(replace) => replace.online.output,
        }
    }
}

impl Leader {
    pub(crate) fn output(&self) -> Format {
        match self {
            Self::Show(online) => online.output,
            Self::Transfer(one) => one.online.output,
        }
    }
}

pub(crate) async fn member(command: Member) -> Result<(), Failure> {
    match command {
        Member::List(online) => list(&online).await,
        Member::Add(add) => {
            let Add { node, address, learner, online } = add;
            let operation = Operation::AddLearner { node, address, promote: !learner };
            come_in(&online, node, operation, !learner).await
        }
        Member::Promote(One { node, online }) => {
            operate(&online, Operation::Promote { node }, &format!("node {node} votes")).await
        }
        Member::Remove(One { node, online }) => {
            let status = status_of_leader(&online.client()?).await?;
            // To the cluster that is done already. Whoever mistyped the id wants to know.
            let done = match status.members.iter().any(|member| member.node == node) {
                true => format!("node {node} is removed"),
                false => format!("node {node} is no member of this cluster: nothing to do"),
            };
            operate(&online, Operation::Remove { node }, &done).await
        }
        Member::Replace(Replace { old, new, address, online }) => {
            let address = match address {
                Some(address) => address,
                None => address_of(&online, old).await?,
            };
            let operation = Operation::Replace { old, node: new, address, promote: true };
            come_in(&online, new, operation, true).await
        }
    }
}

pub(crate) async fn leader(command: Leader) -> Result<(), Failure> {
    match command {
        Leader::Show(online) => {
            let status = status_of_leader(&online.client()?).await?;
            let address = status.members.iter().find(|member| member.node == status.node).map(|m| m.address.clone());
            let address = address.unwrap_or_default();
            match online.output {
                Format::Json => print(json!({ "leader": status.node, "address": address, "term": status.term })),
                Format::Plain => print(format_args!("{}\t{address}\t{}", status.node, status.term)),
                Format::Table => print(format_args!("node {} at {address} leads in term {}", status.node, status.term)),
            }
            Ok(())
        }
        Leader::Transfer(One { node, online }) => {
            operate(&online, Operation::Transfer { to: node }, &format!("node {node} takes over")).await
        }
    }
}

async fn operate(online: &Online, operation: Operation, done: &str) -> Result<(), Failure> {
    let operated = online.client()?.operate(operation).await.map_err(|error| failure(&error))?;
    said(online.output, done, operated.index);
    Ok(())
}

pub(crate) fn said(format: Format, done: &str, index: u64) {
    match format {
        Format::Json => print(json!({ "done": done, "index": index })),
        Format::Plain => print(index),
        Format::Table => print(done),
    }
}

/// Adds a member, shows how it catches up, and waits until it votes if it is to.
async fn come_in(online: &Online, node: u64, operation: Operation, votes: bool) -> Result<(), Failure> {
    let client = online.client()?;
    let added = client.operate(operation).await.map_err(|error| failure(&error))?;
    if !votes {
        said(online.output, &format!("node {node} is a learner"), added.index);
        return Ok(());
    }
    print_error(format_args!("node {node} is a learner and catches up"));
    let mut shown = String::new();
    let mut last_progress = Instant::now();
    loop {
        // During an election nobody leads for a moment.
        if let Ok(status) = status_of_leader(&client).await {
            let Some(member) = status.members.iter().find(|member| member.node == node) else {
                return Err(Failure::new(format!("node {node} was removed meanwhile")).next("d-engine member list"));
            };
            if member.kind == "voter" {
                said(online.output, &format!("node {node} votes"), added.index);
                return Ok(());
            }
            let progress = progress(member, &status);
            if progress != shown {
                print_error(format_args!("node {node}: {progress}"));
                (shown, last_progress) = (progress, Instant::now());
            }
            if member.matched.is_some_and(|matched| matched >= status.commit) {
                // The leader does it by itself unless it is another one by now.
                let _ = client.operate(Operation::Promote { node }).await;
            }
        }
        if last_progress.elapsed() > Duration::from_secs_f64(online.timeout.max(30.0)) {
            let why = format!(
                "node {node} is a learner and makes no progress; the leader lets it vote once it has caught up"
            );
            return Err(Failure::new(why).next("d-engine status"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How far a member is, in percent.
fn progress(member: &MemberStatus, leader: &NodeStatus) -> String {
    let percent = |done: u64, total: u64| (done.min(total) * 100).checked_div(total).unwrap_or(100);
    match member.snapshot {
        Some(snapshot) => format!("snapshot {} %", percent(snapshot.done, snapshot.total)),
        None => format!("log {} %", percent(member.matched.unwrap_or(0), leader.last)),
    }
}

async fn list(online: &Online) -> Result<(), Failure> {
    let client = online.client()?;
    let status = match status_of_leader(&client).await {
        Ok(status) => status,
        Err(_) => client.status().await.map_err(|error| failure(&error))?,
    };
    if online.output == Format::Json {
        print(Value::from(status.members.iter().map(|member| as_json(member, &status)).collect::<Vec<_>>()));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = status.members.iter().map(|member| row(member, &status)).collect();
    if online.output == Format::Plain {
        rows.iter().for_each(|row| print(row.join("\t")));
    } else {
        print_table(&["NODE", "ADDRESS", "KIND", "BEHIND", "NOTE"], &rows);
    }
    Ok(())
}

fn as_json(member: &MemberStatus, status: &NodeStatus) -> Value {
    json!({
        "node": member.node,
        "address": member.address,
        "kind": member.kind,
        "matched": member.matched,
        "silent_for_ms": member.silent_for_ms,
        "leads": status.leader == Some(member.node),
        "incarnation": format!("{:032x}", member.incarnation),
    })
}

fn row(member: &MemberStatus, status: &NodeStatus) -> Vec<String> {
    let leads = status.leader == Some(member.node);
    let behind = match member.matched {
        Some(matched) => status.last.saturating_sub(matched).to_string(),
        None if leads => "0".to_owned(),
        None => "?".to_owned(),
    };
    let note = match member.snapshot {
        _ if leads => "leads".to_owned(),
        Some(_) => progress(member, status),
        None => String::new(),
    };
    vec![member.node.to_string(), member.address.clone(), member.kind.clone(), behind, note]
}

async fn address_of(online: &Online, node: u64) -> Result<String, Failure> {
    let status = online.client()?.status().await.map_err(|error| failure(&error))?;
    let member = status.members.into_iter().find(|member| member.node == node);
    member.map(|member| member.address).ok_or_else(|| failure(&MembershipError::UnknownMember { node }.into()))
}

/// The status of the node that leads.
async fn status_of_leader(client: &Client) -> Result<NodeStatus, Failure> {
    let status = client.status().await.map_err(|error| failure(&error))?;
    let Some(leader) = status.leader else {
        return Err(Failure::new("no leader is known").next("d-engine status"));
    };
    if leader == status.node {
        return Ok(status);
    }
    let address = status.members.iter().find(|member| member.node == leader).map(|member| member.address.clone());
    let address = address.unwrap_or_default();
    client.status_of(&address).await.map_err(|error| failure(&error))
}

/// What an operator should try next.
pub(crate) fn failure(error: &ClientError) -> Failure {
    let failure = Failure::of_request(error, "d-engine member list");
    match error {
        ClientError::Rejected { why: Reason::Membership(why) } => Failure::new(why).next(match why {
            MembershipError::OtherDirectory { node } => format!("d-engine member replace {node} {node}"),
            MembershipError::OtherCluster { .. } | MembershipError::Unreachable { .. } => {
                "d-engine serve --data EMPTY_DIR --id N --listen HOST:PORT --join HOST:PORT".to_owned()
            }
            MembershipError::QuorumLost { .. } | MembershipError::NotCaughtUp { .. } => "d-engine status".to_owned(),
            _ => "d-engine member list".to_owned(),
        }),
        _ => failure,
    }
}
