//! What is wrong is said in words, with the next command to try, and in time.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::{Duration, Instant};

use common::{Cluster, Server, free_port, run, run_with_input};

#[test]
fn all_errors_of_a_configuration_are_shown_at_once_with_their_places() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    std::fs::write(&file, "[raft]\nelecton_timeout_min_ms = 300\nheartbeat_interval_ms = 400\n").unwrap();
    let ran = run(&["serve", "--config", file.to_str().unwrap(), "--id", "zero"]);
    let ran = ran.failed(2, "did you mean raft.election_timeout_min_ms?");
    assert!(ran.err.contains("node.toml:2:1"), "{ran:?}");
    assert!(ran.err.contains("must be at least 3 heartbeats: 500 ms < 3 × 400 ms"), "{ran:?}");
    assert!(ran.err.contains("node.id must be a whole number"), "{ran:?}");
}

#[test]
fn contradictory_timeouts_are_refused_with_the_values() {
    let ran = run(&["serve", "--set", "raft.election_timeout_min_ms=900", "--set", "raft.election_timeout_max_ms=900"]);
    ran.failed(2, "must be more than election_timeout_min_ms: 900 ms ≤ 900 ms");
    run(&["serve", "--set", "raft.no_such_key=1"]).failed(2, "raft.no_such_key is no known key");
    run(&["serve", "--peers", "2=127.0.0.1:1,3=127.0.0.1:2"]).failed(2, "must list this node");
    run(&["serve", "--listen", "0.0.0.0:9081"]).failed(2, "node.advertise");
}

#[test]
fn a_port_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let ran = run(&["serve", "--data", dir.path().to_str().unwrap(), "--listen", &address]);
    ran.failed(1, &format!("cannot listen on {address}"));
}

#[test]
fn the_directory_of_another_node_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Server::alone(dir.path()).terminate(), 0);
    let address = format!("127.0.0.1:{}", free_port());
    let ran = run(&["serve", "--data", dir.path().to_str().unwrap(), "--id", "2", "--listen", &address]);
    ran.failed(1, "belongs to node 1");
}

#[test]
fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(dir.path());
    let address = format!("127.0.0.1:{}", free_port());
    run(&["serve", "--data", dir.path().to_str().unwrap(), "--listen", &address])
        .failed(1, "in use by another process");
    server.run(&["put", "k", "v"]).ok();
}

#[test]
fn memory_storage_votes_in_a_cluster_only_when_told_so() {
    let ran = run(&["serve", "--engine", "mem", "--peers", "1=127.0.0.1:9081,2=127.0.0.1:9082,3=127.0.0.1:9083"]);
    ran.failed(2, "allow_unsafe_voters");
}

#[test]
fn keys_and_values_beyond_the_limits_are_refused_and_nobody_else_notices() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(dir.path());
    server.run(&["put", "", "v"]).failed(2, "the key is empty");
    server.run(&["get", ""]).failed(2, "the key is empty");
    server.run(&["put", &"k".repeat((64 << 10) + 1), "v"]).failed(2, "the key has 65537 bytes");
    let value = vec![b'v'; (1 << 20) + 1];
    run_with_input(&["put", "k", "--endpoints", &server.address], &value).failed(2, "the value has 1048577 bytes");
    run_with_input(&["put", "k", "--endpoints", &server.address], &value[1..]).ok();
    server.run(&["put", &"k".repeat(64 << 10), "v"]).ok();
}

#[test]
fn a_key_that_cannot_exist_is_refused_in_the_same_words_by_every_command() {
    let (long, nobody) = ("k".repeat((64 << 10) + 1), format!("127.0.0.1:{}", free_port()));
    for (key, said) in [("", "the key is empty"), (long.as_str(), "the key has 65537 bytes; a key has at most 65536")] {
        let refused = |command: &[&str]| run(&[command, &["--endpoints", &nobody]].concat()).failed(2, said).err;
        let said = [
            refused(&["put", key, "v"]),
            refused(&["get", key]),
            refused(&["get", key, "--local"]),
            refused(&["del", key]),
            refused(&["cas", key, "--absent", "v"]),
        ];
        assert!(said.iter().all(|other| *other == said[0]), "{said:?}");
    }
}

