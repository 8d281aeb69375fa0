//! Gets from several threads, alone and while writes go on.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use d_engine_core::StateMachine;

use crate::KEYS;
use crate::figures::{Figures, Target, median};
use crate::replica::{LARGE, Replica, STORES, key};

const ROUND: Duration = Duration::from_millis(300);
const ROUNDS: usize = 7;
/// Puts of a chunk beside the reads, and how often there is one: 300,000 puts a second.
const PUTS: usize = 100;
const PUTS_EVERY: Duration = Duration::from_nanos(333_333);

/// Gets per second of so many threads together, of random keys.
fn gets(replica: &Replica, keys: &[Vec<Bytes>], threads: usize) -> f64 {
    let begin = Barrier::new(threads);
    let read = |keys: &[Bytes]| {
        begin.wait();
        let (began, mut gets) = (Instant::now(), 0);
        while began.elapsed() < ROUND {
            for key in keys {
                black_box(replica.machine.get_bytes(key).unwrap());
            }
            gets += keys.len();
        }
        gets as f64 / began.elapsed().as_secs_f64()
    };
    thread::scope(|scope| {
        let readers: Vec<_> = keys[..threads].iter().map(|keys| scope.spawn(|| read(keys))).collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).sum()
    })
}

/// Gets of one thread and puts of another one, each per second. The puts come in small chunks at their own pace, until the reads
/// are done.
fn puts_beside(replica: &mut Replica, keys: &[Vec<Bytes>]) -> (f64, f64) {
    let chunks: Vec<_> = (0..3_000).map(|_| replica.some_puts(PUTS, KEYS, LARGE)).collect();
    let done = AtomicBool::new(false);
    let replica = &*replica;
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (began, mut puts) = (Instant::now(), 0);
            for (chunk, number) in chunks.into_iter().zip(0..) {
                while began.elapsed() < PUTS_EVERY * number {
                    std::hint::spin_loop();
                }
                if done.load(Ordering::Relaxed) {
                    break;
                }
                replica.apply(chunk);
                puts += PUTS;
            }
            puts as f64 / began.elapsed().as_secs_f64()
        });
        let gets = gets(replica, keys, 1);
        done.store(true, Ordering::Relaxed);
        (gets, writer.join().unwrap())
    })
}

pub(crate) fn measure(figures: &Figures) {
    for store in STORES {
        let mut replica = Replica::with_keys(store, KEYS, LARGE);
        let some_keys = |replica: &mut Replica| (0..20_000).map(|_| key(replica.random(KEYS))).collect();
        let keys: Vec<Vec<_>> = (0..2).map(|_| some_keys(&mut replica)).collect();
        gets(&replica, &keys, 2);
        let (mut alone, mut ratios) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let one = gets(&replica, &keys, 1);
            ratios.push(gets(&replica, &keys, 2) / one);
            alone.push(one);
        }
        figures.tell(&format!("{store}, gets of one reader"), median(alone), "per second", Target::AtLeast(3e6));
        figures.tell(&format!("{store}, gets of two readers against one"), median(ratios), "×", Target::AtLeast(1.8));
        let beside: Vec<_> = (0..ROUNDS).map(|_| puts_beside(&mut replica, &keys)).collect();
        let (gets, puts) = beside.into_iter().unzip();
        figures.tell(
            &format!("{store}, gets of one reader while writes go on"),
            median(gets),
            "per second",
            Target::AtLeast(3e6),
        );
        figures.tell(&format!("{store}, the puts beside it, {PUTS} a chunk"), median(puts), "per second", Target::None);
    }
}
