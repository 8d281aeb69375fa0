//! What a log takes up in memory, counted by the allocator.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unsafe_code, reason = "an allocator that counts is unsafe to write, and there is no other way to count")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{now, scratch};
use d_engine_core::{Entry, EntryKind, LogStore, StorageEngine};
use d_engine_file::{FileLogStore, FileStorageEngine, FileStorageOptions};

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, bytes: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(bytes, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ENTRIES: u64 = 300_000;
const BYTES_PER_ENTRY: usize = 8;
/// The write buffer, the last segment's room for growth, names of files.
const REST_BYTES: usize = 512 << 10;

fn open(dir: &Path, tail_cache_bytes: usize) -> Arc<FileLogStore> {
    let mut options = FileStorageOptions::default();
    options.segment_bytes_max = 4 << 20;
    options.tail_cache_bytes = tail_cache_bytes;
    FileStorageEngine::open_with(dir, &options).unwrap().log_store()
}

/// Waits until no more than `most` bytes are live than `before`: what leaves the log's memory is freed beside its callers.
#[track_caller]
fn assert_grown_at_most(before: usize, most: usize, what: &str) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let grown = LIVE_BYTES.load(Ordering::Relaxed).saturating_sub(before);
        if grown <= most {
            return;
        }
        assert!(Instant::now() < until, "{what}: {grown} bytes, {most} expected at most");
        std::thread::yield_now();
    }
}

/// One test: others beside it would be counted as well.
#[test]
fn memory_is_eight_bytes_per_entry_and_the_bounded_tail() {
    for tail_cache_bytes in [0, 4 << 20] {
        for batch in [1000, 7] {
            let dir = scratch();
            let before = LIVE_BYTES.load(Ordering::Relaxed);
            let most = BYTES_PER_ENTRY * ENTRIES as usize + tail_cache_bytes + REST_BYTES;
            let log = open(dir.path(), tail_cache_bytes);
            for first in (1..=ENTRIES).step_by(batch) {
                let last = ENTRIES.min(first + batch as u64 - 1);
                let entry = |index: u64| Entry::new(index, 1, EntryKind::Command, index.to_le_bytes());
                now(log.persist_entries((first..=last).map(entry).collect())).unwrap();
            }
            assert_eq!(log.last_index(), ENTRIES);
            assert_grown_at_most(before, most, &format!("written {batch} at a time, a tail of {tail_cache_bytes}"));
            drop(log);
            assert_grown_at_most(before, REST_BYTES, "closed");

            let log = open(dir.path(), tail_cache_bytes);
            assert_eq!(log.last_index(), ENTRIES);
            assert_grown_at_most(before, most, &format!("opened, a tail of {tail_cache_bytes}"));
        }
    }
}
