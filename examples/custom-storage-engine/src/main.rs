//! A node on the adaptor: it writes, reads, stops, starts again and finds everything.
#![allow(clippy::print_stdout, reason = "an example says what it does")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use custom_storage_engine::{SqliteKvStore, SqliteStorageEngine};
use d_engine::{KvStateMachine, Node, NodeBuilder, NodeConfig};
use tokio::sync::watch;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;

    let node = start(dir.path()).await?;
    for number in 0..10 {
        node.put(format!("key {number}"), format!("value {number}")).await?;
    }
    assert_eq!(node.get("key 7").await?.value.as_deref(), Some(&b"value 7"[..]));
    node.shutdown().await?;
    drop(node);
    println!("a node on SQLite: 10 keys written, acknowledged and read");

    let node = start(dir.path()).await?;
    for number in 0..10 {
        let got = node.get(format!("key {number}")).await?;
        assert_eq!(got.value.as_deref(), Some(format!("value {number}").as_bytes()));
    }
    node.shutdown().await?;
    println!("after a restart all 10 are there");
    Ok(())
}

/// A node in `dir`: its log and its data are two databases, independent of each other.
async fn start(dir: &Path) -> Result<Node, Box<dyn Error>> {
    let engine = SqliteStorageEngine::open(dir.join("log"))?;
    let machine = KvStateMachine::new(SqliteKvStore::open(dir.join("data"))?)?;
    // Nobody fires this watch: the node ends by `shutdown`.
    let (_, shutdown) = watch::channel(());
    let node = NodeBuilder::new(NodeConfig::new(1, dir), shutdown)
        .storage_engine(Arc::new(engine))
        .state_machine(Arc::new(machine))
        .start()
        .await?;
    node.wait_ready(Duration::from_secs(30)).await?;
    Ok(node)
}
