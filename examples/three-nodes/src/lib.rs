//! What the examples of three nodes over gRPC have in common: members on free ports, a node on storage of the caller's
//! choice, and a walk in which one of three nodes is stopped, misses a write, and catches up from its disk.
#![allow(clippy::print_stdout, reason = "an example says what it does")]

pub mod processes;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use d_engine::{Client, KvStateMachine, KvStore, Node, NodeBuilder, NodeConfig, StorageEngine};
use tokio::sync::watch;

/// What a step of an example returns.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Three members on ports that nobody listens on.
///
/// # Errors
/// There are no such ports.
pub fn free_peers() -> Result<Vec<(u64, String)>> {
    let ports = d_engine_processes::free_ports(3)?;
    Ok((1..).zip(ports.into_iter().map(|port| format!("127.0.0.1:{port}"))).collect())
}

/// The configuration of one of the members, with its data below `data`.
///
/// # Errors
/// If the node is none of the members.
pub fn member(id: u64, peers: &[(u64, String)], data: &Path) -> Result<NodeConfig> {
    let (_, listen) = peers.iter().find(|(peer, _)| *peer == id).ok_or("the node is none of the peers")?;
    Ok(NodeConfig::new(id, data.join(format!("n{id}"))).listen(listen).peers(peers.to_vec()))
}

/// A node with this log and these data; it ends by `shutdown`.
///
/// # Errors
/// What keeps the node from starting.
pub async fn start(config: NodeConfig, log: impl StorageEngine, data: impl KvStore) -> Result<Node> {
    // Nobody fires this watch.
    let (_, shutdown) = watch::channel(());
    let machine = KvStateMachine::new(data)?;
    Ok(NodeBuilder::new(config, shutdown)
        .storage_engine(Arc::new(log))
        .state_machine(Arc::new(machine))
        .start()
        .await?)
}

/// Runs three nodes on `storage`, of which one is stopped, the other two go on, and it catches up from its disk. `open`
/// opens log and data of one node in its directory; with `allow_unsafe_voters` nodes vote whose storage does not promise
/// to survive a loss of power.
///
/// # Errors
/// What failed.
///
/// # Panics
/// If a node does not show what was written.
pub async fn one_stops_and_catches_up<L: StorageEngine, D: KvStore>(
    storage: &str,
    allow_unsafe_voters: bool,
    open: impl Fn(&Path) -> Result<(L, D)>,
) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let peers = free_peers()?;
    let run = async |id: u64| {
        let (log, data) = open(&dir.path().join(format!("n{id}")))?;
        start(member(id, &peers, dir.path())?.allow_unsafe_voters(allow_unsafe_voters), log, data).await
    };
    let mut nodes = Vec::new();
    for (id, _) in &peers {
        nodes.push(run(*id).await?);
    }
    for node in &nodes {
        node.wait_ready(Duration::from_secs(30)).await?;
    }
    // A client tries the nodes it knows until one answers.
    let client = Client::new(peers.iter().map(|(_, address)| address.clone()))?;
    client.put("k", "written by all three").await?;
    println!("three nodes on {storage}: written and acknowledged");

    let stopped = nodes.pop().ok_or("there are three nodes")?;
    let id = stopped.id();
    stopped.shutdown().await?;
    drop(stopped);
    write_through(&client, "k", "written by two").await?;
    println!("node {id} is stopped, the other two go on");

    nodes.push(run(id).await?);
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

/// Writes again until the write is acknowledged. During an election a write may be refused, or its fate be unknown;
/// this one may be repeated, because it sets the same value.
///
/// # Errors
/// If ten attempts failed.
pub async fn write_through(client: &Client, key: &str, value: &str) -> Result<()> {
    for _ in 0..10 {
        if client.put(key.to_owned(), value.to_owned()).await.is_ok() {
            return Ok(());
        }
    }
    Err("the majority does not accept writes".into())
}
