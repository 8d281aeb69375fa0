//! A local cluster of child processes of this very program, on loopback ports.
//!
//! A child holds the reading end of a pipe from here and ends when it closes, so that none survives even if this
//! process is killed. The files of a temporary cluster then stay until the next demo, which knows them by their lock that
//! nobody holds.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use d_engine_net::{Client, NodeStatus};
use d_engine_processes::{Lifetime, Process, Usage, free_ports, peers, serve};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::serve::Engine;

/// How long anything that should take a moment may take before it counts as failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How the names of temporary directories begin.
const DIRECTORY: &str = "d-engine-demo-";
const LOCK: &str = "LOCK";
/// Holds what the nodes of a directory are.
const DESCRIPTION: &str = "cluster.json";
/// Lines of a node's log that a failure shows.
const LOG_TAIL: usize = 12;
/// How long a node may take to end in order.
const END: Duration = Duration::from_secs(10);

pub(crate) struct Processes {
    nodes: Vec<Node>,
    engine: Engine,
    program: PathBuf,
    directory: PathBuf,
    /// Says to others that the directory is in use, until this process ends in whatever way.
    _lock: File,
    /// Removed with everything in it when this is dropped, after the processes.
    temporary: Option<TempDir>,
    /// The nodes are to outlive this process.
    detached: bool,
}

struct Node {
    id: u64,
    address: String,
    process: Option<Process>,
}

/// What a directory holds: who its nodes are, and on which storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) engine: Engine,
    /// Addresses by node id.
    pub(crate) nodes: BTreeMap<u64, String>,
}

impl Description {
    /// Nodes on loopback.
    pub(crate) fn new(engine: Engine, ports: impl IntoIterator<Item = u16>) -> Self {
        Self { engine, nodes: (1..).zip(ports.into_iter().map(|port| format!("127.0.0.1:{port}"))).collect() }
    }

    /// That of a directory; `None` if there is none.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>, String> {
        let path = directory.join(DESCRIPTION);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        };
        let parsed = serde_json::from_str(&text).ok().and_then(|value| Self::from_json(&value));
        parsed.map(Some).ok_or_else(|| format!("{} does not describe a cluster", path.display()))
    }

    fn write(&self, directory: &Path) -> io::Result<()> {
        let nodes: BTreeMap<String, &String> =
            self.nodes.iter().map(|(id, address)| (id.to_string(), address)).collect();
        // Whole or not at all: a directory without it is taken for an empty one.
        let path = directory.join(DESCRIPTION);
        let unfinished = path.with_extension("new");
        fs::write(&unfinished, format!("{}\n", json!({ "engine": self.engine.name(), "nodes": nodes })))?;
        fs::rename(unfinished, path)
    }

    fn from_json(value: &Value) -> Option<Self> {
        let node = |(id, address): (&String, &Value)| Some((id.parse().ok()?, address.as_str()?.to_owned()));
        let nodes = value["nodes"].as_object()?.iter().map(node).collect::<Option<BTreeMap<_, _>>>()?;
        let engine = Engine::named(value["engine"].as_str()?)?;
        (!nodes.is_empty()).then_some(Self { engine, nodes })
    }
}

impl Processes {
    /// Finds ports and a temporary directory; starts nothing. `detached` nodes can be [kept](Processes::keep).
    pub(crate) fn temporary(nodes: u64, detached: bool) -> Result<Self, String> {
        remove_those_of_the_dead(&std::env::temp_dir());
        let (directory, lock) = locked_directory().map_err(|error| format!("no temporary directory: {error}"))?;
        let ports = free_ports(usize::try_from(nodes).unwrap_or(usize::MAX))?;
        let description = Description::new(Engine::File, ports);
        let mut processes = Self::new(&description, directory.path(), lock)?;
        processes.temporary = Some(directory);
        processes.detached = detached;
        Ok(processes)
    }

