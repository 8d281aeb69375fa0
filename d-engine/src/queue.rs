//! A queue from many threads to one, which takes everything that waits at once and is woken only if it sleeps.
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
    sleeping: bool,
    closed: bool,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(State { items: Vec::new(), sleeping: false, closed: false }), wake: Condvar::new() }
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
        self.wake_if_sleeping(state);
        Ok(())
    }

    /// Moves all of `items` in, or drops them if nobody will ever take them. Returns how many wait now.
    pub(crate) fn append(&self, items: &mut Vec<T>) -> usize {
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
        self.wake_if_sleeping(state);
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
        self.wake_if_sleeping(state);
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
    pub(crate) fn take_all(&self, into: &mut Vec<T>, timeout: Option<Duration>) -> bool {
        let mut state = self.lock();
        if state.items.is_empty() && !state.closed && timeout != Some(Duration::ZERO) {
            state = self.sleep(state, timeout);
        }
        std::mem::swap(&mut state.items, into);
        !(state.closed && into.is_empty())
    }

    fn sleep<'a>(&'a self, mut state: MutexGuard<'a, State<T>>, timeout: Option<Duration>) -> MutexGuard<'a, State<T>> {
        state.sleeping = true;
        let idle = |state: &mut State<T>| state.items.is_empty() && !state.closed;
        let mut state = match timeout {
            None => self.wake.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                self.wake.wait_timeout_while(state, timeout, idle).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.sleeping = false;
        state
    }

    fn wake_if_sleeping(&self, mut state: MutexGuard<'_, State<T>>) {
        let sleeping = std::mem::take(&mut state.sleeping);
        drop(state);
        if sleeping {
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
        assert!(queue.take_all(&mut taken, None));
        assert_eq!(taken, [1, 2, 3]);
        taken.clear();
        queue.push(4).unwrap();
        queue.close();
        assert_eq!(queue.push(5), Err(5));
        assert!(queue.take_all(&mut taken, None));
        assert_eq!(taken, [4]);
        taken.clear();
        assert!(!queue.take_all(&mut taken, None));
    }

    #[test]
    fn a_sleeper_is_woken_by_each_push() {
        let queue = Arc::new(Queue::new());
        let taker = {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                let (mut all, mut some) = (Vec::new(), Vec::new());
                while queue.take_all(&mut some, None) {
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
    fn a_timeout_ends_the_wait() {
        let queue = Queue::<u8>::new();
        let mut taken = Vec::new();
        assert!(queue.take_all(&mut taken, Some(Duration::from_millis(1))));
        assert!(taken.is_empty());
    }
}
