//! What is left of a cluster becomes a new one: from an archive, and from a single surviving directory.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Cluster, Ran, Server, d_engine, eventually, free_port, run};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Every file under a directory with its bytes.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            out.insert(path.clone(), Vec::new());
            out.extend(content(&path));
        } else {
            out.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    out
}

fn addresses() -> Vec<String> {
    (0..3).map(|_| format!("127.0.0.1:{}", free_port())).collect()
}

fn members(addresses: &[String]) -> String {
    addresses.iter().zip(1..).map(|(address, id)| format!("{id}={address}")).collect::<Vec<_>>().join(",")
}

fn restore(archive: &Path, id: u64, members: &str, dir: &Path) -> Ran {
    let id = id.to_string();
    run(&["snapshot", "restore", text(archive), "--node-id", &id, "--members", members, "--dir", text(dir)])
}

/// All keys with values and revisions, as the node itself has them.
fn local_state(server: &Server) -> String {
    server.run(&["range", "--limit", "100000", "--local", "-o", "json"]).ok()
}

/// An archive of a small cluster of one with these keys.
fn small_archive(dir: &Path, keys: u32) -> PathBuf {
    let server = Server::alone(&dir.join("source"));
    // As many as one transaction takes.
    for first in (0..keys).step_by(100) {
        let some = first..keys.min(first + 100);
        let puts: String = some.map(|n| format!(" put k/{n:05} {}\n", "v".repeat(200))).collect();
        common::run_with_input(&["txn", "--endpoints", &server.address], format!("then\n{puts}").as_bytes()).ok();
    }
    let archive = dir.join("archive");
    server.run(&["snapshot", "save", text(&archive)]).ok();
    archive
}

#[test]
fn three_directories_restored_one_by_one_form_a_cluster_with_all_data() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    let (state, lease, old_cluster) = {
        let cluster = Cluster::start();
        for n in 0..30 {
            cluster.run(&["put", &format!("k/{n:02}"), &format!("v{n}")]).ok();
        }
        cluster.run(&["delete", "k/07"]).ok();
        let lease = cluster.run(&["lease", "grant", "600", "-o", "plain"]).ok();
        cluster.run(&["put", "held", "x", "--lease", &lease]).ok();
        cluster.run(&["snapshot", "save", text(&archive)]).ok();
        let status = json(&cluster.run(&["status", "-o", "json"]).ok());
        let state = cluster.run(&["range", "--limit", "1000", "-o", "json"]).ok();
        (state, lease, status["cluster"].as_str().unwrap().to_owned())
    };
    let addresses = addresses();
    let members = members(&addresses);
    let dirs: Vec<PathBuf> = (1..=3).map(|id| dir.path().join(format!("r{id}"))).collect();
    for (id, dir) in (1..).zip(&dirs) {
        restore(&archive, id, &members, dir).ok();
    }
    let servers: Vec<Server> =
        (1..).zip(&dirs).map(|(id, dir)| Server::start(dir, id, &addresses[id as usize - 1], &[])).collect();
    servers.iter().for_each(|server| drop(server.wait_for_line("leads")));
    for server in &servers {
        assert_eq!(json(&server.run(&["range", "--limit", "1000", "-o", "json"]).ok()), json(&state));
        let status = json(&server.run(&["status", "-o", "json"]).ok());
        assert_ne!(status["cluster"], old_cluster.as_str());
        assert_eq!(status["nodes"].as_array().unwrap().len(), 3);
    }
    assert!(servers[0].run(&["lease", "ttl", &lease, "--keys"]).ok().ends_with("held"));
    servers[1].run(&["lease", "revoke", &lease]).ok();
    servers[2].run(&["get", "held"]).failed(3, "does not exist");
    servers[2].run(&["put", "new", "1"]).ok();
    eventually("every node has the same state", || {
        let states: Vec<String> = servers.iter().map(local_state).collect();
        states.iter().all(|state| *state == states[0] && state.contains("new"))
    });
    // It survives what any cluster does.
    drop(servers);
    let again: Vec<Server> =
        (1..).zip(&dirs).map(|(id, dir)| Server::start(dir, id, &addresses[id as usize - 1], &[])).collect();
    again.iter().for_each(|server| drop(server.wait_for_line("leads")));
    assert_eq!(again[0].run(&["get", "new"]).ok(), "1");
}

