//! Three replicas in one program, joined without a network: a write through one is read through another, and the
//! majority goes on when the leader is cut off.
#![allow(clippy::print_stdout, reason = "an example says what it does")]

use std::error::Error;
use std::time::Duration;

use d_engine::{LocalRouter, Node, NodeConfig};
use tokio::sync::watch;

const PEERS: [(u64, &str); 3] = [(1, "one:1"), (2, "two:1"), (3, "three:1")];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let router = LocalRouter::new();
    // Ends every node when it fires or is dropped.
    let (_stop, shutdown) = watch::channel(());
    let mut nodes = Vec::new();
    for (id, _) in PEERS {
        let config = NodeConfig::new(id, dir.path().join(format!("n{id}"))).peers(PEERS);
        nodes.push(d_engine::open(config, shutdown.clone()).await?.in_process(&router).start().await?);
    }
    for node in &nodes {
        node.wait_ready(Duration::from_secs(30)).await?;
    }

    nodes[0].put("k", "first").await?;
    assert_eq!(nodes[2].get("k").await?.value.as_deref(), Some(&b"first"[..]));

    let leader = nodes[0].status().leader.ok_or("a ready node knows its leader")?;
    router.isolate(leader);
    println!("node {leader} leads and is cut off");
    let rest: Vec<&Node> = nodes.iter().filter(|node| node.id() != leader).collect();
    write_through(rest[0], "k", "second").await?;
    assert_eq!(rest[1].get("k").await?.value.as_deref(), Some(&b"second"[..]));
    println!("the other two go on");

    router.heal(leader);
    for node in &nodes {
        assert_eq!(node.get("k").await?.value.as_deref(), Some(&b"second"[..]));
    }
    println!("all three agree again");
    for node in &nodes {
        node.shutdown().await?;
    }
    Ok(())
}

/// Writes again until the write is acknowledged. During an election a write may be refused, or its fate be unknown;
/// this one may be repeated, because it sets the same value.
async fn write_through(node: &Node, key: &'static str, value: &'static str) -> Result<(), Box<dyn Error>> {
    for _ in 0..10 {
        if node.put(key, value).await.is_ok() {
            return Ok(());
        }
    }
    Err("the majority does not accept writes".into())
}
