//! The crate that has the name d-engine on crates.io, another project: three nodes in this process that talk over gRPC, on
//! its file storage (without RocksDB). It acknowledges a write that is in memory and syncs later, so a loss of power loses
//! acknowledged writes.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_load::{Load, Round};
use published::{
    Client, ClientApi, ClientApiError, EmbeddedClient, EmbeddedEngine, FileStateMachine, FileStorageEngine, GrpcClient,
};
use three_nodes::free_peers;

use super::Data;
use crate::alternate::{Subject, Work};
use crate::log::Result;
use crate::peers::locked_version;

const READY: Duration = Duration::from_secs(30);
const AT_ONCE: u64 = 100;
/// Clients with connections of their own; callers share them.
const CLIENTS: usize = 10;

/// Three nodes.
type Nodes = Vec<EmbeddedEngine>;

/// One way to call them.
struct Published<C> {
    name: &'static str,
    caller: Arc<Caller<C>>,
    nodes: Rc<RefCell<Nodes>>,
}

/// What a call needs.
struct Caller<C> {
    clients: Vec<Arc<C>>,
    keys: u64,
    value: Bytes,
}

/// Both ways to call one cluster below `dir`; over gRPC only if its client connects.
pub async fn start(dir: &Path, data: Data) -> Result<Vec<Box<dyn Subject>>> {
    let peers = free_peers()?;
    let mut nodes = Nodes::new();
    for (id, listen) in &peers {
        let place = dir.join(format!("n{id}"));
        std::fs::create_dir_all(&place)?;
        let config = place.join("config.toml");
        std::fs::write(&config, configuration(*id, listen, &peers, &place))?;
        let log = FileStorageEngine::new(place.join("storage"))?;
        let machine = FileStateMachine::new(place.join("state_machine")).await?;
        let config = config.to_str().ok_or("the directory's name is not UTF-8")?;
        nodes.push(EmbeddedEngine::start_custom(Arc::new(log), Arc::new(machine), Some(config)).await?);
    }
    let mut leader = 0;
    for node in &nodes {
        leader = node.wait_ready(READY).await?.leader_id;
    }
    let leading = nodes.iter().find(|node| node.node_id() == leader).ok_or("its leader is none of its nodes")?;
    let embedded: Vec<Arc<EmbeddedClient>> = vec![leading.client()];
    let mut over_grpc = Vec::new();
    for _ in 0..CLIENTS {
        let addresses = peers.iter().map(|(_, address)| format!("http://{address}")).collect();
        let client = Client::builder(addresses)
            .connect_timeout(Duration::from_secs(10))
            .request_timeout(Duration::from_secs(10))
            .enable_compression(false)
            .build();
        let client = client.await.map_err(|error| format!("its client does not connect: {error:?}"))?;
        over_grpc.push(Arc::new(GrpcClient::clone(&client)));
    }
    let nodes = Rc::new(RefCell::new(nodes));
    Ok(vec![
        Box::new(Published::new("published 0.2 in process", embedded, data, &nodes)),
        Box::new(Published::new("published 0.2 over gRPC", over_grpc, data, &nodes)),
    ])
}

/// Its own benchmark's configuration as far as that differs from the defaults, with reads of every kind; voters have status 3
/// in its protocol, although its documents say 2.
fn configuration(id: u64, listen: &str, peers: &[(u64, String)], dir: &Path) -> String {
    let members: Vec<String> = peers
        .iter()
        .map(|(id, address)| format!("{{ id = {id}, address = \"{address}\", role = 1, status = 3 }}"))
        .collect();
    format!(
        "[cluster]\nnode_id = {id}\nlisten_address = \"{listen}\"\ninitial_cluster = [{}]\n\
         db_root_dir = \"{}\"\nlog_dir = \"{}\"\n\
         [raft.persistence]\nstrategy = \"MemFirst\"\nflush_policy = {{ Batch = {{ idle_flush_interval_ms = 1000 }} }}\n\
         max_buffered_entries = 10000\n\
         [raft.read_consistency]\ndefault_policy = \"LinearizableRead\"\nlease_duration_ms = 250\n\
         allow_client_override = true\n",
        members.join(", "),
        dir.display(),
        dir.join("logs").display(),
    )
}

impl<C: ClientApi + 'static> Published<C> {
    fn new(name: &'static str, clients: Vec<Arc<C>>, data: Data, nodes: &Rc<RefCell<Nodes>>) -> Self {
        let caller = Caller { clients, keys: data.keys, value: vec![b'v'; data.value_bytes].into() };
        Self { name, caller: Arc::new(caller), nodes: Rc::clone(nodes) }
    }
}

impl<C: ClientApi + 'static> Caller<C> {
    async fn call(self: Arc<Self>, work: Work, random: u64, clients: usize) -> std::result::Result<(), String> {
        // The key takes the low digits.
        let client = &self.clients[(random >> 40) as usize % clients.min(self.clients.len())];
        let key = (random % self.keys).to_be_bytes();
        let found = match work {
            Work::Put => return client.put(key, &self.value).await.map_err(said),
            Work::Get => client.get_linearizable(key).await,
            Work::GetLease => client.get_lease(key).await,
            Work::GetLocal => client.get_eventual(key).await,
        };
        match found.map_err(said)? {
            Some(value) if value.len() == self.value.len() => Ok(()),
            _ => Err("a key that was written is missing or has another value".into()),
        }
    }
}

fn said(error: ClientApiError) -> String {
    format!("{error:?}")
}

#[async_trait(?Send)]
impl<C: ClientApi + 'static> Subject for Published<C> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> String {
        let version = locked_version("d-engine", "0.2").unwrap_or("unknown");
        format!("d-engine {version} of crates.io, its file storage; acknowledged: in memory, synced later")
    }

    fn can(&self, _: Work) -> bool {
        true
    }

    async fn fill(&mut self) -> Result<()> {
        let keys = self.caller.keys;
        for first in (0..keys).step_by(AT_ONCE as usize) {
            let numbers = first..keys.min(first + AT_ONCE);
            let puts: Vec<_> =
                numbers.map(|key| tokio::spawn(Arc::clone(&self.caller).call(Work::Put, key, 1))).collect();
            for put in puts {
                put.await??;
            }
        }
        Ok(())
    }

    async fn round(&self, work: Work, load: &Load) -> Result<Round> {
        let (caller, clients) = (Arc::clone(&self.caller), load.clients.max(1));
        load.round(move |random| Arc::clone(&caller).call(work, random, clients)).await
    }

    async fn stop(self: Box<Self>) -> Result<()> {
        if Rc::strong_count(&self.nodes) > 1 {
            return Ok(());
        }
        let nodes = std::mem::take(&mut *self.nodes.borrow_mut());
        for node in nodes {
            // It is only measured; how it ends is its own affair, if it ends.
            let _ = tokio::time::timeout(READY, node.stop()).await;
        }
        Ok(())
    }
}
