//! The processes: `d-engine serve`, each with a directory, a port, and an address at which the network leads to that port.

use std::fs;
use std::path::{Path, PathBuf};

use d_engine_processes::{Lifetime, Process, free_ports, peers, serve};

use crate::network::{Id, Network};

/// Snapshots and purges come often, so that replicas that were away need them.
const SETTINGS: &[&str] = &[
    "limits.request_timeout_ms=2000",
    "snapshot.entries=20000",
    "snapshot.max_entries_behind=50000",
    "snapshot.compression=lz4",
    "storage.segment_bytes_max=1048576",
    "storage.tail_bytes=262144",
];

pub(crate) struct Nodes {
    nodes: Vec<Node>,
    program: PathBuf,
    directory: PathBuf,
    /// Highest resident memory that was seen since it was last taken, in bytes.
    pub(crate) resident_max: u64,
}

struct Node {
    id: Id,
    port: u16,
    advertised: u16,
    process: Option<Process>,
}

impl Nodes {
    pub(crate) async fn new(
        count: u64,
        program: PathBuf,
        directory: &Path,
        network: &mut Network,
    ) -> Result<Self, String> {
        let mut nodes = Vec::new();
        for (id, ports) in (1..=count).zip(free_ports(2 * count as usize)?.chunks(2)) {
            let node = Node { id, port: ports[0], advertised: ports[1], process: None };
            let led = network.lead_to(id, node.advertised, node.port).await;
            led.map_err(|error| format!("port {} cannot be listened on: {error}", node.advertised))?;
            nodes.push(node);
        }
        Ok(Self { nodes, program, directory: directory.to_owned(), resident_max: 0 })
    }

    pub(crate) fn ids(&self) -> Vec<Id> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.advertised)).collect()
    }

    pub(crate) fn address(&self, id: Id) -> String {
        self.nodes.iter().find(|node| node.id == id).map(|n| format!("127.0.0.1:{}", n.advertised)).unwrap_or_default()
    }

    pub(crate) fn data(&self, id: Id) -> PathBuf {
        self.directory.join(format!("n{id}"))
    }

    fn log(&self, id: Id) -> PathBuf {
        self.directory.join(format!("n{id}.log"))
    }

    fn node(&mut self, id: Id) -> Result<&mut Node, String> {
        self.nodes.iter_mut().find(|node| node.id == id).ok_or_else(|| format!("there is no node {id}"))
    }

    /// Starts a node that does not run; `join`: its directory is new, and the cluster is old.
    pub(crate) fn start(&mut self, id: Id, join: bool, network: &Network) -> Result<(), String> {
        if self.node(id)?.process.is_some() {
            return Ok(());
        }
        let failed = |error| format!("node {id} cannot be started: {error}");
        let founders = peers(self.nodes.iter().map(|node| (node.id, format!("127.0.0.1:{}", node.advertised))));
        let (data, log) = (self.data(id), self.log(id));
        let program = self.program.clone();
        let node = self.node(id)?;
        let mut command = serve(&program, id, &data, &format!("127.0.0.1:{}", node.port));
        command.args(["--exit-with-parent", "--log", "info"]);
        command.args(["--advertise", &format!("127.0.0.1:{}", node.advertised)]);
        match join {
            // Nobody is there: it waits to be added by an operator.
            true => command.args(["--join", "127.0.0.1:1"]),
            false => command.args(["--peers", &founders]),
        };
        command.args(SETTINGS.iter().flat_map(|setting| ["--set", setting])).env_remove("RUST_LOG");
        let process = Process::start(command, &log, Lifetime::WithParent).map_err(failed)?;
        if let Some(pid) = process.pid() {
            network.runs_as(id, pid);
        }
        node.process = Some(process);
        Ok(())
    }

    /// kill -9; nothing if it does not run.
    pub(crate) fn kill(&mut self, id: Id) -> Result<(), String> {
        let Some(mut process) = self.node(id)?.process.take() else { return Ok(()) };
        process.kill().map_err(|error| format!("node {id} cannot be killed: {error}"))
    }

    /// Stops a process where it is, or lets it go on.
    pub(crate) fn pause(&mut self, id: Id, pause: bool) -> Result<(), String> {
        let Some(process) = &self.node(id)?.process else { return Ok(()) };
        process.pause(pause).map_err(|error| format!("node {id} cannot be paused or continued: {error}"))
    }

    /// A node that was not killed and has ended, or has panicked.
    pub(crate) fn judge(&mut self) -> Result<(), String> {
        for node in &mut self.nodes {
            let Some(process) = &mut node.process else { continue };
            if let Some(status) = process.ended() {
                node.process = None;
                return Err(format!("node {} ended by itself: {status}", node.id));
            }
            self.resident_max = self.resident_max.max(process.usage().map_or(0, |usage| usage.resident_bytes));
        }
        Ok(())
    }

    /// Lines of the logs that tell of a panic.
    pub(crate) fn panics(&self) -> Vec<String> {
        let mut found = Vec::new();
        for node in &self.nodes {
            let text = fs::read(self.log(node.id)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            found.extend(text.lines().filter(|l| l.contains("panicked at")).map(|l| format!("node {}: {l}", node.id)));
        }
        found
    }
}
