//! Members that join over real sockets, on files: restarted, wiped, and brought up to date by a snapshot over the wire.
#![cfg(all(feature = "server", feature = "file"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::PathBuf;
use std::time::Duration;

use d_engine::{Client, ClientError, Compression, MembershipError, Node, NodeConfig, Operation, Reason};
use tokio::sync::watch;

const WITHIN: Duration = Duration::from_secs(90);

struct Cluster {
    dir: tempfile::TempDir,
    addresses: Vec<String>,
    compression: Compression,
}

impl Cluster {
    /// Addresses that were free a moment ago.
    fn new(count: usize) -> Self {
        let _ = tracing_subscriber::fmt().with_env_filter("d_engine=info").with_test_writer().try_init();
        let listeners: Vec<_> = (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        Self { dir: tempfile::tempdir().unwrap(), addresses, compression: Compression::None }
    }

    fn address(&self, id: u64) -> &str {
        &self.addresses[id as usize - 1]
    }

    fn dir_of(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    fn config(&self, id: u64) -> NodeConfig {
        let mut config = NodeConfig::new(id, self.dir_of(id)).listen(self.address(id));
        config.snapshot.max_entries_behind = 0;
        config.snapshot.compression = self.compression;
        config.storage.segment_bytes_max = 64 << 10;
        config
    }

    async fn start(&self, config: NodeConfig) -> Node {
        let (_, shutdown) = watch::channel(());
        d_engine::open(config, shutdown).await.unwrap().start().await.unwrap()
    }

    /// Node 1 with members 2 to `count`, which have asked it to be added.
    async fn grown(&self, count: u64) -> Vec<Node> {
        let mut nodes = vec![self.start(self.config(1)).await];
        nodes[0].wait_ready(WITHIN).await.unwrap();
        for id in 2..=count {
            nodes.push(self.start(self.config(id).join(self.address(1))).await);
            votes(&nodes[0], id).await;
        }
        nodes
    }

    /// Of three nodes the third loses its directory, and the others the log that it would need; gives the leader.
    async fn wipe_third(&self, nodes: &mut Vec<Node>) -> Node {
        let third = nodes.pop().unwrap();
        third.shutdown().await.unwrap();
        std::fs::remove_dir_all(self.dir_of(3)).unwrap();
        // More than one chunk, and nobody waits for a node that is silent.
        for i in 0..30 {
            eventually(|| nodes[0].put(format!("key{i}"), value(i))).await;
        }
        let leader = nodes.iter().find(|node| node.is_leader()).unwrap_or(&nodes[0]).clone();
        let purge = async {
            while leader.status().purged < 30 {
                eventually(|| leader.put("any", "more")).await;
                leader.snapshot().await.unwrap();
            }
        };
        tokio::time::timeout(WITHIN, purge).await.expect("the log is purged in time");
        leader
    }
}

/// A value of 100,000 bytes, of which one half can be compressed.
fn value(number: u64) -> Vec<u8> {
    let mut random = number + 1;
    let mut byte = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random.to_be_bytes()[0]
    };
    (0..50_000).map(|_| byte()).chain([b'v'; 50_000]).collect()
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WITHIN, waiting).await.unwrap_or_else(|_| panic!("in time: {what}"));
}

async fn votes(at: &Node, id: u64) {
    let is_voter = || at.status().members.iter().any(|member| member.node == id && member.kind == "voter");
    until("the node votes", is_voter).await;
}

