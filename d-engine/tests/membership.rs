//! Members come, go and are replaced, leadership moves, and a replica that is far behind gets a snapshot: in one process,
//! on volatile storage.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use d_engine::mem::{MemKvStore, MemStorageEngine};
use d_engine::{
    ClientError, KvStateMachine, LocalRouter, LogId, MembershipError, Node, NodeBuilder, NodeConfig, Operation, Reason,
    Watch,
};
use tokio::sync::watch;

const WITHIN: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Cluster {
    router: LocalRouter,
    nodes: BTreeMap<u64, Node>,
}

fn address(id: u64) -> String {
    format!("in-process:{id}")
}

fn config(id: u64) -> NodeConfig {
    let mut config = NodeConfig::new(id, "unused").allow_unsafe_voters(true);
    // What a snapshot allows to purge is purged.
    config.snapshot.max_entries_behind = 0;
    config
}

impl Cluster {
    async fn start(&mut self, config: NodeConfig) -> Node {
        let _ = tracing_subscriber::fmt().with_env_filter("d_engine=info").with_test_writer().try_init();
        let (_, shutdown) = watch::channel(());
        let node = NodeBuilder::new(config, shutdown)
            .storage_engine(Arc::new(MemStorageEngine::new()))
            .state_machine(Arc::new(KvStateMachine::new(MemKvStore::new()).unwrap()))
            .in_process(&self.router)
            .start()
            .await
            .unwrap();
        self.nodes.insert(node.id(), node.clone());
        node
    }

    /// A cluster of one.
    async fn alone() -> Self {
        let mut cluster = Self::default();
        let node = cluster.start(config(1)).await;
        node.wait_ready(WITHIN).await.unwrap();
        cluster
    }

    /// A cluster of one with 100 keys, whose log is purged up to a snapshot, with that snapshot's last entry.
    async fn alone_and_purged() -> (Self, LogId) {
        let cluster = Self::alone().await;
        let one = &cluster.nodes[&1];
        for i in 0..100 {
            one.put(format!("key{i}"), "value").await.unwrap();
        }
        let at = one.snapshot().await.unwrap();
        until("the log is purged", || one.status().purged == at.index).await;
        (cluster, at)
    }

    /// A node with an empty directory that waits to be added.
    async fn newcomer(&mut self, id: u64) -> Node {
        self.start(config(id).join(address(1))).await
    }

    async fn grow(&mut self, id: u64) -> Node {
        let node = self.newcomer(id).await;
        self.nodes[&1].add_learner(id, address(id)).await.unwrap();
        self.votes(id).await;
        node
    }

    async fn of_three() -> Self {
        let mut cluster = Self::alone().await;
        cluster.grow(2).await;
        cluster.grow(3).await;
        cluster
    }

    /// Waits until node 1 knows `id` as a voter.
    async fn votes(&self, id: u64) {
        let is_voter = || {
            let status = self.nodes[&1].status();
            status.members.iter().any(|member| member.node == id && member.kind == "voter")
        };
        until("the learner is promoted", is_voter).await;
    }

    async fn leader(&self) -> Node {
        let lead = |node: &&Node| node.status().role == "leader";
        until("a node leads", || self.nodes.values().any(|node| lead(&node))).await;
        self.nodes.values().find(lead).unwrap().clone()
    }

    async fn digests_are_equal(&self) {
        let mut digests = Vec::new();
        for node in self.nodes.values() {
            eventually(|| node.get("any")).await;
            digests.push(node.digest().await.unwrap().digest);
        }
        assert!(digests.iter().all(|digest| *digest == digests[0]), "equal logs give equal states");
    }
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WITHIN, waiting).await.unwrap_or_else(|_| panic!("in time: {what}"));
}

/// Repeats a call until it is answered: during an election it may be `Unknown` or `Unavailable`, during a transfer `Busy`.
async fn eventually<T, F: Future<Output = Result<T, ClientError>>>(mut call: impl FnMut() -> F) -> T {
    let answered = async {
        loop {
            match call().await {
                Ok(answer) => return answer,
                Err(
                    ClientError::Unknown
                    | ClientError::Busy
                    | ClientError::Unavailable { .. }
                    | ClientError::NotLeader { .. },
                ) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(other) => panic!("{other}"),
            }
        }
    };
    tokio::time::timeout(WITHIN, answered).await.expect("an answer in time")
}