#[test]
fn a_restore_that_cannot_be_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let archive = small_archive(dir.path(), 3);
    let (used, empty, absent) = (dir.path().join("used"), dir.path().join("empty"), dir.path().join("absent"));
    fs::create_dir(&used).unwrap();
    fs::write(used.join("precious"), b"x").unwrap();
    fs::create_dir(&empty).unwrap();
    let good = "1=127.0.0.1:9,2=127.0.0.1:10";
    let before = content(dir.path());
    restore(&archive, 1, good, &used).failed(1, "it holds precious");
    restore(&archive, 3, good, &empty).failed(2, "node 3 is not among them");
    restore(&archive, 1, "1=127.0.0.1:9,1=127.0.0.1:10", &empty).failed(2, "the same id or the same address");
    restore(&archive, 1, "1=127.0.0.1:9,2=127.0.0.1:9", &empty).failed(2, "the same id or the same address");
    restore(&archive, 1, "1=127.0.0.1", &empty).failed(2, "write host:port");
    restore(&used.join("precious"), 1, good, &absent).failed(1, "archive");
    restore(&dir.path().join("none"), 1, good, &absent).failed(1, "opening the archive");
    let bytes = fs::read(&archive).unwrap();
    let bad = dir.path().join("bad");
    // Every bit of the ends, which hold everything but data, and some between them; every kind of cut.
    let edges = (0..400).chain(bytes.len() - 60..bytes.len());
    let between = (400..bytes.len() - 60).step_by(61);
    for place in edges.chain(between).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1 << (place % 8);
        fs::write(&bad, &damaged).unwrap();
        assert_eq!(restore(&bad, 1, good, &absent).code, 1, "byte {place}");
    }
    for len in (0..bytes.len()).step_by(bytes.len() / 20) {
        fs::write(&bad, &bytes[..len]).unwrap();
        assert_eq!(restore(&bad, 1, good, &absent).code, 1, "cut to {len}");
    }
    fs::remove_file(&bad).unwrap();
    assert!(content(dir.path()) == before, "a refusal has changed something");

    restore(&archive, 1, good, &empty).ok();
    restore(&archive, 1, good, &empty).failed(1, "is not empty");
    restore(&archive, 2, good, &absent).ok();
}

#[test]
fn a_restore_that_is_killed_leaves_a_directory_that_is_whole_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let archive = small_archive(dir.path(), 2_000);
    let address = format!("127.0.0.1:{}", free_port());
    let members = format!("1={address}");
    let whole = dir.path().join("whole");
    let started = Instant::now();
    restore(&archive, 1, &members, &whole).ok();
    let takes = started.elapsed();
    let (mut refused, mut complete) = (0, 0);
    for turn in 0..=24u32 {
        let target = dir.path().join(format!("t{turn}"));
        let mut command = d_engine(&["snapshot", "restore", text(&archive), "--node-id", "1"]);
        command.args(["--members", &members, "--dir", text(&target)]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        if turn < 24 {
            std::thread::sleep(takes.mul_f64(f64::from(turn) / 24.0));
            // It may have ended.
            let _ = child.kill();
        }
        let _ = child.wait();
        if target.join("RESTORING").exists() {
            refused += 1;
            let before = content(&target);
            let serve = run(&["serve", "--data", text(&target), "--id", "1", "--listen", &address]);
            serve.failed(1, "is half made");
            restore(&archive, 1, &members, &target).failed(1, "is half made");
            assert!(content(&target) == before, "a refusal has changed something");
        } else if content(&target).is_empty() {
            restore(&archive, 1, &members, &target).ok();
        } else {
            complete += 1;
            let server = Server::start(&target, 1, &address, &[]);
            server.wait_for_line("leads");
            assert_eq!(server.run(&["range", "--count", "-o", "plain"]).ok(), "2000");
        }
    }
    eprintln!("{refused} were half made, {complete} complete");
    assert!(refused > 0 && complete > 0, "{refused} half made, {complete} complete, a whole one took {takes:?}");
}

