//! The commands against real processes.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Cluster, Server, eventually, run_with_input};
use serde_json::Value;

#[test]
fn keys_are_set_read_changed_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(dir.path());
    assert!(server.run(&["put", "colour", "blue"]).ok().starts_with("ok, revision "));
    assert_eq!(server.run(&["get", "colour"]).ok(), "blue");
    assert_eq!(server.run(&["get", "colour", "--local"]).ok(), "blue");

    server.run(&["cas", "colour", "--expect", "red", "green"]).failed(3, "the key holds blue");
    server.run(&["cas", "colour", "--expect", "blue", "green"]).ok();
    server.run(&["cas", "colour", "--absent", "grey"]).failed(3, "the key holds green");
    server.run(&["cas", "shape", "--absent", "round"]).ok();
    server.run(&["cas", "shape", "--expect", "round", "--delete"]).ok();
    server.run(&["get", "shape"]).failed(3, "the key shape does not exist");

    server.run(&["put", "colours", "all"]).ok();
    server.run(&["put", "d", "last"]).ok();
    assert_eq!(server.run(&["range", "colour", "-o", "plain"]).ok(), "colour\tgreen\ncolours\tall");
    assert_eq!(server.run(&["range", "--keys-only", "--reverse", "-o", "plain"]).ok(), "d\ncolours\ncolour");
    assert_eq!(
        server.run(&["range", "--from", "colour", "--to", "d", "--keys-only", "-o", "plain"]).ok(),
        "colour\ncolours"
    );
    let limited = server.run(&["range", "--limit", "1", "-o", "plain"]);
    assert!(limited.err.contains("more than 1"), "{limited:?}");
    assert!(server.run(&["range"]).ok().starts_with("KEY"));

    assert!(server.run(&["del", "colour"]).ok().starts_with("deleted"));
    assert!(server.run(&["delete", "colour"]).ok().starts_with("nothing to delete"));
}

#[test]
fn transactions_leases_and_watches_have_their_commands() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(dir.path());
    let txn = |text: &str| run_with_input(&["txn", "--endpoints", &server.address], text.as_bytes());
    let lock = "if\n absent lock\nthen\n put lock \"me too\"\nelse\n get lock\n";
    assert!(txn(lock).ok().starts_with("carried out `then`, revision 1"));
    let ran = txn(lock).failed(3, "`else` was carried out");
    assert!(ran.out.contains("lock = me too"), "{ran:?}");
    let wrong = txn("then\n put lock\n").failed(2, "standard input:2:10: the value is missing");
    assert!(wrong.err.contains("\n   put lock\n           ^\n"), "{wrong:?}");

    let lease = server.run(&["lease", "grant", "60", "-o", "plain"]).ok();
    assert!(server.run(&["put", "k", "v", "--lease", &lease]).ok().ends_with(&format!("lease {lease}")));
    assert!(server.run(&["lease", "keep-alive", &lease]).ok().contains("60 s"));
    assert!(server.run(&["lease", "ttl", &lease, "--keys"]).ok().ends_with("  k"));
    assert_eq!(server.run(&["lease", "list", "-o", "plain"]).ok(), lease);
    assert!(server.run(&["lease", "revoke", &lease]).ok().contains("1 keys removed"));
    server.run(&["lease", "revoke", &lease]).failed(3, "does not exist");
    server.run(&["get", "k"]).failed(3, "does not exist");

    assert!(server.run(&["put", "k", "w", "--prev"]).ok().starts_with("ok, revision"));
    assert!(server.run(&["put", "k", "x", "--prev"]).ok().ends_with("before: w"));
    assert_eq!(server.run(&["range", "--count", "-o", "plain"]).ok(), "2");
    let watched = server.run(&["watch", "k", "--from", "1", "--limit", "2", "-o", "plain"]).ok();
    assert!(watched.starts_with("put\t2\tk\tv\ndelete\t3\tk"), "{watched}");
    assert!(server.run(&["delete", "", "--prefix"]).ok().starts_with("deleted 2"));
}

#[test]
fn json_is_one_object_per_answer() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(dir.path());
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_str(&server.run(&[arguments, &["-o", "json"]].concat()).ok()).unwrap()
    };
    let put = json(&["put", "k", "v"]);
    assert_eq!(put["revision"], 1);
    let got = json(&["get", "k"]);
    assert_eq!((&got["value"], &got["version"], &got["found"]), (&"v".into(), &1.into(), &true.into()));
    assert_eq!(json(&["range"])["records"][0]["key"], "k");
    assert_eq!(json(&["cas", "k", "--expect", "v", "w"])["succeeded"], true);
    assert_eq!(json(&["delete", "k"])["existed"], true);
    let status = json(&["status"]);
    assert_eq!((&status["leader"], &status["nodes"][0]["role"]), (&1.into(), &"leader".into()));
}

#[test]
fn values_may_come_from_standard_input_and_be_any_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(dir.path());
    run_with_input(&["put", "k", "--endpoints", &server.address], b"\x00\xff\n").ok();
    assert_eq!(server.run(&["get", "k"]).ok(), "\\x00\\xff\\n");
    assert!(server.run(&["get", "k", "-o", "json"]).ok().contains(r#""value_hex":"00ff0a""#));
    run_with_input(&["put", "empty", "--endpoints", &server.address], b"").ok();
    assert_eq!(server.run(&["get", "empty"]).ok(), "");
}

#[test]
fn a_node_ends_on_sigterm_and_finds_everything_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(dir.path());
    server.run(&["put", "k", "v"]).ok();
    assert_eq!(server.terminate(), 0);
    let server = Server::alone(dir.path());
    assert_eq!(server.run(&["get", "k"]).ok(), "v");
    server.run(&["put", "k", "w"]).ok();
    server.kill();
    let server = Server::alone(dir.path());
    assert_eq!(server.run(&["get", "k"]).ok(), "w");
}

#[test]
fn any_node_of_a_cluster_answers_and_status_counts_who_may_fail() {
    let mut cluster = Cluster::start();
    for (place, server) in cluster.servers.iter().enumerate() {
        server.run(&["put", "k", &place.to_string()]).ok();
        for other in &cluster.servers {
            assert_eq!(other.run(&["get", "k"]).ok(), place.to_string());
        }
    }
    eventually("all three answer", || cluster.run(&["status"]).err.contains("1 more of the 3 nodes may fail"));
    cluster.servers.remove(0).kill();
    eventually("two answer", || {
        let status = cluster.run(&["status"]);
        status.out.contains("unreachable") && status.err.contains("no further node may fail: 2 of 3 answer")
    });
    cluster.run(&["put", "k", "after"]).ok();
    let back = cluster.node(1);
    eventually("the node is back", || back.run(&["get", "k", "--local"]).out.trim() == "after");
}
