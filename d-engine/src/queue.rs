//! A queue from many threads to one, which takes everything that waits at once and is woken only if it sleeps.
//!
//! Waking a thread costs two system calls and two changes of context, more than most work that is handed over. What nobody
//! waits for is therefore added quietly: the taker finds it when something else wakes it.
//!
//! Unbounded by itself: what may wait in it is bounded by its causes, as each use says.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
}

struct State<T> {
    items: Vec<T>,
    sleeping: Option<Sleep>,
    closed: bool,
}

/// What wakes the taker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// Every item.
    Light,
    /// Not the items that are added quietly.
    Deep,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(State { items: Vec::new(), sleeping: None, closed: false }), wake: Condvar::new() }
    }

    // A poisoned lock is used on: nothing that can panic runs under it.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item; gives it back if nobody will ever take it.
    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed {
            return Err(item);
        }
        state.items.push(item);
        self.wake_if(Sleep::Deep, state);
        Ok(())
    }

    /// Moves all of `items` in, or drops them if nobody will ever take them. Returns how many wait now.
    pub(crate) fn append(&self, items: &mut Vec<T>) -> usize {
        self.append_and_wake(items, Sleep::Deep)
    }

    /// [`append`](Queue::append), which does not wake a taker in deep sleep.
    pub(crate) fn append_quietly(&self, items: &mut Vec<T>) -> usize {
        self.append_and_wake(items, Sleep::Light)
    }

    /// Wakes a taker that sleeps no deeper than `deepest`.
    fn append_and_wake(&self, items: &mut Vec<T>, deepest: Sleep) -> usize {
        if items.is_empty() {
            return 0;
        }
        let mut state = self.lock();
        if state.closed {
            drop(state);
            items.clear();
            return 0;
        }
        if state.items.is_empty() {
            std::mem::swap(&mut state.items, items);
        } else {
            state.items.append(items);
        }
        let waiting = state.items.len();
        self.wake_if(deepest, state);
        waiting
    }

    /// Drops what waits and is not to be kept. Returns how many are left.
    pub(crate) fn retain(&self, keep: impl FnMut(&T) -> bool) -> usize {
        let mut state = self.lock();
        state.items.retain(keep);
        state.items.len()
    }

    /// Nothing is taken in from now on; what waits is still handed out.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.wake_if(Sleep::Deep, state);
    }

    /// Whether nothing is taken in any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// [`close`](Queue::close) by the taker's end: what waits is dropped, since nobody will take it.
    pub(crate) fn abandon(&self) {
        self.close();
        let items = std::mem::take(&mut self.lock().items);
        drop(items);
    }

    /// Moves everything that waits into `into`, which is empty; waits for something, at most for `timeout`. Returns
    /// whether more may come.
    pub(crate) fn take_all(&self, into: &mut Vec<T>, timeout: Option<Duration>, sleep: Sleep) -> bool {
        let mut state = self.lock();
        if state.items.is_empty() && !state.closed && timeout != Some(Duration::ZERO) {
            state = self.sleep(state, timeout, sleep);
        }
        std::mem::swap(&mut state.items, into);
        !(state.closed && into.is_empty())
    }

    fn sleep<'a>(
        &'a self,
        state: MutexGuard<'a, State<T>>,
        timeout: Option<Duration>,
        sleep: Sleep,
    ) -> MutexGuard<'a, State<T>> {
        let idle = |state: &mut State<T>| {
            let is_idle = state.items.is_empty() && !state.closed;
            if is_idle {
                // It may have been woken for what was taken out again meanwhile.
                state.sleeping = Some(sleep);
            }
            is_idle
        };
        let mut state = match timeout {
            None => self.wake.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                self.wake.wait_timeout_while(state, timeout, idle).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.sleeping = None;
        state
    }

    /// Wakes a taker that sleeps no deeper than `deepest`.
    fn wake_if(&self, deepest: Sleep, mut state: MutexGuard<'_, State<T>>) {
        let sleeping = state.sleeping.take_if(|sleep| *sleep == Sleep::Light || deepest == Sleep::Deep);
        drop(state);
        if sleeping.is_some() {
            self.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn everything_that_waits_is_taken_in_order_and_a_closed_queue_is_emptied_first() {
        let queue = Queue::new();
        queue.push(1).unwrap();
        queue.append(&mut vec![2, 3]);
        let mut taken = Vec::new();
        assert!(queue.take_all(&mut taken, None, Sleep::Light));
        assert_eq!(taken, [1, 2, 3]);
        taken.clear();
        queue.push(4).unwrap();
        queue.close();
        assert_eq!(queue.push(5), Err(5));
        assert!(queue.take_all(&mut taken, None, Sleep::Light));
        assert_eq!(taken, [4]);
        taken.clear();
        assert!(!queue.take_all(&mut taken, None, Sleep::Light));
    }

    #[test]
    fn a_sleeper_is_woken_by_each_push() {
        let queue = Arc::new(Queue::new());
        let taker = {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                let (mut all, mut some) = (Vec::new(), Vec::new());
                while queue.take_all(&mut some, None, Sleep::Light) {
                    all.append(&mut some);
                }
                all
            })
        };
        for item in 0..1000 {
            queue.push(item).unwrap();
            if item % 100 == 0 {
                std::thread::yield_now();
            }
        }
        queue.close();
        assert_eq!(taker.join().unwrap(), (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn an_abandoned_queue_keeps_nothing() {
        let queue = Queue::new();
        let item = Arc::new(());
        queue.push(Arc::clone(&item)).unwrap();
        queue.abandon();
        queue.append(&mut vec![Arc::clone(&item)]);
        assert_eq!(Arc::strong_count(&item), 1);
    }

    #[test]
    fn what_is_added_quietly_wakes_only_a_light_sleeper_and_is_taken_with_what_comes_next() {
        let queue = Arc::new(Queue::new());
        let take = |sleep, timeout| {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                let mut taken = Vec::new();
                queue.take_all(&mut taken, timeout, sleep);
                taken
            })
        };
        let until_asleep = || {
            while queue.lock().sleeping.is_none() {
                std::thread::yield_now();
            }
        };
        let taker = take(Sleep::Deep, None);
        until_asleep();
        assert_eq!(queue.append_quietly(&mut vec![1]), 1);
        assert_eq!(queue.append_quietly(&mut vec![2]), 2);
        assert!(queue.lock().sleeping.is_some(), "not woken");
        queue.push(3).unwrap();
        assert_eq!(taker.join().unwrap(), [1, 2, 3]);

        let taker = take(Sleep::Light, None);
        until_asleep();
        queue.append_quietly(&mut vec![4]);
        assert_eq!(taker.join().unwrap(), [4]);

        // The end of the wait brings what came quietly.
        let taker = take(Sleep::Deep, Some(Duration::from_millis(20)));
        until_asleep();
        queue.append_quietly(&mut vec![5]);
        assert_eq!(taker.join().unwrap(), [5]);

        let taker = take(Sleep::Deep, None);
        until_asleep();
        queue.close();
        assert!(taker.join().unwrap().is_empty());
        queue.append_quietly(&mut vec![6]);
        assert!(queue.lock().items.is_empty(), "nobody will take it");
    }

    #[test]
    fn a_timeout_ends_the_wait() {
        let queue = Queue::<u8>::new();
        let mut taken = Vec::new();
        assert!(queue.take_all(&mut taken, Some(Duration::from_millis(1)), Sleep::Light));
        assert!(taken.is_empty());
    }
}
