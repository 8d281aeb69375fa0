//! The recipes while the real leader of the store is killed in the middle: over the wire, where it is `kill -9` of a process,
//! and embedded, where `d_engine::testing::Cluster` does the same to a node of this process.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{Cluster, Embedded, OverTheWire, soon};
use d_engine::{ClientError, KeyValue, KvChange, Range, Watch, Watched};
use recipes::RecipeError;
use recipes::election::{Elected, Leader, Observer};
use recipes::lock::Lock;
use recipes::registry::{Instances, Registration};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Long enough for a change of leader on a machine that does much else.
const TTL: Duration = Duration::from_secs(8);
/// Of whoever dies in a test.
const SHORT_TTL: Duration = Duration::from_secs(1);

const WORKERS: u64 = 6;
const TURNS: u64 = 8;

macro_rules! on_both {
    ($($claim:ident)*) => {
        mod over_the_wire {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                super::$claim(super::OverTheWire::start().await).await;
            })*
        }
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                super::$claim(super::Embedded::start().await).await;
            })*
        }
    };
}

on_both! {
    a_lock_is_held_by_one_client_at_a_time_across_the_leaders_death
    an_old_holders_write_is_refused_and_waiters_wait_only_for_the_one_before_them
    an_election_moves_on_when_the_elected_client_dies_and_not_when_the_stores_leader_does
    the_registry_drops_the_dead_service_and_keeps_the_living_ones
}

/// What a worker did under the lock.
#[derive(Default)]
struct Done {
    written: AtomicU64,
    unknown: AtomicU64,
    lost: AtomicU64,
}

