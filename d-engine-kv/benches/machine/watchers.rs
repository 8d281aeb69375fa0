//! What watchers cost those who write, and that each of them is told everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use d_engine_core::command::{KeySpan, KvWatch, WatchEnd, WatchMessage};
use d_engine_core::{StateMachine, WatchSink};

use crate::KEYS;
use crate::figures::{Figures, Target, median};
use crate::replica::{Replica, SMALL, Store, key, put};

const WATCHERS: u64 = 10_000;
/// Chunks of a round.
const CHUNKS: u64 = 100;
const ROUNDS: usize = 15;
/// Events for each watcher of the one key.
const EVENTS: u64 = 100;

/// Counts the messages of all its watchers.
struct Counter(Arc<AtomicU64>);

impl WatchSink for Counter {
    fn offer(&mut self, _event: Bytes) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        true
    }
}

/// Looks at what it is told.
struct Checker {
    told: Arc<AtomicU64>,
    revision: u64,
}

impl WatchSink for Checker {
    fn offer(&mut self, event: Bytes) -> bool {
        match WatchMessage::decode_bytes(event).unwrap() {
            WatchMessage::Created { revision } => self.revision = revision,
            WatchMessage::Changes { revision, changes, more } => {
                assert!(revision == self.revision + 1 && changes.len() == 1 && !more, "each event once and in order");
                self.revision = revision;
                self.told.fetch_add(1, Ordering::Relaxed);
            }
            WatchMessage::Ended(end) => assert_eq!(end, WatchEnd::Stopped),
            other => panic!("a watcher was told {other:?}"),
        }
        true
    }
}

fn wait_for(told: &AtomicU64, events: u64) {
    while told.load(Ordering::Relaxed) < events {
        thread::yield_now();
    }
}

/// The throughput of puts to random ones of `keys`, of which the first ten thousand are watched, against that without watchers.
fn of_their_own_keys(keys: u64) -> f64 {
    let mut without = Replica::with_keys(Store::Mem, keys, SMALL);
    let mut with = Replica::with_keys(Store::Mem, keys, SMALL);
    let told = Arc::new(AtomicU64::new(0));
    for n in 0..WATCHERS {
        let watch = KvWatch::new(KeySpan::key(key(n)));
        with.machine.watch(watch.encode(), Box::new(Counter(told.clone()))).unwrap();
    }
    wait_for(&told, WATCHERS);
    let ratio = |_| {
        let time = |replica: &mut Replica| replica.timed(CHUNKS, |replica| replica.puts(keys, SMALL)).as_secs_f64();
        time(&mut without) / time(&mut with)
    };
    median((0..ROUNDS).map(ratio).collect())
}

/// Events told per second to ten thousand watchers of one key.
fn of_one_key() -> f64 {
    let mut replica = Replica::with_keys(Store::Mem, 1, SMALL);
    let told = Arc::new(AtomicU64::new(0));
    for _ in 0..WATCHERS {
        let watch = KvWatch::new(KeySpan::key(key(0)));
        let sink = Checker { told: told.clone(), revision: 0 };
        replica.machine.watch(watch.encode(), Box::new(sink)).unwrap();
    }
    let began = Instant::now();
    for _ in 0..EVENTS {
        let chunk = vec![replica.entry(&put(0, SMALL))];
        replica.apply(chunk);
    }
    wait_for(&told, WATCHERS * EVENTS);
    (WATCHERS * EVENTS) as f64 / began.elapsed().as_secs_f64()
}

pub(crate) fn measure(figures: &Figures) {
    let ratio = of_their_own_keys(KEYS);
    figures.tell("puts with 10,000 watchers of a tenth of the keys against none", ratio, "×", Target::AtLeast(0.9));
    let ratio = of_their_own_keys(WATCHERS);
    figures.tell("puts with 10,000 watchers of all keys against none", ratio, "×", Target::None);
    let rate = of_one_key();
    figures.tell("events told to 10,000 watchers of one key, each checked", rate, "per second", Target::None);
}
