//! Three nodes over gRPC, log and data on sled: one is stopped, the other two go on, and it catches up from its disk.
#![allow(clippy::print_stdout, reason = "an example says what it does")]

use std::error::Error;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use d_engine::sled::{SledKvStore, SledStorageEngine};
use d_engine::{Client, KvStateMachine, Node, NodeBuilder, NodeConfig};
use tokio::sync::watch;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let peers = free_peers()?;
    let mut nodes = Vec::new();
    for (id, _) in &peers {
        nodes.push(start(*id, &peers, dir.path()).await?);
    }
    for node in &nodes {
        node.wait_ready(Duration::from_secs(30)).await?;
    }
    let addresses: Vec<String> = peers.iter().map(|(_, address)| address.clone()).collect();
    // A client tries the nodes it knows until one answers.
    let client = Client::new(addresses)?;
    client.put("k", "written by all three").await?;
    println!("three nodes on sled: written and acknowledged");

    let stopped = nodes.pop().ok_or("there are three nodes")?;
    let id = stopped.id();
    stopped.shutdown().await?;
    drop(stopped);
    write_through(&client, "k", "written by two").await?;
    println!("node {id} is stopped, the other two go on");

    nodes.push(start(id, &peers, dir.path()).await?);
    for node in &nodes {
        node.wait_ready(Duration::from_secs(30)).await?;
        assert_eq!(node.get("k").await?.value.as_deref(), Some(&b"written by two"[..]));
    }
    println!("node {id} is back from its disk, and all three agree");
    for node in &nodes {
        node.shutdown().await?;
    }
    Ok(())
}

async fn start(id: u64, peers: &[(u64, String)], data: &Path) -> Result<Node, Box<dyn Error>> {
    let (_, listen) = peers.iter().find(|(peer, _)| *peer == id).ok_or("the node is none of the peers")?;
    let dir = data.join(format!("n{id}"));
    let engine = SledStorageEngine::open(dir.join("log"))?;
    let machine = KvStateMachine::new(SledKvStore::open(dir.join("data"))?)?;
    // sled does not promise to survive a loss of power, so such a node votes only because the configuration allows it.
    let config = NodeConfig::new(id, dir).listen(listen).peers(peers.to_vec()).allow_unsafe_voters(true);
    // Nobody fires this watch: the node ends by `shutdown`.
    let (_, shutdown) = watch::channel(());
    let builder = NodeBuilder::new(config, shutdown).storage_engine(Arc::new(engine)).state_machine(Arc::new(machine));
    Ok(builder.start().await?)
}

/// Writes again until the write is acknowledged. During an election a write may be refused, or its fate be unknown;
/// this one may be repeated, because it sets the same value.
async fn write_through(client: &Client, key: &'static str, value: &'static str) -> Result<(), Box<dyn Error>> {
    for _ in 0..10 {
        if client.put(key, value).await.is_ok() {
            return Ok(());
        }
    }
    Err("the majority does not accept writes".into())
}

/// Three members on ports that nobody listens on.
fn free_peers() -> Result<Vec<(u64, String)>, Box<dyn Error>> {
    let held: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let mut peers = Vec::new();
    for (listener, id) in held.iter().zip(1..) {
        peers.push((id, listener.local_addr()?.to_string()));
    }
    Ok(peers)
}
