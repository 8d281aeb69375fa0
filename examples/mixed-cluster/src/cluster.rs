//! The cluster: one node on each backend, and what is done to it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use d_engine::{Client, Node, NodeConfig, Operation};
use three_nodes::{Result, free_peers, member, write_through};

use crate::backend::{ALL, Backend};

/// For what takes a moment.
const WITHIN: Duration = Duration::from_secs(30);

pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    peers: Vec<(u64, String)>,
    pub(crate) client: Client,
    /// In the order of the backends; `None` while it is stopped.
    nodes: [Option<Node>; 3],
    written: usize,
}

impl Cluster {
    pub(crate) async fn start() -> Result<Self> {
        let peers = free_peers()?;
        let client = Client::new(peers.iter().map(|(_, address)| address.clone()))?;
        let mut cluster = Self { dir: tempfile::tempdir()?, peers, client, nodes: [None, None, None], written: 0 };
        cluster.start_all().await?;
        Ok(cluster)
    }

    pub(crate) fn id(backend: Backend) -> u64 {
        backend as u64 + 1
    }

    /// Where the node keeps everything.
    pub(crate) fn dir_of(&self, backend: Backend) -> PathBuf {
        self.dir.path().join(format!("n{}", Self::id(backend)))
    }

    fn address(&self, backend: Backend) -> &str {
        &self.peers[backend as usize].1
    }

    fn node(&self, backend: Backend) -> Result<&Node> {
        self.nodes[backend as usize].as_ref().ok_or_else(|| format!("the node on {} is stopped", backend.name()).into())
    }

    async fn run(&mut self, backend: Backend, mut config: NodeConfig) -> Result<()> {
        // Nothing stays in the log behind a snapshot, so that whoever lacks it needs the snapshot.
        config.snapshot.max_entries_behind = 0;
        let config = config.allow_unsafe_voters(true);
        self.nodes[backend as usize] = Some(backend.start(config, &self.dir_of(backend)).await?);
        Ok(())
    }

    pub(crate) async fn start_one(&mut self, backend: Backend) -> Result<()> {
        let config = member(Self::id(backend), &self.peers, self.dir.path())?;
        self.run(backend, config).await
    }

    pub(crate) async fn start_all(&mut self) -> Result<()> {
        for backend in ALL {
            self.start_one(backend).await?;
        }
        for backend in ALL {
            self.node(backend)?.wait_ready(WITHIN).await?;
        }
        Ok(())
    }

    pub(crate) async fn stop(&mut self, backend: Backend) -> Result<()> {
        if let Some(node) = self.nodes[backend as usize].take() {
            node.shutdown().await?;
        }
        Ok(())
    }

    /// Writes so many keys, some of them over older values.
    pub(crate) async fn write(&mut self, keys: usize) -> Result<()> {
        for _ in 0..keys {
            self.written += 1;
            let key = format!("key {:03}", self.written % 150);
            write_through(&self.client, &key, &format!("value {}", self.written)).await?;
        }
        Ok(())
    }

    /// The digest of all states, which must be one and the same once each node has all that was committed.
    pub(crate) async fn common_digest(&self) -> Result<[u8; 32]> {
        let mut found = Vec::new();
        for backend in ALL {
            let node = self.node(backend)?;
            node.wait_ready(WITHIN).await?;
            until("a linearizable read is answered", async || node.get("key 001").await.is_ok()).await?;
            found.push((backend.name(), node.digest().await?.digest));
        }
        if found.iter().all(|(_, digest)| *digest == found[0].1) {
            Ok(found[0].1)
        } else {
            Err(format!("the states differ: {found:?}").into())
        }
    }

    /// Lets the node on this backend lead.
    pub(crate) async fn lead(&self, backend: Backend) -> Result<()> {
        let (to, id) = (self.node(backend)?, Self::id(backend));
        // Whoever leads may change on the way; it is asked again.
        until("the node leads", async || {
            let _ = if to.is_leader() { None } else { self.client.operate(Operation::Transfer { to: id }).await.err() };
            to.is_leader()
        })
        .await
    }

    /// Takes the directory of a node, and lets the node come back with nothing: the log that it lacks is purged by then.
    pub(crate) async fn wipe(&mut self, backend: Backend) -> Result<()> {
        let id = Self::id(backend);
        self.stop(backend).await?;
        fs::remove_dir_all(self.dir_of(backend))?;
        let others = ALL.into_iter().filter(|other| *other != backend);
        for other in others.clone() {
            let node = self.node(other)?;
            until("the log is purged", async || {
                let _ = self.client.put("any", "more").await;
                let made = node.snapshot().await.map_or(u64::MAX, |made| made.index);
                made <= node.status().purged
            })
            .await?;
        }
        let [contact, ..] = others.collect::<Vec<_>>()[..] else { return Err("there are other nodes".into()) };
        let address = self.address(backend).to_owned();
        let config = NodeConfig::new(id, self.dir_of(backend)).listen(&address).join(self.address(contact));
        self.run(backend, config).await?;
        let replace = Operation::Replace { old: id, node: id, address, promote: true };
        until("the node is taken in again", async || self.client.operate(replace.clone()).await.is_ok()).await?;
        let (node, contact) = (self.node(backend)?, self.node(contact)?);
        until("the node votes, and has a snapshot that it did not make", async || {
            let members = contact.status().members;
            let votes = members.iter().any(|member| member.node == id && member.kind == "voter");
            votes && node.status().snapshot.is_some()
        })
        .await
    }
}

/// Waits until it is done, which is asked again and again.
async fn until(what: &str, done: impl AsyncFn() -> bool) -> Result<()> {
    let waiting = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WITHIN, waiting).await.map_err(|_| format!("after {WITHIN:?}, still not so: {what}").into())
}
