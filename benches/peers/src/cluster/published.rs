//! The crate that has the name d-engine on crates.io, another project: three nodes in this process that talk over gRPC, on
//! its file storage (without RocksDB). It acknowledges a write that is in memory and syncs later, so a loss of power loses
//! acknowledged writes.

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
use crate::log::Result;
use crate::peers::locked_version;
use crate::subject::{Subject, Work};

const READY: Duration = Duration::from_secs(30);
/// How long one of its calls may take, for its servers and its clients. It is measured to its end, so longer is no better.
const DEADLINE: Duration = Duration::from_secs(5);
const AT_ONCE: u64 = 100;
/// How often a key is written before it is given up.
const ATTEMPTS: usize = 10;
/// Clients with connections of their own; callers share them.
const CLIENTS: usize = 10;

/// Three nodes, and their addresses.
struct Nodes {
    nodes: Vec<EmbeddedEngine>,
    addresses: Vec<String>,
}

/// One way to call them.
struct Published<C> {
    name: &'static str,
    data: Data,
    nodes: Rc<Nodes>,
    /// Where the calls go, and the calls.
    leader: u32,
    caller: Option<Arc<Caller<C>>>,
}

/// What a call needs.
struct Caller<C> {
    clients: Vec<Arc<C>>,
    keys: u64,
    value: Bytes,
}

/// Starts three nodes below `dir`; both ways to call them.
pub async fn start(dir: &Path, data: Data) -> Result<Vec<Box<dyn Subject>>> {
    let peers = free_peers()?;
    let mut nodes = Vec::new();
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
    for node in &nodes {
        node.wait_ready(READY).await?;
    }
    let addresses = peers.iter().map(|(_, address)| format!("http://{address}")).collect();
    let nodes = Rc::new(Nodes { nodes, addresses });
    Ok(vec![
        Box::new(Published::<EmbeddedClient>::new("published 0.2 in process", data, &nodes)),
        Box::new(Published::<GrpcClient>::new("published 0.2 over gRPC", data, &nodes)),
    ])
}

/// Its own benchmark's configuration as far as that differs from the defaults, with reads of every kind; voters have status 3
/// in its protocol, although its documents say 2. By default a server gives a call up after so few milliseconds that it
/// fails under load, and all nodes keep their snapshots in one directory.
fn configuration(id: u64, listen: &str, peers: &[(u64, String)], dir: &Path) -> String {
    let members: Vec<String> = peers
        .iter()
        .map(|(id, address)| format!("{{ id = {id}, address = \"{address}\", role = 1, status = 3 }}"))
        .collect();
    format!(
        "[cluster]\nnode_id = {id}\nlisten_address = \"{listen}\"\ninitial_cluster = [{}]\n\
         db_root_dir = \"{}\"\nlog_dir = \"{}\"\n\
         [raft]\ngeneral_raft_timeout_duration_in_ms = {}\n\
         [raft.snapshot]\nsnapshots_dir = \"{}\"\n\
         [raft.persistence]\nstrategy = \"MemFirst\"\nflush_policy = {{ Batch = {{ idle_flush_interval_ms = 1000 }} }}\n\
         max_buffered_entries = 10000\n\
         [raft.read_consistency]\ndefault_policy = \"LinearizableRead\"\nlease_duration_ms = 250\n\
         allow_client_override = true\n",
        members.join(", "),
        dir.display(),
        dir.join("logs").display(),
        DEADLINE.as_millis(),
        dir.join("snapshots").display(),
    )
}

impl<C: Connect> Published<C> {
    fn new(name: &'static str, data: Data, nodes: &Rc<Nodes>) -> Self {
        Self { name, data, nodes: Rc::clone(nodes), leader: 0, caller: None }
    }

    fn caller(&self) -> Result<&Arc<Caller<C>>> {
        Ok(self.caller.as_ref().ok_or("no leader was found yet")?)
    }
}

/// How calls get to a leader.
#[async_trait(?Send)]
trait Connect: ClientApi + Sized + 'static {
    async fn connect(nodes: &Nodes, leader: u32) -> Result<Vec<Arc<Self>>>;
}

#[async_trait(?Send)]
impl Connect for EmbeddedClient {
    async fn connect(nodes: &Nodes, leader: u32) -> Result<Vec<Arc<Self>>> {
        let leading = nodes.nodes.iter().find(|node| node.node_id() == leader);
        Ok(vec![leading.ok_or("its leader is none of its nodes")?.client()])
    }
}

#[async_trait(?Send)]
impl Connect for GrpcClient {
    /// They find the leader themselves.
    async fn connect(nodes: &Nodes, _: u32) -> Result<Vec<Arc<Self>>> {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let client = Client::builder(nodes.addresses.clone())
                .connect_timeout(DEADLINE)
                .request_timeout(DEADLINE)
                .enable_compression(false)
                .build();
            let client = client.await.map_err(|error| format!("its client does not connect: {error:?}"))?;
            clients.push(Arc::new(GrpcClient::clone(&client)));
        }
        Ok(clients)
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
impl<C: Connect> Subject for Published<C> {
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
        let (caller, keys) = (self.caller()?, self.data.keys);
        for first in (0..keys).step_by(AT_ONCE as usize) {
            let numbers = first..keys.min(first + AT_ONCE);
            let puts: Vec<_> = numbers.map(|key| tokio::spawn(write(Arc::clone(caller), key))).collect();
            for put in puts {
                put.await??;
            }
        }
        Ok(())
    }

    async fn answers(&mut self) -> Result<u64> {
        let leader = self.nodes.nodes.iter().find(|node| node.is_leader()).ok_or("none of its nodes leads")?.node_id();
        if leader != self.leader || self.caller.is_none() {
            let clients = C::connect(&self.nodes, leader).await?;
            let value = vec![b'v'; self.data.value_bytes].into();
            self.caller = Some(Arc::new(Caller { clients, keys: self.data.keys, value }));
            self.leader = leader;
        }
        let caller = self.caller()?;
        Arc::clone(caller).call(Work::Put, 0, 1).await?;
        Arc::clone(caller).call(Work::Get, 0, 1).await?;
        Ok(leader.into())
    }

    async fn round(&self, work: Work, load: &Load) -> Result<Round> {
        let (caller, clients) = (Arc::clone(self.caller()?), load.clients.max(1));
        load.round(move |random| Arc::clone(&caller).call(work, random, clients)).await
    }
}

/// Writes one key, again if it must.
async fn write<C: ClientApi + 'static>(caller: Arc<Caller<C>>, key: u64) -> std::result::Result<(), String> {
    let mut written = Ok(());
    for _ in 0..ATTEMPTS {
        written = Arc::clone(&caller).call(Work::Put, key, 1).await;
        if written.is_ok() {
            break;
        }
    }
    written
}