    /// The nodes of this directory, which stays; starts nothing.
    ///
    /// # Errors
    /// Another process runs the nodes of this directory, or it cannot be written.
    pub(crate) fn in_directory(directory: &Path, description: &Description) -> Result<Self, String> {
        let failed = |error: io::Error| format!("{} cannot be used: {error}", directory.display());
        fs::create_dir_all(directory).map_err(failed)?;
        let lock = File::create(directory.join(LOCK)).map_err(failed)?;
        if lock.try_lock().is_err() {
            return Err(format!("the nodes of {} run already, started by another d-engine", directory.display()));
        }
        Self::new(description, directory, lock)
    }

    fn new(description: &Description, directory: &Path, lock: File) -> Result<Self, String> {
        let failed = |error: io::Error| format!("{} cannot be used: {error}", directory.display());
        description.write(directory).map_err(failed)?;
        let directory = directory.canonicalize().map_err(failed)?;
        let program = std::env::current_exe().map_err(|error| format!("this program cannot find itself: {error}"))?;
        let node = |(id, address): (&u64, &String)| Node { id: *id, address: address.clone(), process: None };
        let nodes = description.nodes.iter().map(node).collect();
        let (temporary, detached) = (None, false);
        Ok(Self { nodes, engine: description.engine, program, directory, _lock: lock, temporary, detached })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    pub(crate) fn running_addresses(&self) -> Vec<String> {
        self.nodes.iter().filter(|node| node.process.is_some()).map(|node| node.address.clone()).collect()
    }

    /// Process ids of the nodes that run.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| node.process.as_ref()?.pid()).collect()
    }

    /// # Errors
    /// A port of a node is in use.
    pub(crate) fn ports_are_free(&self) -> Result<(), String> {
        for node in &self.nodes {
            if let Err(error) = TcpListener::bind(&node.address) {
                return Err(format!("node {} cannot listen on {}: {error}", node.id, node.address));
            }
        }
        Ok(())
    }

    pub(crate) async fn start_all(&mut self) -> Result<(), String> {
        for place in 0..self.nodes.len() {
            self.start(self.nodes[place].id)?;
        }
        // Long enough for a process that cannot start to say so.
        sleep(Duration::from_millis(100)).await;
        self.all_run()
    }

    pub(crate) fn start(&mut self, id: u64) -> Result<(), String> {
        let founders = peers(self.nodes.iter().map(|node| (node.id, &node.address)));
        let data = self.directory.join(format!("n{id}"));
        let mut command = serve(&self.program, id, &data, &self.node(id)?.address);
        command.args(["--peers", &founders, "--engine", self.engine.name()]);
        if self.engine == Engine::Mem {
            command.arg("--allow-unsafe-voters");
        }
        let lifetime = if self.detached { Lifetime::Detached } else { Lifetime::WithParent };
        if lifetime == Lifetime::WithParent {
            command.arg("--exit-with-parent");
        }
        let process = Process::start(command, &self.log(id), lifetime);
        let process = process.map_err(|error| format!("node {id} cannot be started: {error}"))?;
        self.node_mut(id)?.process = Some(process);
        Ok(())
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, id: u64) -> Result<(), String> {
        let process = self.node_mut(id)?.process.take();
        let mut process = process.ok_or_else(|| format!("node {id} does not run"))?;
        process.kill().map_err(|error| format!("node {id} cannot be killed: {error}"))
    }

    /// Asks every node to end, and waits. Those that did not end in order, with how they did.
    pub(crate) async fn end(&mut self) -> Vec<String> {
        self.nodes.iter().filter_map(|node| node.process.as_ref()).for_each(Process::terminate);
        let started = Instant::now();
        let mut wrong = Vec::new();
        while !self.pids().is_empty() && started.elapsed() < END {
            let ended = self.ended();
            wrong.extend(
                ended.iter().filter(|(_, status)| !status.success()).map(|(id, how)| format!("node {id}: {how}")),
            );
            sleep(Duration::from_millis(20)).await;
        }
        let late = self.nodes.iter().filter(|node| node.process.is_some());
        wrong
            .extend(late.map(|node| format!("node {} did not end within {} s, and is killed", node.id, END.as_secs())));
        wrong
    }

    /// The nodes that have ended by themselves since the last call, and how.
    pub(crate) fn ended(&mut self) -> Vec<(u64, ExitStatus)> {
        let mut ended = Vec::new();
        for node in &mut self.nodes {
            if let Some(status) = node.process.as_mut().and_then(Process::ended) {
                node.process = None;
                ended.push((node.id, status));
            }
        }
        ended
    }

