//! Replication allocates for messages, not for entries: their bytes were made once, by the proposal. And what a node keeps in
//! memory depends on the terms in its log, not on its length.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unsafe_code, reason = "an allocator that counts is an allocator")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use std::time::Duration;

use bytes::Bytes;
use common::{Cluster, incarnation};
use d_engine_raft::{AppendOutcome, AppendReply, Body, Boot, Command, Config, Driver, Input, Message, Restored};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    /// Bytes that are allocated and not given back.
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        LIVE.set(LIVE.get().wrapping_add(layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().wrapping_sub(layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations from the answer of a follower that lacks `entries` entries until they are in messages to it.
fn sending(entries: u64) -> usize {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let follower = (1..=3).find(|node| *node != leader).unwrap();
    cluster.event(leader, Input::Unreachable { to: follower });
    cluster.down.push(follower);
    for id in 0..entries {
        cluster.event(leader, Input::Propose { id, command: Bytes::from_static(b"sixteen bytes...") });
    }
    let now = cluster.now;
    let driver = cluster.nodes.get_mut(&leader).unwrap();
    let status = driver.status(now);
    let peer = status.peers.iter().find(|peer| peer.node == follower).unwrap();
    assert!(!peer.replicating, "the leader waits for an answer");
    let outcome = AppendOutcome::Accepted { matched: peer.matched };
    // Streams are numbered: one per peer and one more for each interruption.
    let answer = |session| Input::Message {
        from: follower,
        message: Message {
            term: status.term,
            incarnation: incarnation(follower),
            group: 0,
            body: Body::AppendReply(AppendReply { session, round: 0, outcome }),
        },
    };
    for session in 1..10 {
        let before = ALLOCATIONS.get();
        driver.handle(now, answer(session));
        let mut sent = 0;
        while let Some(command) = driver.poll() {
            if let Command::Send { to, message: Message { body: Body::Append(append), .. } } = &command {
                assert_eq!(*to, follower);
                sent += append.entries.len() as u64;
            }
        }
        if sent > 0 {
            assert_eq!(sent, entries);
            return ALLOCATIONS.get() - before;
        }
    }
    panic!("no stream took the answer");
}

#[test]
fn entries_are_sent_without_an_allocation_for_each() {
    let (few, many) = (sending(10), sending(1000));
    assert!(many <= few + 4, "{few} allocations for 10 entries, {many} for 1000");
}

/// Proposes until `count` entries are applied; a disk and a state machine answer at once.
fn fill(driver: &mut Driver, count: u64) {
    let now = Duration::from_secs(1);
    let mut applied = 0;
    while applied < count {
        driver.handle(now, Input::Timeout);
        driver.handle(now, Input::Propose { id: 0, command: Bytes::from_static(b"sixteen bytes...") });
        while let Some(command) = driver.poll() {
            match command {
                Command::Write(write) => driver.handle(now, Input::Persisted { seq: write.seq }),
                Command::Apply { last, .. } => {
                    applied += 1;
                    driver.handle(now, Input::Applied { index: last });
                }
                _ => {}
            }
        }
    }
}

/// Sizes are kept of the newest entries only, so the first of these lengths reaches every bound.
#[test]
fn a_longer_log_takes_no_more_memory() {
    let config = Config { tail_bytes: 4096, ..Config::new(1, "n1:1") };
    let boot = Boot { seed: 1, incarnation: 1, cluster: 1 };
    let mut driver = Driver::new(config, Restored::default(), boot, Duration::ZERO).unwrap();
    fill(&mut driver, 150_000);
    let shorter = LIVE.get();
    fill(&mut driver, 300_000);
    let longer = LIVE.get();
    let status = driver.status(Duration::from_secs(1));
    assert!(status.last.index > 450_000 && status.applied == status.last.index, "{status:?}");
    assert!(longer <= shorter + 4096, "{shorter} bytes for a third of the log, {longer} for all of it");
}
