//! Runs the binary: as nodes that end with the test, and as one command after another.

#![allow(dead_code, unreachable_pub, reason = "every test program uses its own part")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything that should take a moment may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The binary, with an environment that says nothing to it.
pub fn d_engine(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_d-engine"));
    command.args(arguments).stdin(Stdio::null()).env_remove("D_ENGINE_ENDPOINTS").env_remove("RUST_LOG");
    command
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out.trim_end().to_owned()
    }

    /// It failed with this exit code, said this, and named a command to try.
    #[track_caller]
    pub fn failed(self, code: i32, said: &str) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.contains(said), "{said:?} is not in {self:?}");
        assert!(self.err.contains("\ntry: "), "no command to try in {self:?}");
        self
    }
}

pub fn run(arguments: &[&str]) -> Ran {
    d_engine(arguments).output().unwrap().into()
}

pub fn run_with_input(arguments: &[&str], input: &[u8]) -> Ran {
    let mut command = d_engine(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The program may refuse before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap().into()
}

/// A port that nobody listens on, below those that the system gives to connections.
pub fn free_port() -> u16 {
    d_engine_processes::free_ports(1).unwrap()[0]
}

/// One `serve` process, killed when dropped.
pub struct Server {
    child: Child,
    /// Of both its streams. They are read on, so that the process never waits for a full pipe.
    lines: std::sync::mpsc::Receiver<String>,
    seen: std::cell::RefCell<Vec<String>>,
    pub address: String,
}

impl Server {
    /// Starts a node and waits until it listens.
    pub fn start(data: &Path, id: u64, address: &str, more: &[&str]) -> Self {
        let id = id.to_string();
        let arguments = [
            "serve",
            "--log=error",
            "--exit-with-parent",
            "--data",
            data.to_str().unwrap(),
            "--id",
            &id,
            "--listen",
            address,
        ];
        let mut command = d_engine(&[&arguments, more].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        let read = |stream: Box<dyn std::io::Read + Send>| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    eprintln!("{line}");
                    let _ = sender.send(line);
                }
            });
        };
        read(Box::new(child.stdout.take().unwrap()));
        read(Box::new(child.stderr.take().unwrap()));
        let server = Self { child, lines, seen: Vec::new().into(), address: address.to_owned() };
        server.wait_for_line("listens on");
        server
    }

    /// A cluster of one on a free port.
    pub fn alone(data: &Path) -> Self {
        let server = Self::start(data, 1, &format!("127.0.0.1:{}", free_port()), &[]);
        server.wait_for_line("leads");
        server
    }

    /// The first line with `part` that it has printed or prints yet.
    #[track_caller]
    pub fn wait_for_line(&self, part: &str) -> String {
        let started = Instant::now();
        let mut seen = self.seen.borrow_mut();
        if let Some(line) = seen.iter().find(|line| line.contains(part)) {
            return line.clone();
        }
        while let Ok(line) = self.lines.recv_timeout(PATIENCE.saturating_sub(started.elapsed())) {
            seen.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
        panic!("{} did not print a line with {part:?}, but {seen:?}", self.address);
    }

    /// Whether it has printed a line with `part` so far.
    pub fn has_printed(&self, part: &str) -> bool {
        let mut seen = self.seen.borrow_mut();
        seen.extend(self.lines.try_iter());
        seen.iter().any(|line| line.contains(part))
    }

    /// One command against this node.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        run(&[arguments, &["--endpoints", &self.address]].concat())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the exit code.
    pub fn terminate(mut self) -> i32 {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(started.elapsed() < PATIENCE, "{} does not end", self.address);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Three nodes on free ports.
pub struct Cluster {
    pub servers: Vec<Server>,
    pub addresses: Vec<String>,
    _directory: tempfile::TempDir,
    data: Vec<PathBuf>,
}

impl Cluster {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let addresses: Vec<String> = (0..3).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let data: Vec<PathBuf> = (1..=3).map(|id| directory.path().join(format!("n{id}"))).collect();
        let mut cluster = Self { servers: Vec::new(), addresses, _directory: directory, data };
        for id in 1..=3 {
            let server = cluster.node(id);
            cluster.servers.push(server);
        }
        cluster.servers.iter().for_each(|server| drop(server.wait_for_line("leads")));
        cluster
    }

    /// Starts the node with this id.
    pub fn node(&self, id: usize) -> Server {
        let peers: Vec<String> =
            self.addresses.iter().zip(1..).map(|(address, id)| format!("{id}={address}")).collect();
        Server::start(&self.data[id - 1], id as u64, &self.addresses[id - 1], &["--peers", &peers.join(",")])
    }

    /// The data directory of the node with this id.
    pub fn data(&self, id: usize) -> &Path {
        &self.data[id - 1]
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        run(&[arguments, &["--endpoints", &self.addresses.join(",")]].concat())
    }
}

/// Whether the process exists and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub fn children_of(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
            fields.split(' ').nth(1) == Some(&parent.to_string())
        })
        .collect()
}

/// Asks again until it is so.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
