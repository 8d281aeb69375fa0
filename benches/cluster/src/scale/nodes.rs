//! Nodes as processes, and the leader's processor time per write with 3, 5 and 7 of them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use d_engine::file::{FileKvStore, FileStorageEngine};
use d_engine::{Client, ClientOptions};
use d_engine_processes::{Lifetime, Process, Usage, free_ports};
use serde_json::{Value, json};
use three_nodes::{Result, member, start};
use tokio::time::sleep;

use super::{CLIENTS, KEYS, Scale, VALUE_BYTES, key_of, row};

/// The first argument of a process that is a node.
const NODE: &str = "node-of-scale";
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the node that this process is to be, if it is to be one, until its parent is gone; true once it has ended.
pub(crate) async fn run_node_if_asked() -> Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [first, id, data, addresses] = &arguments[..] else { return Ok(false) };
    if first != NODE {
        return Ok(false);
    }
    let (id, data) = (id.parse()?, Path::new(data));
    let peers: Vec<(u64, String)> = (1..).zip(addresses.split(',').map(str::to_owned)).collect();
    let place = data.join(format!("n{id}"));
    let (log, store) = (FileStorageEngine::open(&place)?, FileKvStore::open(place.join("data"))?);
    let node = start(member(id, &peers, data)?, log, store).await?;
    let (gone, parent) = tokio::sync::oneshot::channel::<()>();
    // A thread, because a read from standard input cannot be given up.
    std::thread::spawn(move || {
        let _ = std::io::Read::read(&mut std::io::stdin(), &mut [0]);
        drop(gone);
    });
    let _ = parent.await;
    node.shutdown().await?;
    Ok(true)
}

/// Nodes, killed when this is dropped.
pub(super) struct Processes {
    nodes: Vec<Process>,
    pub(super) addresses: Vec<String>,
}

impl Processes {
    pub(super) fn start(count: usize, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let addresses = free_ports(count)?.into_iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let mut processes = Self { nodes: Vec::new(), addresses };
        let program = std::env::current_exe()?;
        for id in 1..=count {
            let mut command = Command::new(&program);
            command.args([NODE, &id.to_string()]).arg(dir).arg(processes.addresses.join(","));
            processes.nodes.push(Process::start(command, &dir.join(format!("n{id}.log")), Lifetime::WithParent)?);
        }
        Ok(processes)
    }

    /// A client of the leader, and the leader's place, once there is one.
    pub(super) async fn leader(&self) -> Result<(Client, usize)> {
        let options = ClientOptions::default().timeout(Duration::from_secs(10));
        let all = Client::with_options(self.addresses.clone(), options.clone())?;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            for (place, address) in self.addresses.iter().enumerate() {
                if let Ok(status) = all.status_of(address).await
                    && status.role == "leader"
                {
                    return Ok((Client::with_options([address.clone()], options)?, place));
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
        Err("none of the nodes leads".into())
    }

    pub(super) fn processor_time(&self, place: usize) -> Result<Duration> {
        Ok(self.usage(place)?.cpu)
    }

    pub(super) fn resident_bytes(&self, place: usize) -> Result<u64> {
        Ok(self.usage(place)?.resident_bytes)
    }

    fn usage(&self, place: usize) -> Result<Usage> {
        self.nodes[place].usage().ok_or_else(|| format!("/proc does not say what node {} uses", place + 1).into())
    }
}

/// Calls on a client, of random keys.
pub(super) fn put(client: &Client) -> impl Fn(u64) -> PutFuture + Clone + Send + use<> {
    let client = Arc::new(client.clone());
    let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
    move |random| {
        let (client, value) = (Arc::clone(&client), value.clone());
        Box::pin(async move { client.put(key_of(random % KEYS), value).await.map(drop).map_err(|e| e.to_string()) })
    }
}

type PutFuture = std::pin::Pin<Box<dyn Future<Output = std::result::Result<(), String>> + Send>>;

pub(super) async fn processor_time(scale: &Scale, dir: &Path) -> Result<Vec<Value>> {
    let mut rows: Vec<(usize, f64, f64)> = Vec::new();
    for count in [3, 5, 7] {
        let place = dir.join(count.to_string());
        let processes = Processes::start(count, &place)?;
        let (client, leader) = processes.leader().await?;
        let load = scale.load(CLIENTS);
        load.round(put(&client)).await?;
        let mut of_rounds = Vec::new();
        for _ in 0..load.rounds {
            let before = processes.processor_time(leader)?;
            let round = load.round(put(&client)).await?;
            let used = processes.processor_time(leader)?.saturating_sub(before);
            of_rounds.push((used.as_secs_f64() * 1e6 / round.answered().max(1) as f64, round.per_second()));
        }
        of_rounds.sort_by(|a, b| f64::total_cmp(&a.0, &b.0));
        let (micros, rate) = of_rounds[of_rounds.len() / 2];
        rows.push((count, micros, rate));
        drop(processes);
        fs::remove_dir_all(&place)?;
    }
    let per_peer = |pair: &[(usize, f64, f64)]| {
        // Two more peers; what each has added.
        let what =
            format!("processor time of the leader per write, {} → {} nodes: each peer adds", pair[0].0, pair[1].0);
        let added = (pair[1].1 / pair[0].1 - 1.0) / (pair[1].0 - pair[0].0) as f64;
        row(
            &what,
            added,
            "≤",
            0.25,
            json!({
                "nodes": [pair[0].0, pair[1].0], "cpu_us_per_write": [pair[0].1, pair[1].1],
                "writes_per_second": [pair[0].2, pair[1].2],
            }),
        )
    };
    Ok(rows.windows(2).map(per_peer).collect())
}