async fn eventually<T, F: Future<Output = Result<T, ClientError>>>(mut call: impl FnMut() -> F) -> T {
    let answered = async {
        loop {
            match call().await {
                Ok(answer) => return answer,
                Err(ClientError::Rejected { why }) => panic!("{why}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    };
    tokio::time::timeout(WITHIN, answered).await.expect("an answer in time")
}

async fn digests_are_equal(nodes: &[Node]) {
    let mut digests = Vec::new();
    for node in nodes {
        eventually(|| node.get("any")).await;
        digests.push(node.digest().await.unwrap().digest);
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "equal logs give equal states");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_join_one_that_runs_and_the_membership_survives_a_restart_of_all() {
    let cluster = Cluster::new(3);
    let nodes = cluster.grown(3).await;
    eventually(|| nodes[2].put("any", "joined")).await;
    digests_are_equal(&nodes).await;
    for node in &nodes {
        node.snapshot().await.unwrap();
    }
    for node in nodes {
        node.shutdown().await.unwrap();
    }

    // Nobody says again who the members are.
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(cluster.start(cluster.config(id)).await);
    }
    assert_eq!(eventually(|| nodes[0].get("any")).await.value.unwrap(), "joined");
    eventually(|| nodes[1].put("any", "again")).await;
    for node in &nodes {
        let voters = node.status().members.iter().filter(|member| member.kind == "voter").count();
        assert_eq!(voters, 3);
    }
    digests_are_equal(&nodes).await;
    for node in nodes {
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_is_recognised_and_comes_back_through_a_snapshot() {
    let cluster = Cluster::new(3);
    let mut nodes = cluster.grown(3).await;
    let leader = cluster.wipe_third(&mut nodes).await;
    let client = Client::new([cluster.address(1), cluster.address(2)]).unwrap();

    let third = cluster.start(cluster.config(3).join(cluster.address(1))).await;
    until("it says that it is another directory", || {
        third.status().failure.is_some_and(|why| why.contains("another data directory"))
    })
    .await;
    let replace = Operation::Replace { old: 3, node: 3, address: cluster.address(3).to_owned(), promote: true };
    eventually(|| client.operate(replace.clone())).await;
    votes(&leader, 3).await;
    assert_eq!(eventually(|| third.get("key29")).await.value.unwrap(), value(29));
    until("its trouble is over", || third.status().failure.is_none()).await;
    until("the snapshot that brought the purged entries is kept", || third.status().snapshot.is_some()).await;
    nodes.push(third);
    eventually(|| nodes[2].put("any", "3")).await;
    digests_are_equal(&nodes).await;

    let add = Operation::AddLearner { node: 3, address: cluster.address(3).to_owned(), promote: true };
    let voter = eventually(|| client.operate(add.clone())).await;
    assert_eq!(eventually(|| client.operate(replace.clone())).await, voter, "it is a voter already, and stays one");
    let elsewhere =
        Operation::AddLearner { node: 3, address: cluster.address(3).replace("127.0.0.1", "localhost"), promote: true };
    let elsewhere = client.operate(elsewhere).await.unwrap_err();
    assert_eq!(elsewhere, MembershipError::AlreadyMember { node: 3 }.into());
    let nowhere = Operation::AddLearner { node: 9, address: "127.0.0.1:1".into(), promote: true };
    let unreachable = client.operate(nowhere).await.unwrap_err();
    assert!(
        matches!(&unreachable, ClientError::Rejected { why: Reason::Membership(MembershipError::Unreachable { .. }) }),
        "{unreachable}"
    );
    for node in nodes {
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_comes_back_through_a_compressed_snapshot_though_it_makes_none_itself() {
    let mut cluster = Cluster::new(3);
    cluster.compression = Compression::Lz4;
    let mut nodes = cluster.grown(3).await;
    let leader = cluster.wipe_third(&mut nodes).await;
    cluster.compression = Compression::None;
    nodes.push(cluster.start(cluster.config(3).join(cluster.address(1))).await);
    let replace = Operation::Replace { old: 3, node: 3, address: cluster.address(3).to_owned(), promote: true };
    eventually(|| leader.operate(replace.clone())).await;
    votes(&leader, 3).await;
    until("the snapshot that brought the purged entries is kept", || nodes[2].status().snapshot.is_some()).await;
    let kept = std::fs::read_dir(cluster.dir_of(3).join("snapshots")).unwrap();
    let files = kept.map(|snapshot| snapshot.unwrap().path().join("snapshot.bin"));
    let sizes: Vec<_> = files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).collect();
    assert!(sizes.iter().any(|size| (1_500_000..2_000_000).contains(size)), "it came as the leader has it: {sizes:?}");
    for number in [0, 29] {
        let got = eventually(|| nodes[2].get(format!("key{number}"))).await;
        assert_eq!(got.value.unwrap(), value(number));
    }
    digests_are_equal(&nodes).await;
    for node in nodes {
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_moves_is_found_at_its_new_address() {
    let cluster = Cluster::new(3);
    let mut nodes = cluster.grown(2).await;
    let second = nodes.pop().unwrap();
    second.shutdown().await.unwrap();
    let mut moved = cluster.config(2).advertise(cluster.address(3));
    moved.node.listen = Some(cluster.address(3).to_owned());
    nodes.push(cluster.start(moved).await);
    eventually(|| nodes[1].put("any", "from the new place")).await;
    let told = || {
        let status = nodes[0].status();
        status.members.iter().any(|member| member.node == 2 && member.address == cluster.address(3))
    };
    until("the membership has the new address", told).await;
    digests_are_equal(&nodes).await;
    for node in nodes {
        node.shutdown().await.unwrap();
    }
}
