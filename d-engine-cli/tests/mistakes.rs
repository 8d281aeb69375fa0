//! Nodes that are started with the wrong addresses, or found a cluster nobody meant, are told apart.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Cluster, Server, eventually, free_port, run};

#[test]
fn a_node_that_founds_a_cluster_of_its_own_says_so_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(dir.path());
    let said = server.wait_for_line("founds a NEW cluster");
    let status: serde_json::Value = serde_json::from_str(&server.run(&["status", "-o", "json"]).ok()).unwrap();
    assert!(said.contains(status["cluster"].as_str().unwrap()), "{said}");
    assert!(said.contains("member of an existing cluster"), "{said}");
    let address = server.address.clone();
    assert_eq!(server.terminate(), 0);
    let again = Server::start(dir.path(), 1, &address, &[]);
    again.wait_for_line("leads");
    assert!(!again.has_printed("founds") && !again.has_printed("WARNING"));
}

#[test]
fn addresses_that_differ_from_the_membership_are_named_and_status_finds_the_node_all_the_same() {
    let mut cluster = Cluster::start();
    cluster.servers.remove(2).kill();
    let moved = format!("127.0.0.1:{}", free_port());
    let old = cluster.addresses.clone();
    cluster.addresses[2].clone_from(&moved);
    let third = cluster.node(3);
    let note = third.wait_for_line("--peers have no effect");
    assert!(note.contains(&format!("node 3 is at {}, not {moved}", old[2])), "{note}");
    let warning = third.wait_for_line("WARNING");
    assert!(warning.contains(&old[2]) && warning.contains(&moved), "{warning}");

    let everyone = format!("{},{},{moved}", old[0], old[1]);
    eventually("all three are found", || {
        let status = run(&["status", "--endpoints", &everyone]);
        assert!(!status.out.contains("unreachable"), "{status:?}");
        status.err.contains("1 more of the 3 nodes may fail") && status.out.contains(&old[2])
    });
}

#[test]
fn status_does_not_count_a_node_of_another_cluster() {
    let mut cluster = Cluster::start();
    cluster.servers.remove(2).kill();
    let alone = tempfile::tempdir().unwrap();
    let stranger = Server::start(alone.path(), 3, &cluster.addresses[2], &[]);
    stranger.wait_for_line("leads");
    eventually("two of three count", || {
        let status = cluster.run(&["status"]);
        assert_eq!(status.code, 1, "{status:?}");
        status.out.contains("belongs to another cluster") && status.err.contains("2 of 3 answer, 2 are needed")
    });
    let status = cluster.run(&["status"]).failed(1, "different clusters");
    assert!(status.err.contains(&cluster.addresses[2]), "{status:?}");
    let status = cluster.run(&["status", "-o", "json"]);
    let found: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    assert_ne!(found["nodes"][2]["cluster"], found["cluster"], "{status:?}");
    assert_eq!(found["nodes"][2]["counts"], false, "{status:?}");
}

#[test]
fn status_says_when_another_node_answers_at_a_members_address() {
    let mut cluster = Cluster::start();
    cluster.servers.remove(2).kill();
    cluster.servers.remove(1).kill();
    cluster.addresses.swap(1, 2);
    let second = cluster.node(2);
    second.wait_for_line("WARNING");
    let status = cluster.servers[0].run(&["status"]);
    assert!(status.out.contains("answers as node 2, member is node 3"), "{status:?}");
    assert!(status.err.contains("2 of 3 answer"), "{status:?}");
}
