//! Two clusters whose leader can be killed: three processes with clients, and three nodes in this process.

#![allow(dead_code, unreachable_pub, reason = "every test program uses its own part")]

use std::time::Duration;

use async_trait::async_trait;
use d_engine::{Client, KeyValue};
use three_nodes::processes::Processes;
use tokio::time::timeout;

/// How long anything that should take a moment may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[async_trait]
pub trait Cluster: Send {
    /// A way to the store that outlives the leader.
    fn store(&self) -> KeyValue;
    /// Kills the leader, which says nothing to anybody, and returns at once.
    async fn kill_leader(&mut self);
}

/// Nodes in processes of their own, over the wire.
pub struct OverTheWire {
    nodes: Processes,
    /// A key-value store works as long as it does; these are kept for what else they can.
    clients: std::sync::Mutex<Vec<Client>>,
}

impl OverTheWire {
    pub async fn start() -> Self {
        let nodes = Processes::start(env!("CARGO_BIN_EXE_recipes")).unwrap();
        nodes.leader().await.unwrap();
        Self { nodes, clients: std::sync::Mutex::default() }
    }
}

#[async_trait]
impl Cluster for OverTheWire {
    fn store(&self) -> KeyValue {
        let client = self.nodes.client().unwrap();
        let store = (*client).clone();
        self.clients.lock().unwrap().push(client);
        store
    }

    async fn kill_leader(&mut self) {
        let leader = self.nodes.leader().await.unwrap();
        self.nodes.kill(leader).unwrap();
    }
}

/// Nodes of this process.
pub struct Embedded {
    nodes: d_engine::testing::Cluster,
    doomed: u64,
}

impl Embedded {
    pub async fn start() -> Self {
        let nodes = d_engine::testing::Cluster::start(3).await.unwrap();
        let doomed = nodes.wait_for_leader().await.unwrap().id();
        Self { nodes, doomed }
    }
}

#[async_trait]
impl Cluster for Embedded {
    fn store(&self) -> KeyValue {
        let nodes = self.nodes.nodes();
        let survivor = nodes.iter().find(|node| node.id() != self.doomed).unwrap();
        (**survivor).clone()
    }

    async fn kill_leader(&mut self) {
        let doomed = self.nodes.node(self.doomed).unwrap();
        // Leadership may have moved under load; who is killed must lead.
        while !doomed.is_leader() {
            let _ = doomed.transfer_leadership(self.doomed).await;
        }
        self.nodes.kill(self.doomed).await.unwrap();
    }
}

/// Waits for what should take a moment.
#[track_caller]
pub fn soon<F: Future>(what: &'static str, future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        match timeout(PATIENCE, future).await {
            Ok(output) => output,
            Err(_) => panic!("{what}: not within {PATIENCE:?}, at {caller}"),
        }
    }
}
