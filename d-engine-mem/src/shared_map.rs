//! One map for many readers and one writer at a time.
//!
//! Readers that share one lock write to its cache line twice per read, and two of them together are slower than one alone.
//! So there are several locks, each with a handle of the same map, and a thread always takes the same one. A write takes them
//! all and puts the other handles away while it changes the map, so that nothing of it has to be copied.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use bytes::Bytes;
use d_engine_core::{Error, Result};

use crate::OrderedMap;

/// The fewest and the most locks: a thread more than locks shares one, and each costs a write some twenty nanoseconds.
const LOCKS: (usize, usize) = (8, 32);

/// How often a reader looks again while the map is being changed, which takes a few microseconds for a usual batch, before it
/// sleeps: to be woken takes longer.
const LOOKS: usize = 500;

/// An [`OrderedMap`] that any thread reads while another one may want to change it.
///
/// Reads see all of a write or nothing of it. After a panic within a write nothing is read any more: half of it may be there.
#[derive(Debug)]
pub struct SharedMap {
    handles: Box<[Handle]>,
}

/// A lock with nothing else in its cache lines; without a map while that is being changed.
#[derive(Debug)]
#[repr(align(128))]
struct Handle(RwLock<Option<OrderedMap>>);

impl Handle {
    fn read(&self) -> Result<RwLockReadGuard<'_, Option<OrderedMap>>> {
        for _ in 0..LOOKS {
            match self.0.try_read() {
                Ok(map) => return Ok(map),
                Err(TryLockError::Poisoned(_)) => return Err(half_a_write()),
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
        self.0.read().map_err(|_| half_a_write())
    }
}

impl SharedMap {
    /// Shares `map`.
    pub fn new(map: OrderedMap) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let locks = threads.next_power_of_two().clamp(LOCKS.0, LOCKS.1);
        Self { handles: (0..locks).map(|_| Handle(RwLock::new(Some(map.clone())))).collect() }
    }

    /// Runs `f` on the map, with writers held off: for as long as a few look-ups take.
    ///
    /// # Errors
    /// `Poisoned` after a panic within a write.
    pub fn read<T>(&self, f: impl FnOnce(&OrderedMap) -> T) -> Result<T> {
        let handle = self.handles[thread_number() & (self.handles.len() - 1)].read()?;
        handle.as_ref().map(f).ok_or_else(half_a_write)
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// As [`read`](SharedMap::read).
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.read(|map| map.get(key).cloned())
    }

    /// A view that holds nobody off. Writes copy what it shares, for as long as there is one.
    ///
    /// # Errors
    /// As [`read`](SharedMap::read).
    pub fn view(&self) -> Result<OrderedMap> {
        self.read(OrderedMap::clone)
    }

    /// Changes the map, with readers held off meanwhile. What `f` returns is the place for what need not be freed then.
    ///
    /// # Errors
    /// As [`read`](SharedMap::read); nothing has changed.
    pub fn write<T>(&self, f: impl FnOnce(&mut OrderedMap) -> T) -> Result<T> {
        // Always in the same order, and a reader never waits for a second one.
        let mut handles = Vec::with_capacity(self.handles.len());
        for handle in &self.handles {
            handles.push(handle.0.write().map_err(|_| half_a_write())?);
        }
        let mut taken = handles.iter_mut().map(|handle| handle.take());
        let mut map = taken.next().flatten().ok_or_else(half_a_write)?;
        taken.for_each(drop);
        let result = f(&mut map);
        publish(&mut handles, map);
        Ok(result)
    }

    /// Puts another map in the place of this one, also after a panic; `then` runs before anybody reads it. Gives back the
    /// old one, of which only views may be left, and which may take a while to be freed.
    pub fn replace(&self, new: OrderedMap, then: impl FnOnce()) -> Option<OrderedMap> {
        let mut handles = Vec::with_capacity(self.handles.len());
        for handle in &self.handles {
            handles.push(handle.0.write().unwrap_or_else(PoisonError::into_inner));
            handle.0.clear_poison();
        }
        let old = handles.iter_mut().filter_map(|handle| handle.take()).last();
        publish(&mut handles, new);
        then();
        old
    }
}

impl Default for SharedMap {
    fn default() -> Self {
        Self::new(OrderedMap::new())
    }
}

fn publish(handles: &mut [RwLockWriteGuard<'_, Option<OrderedMap>>], map: OrderedMap) {
    for handle in handles {
        **handle = Some(map.clone());
    }
}

/// The number of this thread, in the order in which threads have asked.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    const NONE: usize = usize::MAX;
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(NONE) };
    }
    NUMBER.with(|number| {
        if number.get() == NONE {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

fn half_a_write() -> Error {
    Error::Poisoned { why: "a write to the key-value store ended in a panic".into() }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicBool;

    use d_engine_core::{KeyRange, WriteBatch};

    use super::*;

    fn key(n: u8) -> Bytes {
        Bytes::from(vec![n])
    }

    #[test]
    fn readers_of_every_lock_see_whole_writes_only() {
        let shared = SharedMap::default();
        let done = AtomicBool::new(false);
        let round = |n: u32| {
            let mut batch = WriteBatch::new();
            (0..20).for_each(|at| batch.put(key(at), n.to_be_bytes().to_vec()));
            shared.write(|map| map.apply(&mut batch)).unwrap();
        };
        round(0);
        std::thread::scope(|scope| {
            for _ in 0..2 * shared.handles.len() {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let values: Vec<_> = shared
                            .read(|map| map.range(KeyRange::ALL).map(|(_, value)| value.clone()).collect())
                            .unwrap();
                        assert!(values.len() == 20 && values.iter().all(|value| *value == values[0]));
                        // What was read once does not go back.
                        let again = shared.get(&key(19)).unwrap().unwrap();
                        assert!(again >= values[0]);
                        std::thread::yield_now();
                    }
                });
            }
            (1..300).for_each(round);
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_write_copies_nothing_that_no_view_shares() {
        let shared = SharedMap::default();
        let put = |n: u8| shared.write(|map| map.insert(key(n), Bytes::new())).unwrap();
        put(1);
        let place = |map: &OrderedMap| map.range(KeyRange::ALL).next().map(std::ptr::from_ref).map(<*const _>::addr);
        let before = shared.read(place).unwrap();
        put(1);
        assert_eq!(shared.read(place).unwrap(), before);
        let view = shared.view().unwrap();
        put(1);
        assert_ne!(shared.read(place).unwrap(), before);
        assert_eq!(place(&view), before);
    }

    #[test]
    fn after_a_panic_nothing_is_read_until_all_is_replaced() {
        let shared = SharedMap::default();
        let broken = catch_unwind(AssertUnwindSafe(|| shared.write(|_| panic!("half of it is there"))));
        assert!(broken.is_err());
        assert!(matches!(shared.get(b"k"), Err(Error::Poisoned { .. })));
        assert!(matches!(shared.write(|_| ()), Err(Error::Poisoned { .. })));
        shared.replace(OrderedMap::new(), || ());
        assert_eq!(shared.get(b"k").unwrap(), None);
        shared.write(|map| map.insert(key(1), key(2))).unwrap();
        assert_eq!(shared.get(&key(1)).unwrap(), Some(key(2)));
    }
}
