//! d-engine: three nodes on the memory engine, joined by a router, with a machine that counts; snapshots every 500,000
//! entries, as openraft has them here, so that logs do not grow for ever.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use d_engine::mem::MemStorageEngine;
use d_engine::{LocalRouter, Node, NodeBuilder, NodeConfig};
use d_engine_core::{Entry, Error, LogId, SnapshotChecksum, SnapshotMetadata, StateMachine};
use d_engine_load::{Load, Round};
use tokio::sync::watch;

use crate::log::Result;
use crate::subject::{Subject, Work};

const READY: Duration = Duration::from_secs(30);

/// Counts the commands.
#[derive(Default)]
struct Counter {
    applied: Mutex<(LogId, usize)>,
}

impl Counter {
    fn now(&self) -> (LogId, usize) {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl StateMachine for Counter {
    fn start(&self) -> std::result::Result<(), Error> {
        Ok(())
    }

    fn stop(&self) -> std::result::Result<(), Error> {
        Ok(())
    }

    fn is_running(&self) -> bool {
        true
    }

    fn get(&self, _: &[u8]) -> std::result::Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }

    async fn apply_chunk(&self, chunk: Vec<Entry>) -> std::result::Result<(), Error> {
        if let Some(last) = chunk.last() {
            let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
            *applied = (LogId { term: last.term, index: last.index }, applied.1 + chunk.len());
        }
        Ok(())
    }

    fn never_waits(&self) -> bool {
        true
    }

    fn len(&self) -> usize {
        self.now().1
    }

    fn last_applied(&self) -> LogId {
        self.now().0
    }

    fn snapshot_metadata(&self) -> Option<SnapshotMetadata> {
        None
    }

    async fn generate_snapshot_data(&self, dir: PathBuf, _: LogId) -> std::result::Result<SnapshotChecksum, Error> {
        let commands = (self.now().1 as u64).to_le_bytes();
        std::fs::write(dir.join("snapshot"), commands)?;
        // Its bytes are in no danger here.
        let mut sum = [1; 32];
        sum[..commands.len()].copy_from_slice(&commands);
        Ok(SnapshotChecksum::new(sum))
    }

    async fn apply_snapshot_from_file(&self, _: &SnapshotMetadata, path: PathBuf) -> std::result::Result<(), Error> {
        Err(Error::unsupported(format!("no replica is ever so far behind that it reads {}", path.display())))
    }

    fn flush(&self) -> std::result::Result<(), Error> {
        Ok(())
    }

    async fn reset(&self) -> std::result::Result<(), Error> {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = Default::default();
        Ok(())
    }
}

struct Ours {
    nodes: Vec<Arc<Node>>,
    leader: Arc<Node>,
    _stop: watch::Sender<()>,
}

pub async fn start() -> Result<Vec<Box<dyn Subject>>> {
    let router = LocalRouter::new();
    let (stop, shutdown) = watch::channel(());
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let mut config = NodeConfig::new(id, "unused")
            .peers((1..=3).map(|node| (node, format!("in-process:{node}"))))
            .advertise(format!("in-process:{id}"))
            .allow_unsafe_voters(true);
        config.snapshot.entries = 500_000;
        let node = NodeBuilder::new(config, shutdown.clone())
            .storage_engine(Arc::new(MemStorageEngine::new()))
            .state_machine(Arc::new(Counter::default()))
            .in_process(&router)
            .start()
            .await?;
        nodes.push(Arc::new(node));
    }
    for node in &nodes {
        node.wait_ready(READY).await?;
    }
    let leader = Arc::clone(nodes.first().ok_or("there are three nodes")?);
    Ok(vec![Box::new(Ours { leader, nodes, _stop: stop })])
}

#[async_trait(?Send)]
impl Subject for Ours {
    fn name(&self) -> &'static str {
        "d-engine consensus"
    }

    fn about(&self) -> String {
        "of this tree, memory engine; acknowledged: in the memory of a majority".into()
    }

    fn can(&self, work: Work) -> bool {
        work == Work::Put
    }

    async fn answers(&mut self) -> Result<u64> {
        // Two of three would have less to do.
        if let Some(why) = self.nodes.iter().find_map(|node| node.status().failure.clone()) {
            return Err(why.into());
        }
        let leader = self.nodes.iter().find(|node| node.is_leader()).ok_or("none of three nodes leads")?;
        self.leader = Arc::clone(leader);
        self.leader.propose(Bytes::from_static(b"settled?")).await?;
        Ok(self.leader.id())
    }

    async fn round(&self, _: Work, load: &Load) -> Result<Round> {
        let leader = Arc::clone(&self.leader);
        let call = move |random: u64| {
            let leader = Arc::clone(&leader);
            async move {
                let command = Bytes::copy_from_slice(&random.to_le_bytes());
                leader.propose(command).await.map(drop)
            }
        };
        load.round(call).await
    }
}
