//! Three nodes, each a process of its own: the program that asks for them, started once more for each.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use d_engine::{Client, ClientOptions};
use d_engine_processes::{Lifetime, Process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{Result, free_peers, member};

/// The first argument of a process that is one of the nodes.
const NODE: &str = "node-of-three";
/// How long an election may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the node that this process is to be, if it is to be one, until its parent is gone. A program that starts
/// [`Processes`] of itself calls this first, and ends if it answers true.
///
/// # Errors
/// What keeps the node from running.
pub async fn run_node_if_asked() -> Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [first, id, data, addresses] = &arguments[..] else { return Ok(false) };
    if first != NODE {
        return Ok(false);
    }
    let peers: Vec<(u64, String)> = (1..).zip(addresses.split(',').map(str::to_owned)).collect();
    let (_stop, shutdown) = tokio::sync::watch::channel(());
    let node = d_engine::open(member(id.parse()?, &peers, Path::new(data))?, shutdown).await?.start().await?;
    // A thread, because a read from standard input cannot be given up.
    let (gone, parent) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        drop(gone);
    });
    let _ = parent.await;
    node.shutdown().await?;
    Ok(true)
}

/// Three nodes with their data in a temporary directory; all of it goes when this is dropped.
pub struct Processes {
    program: PathBuf,
    peers: Vec<(u64, String)>,
    running: Vec<(u64, Process)>,
    data: TempDir,
}

impl Processes {
    /// Starts `program` three times; it must call [`run_node_if_asked`].
    ///
    /// # Errors
    /// What the system says.
    pub fn start(program: impl Into<PathBuf>) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let mut processes = Self { program: program.into(), peers: free_peers()?, running: Vec::new(), data };
        for id in 1..=3 {
            processes.start_node(id)?;
        }
        Ok(processes)
    }

    /// Starts a node, or starts it again.
    ///
    /// # Errors
    /// What the system says.
    pub fn start_node(&mut self, id: u64) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args([NODE, &id.to_string()]).arg(self.data.path()).arg(self.addresses().join(","));
        let process = Process::start(command, &self.data.path().join(format!("n{id}.log")), Lifetime::WithParent)?;
        self.running.push((id, process));
        Ok(())
    }

    /// Where the nodes listen, those that do not run included.
    pub fn addresses(&self) -> Vec<String> {
        self.peers.iter().map(|(_, address)| address.clone()).collect()
    }

    /// A client of the three.
    ///
    /// # Errors
    /// None, as the addresses are right.
    pub fn client(&self) -> Result<Client> {
        Ok(Client::with_options(self.addresses(), ClientOptions::default().timeout(Duration::from_secs(10)))?)
    }

    /// Which of the running nodes leads, once one does.
    ///
    /// # Errors
    /// None does for half a minute.
    pub async fn leader(&self) -> Result<u64> {
        let client = self.client()?;
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            for (id, _) in &self.running {
                let (_, address) = &self.peers[usize::try_from(*id)? - 1];
                if let Ok(status) = client.status_of(address).await
                    && status.role == "leader"
                {
                    return Ok(*id);
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
        Err("none of the nodes leads".into())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// The node does not run.
    pub fn kill(&mut self, id: u64) -> Result<()> {
        let place = self.running.iter().position(|(running, _)| *running == id).ok_or("the node does not run")?;
        let (_, mut process) = self.running.swap_remove(place);
        Ok(process.kill()?)
    }
}
