//! How fast one embedded node writes and reads; timed, for a quiet machine.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a timed test prints what it found")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use d_engine::mem::{MemKvStore, MemStorageEngine};
use d_engine::{KvStateMachine, Node, NodeBuilder, NodeConfig};
use tokio::sync::watch;

async fn rate(node: &Node, tasks: usize, each: usize, reads: bool) -> f64 {
    let begun = Instant::now();
    let tasks_running: Vec<_> = (0..tasks)
        .map(|task| {
            let node = node.clone();
            tokio::spawn(async move {
                let key = format!("{task:08}");
                let value = vec![b'x'; 256];
                for _ in 0..each {
                    if reads {
                        node.get(key.clone()).await.unwrap();
                    } else {
                        node.put(key.clone(), value.clone()).await.unwrap();
                    }
                }
            })
        })
        .collect();
    for task in tasks_running {
        task.await.unwrap();
    }
    (tasks * each) as f64 / begun.elapsed().as_secs_f64()
}

async fn report(name: &str, node: &Node) {
    for (tasks, each) in [(1, 2000), (100, 2000), (1000, 200)] {
        let writes = rate(node, tasks, each, false).await;
        let reads = rate(node, tasks, each, true).await;
        println!("{name}, {tasks} tasks: {writes:.0} writes/s, {reads:.0} linearizable reads/s");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "timed; for a quiet machine"]
async fn embedded_rates() {
    let dir = tempfile::tempdir().unwrap();
    let node = d_engine::start(dir.path()).await.unwrap();
    report("file", &node).await;
    node.shutdown().await.unwrap();

    let (_stop, shutdown) = watch::channel(());
    let node = NodeBuilder::new(NodeConfig::for_dir("unused"), shutdown)
        .storage_engine(Arc::new(MemStorageEngine::new()))
        .state_machine(Arc::new(KvStateMachine::new(MemKvStore::new()).unwrap()))
        .start()
        .await
        .unwrap();
    node.wait_ready(Duration::from_secs(10)).await.unwrap();
    report("mem", &node).await;
    node.shutdown().await.unwrap();
}
