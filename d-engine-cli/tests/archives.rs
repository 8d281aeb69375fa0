//! Archives of running clusters, and new clusters from them.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Cluster, Server, run};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_archive_saved_under_load_holds_every_write_answered_before() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.archive");
    let path = file.to_str().unwrap();
    for n in 0..20 {
        cluster.run(&["put", &format!("before/{n:02}"), "v"]).ok();
    }
    cluster.run(&["lease", "grant", "600"]).ok();
    let stop = AtomicBool::new(false);
    let endpoints = cluster.addresses.join(",");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                run(&["put", &format!("beside/{n}"), "v", "--endpoints", &endpoints]).ok();
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let said = cluster.run(&["snapshot", "save", path]);
        stop.store(true, Ordering::Relaxed);
        assert!(said.ok().contains("verified"));
    });
    let view = json(&run(&["snapshot", "inspect", path, "-o", "json"]).ok());
    assert!(view["key_value"]["keys"].as_u64().unwrap() >= 20, "{view}");
    assert_eq!((&view["key_value"]["leases"], view["members"].as_array().unwrap().len()), (&1.into(), 3), "{view}");
    let status = json(&cluster.run(&["status", "-o", "json"]).ok());
    assert_eq!(view["cluster"], status["cluster"]);
    assert!(run(&["snapshot", "inspect", path]).ok().contains("revision"));
    assert_eq!(names(dir.path()), ["a.archive"], "nothing unfinished stays");

    cluster.run(&["snapshot", "save", path]).failed(1, "is there already");
    let before = fs::read(&file).unwrap();
    cluster.run(&["put", "after", "v"]).ok();
    cluster.run(&["snapshot", "save", path, "--force", "-o", "json"]).ok();
    assert_ne!(fs::read(&file).unwrap(), before);
}

#[test]
fn a_node_without_a_quorum_gives_its_state_only_when_that_is_enough() {
    let mut cluster = Cluster::start();
    cluster.run(&["put", "k", "v"]).ok();
    cluster.servers.truncate(1);
    let one = &cluster.servers[0];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let path = path.to_str().unwrap();
    one.run(&["snapshot", "save", path]).failed(1, "--local");
    assert_eq!(names(dir.path()), [""; 0]);
    one.run(&["snapshot", "save", path, "--local"]).ok();
    run(&["snapshot", "inspect", path]).ok();
}

#[test]
fn a_damaged_archive_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(&dir.path().join("n1"));
    server.run(&["put", "k", "v"]).ok();
    let file = dir.path().join("a");
    let path = file.to_str().unwrap();
    server.run(&["snapshot", "save", path]).ok();
    let good = fs::read(&file).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&file, &bad).unwrap();
    run(&["snapshot", "inspect", path]).failed(1, "damaged data at");
    fs::write(&file, &good[..good.len() - 1]).unwrap();
    run(&["snapshot", "inspect", path, "-o", "plain"]).failed(1, "it was cut or added to");
    fs::write(&file, b"something else entirely, though not empty").unwrap();
    run(&["snapshot", "inspect", path]).failed(1, "no archive of d-engine");
    run(&["snapshot", "inspect", dir.path().join("none").to_str().unwrap()]).failed(1, "opening the archive");
}

#[test]
fn a_stopped_nodes_directory_is_saved_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("n1");
    let server = Server::alone(&data);
    server.run(&["put", "k", "v"]).ok();
    let address = server.address.clone();
    let path = dir.path().join("a");
    let save = |more: &[&str]| {
        run(&[&["snapshot", "save", "--dir", data.to_str().unwrap(), path.to_str().unwrap()], more].concat())
    };
    save(&[]).failed(1, "in use by another process");
    assert_eq!(server.terminate(), 0);
    save(&[]).ok();
    let view = json(&run(&["snapshot", "inspect", path.to_str().unwrap(), "-o", "json"]).ok());
    assert_eq!(view["key_value"]["keys"], 1);
    assert_eq!(names(&data.join("snapshots")), [""; 0], "no snapshot of its own is left behind");

    // What was not applied when the power went, no archive can have.
    let server = Server::start(&data, 1, &address, &[]);
    server.wait_for_line("leads");
    server.run(&["put", "l", "v"]).ok();
    server.kill();
    let said = save(&["--force"]);
    assert!(said.err.contains("of the log are not in the archive"), "{said:?}");
    said.ok();
    let server = Server::start(&data, 1, &address, &[]);
    server.wait_for_line("leads");
    assert_eq!(server.run(&["get", "l"]).ok(), "v");
}
