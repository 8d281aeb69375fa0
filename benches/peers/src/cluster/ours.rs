//! d-engine: three nodes on the file engine in the process of the callers, which talk over gRPC; called in process, by a
//! client that pipelines, and by plain unary calls as clients of other languages make them.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cluster_bench::{Api, Cluster, Engine, Target, Works};
use d_engine_load::{Load, Round};
use prost::Message;
use tonic::transport::Channel;

use super::Data;
use crate::log::Result;
use crate::peers::locked_version;
use crate::subject::{BY_UNARY_CALLS, Subject, Work};
use crate::unary::{Caller, Outcome, Protocol, unary};

/// Starts three nodes below `dir`; all ways to call them.
pub async fn start(dir: &Path, data: Data) -> Result<Vec<Box<dyn Subject>>> {
    let cluster = Rc::new(Cluster::start(dir, Engine::File).await?);
    let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
    for (name, api) in [("d-engine in process", Api::Embedded), ("d-engine over gRPC", Api::Grpc)] {
        subjects.push(Box::new(Ours { name, api, data, cluster: Rc::clone(&cluster), leader: 0, target: None }));
    }
    subjects.push(Box::new(Plain { data, cluster, leader: 0, caller: None }));
    Ok(subjects)
}

fn about(how: &str) -> String {
    let version = locked_version("d-engine", "0.3").unwrap_or("of this tree");
    format!("{version}, file engine, {how}; acknowledged: synced on a majority")
}

/// By the functions of this workspace.
struct Ours {
    name: &'static str,
    api: Api,
    data: Data,
    cluster: Rc<Cluster>,
    /// Where the calls go, and the calls.
    leader: u64,
    target: Option<Arc<Target>>,
}

impl Ours {
    fn target(&self) -> Result<Arc<Target>> {
        Ok(self.target.clone().ok_or("no leader was found yet")?)
    }
}

/// What `cluster_bench` calls it.
fn works(work: Work) -> Works {
    match work {
        Work::Put => Works::Put,
        Work::Get => Works::Get,
        Work::GetLease => Works::GetLease,
        Work::GetLocal => Works::GetLocal,
    }
}

#[async_trait(?Send)]
impl Subject for Ours {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> String {
        about(match self.api {
            Api::Embedded => "called in process",
            Api::Grpc => "one client for all callers, which gathers their calls",
        })
    }

    fn can(&self, _: Work) -> bool {
        true
    }

    async fn fill(&mut self) -> Result<()> {
        self.target()?.fill().await
    }

    async fn answers(&mut self) -> Result<u64> {
        let leader = self.cluster.leader()?.0.id();
        if leader != self.leader || self.target.is_none() {
            let target = self.cluster.target(self.api, self.data.keys, self.data.value_bytes)?;
            self.target = Some(Arc::new(target));
            self.leader = leader;
        }
        let target = self.target()?;
        target.call(Works::Put, 0).await?;
        target.call(Works::Get, 0).await?;
        Ok(leader)
    }

    async fn round(&self, work: Work, load: &Load) -> Result<Round> {
        let target = self.target()?;
        let call = move |random| {
            let target = Arc::clone(&target);
            async move { target.call(works(work), random).await }
        };
        load.round(call).await
    }
}

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
struct GetRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(int32, tag = "2")]
    mode: i32,
}

#[derive(Clone, PartialEq, Message)]
struct GetResponse {
    #[prost(message, optional, tag = "2")]
    record: Option<Record>,
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// The part of `proto/d_engine/v1/kv.proto` that the load needs.
struct Kv;

impl Protocol for Kv {
    async fn put(channel: Channel, key: Bytes, value: Bytes) -> Outcome<()> {
        unary(channel, PutRequest { key, value }, "/d_engine.v1.Kv/Put").await.map(|PutResponse {}| ())
    }

    async fn get(channel: Channel, work: Work, key: Bytes) -> Outcome<Option<Bytes>> {
        let mode = match work {
            Work::Put | Work::Get => 0,
            Work::GetLocal => 1,
            Work::GetLease => 2,
        };
        let found: GetResponse = unary(channel, GetRequest { key, mode }, "/d_engine.v1.Kv/Get").await?;
        Ok(found.record.map(|record| record.value))
    }
}

/// By the contract alone.
struct Plain {
    data: Data,
    cluster: Rc<Cluster>,
    leader: u64,
    caller: Option<Arc<Caller<Kv>>>,
}

#[async_trait(?Send)]
impl Subject for Plain {
    fn name(&self) -> &'static str {
        BY_UNARY_CALLS
    }

    fn about(&self) -> String {
        about("plain unary calls over ten connections")
    }

    fn can(&self, work: Work) -> bool {
        matches!(work, Work::Put | Work::Get)
    }

    async fn answers(&mut self) -> Result<u64> {
        let (leader, address) = self.cluster.leader()?;
        if leader.id() != self.leader || self.caller.is_none() {
            self.caller = Some(Caller::new(address, self.data)?);
            self.leader = leader.id();
        }
        self.caller.as_ref().ok_or("no leader was found yet")?.answers().await?;
        Ok(self.leader)
    }

    async fn round(&self, work: Work, load: &Load) -> Result<Round> {
        self.caller.as_ref().ok_or("no leader was found yet")?.round(work, load).await
    }
}
