//! Three nodes as processes that can be stopped, wiped and started again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use d_engine::{Client, ClientOptions, NodeStatus, Operation};
use d_engine_processes::{Lifetime, Process, Usage, free_ports, peers, serve};
use three_nodes::Result;
use tokio::time::sleep;

/// How long anything may take that should take a few seconds, on a slow machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);

pub(super) struct Cluster {
    program: PathBuf,
    dir: PathBuf,
    addresses: BTreeMap<u64, String>,
    running: BTreeMap<u64, Process>,
    client: Client,
}

impl Cluster {
    /// Starts three nodes with their data below `dir`, and waits for a leader.
    pub(super) async fn start(program: &Path, dir: &Path, settings: &[&str]) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let addresses: BTreeMap<u64, String> =
            (1..).zip(free_ports(3)?.into_iter().map(|port| format!("127.0.0.1:{port}"))).collect();
        let client = client(addresses.values())?;
        let mut cluster =
            Self { program: program.into(), dir: dir.into(), addresses, running: BTreeMap::new(), client };
        cluster.start_all(settings).await?;
        Ok(cluster)
    }

    pub(super) async fn start_all(&mut self, settings: &[&str]) -> Result<()> {
        for id in self.ids() {
            self.start_node(id, false, settings)?;
        }
        self.leader().await?;
        Ok(())
    }

    pub(super) fn ids(&self) -> Vec<u64> {
        self.addresses.keys().copied().collect()
    }

    /// `join`: its directory is new, and waits to be added.
    pub(super) fn start_node(&mut self, id: u64, join: bool, settings: &[&str]) -> Result<()> {
        let mut command = serve(&self.program, id, &self.data(id), self.address(id)?);
        command.args(["--exit-with-parent", "--log", "info", "--log-json"]);
        match join {
            true => command.args(["--join", "127.0.0.1:1"]),
            false => command.args(["--peers", &peers(self.addresses.iter().map(|(id, address)| (*id, address)))]),
        };
        command.args(settings.iter().flat_map(|setting| ["--set", setting])).env_remove("RUST_LOG");
        self.running.insert(id, Process::start(command, &self.log(id), Lifetime::WithParent)?);
        Ok(())
    }

    pub(super) fn address(&self, id: u64) -> Result<&str> {
        Ok(self.addresses.get(&id).ok_or_else(|| format!("there is no node {id}"))?)
    }

    fn data(&self, id: u64) -> PathBuf {
        self.dir.join(format!("n{id}"))
    }

    pub(super) fn log(&self, id: u64) -> PathBuf {
        self.dir.join(format!("n{id}.log"))
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self, id: u64) -> Result<()> {
        self.running.remove(&id).ok_or_else(|| format!("node {id} does not run"))?.kill()?;
        Ok(())
    }

    /// Ends all in order.
    pub(super) async fn end_all(&mut self) -> Result<()> {
        self.running.values().for_each(Process::terminate);
        let begun = Instant::now();
        while self.running.values_mut().any(|process| process.ended().is_none() && process.pid().is_some()) {
            if begun.elapsed() > PATIENCE {
                return Err("the nodes do not end".into());
            }
            sleep(LOOK).await;
        }
        self.running.clear();
        Ok(())
    }

    /// Kills a node and loses its disk; it waits to be added again.
    pub(super) async fn wipe(&mut self, id: u64, settings: &[&str]) -> Result<()> {
        self.kill(id)?;
        fs::remove_dir_all(self.data(id))?;
        self.start_node(id, true, settings)?;
        self.until(id, "answers", |_| true).await.map(drop)
    }

    /// Stops a process where it is, or lets it go on.
    pub(super) fn pause(&self, id: u64, pause: bool) -> Result<()> {
        Ok(self.running.get(&id).ok_or_else(|| format!("node {id} does not run"))?.pause(pause)?)
    }

    pub(super) fn pid(&self, id: u64) -> Result<u32> {
        self.running.get(&id).and_then(Process::pid).ok_or_else(|| format!("node {id} does not run").into())
    }

    pub(super) fn usage(&self, id: u64) -> Result<Usage> {
        Usage::of(self.pid(id)?).ok_or_else(|| format!("/proc does not say what node {id} uses").into())
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// A client that asks this node first.
    pub(super) fn client_of(&self, id: u64) -> Result<Client> {
        client([self.address(id)?])
    }

    /// The node that leads, once one does and all that run know it.
    pub(super) async fn leader(&self) -> Result<u64> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let mut leaders = Vec::new();
            for id in self.running.keys() {
                leaders.push(self.status(*id).await.ok().and_then(|status| status.leader));
            }
            if let Some(Some(leader)) = leaders.first()
                && leaders.iter().all(|other| *other == Some(*leader))
            {
                return Ok(*leader);
            }
            sleep(LOOK).await;
        }
        Err("the nodes agree on no leader".into())
    }

    /// A node that does not lead.
    pub(super) async fn follower(&self) -> Result<u64> {
        let leader = self.leader().await?;
        self.ids().into_iter().find(|id| *id != leader).ok_or_else(|| "there is no follower".into())
    }

    pub(super) async fn status(&self, id: u64) -> Result<NodeStatus> {
        let asked = self.client.status_of(self.address(id)?);
        Ok(tokio::time::timeout(Duration::from_secs(2), asked).await??)
    }

    /// Looks at a node until `reached`; `what` for the error.
    pub(super) async fn until(&self, id: u64, what: &str, reached: impl Fn(&NodeStatus) -> bool) -> Result<NodeStatus> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Ok(status) = self.status(id).await
                && reached(&status)
            {
                return Ok(status);
            }
            sleep(LOOK).await;
        }
        Err(format!("it took more than {} s until node {id} {what}", PATIENCE.as_secs()).into())
    }

    /// Makes a snapshot on a node, and waits until its log is purged up to it.
    pub(super) async fn snapshot(&self, id: u64) -> Result<Duration> {
        let begun = Instant::now();
        let made = self.client.make_snapshot_of(self.address(id)?).await?;
        let took = begun.elapsed();
        self.until(id, "has purged its log", |status| status.purged >= made.index).await?;
        Ok(took)
    }

    /// Has a wiped node that waits take its own old place, and waits until it votes.
    pub(super) async fn replace(&self, id: u64, leader: u64) -> Result<()> {
        let address = self.address(id)?.to_owned();
        self.client.operate(Operation::Replace { old: id, node: id, address, promote: true }).await?;
        let votes = |status: &NodeStatus| status.members.iter().any(|one| one.node == id && one.kind == "voter");
        self.until(leader, "lets the wiped node vote", votes).await.map(drop)
    }
}

fn client<A: Into<String>>(addresses: impl IntoIterator<Item = A>) -> Result<Client> {
    let options = ClientOptions::default().timeout(Duration::from_secs(60)).without_session();
    Ok(Client::with_options(addresses, options)?)
}
