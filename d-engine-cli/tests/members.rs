//! A cluster grows, shrinks and changes its leader by commands.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Server, eventually, free_port, run};

fn address() -> String {
    format!("127.0.0.1:{}", free_port())
}

#[test]
fn nodes_join_lead_and_leave_by_commands() {
    let dir = tempfile::tempdir().unwrap();
    let one = Server::alone(&dir.path().join("n1"));
    one.run(&["put", "k", "v"]).ok();
    assert!(one.run(&["snapshot", "make"]).ok().contains("snapshot up to entry"));
    let join = |id: u64| {
        let data = dir.path().join(format!("n{id}"));
        let server = Server::start(&data, id, &address(), &["--join", &one.address]);
        server.wait_for_line("leads");
        server
    };
    let (two, three) = (join(2), join(3));
    eventually("all three vote", || {
        let list = one.run(&["member", "list", "-o", "plain"]).ok();
        list.lines().filter(|line| line.contains("\tvoter\t")).count() == 3
    });
    assert_eq!(three.run(&["get", "k"]).ok(), "v");

    let waiting = Server::start(&dir.path().join("n4"), 4, &address(), &["--join", "127.0.0.1:1"]);
    two.run(&["member", "add", "4", &waiting.address, "--timeout", "30"]).ok();
    assert_eq!(waiting.run(&["get", "k"]).ok(), "v");
    two.run(&["member", "remove", "4"]).ok();

    // A machine under load may not take over in time: then the old leader goes on.
    eventually("node 2 leads", || {
        one.run(&["leader", "transfer", "2"]);
        one.run(&["leader", "show", "-o", "plain"]).out.starts_with("2\t")
    });
    // Who has lost the answer asks again.
    assert_eq!(one.run(&["member", "add", "3", &three.address]).ok(), "node 3 votes");
    one.run(&["member", "remove", "9"]).ok();
    one.run(&["leader", "transfer", "9"]).failed(1, "it is not a voter");

    let stranger = Server::alone(&dir.path().join("n5"));
    one.run(&["member", "add", "1", &stranger.address]).failed(1, "belongs to cluster");
    stranger.run(&["member", "remove", "1"]).failed(1, "node 1 is the last voter");
    assert_eq!(run(&["serve", "--join", "a:1", "--peers", "1=a:1"]).code, 2, "one founds a cluster or joins one");
}
