//! `up`: a cluster that stays until it is interrupted, and comes up again from its directory.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use common::{Ran, children_of, d_engine, eventually, free_port, is_alive, run};

/// The first of three free ports in a row, that no other test here is given.
fn first_port() -> String {
    static ASKING: Mutex<()> = Mutex::new(());
    let _asking = ASKING.lock().unwrap();
    loop {
        let ports = [free_port(), free_port(), free_port()];
        if ports[0] + 1 == ports[1] && ports[1] + 1 == ports[2] {
            return ports[0].to_string();
        }
    }
}

/// A running `up`, killed when dropped; its nodes end with it.
struct Up {
    child: Child,
    out: BufReader<ChildStdout>,
    endpoints: String,
}

impl Up {
    fn start(data: &Path, more: &[&str]) -> Self {
        let mut command = d_engine(&[&["up", "--data", data.to_str().unwrap()], more].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut up = Self { out: BufReader::new(child.stdout.take().unwrap()), child, endpoints: String::new() };
        up.endpoints = up.line("D_ENGINE_ENDPOINTS=").split_once('=').unwrap().1.to_owned();
        up
    }

    fn line(&mut self, part: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.out.read_line(&mut line).unwrap(), 0, "it ended without a line with {part:?}");
            if line.contains(part) {
                return line.trim().to_owned();
            }
        }
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        run(&[arguments, &["--endpoints", &self.endpoints]].concat())
    }

    /// Ctrl-C, and what it said at last.
    fn interrupt(mut self) -> String {
        let sent = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let said = self.line("all nodes have ended");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        said
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_cluster_comes_up_ends_cleanly_and_comes_up_again_with_its_data() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("cluster");
    let up = Up::start(&data, &["--port", &first_port()]);
    assert_eq!(up.endpoints.split(',').count(), 3);
    up.run(&["put", "k", "v"]).ok();
    let pids = children_of(up.child.id());
    assert_eq!(pids.len(), 3);
    let second = run(&["up", "--data", data.to_str().unwrap()]);
    second.failed(1, "run already");
    assert!(up.interrupt().contains("d-engine up --data"));
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "no node is left");

    let data = data.to_str().unwrap();
    run(&["up", "--data", data, "--nodes", "5"]).failed(2, "has 3 nodes");
    run(&["up", "--data", data, "--engine", "mem"]).failed(2, "has the engine file");

    let up = Up::start(Path::new(data), &[]);
    assert_eq!(up.run(&["get", "k"]).ok(), "v");
    up.interrupt();
}

#[test]
fn a_node_that_dies_is_told_and_not_started_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut up = Up::start(directory.path(), &["--port", &first_port(), "--engine", "mem"]);
    let pids = children_of(up.child.id());
    assert!(Command::new("kill").args(["-KILL", &pids[0].to_string()]).status().unwrap().success());
    let mut errors = BufReader::new(up.child.stderr.take().unwrap());
    let mut told = String::new();
    while !told.contains("is not started again") {
        assert_ne!(errors.read_line(&mut told).unwrap(), 0, "{told}");
    }
    eventually("the other two serve", || up.run(&["put", "k", "v"]).code == 0);
    assert_eq!(children_of(up.child.id()).len(), 2);
    up.interrupt();
}

#[test]
fn a_port_in_use_and_a_strange_directory_are_refused_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port().to_string();
    let data = directory.path().join("new");
    run(&["up", "--data", data.to_str().unwrap(), "--port", &port]).failed(1, "node 1 cannot listen on 127.0.0.1:");
    assert!(!data.join("n1").exists());
    std::fs::write(directory.path().join("mine"), "mine").unwrap();
    run(&["up", "--data", directory.path().to_str().unwrap()]).failed(1, "something else than a cluster");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
}
