//! A cluster of one grows to three while it serves: two nodes with empty directories ask to be added, get the state, and
//! vote; then the first one leaves, and the other two go on.
#![allow(clippy::print_stdout, reason = "an example says what it does")]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use d_engine::{ClientError, Node, NodeConfig};
use tokio::sync::watch;

const READY: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    // Port 0: the system chooses a free one, which the node then tells the others.
    let first = start(NodeConfig::new(1, dir.path().join("n1")).listen("127.0.0.1:0")).await?;
    first.wait_ready(READY).await?;
    first.put("k", "from the days of one").await?;
    // The log before a snapshot may go: newcomers then begin with the snapshot.
    println!("one node serves; its snapshot is of entry {}", first.snapshot().await?.index);

    let address = first.status().members.first().map(|member| member.address.clone()).ok_or("a member of one")?;
    let second = join(2, dir.path(), &address).await?;
    let third = join(3, dir.path(), &address).await?;
    for node in [&second, &third] {
        until_voter(&first, node.id()).await?;
        println!("node {} has caught up and votes", node.id());
    }

    // It hands leadership over before it ends.
    first.shutdown().await?;
    println!("the first node has left");
    while let Err(error) = third.put("k", "from the days of two").await {
        println!("a moment: {error}");
    }
    let got = second.get("k").await?;
    assert_eq!(got.value.as_deref(), Some(&b"from the days of two"[..]));
    println!("the other two go on");
    second.shutdown().await?;
    third.shutdown().await?;
    Ok(())
}

async fn start(config: NodeConfig) -> Result<Node, Box<dyn Error>> {
    // Nobody fires this watch: the nodes are shut down one by one.
    let (_, shutdown) = watch::channel(());
    Ok(d_engine::open(config, shutdown).await?.start().await?)
}

/// A node with an empty directory, which asks at `address` to be added.
async fn join(id: u64, dir: &Path, address: &str) -> Result<Node, Box<dyn Error>> {
    start(NodeConfig::new(id, dir.join(format!("n{id}"))).listen("127.0.0.1:0").join(address)).await
}

/// Waits until `at` knows the node as a voter: the leader promotes a learner once it has caught up.
async fn until_voter(at: &Node, node: u64) -> Result<(), ClientError> {
    let is_voter = || at.status().members.iter().any(|member| member.node == node && member.kind == "voter");
    while !is_voter() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
