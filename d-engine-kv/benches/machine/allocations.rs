//! What is allocated, counted while somebody wants to know.
#![allow(unsafe_code, reason = "an allocator that counts is unsafe to write, and there is no other way to count")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};

static COUNTS: AtomicBool = AtomicBool::new(false);
static LIVE: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn add(bytes: isize) {
    if COUNTS.load(Ordering::Relaxed) {
        let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
        PEAK.fetch_max(live, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, bytes: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        unsafe { System.dealloc(bytes, layout) }
    }

    unsafe fn realloc(&self, bytes: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size as isize - layout.size() as isize);
        unsafe { System.realloc(bytes, layout, size) }
    }
}

/// Counts from now on. What is freed later must have been allocated later.
pub(crate) fn count() {
    LIVE.store(0, Ordering::Relaxed);
    COUNTS.store(true, Ordering::Relaxed);
}

/// Counts no more: it costs everybody a little.
pub(crate) fn stop() {
    COUNTS.store(false, Ordering::Relaxed);
}

/// Bytes allocated since counting began, and not freed.
pub(crate) fn live() -> isize {
    LIVE.load(Ordering::Relaxed)
}

/// The most that [`live`] was while `f` ran.
pub(crate) fn peak_of<T>(f: impl FnOnce() -> T) -> (T, isize) {
    PEAK.store(live(), Ordering::Relaxed);
    let result = f();
    (result, PEAK.load(Ordering::Relaxed))
}
