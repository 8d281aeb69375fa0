//! Replication allocates for messages, not for entries: their bytes were made once, by the proposal.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unsafe_code, reason = "an allocator that counts is an allocator")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use common::{Cluster, incarnation};
use d_engine_raft::{AppendOutcome, AppendReply, Body, Command, Input, Message};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
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