/// Adds one to a counter under the lock, again and again, without any other protection than the fence.
async fn work(store: KeyValue, done: Arc<Done>) {
    for _ in 0..TURNS {
        let lock = match Lock::acquire(&store, "counter", TTL).await {
            Ok(lock) => lock,
            Err(RecipeError::Lost { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        let before = loop {
            match store.get("counter").await {
                Ok(got) => break got.value.map_or(0, |value| number(&value).0),
                Err(error) => assert!(!matches!(error, ClientError::Rejected { .. }), "{error}"),
            }
        };
        match lock.put("counter", format!("{} {}", before + 1, lock.token())).await {
            Ok(_) => done.written.fetch_add(1, Ordering::Relaxed),
            Err(RecipeError::Lost { .. }) => done.lost.fetch_add(1, Ordering::Relaxed),
            // Without a session, as in process, nobody says what became of a write whose leader died.
            Err(RecipeError::Store(_)) => done.unknown.fetch_add(1, Ordering::Relaxed),
            Err(error) => panic!("{error}"),
        };
        lock.release().await.unwrap();
    }
}

/// A counter's value and the token of the lock under which it was written.
fn number(value: &[u8]) -> (u64, u64) {
    let (count, token) = std::str::from_utf8(value).unwrap().split_once(' ').unwrap();
    (count.parse().unwrap(), token.parse().unwrap())
}

async fn a_lock_is_held_by_one_client_at_a_time_across_the_leaders_death(mut cluster: impl Cluster) {
    let observer = cluster.store();
    let mut history = observer.watch(Watch::key("counter")).await.unwrap();
    let done = Arc::new(Done::default());
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(work(cluster.store(), Arc::clone(&done)));
    }
    let half = WORKERS * TURNS / 2;
    let mut writes = Vec::new();
    let mut killed = false;
    let last = loop {
        tokio::select! {
            told = soon("a write under the lock", history.next()) => match told {
                Ok(Watched::Changes { changes, .. }) => for change in changes {
                    let KvChange::Put { record, .. } = change else { panic!("{change:?}") };
                    writes.push(number(&record.value));
                },
                Ok(_) => {}
                Err(error) => assert!(!matches!(error, ClientError::Rejected { .. }), "{error}"),
            },
            ended = workers.join_next(), if !workers.is_empty() => {
                ended.unwrap().unwrap();
                if workers.is_empty() {
                    break number(&observer.get("counter").await.unwrap().value.unwrap());
                }
            }
        }
        if writes.len() as u64 >= half && !killed {
            killed = true;
            cluster.kill_leader().await;
        }
    };
    // The watch tells what was written last, too; then it has told everything.
    while writes.last() != Some(&last) {
        if let Watched::Changes { changes, .. } = soon("the last write", history.next()).await.unwrap() {
            for change in changes {
                let KvChange::Put { record, .. } = change else { panic!("{change:?}") };
                writes.push(number(&record.value));
            }
        }
    }
    assert!(killed, "the workers were done before half of the writes: {writes:?}");
    // Two holders at once would have read the same number, or their tokens would go up and down.
    for (place, (count, _)) in writes.iter().enumerate() {
        assert_eq!(*count, place as u64 + 1, "a write under the lock was overwritten: {writes:?}");
    }
    for pair in writes.windows(2) {
        assert!(pair[0].1 < pair[1].1, "token {} wrote after token {}: {writes:?}", pair[1].1, pair[0].1);
    }
    let (written, unknown) = (done.written.load(Ordering::Relaxed), done.unknown.load(Ordering::Relaxed));
    let applied = writes.len() as u64;
    assert!((written..=written + unknown).contains(&applied), "{applied} applied, {written} told, {unknown} unknown");
    println!("{applied} writes under the lock, {unknown} unknown, {} refused", done.lost.load(Ordering::Relaxed));
}

async fn an_old_holders_write_is_refused_and_waiters_wait_only_for_the_one_before_them(mut cluster: impl Cluster) {
    let (one, two, three) = (cluster.store(), cluster.store(), cluster.store());
    let first = Lock::acquire(&one, "l", TTL).await.unwrap();
    first.put("k", "first").await.unwrap();

    // The one in the middle gives up while the first holds: the third must not take that for its turn.
    let middle = tokio::spawn(async move { Lock::acquire(&two, "l", SHORT_TTL).await.map(|lock| lock.token()) });
    let mut claims = one.watch(Watch::prefix("lock/l/")).await.unwrap();
    while one.count(d_engine::Range::prefix("lock/l/")).await.unwrap().count < 2 {
        soon("the second claim", claims.next()).await.unwrap();
    }
    let waiting = three.clone();
    let mut third = tokio::spawn(async move { Lock::acquire(&waiting, "l", TTL).await });
    while one.count(d_engine::Range::prefix("lock/l/")).await.unwrap().count < 3 {
        soon("the third claim", claims.next()).await.unwrap();
    }
    middle.abort();
    cluster.kill_leader().await;
    loop {
        let Ok(Watched::Changes { changes, .. }) = soon("the end of the claim in the middle", claims.next()).await
        else {
            continue;
        };
        if changes.iter().any(|change| matches!(change, KvChange::Delete { .. })) {
            break;
        }
    }
    // It looks again, finds the first one, and goes on waiting.
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut third).await.is_err(), "the lock was held");
    assert!(!third.is_finished());

    // The holder hangs for so long that its lease ends; here an operator ends it.
    soon("the end of the first lease", revoked(&one, first.lease())).await;
    let third = soon("the third's turn", third).await.unwrap().unwrap();
    assert!(third.token() > first.token());
    soon("the third's write", written(&third)).await;
    let refused = soon("the old holder's write", async {
        loop {
            match first.put("k", "late").await {
                Err(RecipeError::Store(ClientError::Unknown | ClientError::Unavailable { .. })) => {}
                other => return other,
            }
        }
    });
    assert!(matches!(refused.await, Err(RecipeError::Lost { .. })));
    soon("news of the loss", first.lost()).await;
    assert!(!first.is_certain());
    assert_eq!(three.get("k").await.unwrap().value.unwrap(), "third");
    third.release().await.unwrap();
}

async fn revoked(store: &KeyValue, lease: u64) {
    loop {
        match store.lease_revoke(lease).await {
            Ok(_) | Err(ClientError::Rejected { .. }) => return,
            Err(_) => {}
        }
    }
}

async fn written(lock: &Lock) {
    // The same value: whether it is written once or twice does not matter.
    while let Err(error) = lock.put("k", "third").await {
        assert!(!matches!(error, RecipeError::Lost { .. }), "{error}");
    }
}