#[track_caller]
fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> MembershipError {
    match result.unwrap_err() {
        ClientError::Rejected { why: Reason::Membership(why) } => why,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_grows_to_three_and_outlives_its_founder() {
    let mut cluster = Cluster::alone().await;
    cluster.nodes[&1].put("any", "first").await.unwrap();
    let second = cluster.grow(2).await;
    assert_eq!(eventually(|| second.get("any")).await.value.unwrap(), "first");
    let third = cluster.grow(3).await;
    eventually(|| third.put("third", "3")).await;
    cluster.digests_are_equal().await;
    cluster.nodes.remove(&1).unwrap().shutdown().await.unwrap();
    eventually(|| second.put("after", "4")).await;
    assert_eq!(eventually(|| third.get("after")).await.value.unwrap(), "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_added_or_removed_is_refused_with_the_arithmetic() {
    let mut cluster = Cluster::alone().await;
    let one = cluster.nodes[&1].clone();
    assert_eq!(refusal(one.remove(1).await), MembershipError::LastVoter { node: 1 });
    assert_eq!(refusal(one.promote(9).await), MembershipError::UnknownMember { node: 9 });
    assert!(matches!(refusal(one.add_learner(2, address(2)).await), MembershipError::Unreachable { node: 2, .. }));
    assert_eq!(refusal(one.add_learner(1, "elsewhere:1").await), MembershipError::AlreadyMember { node: 1 });
    let stranger = cluster.start(config(4)).await;
    stranger.wait_ready(WITHIN).await.unwrap();
    assert!(matches!(refusal(one.add_learner(4, address(4)).await), MembershipError::OtherCluster { node: 4, .. }));
    assert_eq!(one.status().members.len(), 1, "nothing has changed");

    cluster.grow(2).await;
    cluster.grow(3).await;
    // Without one that answers, the two that are left are one that answers and one that does not.
    cluster.router.isolate(3);
    let leader = cluster.leader().await;
    let silent = || leader.status().members.iter().any(|m| m.node == 3 && m.silent_for_ms.is_none_or(|ms| ms > 1500));
    until("node 3 is silent", silent).await;
    let why = refusal(leader.remove(2).await);
    assert_eq!(why, MembershipError::QuorumLost { node: 2, voters: 2, answering: 1, needed: 2 });
    assert!(why.to_string().contains("2 voters are left; 1 of them answer, and 2 are needed"), "{why}");
    leader.remove(3).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_needs_purged_entries_gets_a_snapshot_and_serves() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let late = cluster.nodes.values().find(|node| node.id() != leader.id()).unwrap();
    cluster.router.isolate(late.id());
    for i in 0..200 {
        eventually(|| leader.put(format!("key{i}"), vec![b'v'; 100])).await;
    }
    // A replica that has just been heard is waited for.
    let purged_beyond = late.status().last;
    let purge = async {
        while leader.status().purged <= purged_beyond {
            eventually(|| leader.put("any", "more")).await;
            leader.snapshot().await.unwrap();
        }
    };
    tokio::time::timeout(WITHIN, purge).await.expect("the log is purged in time");
    assert!(late.get_local("key199").await.unwrap().value.is_none());

    cluster.router.heal(late.id());
    until("the snapshot arrives", || late.status().purged > purged_beyond).await;
    assert_eq!(eventually(|| late.get("key199")).await.value.unwrap(), vec![b'v'; 100]);
    eventually(|| late.put("from", "the late one")).await;
    cluster.digests_are_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_to_a_purged_log_begins_with_a_snapshot() {
    let (mut cluster, at) = Cluster::alone_and_purged().await;
    let two = cluster.grow(2).await;
    assert_eq!(eventually(|| two.get("key99")).await.value.unwrap(), "value");
    until("the snapshot that it began with is kept", || two.status().snapshot >= Some(at.index)).await;
    cluster.digests_are_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_was_refused_and_then_added_begins_with_a_snapshot() {
    let (mut cluster, _) = Cluster::alone_and_purged().await;
    // As the wiped directory of a member that is started as before: what it was founded with goes on without it.
    let two = cluster.start(config(2).peers([(1, address(1)), (2, address(2))])).await;
    until("it is refused", || two.status().failure.is_some()).await;
    cluster.nodes[&1].add_learner(2, address(2)).await.unwrap();
    cluster.votes(2).await;
    assert_eq!(eventually(|| two.get("key99")).await.value.unwrap(), "value");
    assert_eq!(two.status().failure, None);
    cluster.digests_are_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_under_load_and_no_acknowledged_write_is_lost() {
    let cluster = Cluster::of_three().await;
    let (stop, stopped) = watch::channel(false);
    let writer = cluster.nodes[&2].clone();
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let load = tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        let mut number = 0_u32;
        while !*stopped.borrow() {
            number += 1;
            if writer.put(format!("n{number}"), "x").await.is_ok() {
                acknowledged.push(number);
                count.store(acknowledged.len(), Ordering::Relaxed);
            } else {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        acknowledged
    });
    for to in [2, 3, 1, 2] {
        eventually(|| async {
            match cluster.nodes[&1].transfer_leadership(to).await {
                // A machine under load: the old leader goes on, and is asked again.
                Err(ClientError::Rejected { why: Reason::Membership(MembershipError::NotTransferred { .. }) }) => {
                    Err(ClientError::Busy)
                }
                other => other,
            }
        })
        .await;
        let before = written.load(Ordering::Relaxed);
        until("writes go on under the new leader", || written.load(Ordering::Relaxed) > before + 10).await;
    }
    stop.send_replace(true);
    let acknowledged = load.await.unwrap();
    for number in acknowledged {
        assert!(eventually(|| cluster.nodes[&3].get(format!("n{number}"))).await.value.is_some(), "write {number}");
    }
    let stays = refusal(cluster.nodes[&1].transfer_leadership(7).await);
    assert!(
        matches!(&stays, MembershipError::NotTransferred { node: 7, why } if why.contains("not a voter")),
        "{stays}"
    );
}

/// Whoever did not hear the answer asks again, at whatever node, and finds it done.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_made_already_is_answered_as_done() {
    let mut cluster = Cluster::of_three().await;
    let before = cluster.leader().await.status().members;
    for id in 1..=3 {
        let node = cluster.nodes[&id].clone();
        let voter = eventually(|| node.add_learner(2, address(2))).await;
        assert!(voter.index > 0, "the index of the membership as it is");
        for again in [node.promote(3).await, node.remove(9).await, node.replace(9, 3, address(3)).await] {
            assert_eq!(again.unwrap(), voter, "nothing was appended");
        }
    }
    assert_eq!(cluster.leader().await.status().members.len(), before.len());

    // Removed and replaced by nodes of other ids, twice each.
    let leader = cluster.leader().await;
    let mut others = (1..=3).filter(|id| *id != leader.id());
    let (removed, replaced) = (others.next().unwrap(), others.next().unwrap());
    cluster.newcomer(4).await;
    let first = leader.replace(replaced, 4, address(4)).await.unwrap();
    let is_voter = || leader.status().members.iter().any(|member| member.node == 4 && member.kind == "voter");
    until("the learner is promoted", is_voter).await;
    let promoted = leader.replace(replaced, 4, address(4)).await.unwrap();
    assert!(promoted.index > first.index, "the promotion changed it last");
    let gone = leader.remove(removed).await.unwrap();
    assert_eq!(leader.remove(removed).await.unwrap(), gone);
    // The same directory comes again under another address, or another directory under the same.
    let elsewhere = refusal(leader.add_learner(4, "elsewhere:4").await);
    assert_eq!(elsewhere, MembershipError::AlreadyMember { node: 4 });
    cluster.nodes.remove(&4).unwrap().shutdown().await.unwrap();
    cluster.newcomer(4).await;
    assert_eq!(refusal(leader.add_learner(4, address(4)).await), MembershipError::OtherDirectory { node: 4 });
}

/// A leader that was deposed without knowing must not answer from the membership of its day.
#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_leader_does_not_say_that_a_change_is_done() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    cluster.router.isolate(leader.id());
    let other = (1..=3).find(|id| *id != leader.id()).unwrap();
    let error = leader.promote(other).await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_is_told_and_may_be_added_again() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let removed = cluster.nodes.values().find(|node| node.id() != leader.id()).unwrap();
    eventually(|| leader.put("any", "1")).await;
    let mut watcher = removed.watch(Watch::prefix("")).await.unwrap();
    leader.remove(removed.id()).await.unwrap();
    until("the removed node knows", || removed.status().failure.is_some()).await;
    let ended = async {
        loop {
            match watcher.next().await {
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    };
    let ended = tokio::time::timeout(WITHIN, ended).await.expect("an open watch ends with its node's part");
    assert!(
        matches!(&ended, ClientError::Unavailable { why } if why.contains("was removed from its cluster")),
        "{ended}"
    );
    let ClientError::Unavailable { why } = removed.get("any").await.unwrap_err() else { panic!("not unavailable") };
    assert!(why.contains("was removed from its cluster"), "{why}");
    let ClientError::Unavailable { why } = removed.watch(Watch::prefix("")).await.unwrap_err() else {
        panic!("not unavailable")
    };
    assert!(why.contains("was removed from its cluster"), "{why}");

    eventually(|| leader.put("any", "2")).await;
    leader.add_learner(removed.id(), address(removed.id())).await.unwrap();
    assert_eq!(eventually(|| removed.get("any")).await.value.unwrap(), "2");
    until("it serves again", || removed.status().failure.is_none()).await;
    cluster.digests_are_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_removes_itself_and_the_others_go_on() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    eventually(|| leader.put("any", "1")).await;
    leader.remove(leader.id()).await.unwrap();
    let other = cluster.nodes.values().find(|node| node.id() != leader.id()).unwrap();
    eventually(|| other.put("any", "2")).await;
    until("the old leader knows", || leader.status().failure.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_shuts_down_hands_over_first() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    eventually(|| leader.put("any", "kept")).await;
    let other = cluster.nodes.values().find(|node| node.id() != leader.id()).unwrap();
    leader.shutdown().await.unwrap();
    assert_ne!(leader.status().role, "leader", "it has seen its successor");
    assert_eq!(eventually(|| other.get("any")).await.value.unwrap(), "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_without_promotion_stays_one_until_it_is_promoted() {
    let mut cluster = Cluster::alone().await;
    let two = cluster.newcomer(2).await;
    let one = cluster.nodes[&1].clone();
    let add = Operation::AddLearner { node: 2, address: address(2), promote: false };
    one.operate(add).await.unwrap();
    eventually(|| one.put("any", "1")).await;
    assert_eq!(eventually(|| two.get("any")).await.value.unwrap(), "1");
    assert_eq!(one.status().members[1].kind, "learner");
    two.promote(2).await.unwrap();
    two.promote(2).await.unwrap();
    cluster.votes(2).await;
}
