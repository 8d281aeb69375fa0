//! The nodes that are measured, and the calls on them.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use d_engine::file::{FileKvStore, FileStorageEngine};
use d_engine::mem::{MemKvStore, MemStorageEngine};
use d_engine::{Client, ClientError, KeyValue, Node, ReadMode};
use three_nodes::{Result, free_peers, member, start};

/// How a caller reaches the leader.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Api {
    /// In process
    Embedded,
    /// Through a client, over gRPC
    Grpc,
}

/// Where log and data are.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// In files; answered writes are synced on a majority
    File,
    /// In memory: what consensus alone costs
    Mem,
}

/// One kind of call.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Works {
    /// Writes a key that exists
    Put,
    /// Reads a key, linearizable
    Get,
    /// Reads the leader's own copy
    GetLocal,
    /// Reads a key by the lease of the leader
    GetLease,
}

/// Three nodes in this process.
pub struct Cluster {
    nodes: Vec<Node>,
    endpoints: Vec<String>,
}

impl Cluster {
    /// Starts three nodes with their data below `dir`, and waits until they are ready.
    ///
    /// # Errors
    /// What keeps a node from starting, or from getting ready within a minute.
    pub async fn start(dir: &Path, engine: Engine) -> Result<Self> {
        let peers = free_peers()?;
        let mut nodes = Vec::new();
        for (id, _) in &peers {
            let mut config = member(*id, &peers, dir)?.lease_reads(true);
            let place = dir.join(format!("n{id}"));
            nodes.push(match engine {
                Engine::File => {
                    start(config, FileStorageEngine::open(&place)?, FileKvStore::open(place.join("data"))?).await?
                }
                Engine::Mem => {
                    config.cluster.allow_unsafe_voters = true;
                    start(config, MemStorageEngine::new(), MemKvStore::new()).await?
                }
            });
        }
        for node in &nodes {
            node.wait_ready(Duration::from_secs(60)).await?;
        }
        Ok(Self { nodes, endpoints: peers.into_iter().map(|(_, address)| address).collect() })
    }

    /// The node that leads, as the nodes know it, and its address.
    ///
    /// # Errors
    /// There is no leader.
    pub fn leader(&self) -> Result<(&Node, &str)> {
        let leading = self.nodes.iter().zip(&self.endpoints).find(|(node, _)| node.is_leader());
        let (node, address) = leading.ok_or("none of the nodes leads")?;
        Ok((node, address))
    }

    /// The leader, called through `api` with so many keys and such values.
    ///
    /// # Errors
    /// There is no leader.
    pub fn target(&self, api: Api, keys: u64, value_bytes: usize) -> Result<Target> {
        let (node, address) = self.leader()?;
        let (key_value, client) = match api {
            Api::Embedded => (KeyValue::clone(node), None),
            Api::Grpc => {
                let client = Client::new([address.to_owned()])?;
                (KeyValue::clone(&client), Some(client))
            }
        };
        Ok(Target { key_value, keys, value: vec![b'v'; value_bytes].into(), _client: client })
    }

    /// Ends the nodes in order.
    ///
    /// # Errors
    /// What a node could not bring to an end.
    pub async fn stop(self) -> Result<()> {
        for node in &self.nodes {
            node.shutdown().await?;
        }
        Ok(())
    }
}

/// What is called, and with what.
pub struct Target {
    key_value: KeyValue,
    keys: u64,
    value: Bytes,
    _client: Option<Client>,
}

impl Target {
    /// Writes every key once.
    ///
    /// # Errors
    /// That of the first write that failed.
    pub async fn fill(&self) -> Result<()> {
        const AT_ONCE: u64 = 500;
        for first in (0..self.keys).step_by(AT_ONCE as usize) {
            let puts: Vec<_> = (first..self.keys.min(first + AT_ONCE))
                .map(|key| {
                    let (key_value, value) = (self.key_value.clone(), self.value.clone());
                    tokio::spawn(async move { key_value.put(key_of(key), value).await })
                })
                .collect();
            for put in puts {
                put.await??;
            }
        }
        Ok(())
    }

    /// One call, with the key that the random number says.
    ///
    /// # Errors
    /// That of the call.
    pub async fn call(&self, works: Works, random: u64) -> std::result::Result<(), ClientError> {
        self.index(works, random).await.map(drop)
    }

    /// The same; gives the index of the write, or of the last entry that the read includes.
    ///
    /// # Errors
    /// That of the call.
    pub async fn index(&self, works: Works, random: u64) -> std::result::Result<u64, ClientError> {
        let key = key_of(random % self.keys);
        Ok(match works {
            Works::Put => self.key_value.put(key, self.value.clone()).await?.index,
            Works::Get => self.key_value.get(key).await?.index,
            Works::GetLocal => self.key_value.get_in_mode(key, ReadMode::Local).await?.index,
            Works::GetLease => self.key_value.get_in_mode(key, ReadMode::Lease).await?.index,
        })
    }
}

/// Eight bytes.
fn key_of(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}
