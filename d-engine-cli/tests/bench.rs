//! `bench` against a real process.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Server, run};
use serde_json::Value;

#[test]
fn a_cluster_is_loaded_and_what_the_load_wrote_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.html");
    let server = Server::alone(&dir.path().join("n1"));
    server.run(&["put", "d-engine-benc", "stays"]).ok();
    let short = ["--keys", "50", "--clients", "1,4", "--duration", "0.2", "--rounds", "1"];
    let all = ["bench", "-o", "json", "--works", "put,get,get-lease,get-local", "--report", report.to_str().unwrap()];
    let found: Value = serde_json::from_str(&server.run(&[&all[..], &short].concat()).ok()).unwrap();
    let measured = found["bench"].as_array().unwrap();
    assert_eq!(measured.len(), 8);
    for one in measured {
        assert!(one["per_second"]["median"].as_f64().unwrap() > 0.0, "{one}");
        assert_eq!(one["errors"], 0, "{one}");
        assert!(one["latency_ns"]["p99"].as_u64() >= one["latency_ns"]["p50"].as_u64(), "{one}");
    }
    let page = std::fs::read_to_string(report).unwrap();
    assert!(page.contains("<svg") && page.contains("get-local"));
    assert_eq!(server.run(&["range", "--keys-only", "-o", "plain"]).ok(), "d-engine-benc");

    let plain = server.run(&[&["bench", "-o", "plain", "--works", "put", "--rate", "100"][..], &short].concat()).ok();
    assert!(plain.lines().all(|line| line.starts_with("put\t") && line.split('\t').count() == 5), "{plain}");
}

#[test]
fn nobody_to_load_is_an_error_with_a_command_to_try() {
    let refused = run(&["bench", "--endpoints", "127.0.0.1:1", "--timeout", "0.3", "--keys", "1"]);
    refused.failed(1, "writing the keys of the load");
}
