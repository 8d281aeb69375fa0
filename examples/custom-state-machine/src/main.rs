//! Three replicas of a bank in one program: tasks move money about through all of them, the leader is cut off meanwhile, and
//! the total never changes.
#![allow(clippy::print_stdout, reason = "an example says what it does")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bank::{Bank, Moved, Query, TOTAL, Transfer, VAULT};
use d_engine::file::FileStorageEngine;
use d_engine::{ClientError, LocalRouter, Node, NodeBuilder, NodeConfig};
use tokio::sync::watch;

const PEERS: [(u64, &str); 3] = [(1, "one:1"), (2, "two:1"), (3, "three:1")];
const ACCOUNTS: u64 = 8;
const TRANSFERS: u64 = 50;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let router = LocalRouter::new();
    let (_stop, shutdown) = watch::channel(());
    let mut nodes = Vec::new();
    for (id, _) in PEERS {
        let data = dir.path().join(format!("n{id}"));
        let node = NodeBuilder::new(NodeConfig::new(id, &data).peers(PEERS), shutdown.clone())
            .storage_engine(Arc::new(FileStorageEngine::open(data.join("log"))?))
            .state_machine(Arc::new(Bank::open(&data.join("bank"))?))
            .in_process(&router)
            .start()
            .await?;
        nodes.push(node);
    }
    for node in &nodes {
        node.wait_ready(Duration::from_secs(30)).await?;
    }
    for n in 0..ACCOUNTS {
        propose(&nodes[0], Transfer::new(VAULT, account(n), 100)).await?;
    }

    let leader = nodes[0].status().leader.ok_or("a ready node knows its leader")?;
    let tasks: Vec<_> = nodes.iter().map(|node| tokio::spawn(move_money(node.clone()))).collect();
    router.isolate(leader);
    println!("node {leader} leads and is cut off while money moves");
    tokio::time::sleep(Duration::from_secs(2)).await;
    router.heal(leader);
    let mut in_doubt = 0;
    for task in tasks {
        in_doubt += task.await?;
    }
    println!("{} transfers, {in_doubt} of them with an unknown fate", 3 * TRANSFERS);

    for node in &nodes {
        let total = ask(node, &Query::Total).await?;
        assert_eq!(total, TOTAL, "money was made or lost on node {}", node.id());
        println!(
            "node {}: {total} in all, {} with the first account",
            node.id(),
            ask(node, &Query::Balance(account(0))).await?
        );
    }
    for node in &nodes {
        node.shutdown().await?;
    }
    Ok(())
}

fn account(n: u64) -> String {
    format!("account {}", n % ACCOUNTS)
}

/// Moves money in a circle; how many transfers had an unknown fate.
async fn move_money(node: Node) -> u64 {
    let mut in_doubt = 0;
    for n in 0..TRANSFERS {
        let transfer = Transfer::new(account(n), account(n + node.id()), 7 * n % 40);
        match propose(&node, transfer).await {
            Ok(_) => {}
            Err(ClientError::Unknown) => in_doubt += 1,
            // It had no effect: the money stays where it is.
            Err(error) => println!("node {}: {error}", node.id()),
        }
    }
    in_doubt
}

async fn propose(node: &Node, transfer: Transfer) -> Result<Moved, ClientError> {
    let reply = node.propose(transfer.encode()).await?;
    // Applied, in whatever way: an answer that cannot be read leaves that open.
    Moved::decode(&reply.response).map_err(|_| ClientError::Unknown)
}

async fn ask(node: &Node, query: &Query) -> Result<u64, Box<dyn Error>> {
    let reply = node.read(query.encode()).await?;
    Ok(Query::decode_answer(&reply.response)?)
}
