//! The processes: `d-engine serve`, each with a directory, a port, and an address at which the network leads to that port.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

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
    child: Option<Child>,
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
            let node = Node { id, port: ports[0], advertised: ports[1], child: None };
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
        if self.node(id)?.child.is_some() {
            return Ok(());
        }
        let failed = |error| format!("node {id} cannot be started: {error}");
        let log = File::options().create(true).append(true).open(self.log(id)).map_err(failed)?;
        let second = log.try_clone().map_err(failed)?;
        let peers: Vec<String> =
            self.nodes.iter().map(|node| format!("{}=127.0.0.1:{}", node.id, node.advertised)).collect();
        let mut command = Command::new(&self.program);
        command.args(["serve", "--exit-with-parent", "--log", "info", "--data"]).arg(self.data(id));
        let node = self.node(id)?;
        command.args(["--id", &id.to_string(), "--listen", &format!("127.0.0.1:{}", node.port)]);
        command.args(["--advertise", &format!("127.0.0.1:{}", node.advertised)]);
        match join {
            // Nobody is there: it waits to be added by an operator.
            true => command.args(["--join", "127.0.0.1:1"]),
            false => command.args(["--peers", &peers.join(",")]),
        };
        command.args(SETTINGS.iter().flat_map(|setting| ["--set", setting]));
        command.env_remove("RUST_LOG").stdin(Stdio::piped()).stdout(log).stderr(second);
        let child = command.spawn().map_err(failed)?;
        network.runs_as(id, child.id());
        node.child = Some(child);
        Ok(())
    }

    /// kill -9; nothing if it does not run.
    pub(crate) fn kill(&mut self, id: Id) -> Result<(), String> {
        let Some(mut child) = self.node(id)?.child.take() else { return Ok(()) };
        child.kill().and_then(|()| child.wait()).map_err(|error| format!("node {id} cannot be killed: {error}"))?;
        Ok(())
    }

    /// Stops a process where it is, or lets it go on.
    pub(crate) fn pause(&mut self, id: Id, pause: bool) -> Result<(), String> {
        let Some(child) = &self.node(id)?.child else { return Ok(()) };
        let signal = if pause { Signal::STOP } else { Signal::CONT };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else { return Err(format!("node {id} has no process id")) };
        kill_process(pid, signal).map_err(|error| format!("node {id} cannot be paused or continued: {error}"))
    }

    /// A node that was not killed and has ended, or has panicked.
    pub(crate) fn judge(&mut self) -> Result<(), String> {
        for node in &mut self.nodes {
            let Some(child) = &mut node.child else { continue };
            if let Ok(Some(status)) = child.try_wait() {
                node.child = None;
                return Err(format!("node {} ended by itself: {status}", node.id));
            }
            self.resident_max = self.resident_max.max(resident_bytes(child.id()).unwrap_or(0));
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

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Free ports below those that the system gives to connections: a node that is down must not find its port taken.
fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let mut held = Vec::new();
    for _ in 0..1000 {
        let port = fastrand::u16(15_000..32_000);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            held.push((port, listener));
        }
        if held.len() == count {
            return Ok(held.into_iter().map(|(port, _)| port).collect());
        }
    }
    Err("no free ports on 127.0.0.1 between 15000 and 32000".to_owned())
}