#[test]
fn the_survivor_of_three_becomes_a_cluster_with_all_data_and_grows_back() {
    let mut cluster = Cluster::start();
    for n in 0..40 {
        cluster.run(&["put", &format!("k/{n:02}"), &format!("v{n}")]).ok();
    }
    cluster.run(&["put", "last", "acknowledged"]).ok();
    let acknowledged = cluster.run(&["range", "--limit", "1000", "-o", "json"]).ok();
    // The third has everything that was acknowledged.
    let third = cluster.servers.pop().unwrap();
    assert_eq!(third.run(&["get", "last"]).ok(), "acknowledged");
    cluster.servers.drain(..).for_each(Server::kill);
    let data = cluster.data(3).to_path_buf();
    let flag = ["recover", "--force-new-cluster", text(&data)];
    run(&[&flag[..], &["--yes"]].concat()).failed(1, "in use by another process");
    let address = third.address.clone();
    third.kill();
    run(&flag).failed(2, "nobody confirms this");
    assert!(!data.join("REPLACED").exists() && fs::read_dir(data.parent().unwrap()).unwrap().count() == 3);

    let ran = run(&[&flag[..], &["--yes", "-o", "json"]].concat());
    assert!(ran.err.contains("LOST: every write after entry"), "{ran:?}");
    let recovered = json(&ran.ok());
    let old = PathBuf::from(recovered["old"].as_str().unwrap());
    assert!(old.join("log").exists() && old.join("REPLACED").exists());
    run(&["serve", "--data", text(&old), "--id", "3", "--listen", &address]).failed(1, "was replaced");

    let server = Server::start(&data, 3, &address, &[]);
    server.wait_for_line("leads");
    let now = server.run(&["range", "--limit", "1000", "-o", "json"]).ok();
    assert_eq!(json(&now), json(&acknowledged));
    server.run(&["put", "after", "recovery"]).ok();

    // The old ones are refused, and come in with empty directories.
    let refused = cluster.node(1);
    let fresh = tempfile::tempdir().unwrap();
    let join = |id: u64| {
        let address = format!("127.0.0.1:{}", free_port());
        Server::start(&fresh.path().join(id.to_string()), id, &address, &["--join", &server.address])
    };
    let (four, five) = (join(4), join(5));
    eventually("three vote", || {
        let list = server.run(&["member", "list", "-o", "plain"]).ok();
        list.lines().filter(|line| line.contains("\tvoter\t")).count() == 3
    });
    assert_eq!(five.run(&["get", "after"]).ok(), "recovery");
    assert_eq!(
        refused.run(&["get", "k/01", "--timeout", "1"]).code,
        1,
        "it has no quorum, and no place in the new cluster"
    );
    server.kill();
    eventually("the new members go on", || four.run(&["put", "more", "1"]).code == 0);
}

#[test]
fn what_cannot_be_recovered_is_refused_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let recover = |dir: &Path| run(&["recover", "--force-new-cluster", text(dir), "--yes"]);
    recover(&dir.path().join("none")).failed(1, "opening the data directory");
    assert!(!dir.path().join("none").exists());
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    recover(&empty).failed(1, "it is empty");
    assert!(content(&empty).is_empty());
    let half = dir.path().join("half");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("RESTORING"), b"").unwrap();
    recover(&half).failed(1, "is half made");
}

#[test]
fn a_recovery_that_is_killed_leaves_the_old_directory_or_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("n1");
    let server = Server::alone(&data);
    for n in 0..20 {
        server.run(&["put", &format!("k/{n:02}"), "v"]).ok();
    }
    let address = server.address.clone();
    server.kill();
    for turn in 0..12u64 {
        let mut command = d_engine(&["recover", "--yes", "--force-new-cluster", text(&data)]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(turn * 8));
        let _ = child.kill();
        let _ = child.wait();
        if data.join("REPLACED").exists() {
            run(&["serve", "--data", text(&data), "--id", "1", "--listen", &address]).failed(1, "was replaced");
            run(&["recover", "--yes", "--force-new-cluster", text(&data)]).ok();
        }
        let server = Server::start(&data, 1, &address, &[]);
        server.wait_for_line("leads");
        assert_eq!(server.run(&["range", "--count", "-o", "plain"]).ok(), "20", "turn {turn}");
        server.kill();
    }
}
