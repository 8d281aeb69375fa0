//! A client's automatic retries apply every write once, across kill -9 of the leader under load.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{Cluster, PATIENCE};
use d_engine::{Client, ClientError, ClientOptions, ReadMode};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const TASKS: usize = 16;
/// Keys that are set by many, so that their versions count.
const KEYS: usize = 4;
/// Writes that were answered before the leader is killed, and after a new one has begun to answer.
const AROUND_KILL: u64 = 300;

/// What the writers know.
#[derive(Default)]
struct Known {
    acknowledged: [AtomicU64; KEYS],
    unknown: [AtomicU64; KEYS],
    /// Of compare-and-swaps that add one to a number of the task's own.
    increments: AtomicU64,
    stop: AtomicBool,
}

impl Known {
    fn total(&self) -> u64 {
        self.acknowledged.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

fn client(cluster: &Cluster) -> Client {
    let options = ClientOptions::default().timeout(Duration::from_secs(20));
    Client::with_options(cluster.addresses.clone(), options).unwrap()
}

/// Sets the shared keys, whose version then is how often a put was applied, and counts on a key of its own by
/// compare-and-swap: one that is applied twice, or told a wrong answer, does not find the number it left.
async fn write(client: Client, task: usize, known: Arc<Known>) {
    let mine = format!("mine/{task}");
    let mut count = 0_u64;
    while !known.stop.load(Ordering::Relaxed) {
        let key = task % KEYS;
        match client.put(format!("shared/{key}"), format!("{task}")).await {
            Ok(_) => known.acknowledged[key].fetch_add(1, Ordering::Relaxed),
            Err(ClientError::Unknown) => known.unknown[key].fetch_add(1, Ordering::Relaxed),
            // It had no effect.
            Err(error) => {
                assert!(!matches!(error, ClientError::Rejected { .. }), "{error}");
                0
            }
        };
        let expected = (count > 0).then(|| count.to_string().into());
        match client.cas(mine.clone(), expected, Some((count + 1).to_string().into())).await {
            Ok(swapped) => {
                assert!(swapped.succeeded, "{mine} was {count} and holds {:?}", swapped.current);
                count += 1;
                known.increments.fetch_add(1, Ordering::Relaxed);
            }
            Err(ClientError::Unknown) => {
                let found = read(&client, &mine).await.map_or(0, |(value, _)| value.parse().unwrap());
                assert!(found == count || found == count + 1, "{mine} was {count} and holds {found}");
                count = found;
            }
            Err(error) => assert!(!matches!(error, ClientError::Rejected { .. }), "{error}"),
        }
    }
    let (value, version) = read(&client, &mine).await.unwrap();
    assert_eq!((value, version), (count.to_string(), count), "{mine} was set as often as it says");
}

/// Value and version of a key.
async fn read(client: &Client, key: &str) -> Option<(String, u64)> {
    let started = Instant::now();
    loop {
        match client.get_in_mode(key.to_owned(), ReadMode::Linearizable).await {
            Ok(got) => {
                let record = got.record?;
                return Some((String::from_utf8(record.value.to_vec()).unwrap(), record.version));
            }
            Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
        }
    }
}

async fn reach(known: &Known, count: u64) {
    let started = Instant::now();
    while known.total() < count {
        assert!(started.elapsed() < PATIENCE, "{} of {count} writes were answered", known.total());
        sleep(Duration::from_millis(5)).await;
    }
}

/// The place of the node that leads.
async fn leader(client: &Client, cluster: &Cluster) -> usize {
    let started = Instant::now();
    loop {
        for (place, server) in cluster.servers.iter().enumerate() {
            if client.status_of(&server.address).await.is_ok_and(|status| status.role == "leader") {
                return place;
            }
        }
        assert!(started.elapsed() < PATIENCE, "nobody leads");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_across_the_kill_of_the_leader_apply_every_write_once() {
    let mut cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    // Two clients, so two sessions, whose writes are under way side by side.
    let clients = [client(&cluster), client(&cluster)];
    let known = Arc::new(Known::default());
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        tasks.spawn(write(clients[task % clients.len()].clone(), task, Arc::clone(&known)));
    }
    for round in 1..=2 {
        reach(&known, known.total() + AROUND_KILL).await;
        let place = leader(&clients[0], &cluster).await;
        let before = known.total();
        let (_, port) = cluster.servers[place].address.rsplit_once(':').unwrap();
        println!("round {round}: kill -9 of the leader on port {port} after {before} answered writes");
        let id = 1 + cluster.addresses.iter().position(|address| *address == cluster.servers[place].address).unwrap();
        cluster.servers.swap_remove(place).kill();
        reach(&known, before + AROUND_KILL).await;
        // The next round needs three nodes, of which two are left.
        let back = tokio::task::block_in_place(|| cluster.node(id));
        cluster.servers.push(back);
    }
    known.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let mut unknown_at_all = 0;
    for key in 0..KEYS {
        let (_, version) = read(&clients[0], &format!("shared/{key}")).await.unwrap();
        let acknowledged = known.acknowledged[key].load(Ordering::Relaxed);
        let unknown = known.unknown[key].load(Ordering::Relaxed);
        unknown_at_all += unknown;
        assert!(
            (acknowledged..=acknowledged + unknown).contains(&version),
            "shared/{key} was set {version} times, by {acknowledged} acknowledged and {unknown} unknown writes"
        );
    }
    println!(
        "{} puts acknowledged, {unknown_at_all} unknown, {} increments, none applied twice",
        known.total(),
        known.increments.load(Ordering::Relaxed)
    );
}