#[test]
fn records_of_any_length_and_any_bytes_fit_a_table_and_are_whole_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(dir.path());
    let key = "k".repeat(64 << 10);
    server.run(&["put", &key, &"v".repeat(70_000)]).ok();
    server.run(&["put", "a\tb\u{1b}[31m", "x"]).ok();
    let table = server.run(&["range"]);
    assert!(table.err.contains("-o json"), "{table:?}");
    let table = table.ok();
    assert!(table.lines().all(|line| line.chars().count() < 300), "{table}");
    assert!(table.contains("k…") && table.contains(r"a\tb\x1b[31m"), "{table}");
    assert!(server.run(&["range", "-o", "plain"]).ok().contains(&key));
    assert!(server.run(&["range", "-o", "json"]).ok().contains(&"v".repeat(70_000)));
    let missing = server.run(&["get", &key[1..]]).failed(3, "does not exist");
    assert!(missing.err.len() < 1000, "{} bytes", missing.err.len());
}

#[test]
fn a_request_without_anybody_to_answer_fails_in_time() {
    let address = format!("127.0.0.1:{}", free_port());
    for command in [&["put", "k", "v"][..], &["get", "k"], &["status"]] {
        let started = Instant::now();
        let ran = run(&[command, &["--timeout", "2", "--endpoints", &address]].concat());
        assert!(started.elapsed() < Duration::from_secs(5), "{command:?} took {:?}", started.elapsed());
        ran.failed(1, &address);
    }
    run(&["get", "k", "--endpoints", "no address"]).failed(2, "--endpoints");
    assert_eq!(run(&["get", "k", "--timeout", "never"]).code, 2);
}

#[test]
fn a_node_without_a_quorum_answers_with_an_error_within_the_deadline() {
    let mut cluster = Cluster::start();
    cluster.run(&["put", "k", "v"]).ok();
    cluster.servers.drain(1..).for_each(Server::kill);
    let server = &cluster.servers[0];
    for command in [&["put", "k", "w"][..], &["get", "k"]] {
        let started = Instant::now();
        let ran = server.run(&[command, &["--timeout", "3"]].concat());
        assert!(started.elapsed() < Duration::from_secs(6), "{command:?} took {:?}", started.elapsed());
        // A leader that has not noticed yet takes the write, and nobody knows what becomes of it.
        assert!(matches!(ran.code, 1 | 4), "{ran:?}");
        assert!(ran.err.contains("\ntry: "), "{ran:?}");
    }
    // The node still tells what it has, to those who ask for just that.
    assert_eq!(server.run(&["get", "k", "--local"]).ok(), "v");
}

#[test]
fn an_error_in_json_is_json() {
    let address = format!("127.0.0.1:{}", free_port());
    let ran = run(&["get", "k", "--timeout", "1", "-o", "json", "--endpoints", &address]);
    let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((ran.code, &error["exit"]), (1, &1.into()));
    assert!(error["next"].is_string(), "{error}");
}

#[test]
fn a_damaged_directory_is_left_alone_and_nobody_is_sent_to_found_another_cluster() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Server::alone(dir.path()).terminate(), 0);
    let state = dir.path().join("log/hard_state");
    std::fs::write(&state, &std::fs::read(&state).unwrap()[..4096]).unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let ran = run(&["serve", "--data", dir.path().to_str().unwrap(), "--listen", &address]);
    let ran = ran.failed(1, "never put an older copy back");
    assert!(ran.err.contains("hard_state") && !ran.err.contains("--data"), "{ran:?}");
    assert_eq!(std::fs::read(&state).unwrap().len(), 4096);
}
