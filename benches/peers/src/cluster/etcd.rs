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
use d_engine_load::{Load, Round};
use prost::Message;
use three_nodes::free_peers;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::Data;
use crate::alternate::{Subject, Work};
use crate::log::Result;

/// Connections to the leader; callers share them.
const CONNECTIONS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(30);
const AT_ONCE: u64 = 500;
/// The kernel counts processor time in hundredths of a second on every machine.
const TICK: Duration = Duration::from_millis(10);

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
    /// User and system time of all of them; fields 14 and 15 of `/proc/PID/stat`.
    fn processor_time(&self) -> Duration {
        let ticks = |child: &Child| -> Option<u32> {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
            let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
            Some(fields.next()?.parse::<u32>().ok()? + fields.next()?.parse::<u32>().ok()?)
        };
        TICK * self.0.iter().filter_map(ticks).sum()
    }
}

pub struct Etcd {
    processes: Processes,
    version: String,
    caller: Arc<Caller>,
}

/// What a call needs.
struct Caller {
    /// Connections to the leader.
    leader: Vec<Channel>,
    keys: u64,
    value: Bytes,
}

impl Etcd {
    /// Starts three processes with their data below `dir`.
    pub async fn start(dir: &Path, data: Data) -> Result<Self> {
        let version = version_of_program()?;
        let (processes, addresses) = start_processes(dir)?;
        let (leader, told) = leader_of(&addresses).await.map_err(|why| format!("{why}; {}", log_tails(dir)))?;
        if told != version {
            return Err(format!("the program says that it is {version}, the running etcd {told}").into());
        }
        let endpoint = Endpoint::from_shared(format!("http://{leader}"))?;
        let leader = (0..CONNECTIONS).map(|_| endpoint.connect_lazy()).collect();
        let caller = Caller { leader, keys: data.keys, value: vec![b'v'; data.value_bytes].into() };
        Ok(Self { processes, version, caller: Arc::new(caller) })
    }
}

impl Caller {
    /// A call with this random number, over one of the first `connections`.
    fn call(
        &self,
        work: Work,
        random: u64,
        connections: usize,
    ) -> impl Future<Output = std::result::Result<(), Status>> + use<> {
        // The key takes the low digits.
        let channel = self.leader[(random >> 40) as usize % connections].clone();
        let (key, value) = (key_of(random % self.keys), self.value.clone());
        async move {
            match work {
                Work::Put => {
                    unary(channel, PutRequest { key, value }, "/etcdserverpb.KV/Put").await.map(|PutResponse {}| ())
                }
                Work::Get | Work::GetLease | Work::GetLocal => {
                    let request = RangeRequest { key, serializable: work == Work::GetLocal };
                    let found: RangeResponse = unary(channel, request, "/etcdserverpb.KV/Range").await?;
                    match found.kvs.first() {
                        Some(pair) if pair.value.len() == value.len() => Ok(()),
                        _ => Err(Status::data_loss("a key that was written is missing or has another value")),
                    }
                }
            }
        }
    }
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
        let keys = self.caller.keys;
        for first in (0..keys).step_by(AT_ONCE as usize) {
            let numbers = first..keys.min(first + AT_ONCE);
            let puts: Vec<_> = numbers.map(|key| tokio::spawn(self.caller.call(Work::Put, key, 1))).collect();
            for put in puts {
                put.await??;
            }
        }
        Ok(())
    }

    async fn round(&self, work: Work, load: &Load) -> Result<Round> {
        let before = self.processes.processor_time();
        let connections = load.clients.clamp(1, CONNECTIONS);
        let caller = Arc::clone(&self.caller);
        let call = move |random| caller.call(work, random, connections);
        let mut round = load.round(call).await?;
        round.add_processor_time(self.processes.processor_time().saturating_sub(before));
        Ok(round)
    }

    async fn stop(self: Box<Self>) -> Result<()> {
        // Its processes end with it.
        Ok(())
    }
}

async fn unary<Q, A>(channel: Channel, request: Q, path: &'static str) -> std::result::Result<A, Status>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<Q, A>::default();
    let answer = grpc.unary(Request::new(request), PathAndQuery::from_static(path), codec).await?;
    Ok(answer.into_inner())
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

/// The address of the leader once there is one, and the version that it says it is.
async fn leader_of(addresses: &[String]) -> Result<(String, String)> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        for address in addresses {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?.timeout(Duration::from_secs(1));
            let asked = unary(endpoint.connect_lazy(), StatusRequest {}, "/etcdserverpb.Maintenance/Status");
            let Ok(StatusResponse { header: Some(header), version, leader }) = asked.await else { continue };
            if leader != 0 && header.member_id == leader {
                return Ok((address.clone(), version));
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("no leader within {} s", PATIENCE.as_secs()).into())
}

/// The last line of each log.
fn log_tails(dir: &Path) -> String {
    let tail = |id| {
        let log = std::fs::read_to_string(dir.join(format!("n{id}.log"))).unwrap_or_default();
        format!("n{id}: {}", log.lines().last().unwrap_or("said nothing"))
    };
    [1, 2, 3].map(tail).join("; ")
}

/// Eight bytes.
fn key_of(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}