async fn an_election_moves_on_when_the_elected_client_dies_and_not_when_the_stores_leader_does(
    mut cluster: impl Cluster,
) {
    let mut observer = Observer::begin(&cluster.store(), "e").await.unwrap();
    assert_eq!(observer.leader(), None);
    let first = Elected::campaign(&cluster.store(), "e", "first", SHORT_TTL * 4).await.unwrap();
    let leads = soon("the first leader", observer.changed()).await.unwrap().cloned();
    assert_eq!(leads, Some(Leader { token: first.token(), value: "first".into() }));

    let campaign = |value: &'static str| {
        let store = cluster.store();
        tokio::spawn(async move { Elected::campaign(&store, "e", value, TTL).await })
    };
    // By a linearizable read: a watch on a node that lags begins with what happened before.
    let store = cluster.store();
    let claims = async |count| while store.count(Range::prefix("election/e/")).await.unwrap().count < count {};
    let mut second = campaign("second");
    soon("the second's claim", claims(2)).await;
    let third = campaign("third");
    soon("the third's claim", claims(3)).await;
    cluster.kill_leader().await;

    // The store's leader is gone, and the application's leads on, at the word of the new one.
    while let Err(error) = first.proclaim("first, still").await {
        assert!(!matches!(error, RecipeError::Lost { .. }), "{error}");
    }
    let leads = soon("what the first proclaims", observer.changed()).await.unwrap().cloned();
    assert_eq!(leads, Some(Leader { token: first.token(), value: "first, still".into() }));
    assert!(!second.is_finished() && !third.is_finished());

    // It dies without a word.
    drop(first);
    let second = soon("the second's election", &mut second).await.unwrap().unwrap();
    let leads = soon("the second leader", observer.changed()).await.unwrap().cloned();
    assert_eq!(leads, Some(Leader { token: second.token(), value: "second".into() }));
    assert!(second.is_certain());

    let resigned = Instant::now();
    second.resign().await.unwrap();
    let third = soon("the third's election", third).await.unwrap().unwrap();
    assert!(resigned.elapsed() < TTL, "it waited for the lease of one who resigned");
    let leads = soon("the third leader", observer.changed()).await.unwrap().cloned();
    assert_eq!(leads, Some(Leader { token: third.token(), value: "third".into() }));
    third.resign().await.unwrap();
    assert_eq!(soon("the end", observer.changed()).await.unwrap(), None);
}

async fn the_registry_drops_the_dead_service_and_keeps_the_living_ones(mut cluster: impl Cluster) {
    let mut instances = Instances::of(&cluster.store(), "s").await.unwrap();
    let mut registered = Vec::new();
    for (name, ttl) in [("a", TTL), ("b", SHORT_TTL * 4), ("c", TTL)] {
        let store = cluster.store();
        registered.push(Registration::begin(&store, "s", name, format!("at {name}"), ttl).await.unwrap());
    }
    let names = |instances: &Instances| instances.list().into_iter().map(|(name, _)| name).collect::<String>();
    while names(&instances) != "abc" {
        soon("three instances", instances.changed()).await.unwrap();
    }
    cluster.kill_leader().await;
    // It dies, without a word, while there is no leader.
    drop(registered.remove(1));
    soon("the end of the dead one", instances.changed()).await.unwrap();
    assert_eq!(names(&instances), "ac", "only the dead one goes");

    // The living ones are kept for longer than a lease lasts without them.
    let living = Instant::now();
    while living.elapsed() < TTL + TTL / 4 {
        tokio::select! {
            changed = instances.changed() => {
                changed.unwrap();
                assert_eq!(names(&instances), "ac", "a living one went");
            }
            () = sleep(TTL / 4) => {}
        }
    }
    assert_eq!(instances.list(), [("a".to_owned(), "at a".into()), ("c".to_owned(), "at c".into())]);
    for registration in registered {
        registration.deregister().await.unwrap();
    }
    while !instances.list().is_empty() {
        soon("an empty registry", instances.changed()).await.unwrap();
    }
}
