//! The demo checks itself, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{children_of, d_engine, eventually, is_alive, run};
use serde_json::Value;

#[test]
fn a_small_demo_finds_everything_right() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.html");
    let ran = run(&["demo", "--json", "--keys", "2000", "--report", report.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(found["ok"], true, "{ran:?}");
    assert_eq!((&found["nodes"], &found["lost_writes"], &found["wrong_reads"]), (&3.into(), &0.into(), &0.into()));
    assert_eq!((&found["digests_equal"], &found["wrong_events"]), (&true.into(), &0.into()), "{ran:?}");
    assert!(found["watched_events"].as_u64().unwrap() > 0, "{ran:?}");
    assert!(found["history_operations"].as_u64().unwrap() > 100, "{ran:?}");
    assert_eq!(found["not_linearizable"], 0, "{ran:?}");
    assert!(found["kept"].is_null(), "{ran:?}");
    assert!(found["acked_writes"].as_u64().unwrap() >= 2200, "{ran:?}");
    for measured in ["failover_ms", "writes_per_s", "reads_per_s", "unknown_writes", "election_timeout_max_ms"] {
        assert!(found[measured].is_u64(), "{measured} in {ran:?}");
    }
    let page = std::fs::read_to_string(report).unwrap();
    for shown in ["kill -9 of the leader", "writes go on", "Latency of writes", "everything is right"] {
        assert!(page.contains(shown), "{shown:?} in the report");
    }
}

#[test]
fn a_kept_cluster_goes_on_and_says_how_to_talk_to_it_and_to_end_it() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = d_engine(&["demo", "--json", "--keep", "--keys", "500"]);
    let ran: common::Ran = command.env("TMPDIR", temporary.path()).output().unwrap().into();
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    let pids: Vec<u32> =
        found["kept"]["pids"].as_array().unwrap().iter().map(|pid| pid.as_u64().unwrap() as u32).collect();
    let endpoints = found["kept"]["endpoints"].as_str().unwrap();
    let counted = run(&["range", "demo/", "--count", "--endpoints", endpoints]);
    let end: Vec<String> = ["-TERM".to_owned()].into_iter().chain(pids.iter().map(u32::to_string)).collect();
    assert!(std::process::Command::new("kill").args(&end).status().unwrap().success());
    eventually("the nodes have ended", || pids.iter().all(|pid| !is_alive(*pid)));
    assert_eq!((ran.code, pids.len()), (0, 3), "{ran:?}");
    assert!(counted.ok().contains("500"));
    assert!(ran.err.contains(&end[1..].join(" ")) && ran.err.contains(endpoints), "{ran:?}");
    assert!(std::path::Path::new(found["kept"]["directory"].as_str().unwrap()).join("cluster.json").exists());
}

#[test]
fn an_interrupted_demo_says_so_and_removes_its_files() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = d_engine(&["demo", "--json", "--keys", "5000000"]);
    let child = command.env("TMPDIR", temporary.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    eventually("the nodes run", || children_of(pid).len() == 3);
    let nodes = children_of(pid);
    assert!(std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status().unwrap().success());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("interrupted"));
    eventually("no node is left", || nodes.iter().all(|node| !is_alive(*node)));
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn nodes_end_with_a_demo_that_is_killed() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = d_engine(&["demo", "--json", "--keys", "5000000"]);
    let mut child =
        command.env("TMPDIR", temporary.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the nodes run", || children_of(child.id()).len() == 3);
    let nodes = children_of(child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = Instant::now();
    eventually("no node is left", || nodes.iter().all(|node| !is_alive(*node)));
    // They give themselves less than half a second; only a sync that is under way may take its time.
    assert!(killed.elapsed() < Duration::from_secs(2), "the nodes lived on for {:?}", killed.elapsed());
    println!("the nodes ended after {:?}", killed.elapsed());
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 1, "nobody was left to remove the files");

    let mut next = d_engine(&["demo", "--json", "--keys", "5000000"]);
    let mut next = next.env("TMPDIR", temporary.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the next demo runs", || children_of(next.id()).len() == 3);
    let left = std::fs::read_dir(temporary.path()).unwrap().count();
    next.kill().unwrap();
    next.wait().unwrap();
    assert_eq!(left, 1, "the next demo removes what a dead one left, and nothing that is in use");
}
