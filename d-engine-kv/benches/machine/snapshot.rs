//! Snapshots of a million keys: time, memory above the state, and what they cost those who write meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use d_engine_core::{Membership, SnapshotMetadata, StateMachine};
use d_engine_kv::SNAPSHOT_FILE;

use crate::allocations;
use crate::figures::{Figures, Target, median};
use crate::replica::{LARGE, Replica, STORES, Store, dir};

const KEYS: u64 = 1_000_000;
const ROUNDS: usize = 3;
/// Puts of a chunk beside a snapshot.
const PUTS: usize = 100;
/// From one chunk to the next: a busy node, and not all that there can be.
const PACE: Duration = Duration::from_millis(1);
const MEMORY: Target = Target::Below(64.0);

fn mib(bytes: isize) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

/// The longest time that a chunk took, in milliseconds, while `f` ran on another thread.
fn longest_apply(replica: &mut Replica, f: impl FnOnce(&Replica) + Send) -> f64 {
    let chunks: Vec<_> = (0..5_000).map(|_| replica.some_puts(PUTS, KEYS, LARGE)).collect();
    let (done, replica) = (AtomicBool::new(false), &*replica);
    thread::scope(|scope| {
        scope.spawn(|| {
            f(replica);
            done.store(true, Ordering::Release);
        });
        let mut longest = Duration::ZERO;
        for chunk in chunks {
            if done.load(Ordering::Acquire) {
                break;
            }
            let began = Instant::now();
            replica.apply(chunk);
            let took = began.elapsed();
            longest = longest.max(took);
            thread::sleep(PACE.saturating_sub(took));
        }
        longest.as_secs_f64() * 1e3
    })
}

fn write_and_install(figures: &Figures, store: Store) {
    let dir = dir();
    allocations::count();
    let mut replica = Replica::with_keys(store, KEYS, LARGE);
    let write = |replica: &Replica| replica.machine.begin_snapshot().unwrap().unwrap().write(dir.path()).unwrap();
    let (mut times, mut peaks) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (state, began) = (allocations::live(), Instant::now());
        let ((), peak) = allocations::peak_of(|| _ = write(&replica));
        times.push(began.elapsed().as_secs_f64());
        peaks.push(mib(peak - state));
    }
    let name = |what: &str| format!("{store}, a snapshot of 1,000,000 keys of 256 bytes{what}");
    figures.tell(&name(": written"), median(times), "s", Target::Below(2.0));
    figures.tell(&name(": memory above the state"), median(peaks), "MiB", MEMORY);
    let stalls = (0..ROUNDS).map(|_| longest_apply(&mut replica, |replica| _ = write(replica))).collect();
    figures.tell(&name(": longest apply beside it, of 100 puts"), median(stalls), "ms", Target::Below(10.0));
    let at_rest = |_: &Replica| thread::sleep(Duration::from_millis(500));
    let alone = (0..ROUNDS).map(|_| longest_apply(&mut replica, at_rest)).collect();
    figures.tell(&name(": longest apply without it"), median(alone), "ms", Target::None);

    let checksum = write(&replica);
    let path = dir.path().join(SNAPSHOT_FILE);
    let size = std::fs::metadata(&path).unwrap().len();
    let metadata = SnapshotMetadata::new(replica.machine.last_applied(), Membership::default(), checksum, size);
    let state = allocations::live();
    drop(replica);
    let empty = allocations::live();
    // Each one replaces the state of the one before.
    let target = Replica::new(store);
    let install = || target.runtime.block_on(target.machine.apply_snapshot_from_file(&metadata, path.clone())).unwrap();
    install();
    let (mut times, mut peaks) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (old, began) = (allocations::live(), Instant::now());
        let ((), peak) = allocations::peak_of(install);
        times.push(began.elapsed().as_secs_f64());
        let new = allocations::live() - empty;
        peaks.push(mib(peak - old - new));
    }
    allocations::stop();
    figures.tell(&name(": installed"), median(times), "s", Target::Below(3.0));
    figures.tell(&name(": memory above the old and the new state"), median(peaks), "MiB", MEMORY);
    figures.tell(&name(": the state in memory"), mib(state - empty), "MiB", Target::None);
}

pub(crate) fn measure(figures: &Figures) {
    for store in STORES {
        write_and_install(figures, store);
    }
}
