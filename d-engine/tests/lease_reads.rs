//! Reads by the leader's lease: at once where there is one, and never older than what was answered before.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use d_engine::mem::{MemKvStore, MemStorageEngine};
use d_engine::{BootClock, ClientError, Clock, KvStateMachine, LocalRouter, Node, NodeBuilder, NodeConfig, ReadMode};
use tokio::sync::watch;

const WITHIN: Duration = Duration::from_secs(60);

/// A clock that can be set forward, and at which the node's driver can be held as if its thread were stopped.
#[derive(Default)]
struct TestClock {
    ahead_ms: AtomicU64,
    holds_driver: Mutex<bool>,
    changed: Condvar,
}

impl TestClock {
    fn hold_driver(&self, hold: bool) {
        *self.holds_driver.lock().unwrap() = hold;
        self.changed.notify_all();
    }
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        if std::thread::current().name().is_some_and(|name| name.ends_with("-driver")) {
            let held = self.holds_driver.lock().unwrap();
            drop(self.changed.wait_while(held, |held| *held).unwrap());
        }
        BootClock.now() + Duration::from_millis(self.ahead_ms.load(Ordering::SeqCst))
    }
}

struct Cluster {
    router: LocalRouter,
    nodes: Vec<Node>,
    clocks: Vec<Arc<TestClock>>,
    _stop: watch::Sender<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A node whose driver is held would not end.
        self.clocks.iter().for_each(|clock| clock.hold_driver(false));
    }
}

/// Election timeouts that leave time between an isolation and the end of a lease on a busy machine.
fn config(id: u64, size: u64) -> NodeConfig {
    NodeConfig::new(id, "unused")
        .peers((1..=size).map(|node| (node, format!("in-process:{node}"))))
        .advertise(format!("in-process:{id}"))
        .allow_unsafe_voters(true)
        .election_timeout_ms(2000, 3000)
        .request_timeout_ms(10_000)
        .lease_reads(true)
}

async fn cluster(size: u64) -> Cluster {
    let _ = tracing_subscriber::fmt().with_env_filter("d_engine=info").with_test_writer().try_init();
    let router = LocalRouter::new();
    let (stop, shutdown) = watch::channel(());
    let (mut nodes, mut clocks) = (Vec::new(), Vec::new());
    for id in 1..=size {
        let clock = Arc::new(TestClock::default());
        let node = NodeBuilder::new(config(id, size), shutdown.clone())
            .storage_engine(Arc::new(MemStorageEngine::new()))
            .state_machine(Arc::new(KvStateMachine::new(MemKvStore::new()).unwrap()))
            .in_process(&router)
            .clock(clock.clone())
            .start()
            .await
            .unwrap();
        nodes.push(node);
        clocks.push(clock);
    }
    for node in &nodes {
        node.wait_ready(WITHIN).await.unwrap();
    }
    Cluster { router, nodes, clocks, _stop: stop }
}

impl Cluster {
    fn leader(&self) -> usize {
        self.nodes.iter().position(Node::is_leader).expect("a leader")
    }

    fn rest(&self, leader: usize) -> Vec<&Node> {
        self.nodes.iter().enumerate().filter(|(node, _)| *node != leader).map(|(_, node)| node).collect()
    }
}

/// The answer if the calling thread gives it by itself, without waiting for anybody.
fn at_once(node: &Node, key: &str) -> Option<Vec<u8>> {
    let call = std::pin::pin!(node.read_key_in_mode(key, ReadMode::Lease));
    match call.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value.unwrap().map(Vec::from),
        Poll::Pending => None,
    }
}

/// Waits until the node answers reads by its lease.
async fn has_lease(node: &Node, key: &str) {
    let held = async {
        while at_once(node, key).is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WITHIN, held).await.expect("a lease in time");
}

/// Repeats a call until it is answered: during an election it may be `Unknown` or `Unavailable`.
async fn eventually<T, F: Future<Output = Result<T, ClientError>>>(mut call: impl FnMut() -> F) -> T {
    let answered = async {
        loop {
            match call().await {
                Ok(answer) => return answer,
                Err(ClientError::Unknown | ClientError::Unavailable { .. } | ClientError::Busy) => {}
                Err(other) => panic!("{other}"),
            }
        }
    };
    tokio::time::timeout(WITHIN, answered).await.expect("an answer in time")
}

