//! Three nodes over gRPC: one per process, or with `--check` all three in this one, which then checks itself.
#![allow(clippy::print_stdout, reason = "an example says what it does")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use d_engine::mem::{MemKvStore, MemStorageEngine};
#[cfg(feature = "rocksdb")]
use d_engine::rocksdb::{RocksKvStore, RocksStorageEngine};
use d_engine::sled::{SledKvStore, SledStorageEngine};
use d_engine::{Client, Node};
use three_nodes::{Result, free_peers, member};
use tokio::sync::watch;

/// Where the three nodes listen when each has a process of its own.
const PEERS: [(u64, &str); 3] = [(1, "127.0.0.1:9081"), (2, "127.0.0.1:9082"), (3, "127.0.0.1:9083")];

/// One node of three, or all of them with a check
#[derive(Parser)]
struct Arguments {
    /// Runs this node, 1 to 3, until it is interrupted
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3), required_unless_present = "check")]
    node: Option<u64>,
    /// Where the nodes store; each in a directory of its own below
    #[arg(long, default_value = "three-nodes-data")]
    data: PathBuf,
    /// Where the log and the data are kept
    #[arg(long, value_enum, default_value = "file")]
    engine: Engine,
    /// Runs all three on free ports, writes and reads through each, and ends
    #[arg(long, conflicts_with_all = ["node", "data"])]
    check: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Engine {
    /// Survives a loss of power
    File,
    /// A restart forgets everything: such a node votes only because the configuration allows it
    Mem,
    /// For data larger than memory; survives a loss of power
    #[cfg(feature = "rocksdb")]
    Rocksdb,
    /// Experimental: a loss of power may damage it, so it votes only because the configuration allows it
    Sled,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.check {
        return check(arguments.engine).await;
    }
    let id = arguments.node.ok_or("--node is missing")?;
    let peers = PEERS.map(|(id, address)| (id, address.to_owned()));
    let node = start(id, &peers, arguments.engine, &arguments.data).await?;
    println!("node {id} listens on {}; it is interrupted by Ctrl-C", peers[usize::try_from(id)? - 1].1);
    tokio::signal::ctrl_c().await?;
    node.shutdown().await?;
    Ok(())
}

async fn start(id: u64, peers: &[(u64, String)], engine: Engine, data: &Path) -> Result<Node> {
    let config = member(id, peers, data)?;
    let dir = data.join(format!("n{id}"));
    let (log, data) = (dir.join("log"), dir.join("data"));
    match engine {
        Engine::File => {
            // Nobody fires this watch: the node ends by `shutdown`.
            let (_, shutdown) = watch::channel(());
            Ok(d_engine::open(config, shutdown).await?.start().await?)
        }
        Engine::Mem => {
            let config = config.allow_unsafe_voters(true);
            three_nodes::start(config, MemStorageEngine::new(), MemKvStore::new()).await
        }
        #[cfg(feature = "rocksdb")]
        Engine::Rocksdb => three_nodes::start(config, RocksStorageEngine::open(log)?, RocksKvStore::open(data)?).await,
        Engine::Sled => {
            let config = config.allow_unsafe_voters(true);
            three_nodes::start(config, SledStorageEngine::open(log)?, SledKvStore::open(data)?).await
        }
    }
}

async fn check(engine: Engine) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let peers = free_peers()?;
    let mut nodes = Vec::new();
    for (id, _) in &peers {
        nodes.push(start(*id, &peers, engine, dir.path()).await?);
    }
    for node in &nodes {
        node.wait_ready(Duration::from_secs(30)).await?;
    }
    for (id, address) in &peers {
        // A client that knows one node finds the others.
        let client = Client::new([address.clone()])?;
        client.put("written by", format!("a client of node {id}")).await?;
        let got = client.get("written by").await?;
        assert_eq!(got.value.as_deref(), Some(format!("a client of node {id}").as_bytes()));
    }
    println!("three nodes over gRPC: written and read through each");
    for node in &nodes {
        node.shutdown().await?;
    }
    Ok(())
}