    /// # Errors
    /// A node that was not killed has ended by itself.
    pub(crate) fn all_run(&mut self) -> Result<(), String> {
        match self.ended().first() {
            Some((id, status)) => Err(format!("node {id} ended by itself: {status}")),
            None => Ok(()),
        }
    }

    /// Leaves detached nodes and their directory to themselves.
    pub(crate) fn keep(mut self) {
        if let Some(temporary) = self.temporary.take() {
            // Whoever looks for what the dead have left finds no lock, and leaves the directory alone.
            let _ = fs::remove_file(temporary.path().join(LOCK));
            let _ = temporary.keep();
        }
        self.nodes.into_iter().filter_map(|node| node.process).for_each(Process::leave);
    }

    /// The node that leads, once every node that runs agrees on it.
    pub(crate) async fn leader(&mut self, client: &Client) -> Result<u64, String> {
        let started = Instant::now();
        loop {
            let leaders: Vec<Option<u64>> =
                self.statuses(client).await.iter().map(|status| status.as_ref()?.leader).collect();
            if let Some(Some(leader)) = leaders.first()
                && leaders.iter().all(|other| *other == Some(*leader))
            {
                return Ok(*leader);
            }
            self.all_run()?;
            if started.elapsed() > PATIENCE {
                return Err(format!("the nodes agreed on no leader within {} s", PATIENCE.as_secs()));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What each running node says about itself.
    async fn statuses(&self, client: &Client) -> Vec<Option<NodeStatus>> {
        let mut statuses = Vec::new();
        for address in self.running_addresses() {
            let asked = tokio::time::timeout(Duration::from_secs(2), client.status_of(&address)).await;
            statuses.push(asked.ok().and_then(Result::ok));
        }
        statuses
    }

    /// What each node has used so far; `None` where the system does not tell.
    pub(crate) fn usage(&self) -> Vec<Option<Usage>> {
        self.nodes.iter().map(|node| node.process.as_ref()?.usage()).collect()
    }

    /// The ends of the nodes' logs.
    pub(crate) fn log_tails(&self) -> String {
        let mut out = String::new();
        for node in &self.nodes {
            let text = fs::read(self.log(node.id)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(LOG_TAIL)..] {
                out += &format!("\n  node {}: {line}", node.id);
            }
        }
        out
    }

    pub(crate) fn log(&self, id: u64) -> PathBuf {
        self.directory.join(format!("n{id}.log"))
    }

    fn node(&self, id: u64) -> Result<&Node, String> {
        self.nodes.iter().find(|node| node.id == id).ok_or_else(|| format!("there is no node {id}"))
    }

    fn node_mut(&mut self, id: u64) -> Result<&mut Node, String> {
        self.nodes.iter_mut().find(|node| node.id == id).ok_or_else(|| format!("there is no node {id}"))
    }
}

fn locked_directory() -> io::Result<(TempDir, File)> {
    loop {
        let directory = tempfile::Builder::new().prefix(DIRECTORY).tempdir()?;
        let path = directory.path().join(LOCK);
        let lock = File::create(&path)?;
        // Another demo may have taken it for a dead one's in between.
        if lock.try_lock().is_ok() && path.exists() {
            return Ok((directory, lock));
        }
    }
}

/// Removes the directories of demos that were killed. What cannot be removed stays for the next one.
fn remove_those_of_the_dead(temporary: &Path) {
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let is_demo = entry.file_name().to_string_lossy().starts_with(DIRECTORY);
        // Not through a link: it could lead anywhere.
        if is_demo
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(lock) = File::open(entry.path().join(LOCK))
            && lock.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_tells_what_its_cluster_is() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Description::read(directory.path()).unwrap(), None);
        let description = Description::new(Engine::Mem, [9081, 9082]);
        description.write(directory.path()).unwrap();
        assert_eq!(Description::read(directory.path()).unwrap(), Some(description));
        fs::write(directory.path().join(DESCRIPTION), "{}").unwrap();
        assert!(Description::read(directory.path()).unwrap_err().contains("does not describe a cluster"));
    }
}
