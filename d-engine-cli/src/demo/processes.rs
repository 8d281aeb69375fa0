//! The demo's nodes: child processes of this very program, in a temporary directory, on free loopback ports.
//!
//! A child holds the reading end of a pipe from here and ends when it closes, so that none survives even if this
//! process is killed. Its files then stay until the next demo, which knows them by their lock that nobody holds.

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// How the names of the directories begin.
const DIRECTORY: &str = "d-engine-demo-";
const LOCK: &str = "LOCK";
/// Lines of a node's log that a failure shows.
const LOG_TAIL: usize = 12;

pub(super) struct Processes {
    nodes: Vec<Node>,
    program: PathBuf,
    /// Removed with everything in it when this is dropped, after the processes.
    directory: TempDir,
    /// Says to other demos that the directory is in use, until this process ends in whatever way.
    _lock: File,
}

struct Node {
    id: u64,
    address: String,
    child: Option<Child>,
}

/// What a process has used.
pub(super) struct Usage {
    /// Time on a processor since its start.
    pub(super) cpu: Duration,
    /// Memory of its own that is in use.
    pub(super) resident_bytes: u64,
}

impl Processes {
    /// Finds ports and a directory; starts nothing.
    pub(super) fn new(nodes: u64) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| format!("this program cannot find itself: {error}"))?;
        remove_those_of_the_dead(&std::env::temp_dir());
        let (directory, lock) = locked_directory().map_err(|error| format!("no temporary directory: {error}"))?;
        let ports = free_ports(usize::try_from(nodes).unwrap_or(usize::MAX))?;
        let nodes = (1..=nodes).zip(ports);
        let nodes = nodes.map(|(id, port)| Node { id, address: format!("127.0.0.1:{port}"), child: None }).collect();
        Ok(Self { nodes, program, directory, _lock: lock })
    }

    pub(super) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    pub(super) fn running_addresses(&self) -> Vec<String> {
        self.nodes.iter().filter(|node| node.child.is_some()).map(|node| node.address.clone()).collect()
    }

    pub(super) async fn start_all(&mut self) -> Result<(), String> {
        for id in 1..=self.nodes.len() as u64 {
            self.start(id)?;
        }
        // Long enough for a process that cannot start to say so.
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.all_run()
    }

    pub(super) fn start(&mut self, id: u64) -> Result<(), String> {
        let peers: Vec<String> = self.nodes.iter().map(|node| format!("{}={}", node.id, node.address)).collect();
        let failed = |error| format!("node {id} cannot be started: {error}");
        let log = File::options().create(true).append(true).open(self.log(id)).map_err(failed)?;
        let second = log.try_clone().map_err(failed)?;
        let data = self.directory.path().join(format!("n{id}"));
        let address = self.node(id)?.address.clone();
        let child = Command::new(&self.program)
            .args(["serve", "--exit-with-parent", "--data"])
            .arg(data)
            .args(["--id", &id.to_string(), "--listen", &address, "--peers", &peers.join(",")])
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(second)
            .spawn()
            .map_err(failed)?;
        self.node(id)?.child = Some(child);
        Ok(())
    }

    /// kill -9.
    pub(super) fn kill(&mut self, id: u64) -> Result<(), String> {
        let Some(mut child) = self.node(id)?.child.take() else { return Err(format!("node {id} does not run")) };
        child.kill().and_then(|()| child.wait()).map_err(|error| format!("node {id} cannot be killed: {error}"))?;
        Ok(())
    }

    /// # Errors
    /// A node that was not killed has ended by itself.
    pub(super) fn all_run(&mut self) -> Result<(), String> {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child
                && let Ok(Some(status)) = child.try_wait()
            {
                node.child = None;
                return Err(format!("node {} ended by itself: {status}", node.id));
            }
        }
        Ok(())
    }

    /// What each node has used so far; `None` where the system does not tell.
    pub(super) fn usage(&self) -> Vec<Option<Usage>> {
        self.nodes.iter().map(|node| usage(node.child.as_ref()?.id())).collect()
    }

    /// The ends of the nodes' logs.
    pub(super) fn log_tails(&self) -> String {
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

    fn log(&self, id: u64) -> PathBuf {
        self.directory.path().join(format!("n{id}.log"))
    }

    fn node(&mut self, id: u64) -> Result<&mut Node, String> {
        self.nodes.iter_mut().find(|node| node.id == id).ok_or_else(|| format!("there is no node {id}"))
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            let _ = child.kill();
        }
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            let _ = child.wait();
        }
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

/// Ports that nobody listens on, outside the range from which the system takes the local ports of connections: a node
/// that is dialled while it is down would otherwise, now and then, be found to have its port taken by the dialling.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    const FIRST: u32 = 15_000;
    const LAST: u32 = 32_000;
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mut next = std::process::id().wrapping_mul(97).wrapping_add(time.subsec_nanos());
    let mut held = Vec::new();
    for _ in 0..1000 {
        next = next.wrapping_add(1);
        let port = FIRST + next % (LAST - FIRST);
        let port = u16::try_from(port).map_err(|_| format!("{port} is no port"))?;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            held.push((port, listener));
        }
        if held.len() == count {
            return Ok(held.into_iter().map(|(port, _)| port).collect());
        }
    }
    Err("no free ports on 127.0.0.1 between 15000 and 32000".to_owned())
}

/// Of `/proc/PID/stat` and `/proc/PID/status`.
fn usage(pid: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(Usage { cpu: cpu_time(&stat)?, resident_bytes: resident_bytes(&status)? })
}

/// User and system time: fields 14 and 15, which the kernel counts in hundredths of a second on every machine.
fn cpu_time(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_from_proc() {
        let stat = "7 (d-engine (x) y) S 1 7 7 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 9 0 12345 1 2";
        assert_eq!(cpu_time(stat), Some(Duration::from_millis(1750)));
        assert_eq!(resident_bytes("VmHWM:\t 9 kB\nVmRSS:\t    1024 kB\n"), Some(1 << 20));
    }

    #[test]
    fn free_ports_are_different_and_free() {
        let ports = free_ports(3).unwrap();
        assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2]);
        let held: Vec<_> = ports.iter().map(|port| TcpListener::bind(("127.0.0.1", *port)).unwrap()).collect();
        assert_eq!(held.len(), 3);
    }
}
