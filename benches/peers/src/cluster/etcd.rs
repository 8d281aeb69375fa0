//! etcd: three processes of the `etcd` in PATH with its defaults (every write synced), called over gRPC at the leader.
//!
//! The messages are the part of etcd's API that the load needs, by field number; unknown fields are skipped.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_load::{Cost, Load, Round};
use prost::Message;
use three_nodes::free_peers;
use tonic::transport::{Channel, Endpoint};

use super::Data;
use crate::log::Result;
use crate::subject::{Subject, Work};
use crate::unary::{Caller, Outcome, Protocol, unary};

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {}

#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bool, tag = "7")]
    serializable: bool,
}

#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// Three processes, ended when this is dropped.
struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Processes {
    fn cost(&self) -> Cost {
        let mut cost = Cost::default();
        self.0.iter().for_each(|child| cost += Cost::of(child.id()));
        cost
    }
}

/// What is called.
struct Kv;

impl Protocol for Kv {
    async fn put(channel: Channel, key: Bytes, value: Bytes) -> Outcome<()> {
        unary(channel, PutRequest { key, value }, "/etcdserverpb.KV/Put").await.map(|PutResponse {}| ())
    }

    async fn get(channel: Channel, work: Work, key: Bytes) -> Outcome<Option<Bytes>> {
        let request = RangeRequest { key, serializable: work == Work::GetLocal };
        let found: RangeResponse = unary(channel, request, "/etcdserverpb.KV/Range").await?;
        Ok(found.kvs.into_iter().next().map(|pair| pair.value))
    }
}

struct Etcd {
    processes: Processes,
    addresses: Vec<String>,
    version: String,
    data: Data,
    /// Where the calls go, and the calls.
    leader: String,
    caller: Arc<Caller<Kv>>,
}

/// Starts three processes with their data below `dir`.
pub async fn start(dir: &Path, data: Data) -> Result<Vec<Box<dyn Subject>>> {
    let version = version_of_program()?;
    let (processes, addresses) = start_processes(dir)?;
    let begun = Instant::now();
    let (leader, told) = loop {
        match leader_of(&addresses).await {
            Ok(found) => break found,
            Err(why) if begun.elapsed() > PATIENCE => return Err(format!("{why}; {}", log_tails(dir)).into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    if told != version {
        return Err(format!("the program says that it is {version}, the running etcd {told}").into());
    }
    let caller = Caller::new(&leader, data)?;
    Ok(vec![Box::new(Etcd { processes, addresses, version, data, leader, caller })])
}

#[async_trait(?Send)]
impl Subject for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn about(&self) -> String {
        format!("{}, three processes; acknowledged: synced on a majority", self.version)
    }

    fn can(&self, work: Work) -> bool {
        // Its serializable reads are those of one node's copy; it has none by lease.
        work != Work::GetLease
    }

    async fn fill(&mut self) -> Result<()> {
        self.caller.fill().await
    }

    async fn answers(&mut self) -> Result<u64> {
        let (leader, _) = leader_of(&self.addresses).await?;
        if leader != self.leader {
            self.caller = Caller::new(&leader, self.data)?;
            self.leader = leader;
        }
        self.caller.answers().await?;
        Ok(self.addresses.iter().position(|address| *address == self.leader).unwrap_or_default() as u64)
    }

    async fn round(&self, work: Work, load: &Load) -> Result<Round> {
        let before = self.processes.cost();
        let mut round = self.caller.round(work, load).await?;
        round.add_cost(self.processes.cost().since(before));
        Ok(round)
    }
}

/// The version that `etcd --version` says; an error if that is no etcd.
fn version_of_program() -> Result<String> {
    let output = Command::new("etcd").arg("--version").stdin(Stdio::null()).output();
    let output =
        output.map_err(|error| format!("could not start `etcd` of PATH: {error}; apt-get install etcd-server"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().find_map(|line| line.strip_prefix("etcd Version: "));
    let said = || format!("`etcd --version` says no version: {:?}", text.lines().next().unwrap_or_default());
    Ok(version.ok_or_else(said)?.trim().to_owned())
}

fn start_processes(dir: &Path) -> Result<(Processes, Vec<String>)> {
    std::fs::create_dir_all(dir)?;
    let (clients, peers) = (free_peers()?, free_peers()?);
    let cluster: Vec<String> = peers.iter().map(|(id, address)| format!("n{id}=http://{address}")).collect();
    let mut processes = Processes(Vec::new());
    for ((id, client), (_, peer)) in clients.iter().zip(&peers) {
        let log = File::create(dir.join(format!("n{id}.log")))?;
        let mut command = Command::new("etcd");
        command.args(["--name", &format!("n{id}"), "--log-outputs", "stderr", "--logger", "zap"]);
        command.arg("--data-dir").arg(dir.join(format!("n{id}")));
        for (flag, address) in [
            ("--listen-client-urls", client),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer),
            ("--initial-advertise-peer-urls", peer),
        ] {
            command.args([flag, &format!("http://{address}")]);
        }
        command.args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new"]);
        command.args(["--log-level", "warn", "--quota-backend-bytes", "8589934592"]);
        // Whatever the environment says of another etcd is not meant for these.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(name);
        }
        processes.0.push(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?);
    }
    Ok((processes, clients.into_iter().map(|(_, address)| address).collect()))
}

/// The address of the leader, and the version that it says it is.
async fn leader_of(addresses: &[String]) -> Result<(String, String)> {
    for address in addresses {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.timeout(Duration::from_secs(1));
        let asked = unary(endpoint.connect_lazy(), StatusRequest {}, "/etcdserverpb.Maintenance/Status");
        let Ok(StatusResponse { header: Some(header), version, leader }) = asked.await else { continue };
        if leader != 0 && header.member_id == leader {
            return Ok((address.clone(), version));
        }
    }
    Err("none of the three leads".into())
}

/// The last line of each log.
fn log_tails(dir: &Path) -> String {
    let tail = |id| {
        let log = std::fs::read_to_string(dir.join(format!("n{id}.log"))).unwrap_or_default();
        format!("n{id}: {}", log.lines().last().unwrap_or("said nothing"))
    };
    [1, 2, 3].map(tail).join("; ")
}