async fn by_lease(node: &Node, key: &str) -> Result<Option<String>, ClientError> {
    let got = node.get_in_mode(key.to_owned(), ReadMode::Lease).await?;
    Ok(got.value.map(|value| String::from_utf8(value.to_vec()).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_own_thread_reads_a_leader_that_has_a_lease() {
    for size in [1, 3] {
        let cluster = cluster(size).await;
        let leader = cluster.leader();
        cluster.nodes[leader].put("key", "value").await.unwrap();
        has_lease(&cluster.nodes[leader], "key").await;
        assert_eq!(by_lease(&cluster.nodes[leader], "key").await.unwrap().unwrap(), "value");
        for node in cluster.rest(leader) {
            // Cut off, so that the leader's answer cannot come between the question and the look for it.
            cluster.router.isolate(node.id());
            assert_eq!(at_once(node, "key"), None, "who does not lead has no lease");
            cluster.router.heal(node.id());
            assert_eq!(by_lease(node, "key").await.unwrap().unwrap(), "value", "and asks the leader");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_leader_answers_by_its_lease_and_not_after_it() {
    let cluster = cluster(3).await;
    let old = cluster.leader();
    let isolated = &cluster.nodes[old];
    isolated.put("key", "old").await.unwrap();
    has_lease(isolated, "key").await;
    cluster.router.isolate(isolated.id());
    assert_eq!(at_once(isolated, "key").unwrap(), b"old", "a lease needs no messages");
    // The driver has not looked at its clock yet: the reader does.
    cluster.clocks[old].ahead_ms.store(2000, Ordering::SeqCst);
    assert_eq!(at_once(isolated, "key"), None, "the lease has ended");
    eventually(|| cluster.rest(old)[0].put("key", "new")).await;
    assert_eq!(at_once(isolated, "key"), None);
    cluster.router.heal(isolated.id());
    assert_eq!(eventually(|| by_lease(isolated, "key")).await.unwrap(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_threads_are_stopped_does_not_answer_from_a_lease_that_has_ended() {
    let cluster = cluster(3).await;
    let old = cluster.leader();
    let stopped = &cluster.nodes[old];
    stopped.put("key", "old").await.unwrap();
    has_lease(stopped, "key").await;
    cluster.clocks[old].hold_driver(true);
    // Only now can nothing renew the lease any more: what others write afterwards, they write behind its end.
    eventually(|| async {
        let leads = cluster.rest(old).iter().any(|node| node.is_leader());
        if leads {
            Ok(())
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Err(ClientError::Unknown)
        }
    })
    .await;
    eventually(|| cluster.rest(old)[0].put("key", "new")).await;
    assert!(stopped.is_leader(), "its driver has noticed nothing");
    assert_eq!(at_once(stopped, "key"), None, "but the reader looks at the clock");
    cluster.clocks[old].hold_driver(false);
    assert_eq!(eventually(|| by_lease(stopped, "key")).await.unwrap(), "new");
}

/// Leadership goes round while one writes and readers of all nodes check that they miss nothing that was answered.
#[tokio::test(flavor = "multi_thread")]
async fn no_read_by_lease_is_older_than_what_was_answered_while_leadership_moves() {
    let cluster = cluster(3).await;
    let answered = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    cluster.nodes[0].put("count", "0").await.unwrap();
    let readers: Vec<_> = cluster
        .nodes
        .iter()
        .cloned()
        .map(|node| {
            let (answered, stop) = (answered.clone(), stop.clone());
            tokio::spawn(async move {
                let mut reads = 0_u64;
                while !stop.load(Ordering::SeqCst) {
                    let floor = answered.load(Ordering::SeqCst);
                    if let Ok(value) = by_lease(&node, "count").await {
                        let value: u64 = value.unwrap().parse().unwrap();
                        assert!(value >= floor, "node {} answered {value} after {floor} was written", node.id());
                        reads += 1;
                    }
                    tokio::task::yield_now().await;
                }
                reads
            })
        })
        .collect();
    let mut count = 0;
    for _ in 0..6 {
        for _ in 0..20 {
            count += 1;
            eventually(|| cluster.nodes[0].put("count", count.to_string())).await;
            answered.store(count, Ordering::SeqCst);
        }
        let Some(leader) = cluster.nodes.iter().position(Node::is_leader) else { continue };
        let to = cluster.nodes[(leader + 1) % 3].id();
        // Refused or abandoned, it is a hand-over all the same: the lease is gone for that term.
        let _ = cluster.nodes[leader].transfer_leadership(to).await;
    }
    stop.store(true, Ordering::SeqCst);
    let mut reads = 0;
    for reader in readers {
        reads += reader.await.unwrap();
    }
    assert!(reads > 100, "{reads} reads are no test");
}
