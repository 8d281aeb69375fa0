//! A queue from many threads to one, which takes everything that waits at once and is woken only if it sleeps.
//!
//! Waking a thread costs two system calls and two changes of context, more than most work that is handed over. What nobody
//! waits for is therefore added quietly: the taker finds it when something else wakes it.
//!
//! Unbounded by itself: what may wait in it is bounded by its causes, as each use says.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Moves everything to the end of `into`; what is not needed of two allocations stays behind.
pub(crate) fn move_all<T>(from: &mut Vec<T>, into: &mut Vec<T>) {
    if into.is_empty() {
        std::mem::swap(from, into);
    } else {
        into.append(from);
    }
}

pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
}

struct State<T> {
    items: Vec<T>,
    /// Of items, one was not added quietly.
    is_due: bool,
    /// The taker is to look, even if nothing waits.
    is_called: bool,
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
        let state = State { items: Vec::new(), is_due: false, is_called: false, sleeping: None, closed: false };
        Self { state: Mutex::new(state), wake: Condvar::new() }
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
        state.is_due = true;
        self.wake_if(Some(Sleep::Deep), state);
        Ok(())
    }

    /// Moves all of `items` in, or drops them if nobody will ever take them. Returns how many wait now.
    pub(crate) fn append(&self, items: &mut Vec<T>) -> usize {
        self.append_and_wake(items, Some(Sleep::Deep))
    }

    /// [`append`](Queue::append), which does not wake a taker in deep sleep.
    pub(crate) fn append_quietly(&self, items: &mut Vec<T>) -> usize {
        self.append_and_wake(items, Some(Sleep::Light))
    }

    /// [`append`](Queue::append), which wakes nobody: whoever adds sees to it that they are taken, or [`wake`](Queue::wake)s.
    pub(crate) fn append_unannounced(&self, items: &mut Vec<T>) -> usize {
        self.append_and_wake(items, None)
    }

    /// Lets the taker look, also if nothing waits; wakes it if it sleeps.
    pub(crate) fn wake(&self) {
        let mut state = self.lock();
        state.is_called = true;
        self.wake_if(Some(Sleep::Deep), state);
    }

    fn append_and_wake(&self, items: &mut Vec<T>, deepest: Option<Sleep>) -> usize {
        if items.is_empty() {
            return 0;
        }
        let mut state = self.lock();
        if state.closed {
            drop(state);
            items.clear();
            return 0;
        }
        move_all(items, &mut state.items);
        state.is_due |= deepest != Some(Sleep::Light);
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
        self.wake_if(Some(Sleep::Deep), state);
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
        state.is_due = false;
        !(state.closed && into.is_empty())
    }

    /// Waits for something, at most for `timeout`.
    pub(crate) fn wait(&self, timeout: Duration, sleep: Sleep) {
        // Without a wait if something is there.
        drop(self.sleep(self.lock(), Some(timeout), sleep));
    }

    /// Waits for `timeout`, or until something comes that is not added quietly.
    pub(crate) fn rest(&self, timeout: Duration) {
        let mut state = self.lock();
        if state.closed || state.is_due || state.is_called {
            return;
        }
        state.sleeping = Some(Sleep::Deep);
        let rested = self.wake.wait_timeout_while(state, timeout, |state| state.sleeping.is_some());
        rested.unwrap_or_else(PoisonError::into_inner).0.sleeping = None;
    }

    /// Moves everything that waits to the end of `into`.
    pub(crate) fn take_more(&self, into: &mut Vec<T>) {
        let mut state = self.lock();
        move_all(&mut state.items, into);
        state.is_due = false;
    }

    /// Moves everything that waits into `into`, which is empty, if `wants` says so.
    pub(crate) fn take_if(&self, into: &mut Vec<T>, wants: impl FnOnce(&[T]) -> bool) -> bool {
        let mut state = self.lock();
        let takes = wants(&state.items);
        if takes {
            std::mem::swap(&mut state.items, into);
            state.is_due = false;
        }
        takes
    }

    /// What `f` finds in what waits.
    pub(crate) fn look<R>(&self, f: impl FnOnce(&[T]) -> R) -> R {
        f(&self.lock().items)
    }

    /// Whether something waits that was not added quietly.
    pub(crate) fn is_due(&self) -> bool {
        self.lock().is_due
    }

    /// Whether nothing waits, and nothing will.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.lock();
        state.closed && state.items.is_empty()
    }

    fn sleep<'a>(
        &'a self,
        state: MutexGuard<'a, State<T>>,
        timeout: Option<Duration>,
        sleep: Sleep,
    ) -> MutexGuard<'a, State<T>> {
        let idle = |state: &mut State<T>| {
            let is_idle = state.items.is_empty() && !state.closed && !state.is_called;
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
        state.is_called = false;
        state
    }

    /// Wakes a taker that sleeps no deeper than `deepest`.
    fn wake_if(&self, deepest: Option<Sleep>, mut state: MutexGuard<'_, State<T>>) {
        let reaches = |sleep| deepest == Some(Sleep::Deep) || deepest == Some(sleep);
        let sleeping = state.sleeping.take_if(|sleep| reaches(*sleep));
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
    fn who_adds_unannounced_sees_to_it_and_who_rests_is_woken_by_what_is_not_quiet() {
        let queue = Arc::new(Queue::new());
        let waiter = |rests| {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                let (begun, minute) = (std::time::Instant::now(), Duration::from_secs(60));
                if rests {
                    queue.rest(minute)
                } else {
                    queue.wait(minute, Sleep::Light)
                }
                begun.elapsed() < minute / 2
            })
        };
        let until_asleep = || {
            while queue.lock().sleeping.is_none() {
                std::thread::yield_now();
            }
        };
        let waits = waiter(false);
        until_asleep();
        queue.append_unannounced(&mut vec![1]);
        assert!(queue.lock().sleeping.is_some() && queue.is_due(), "not woken");
        queue.wake();
        assert!(waits.join().unwrap());
        assert!(queue.take_if(&mut Vec::new(), |items| items == [1]));

        let rests = waiter(true);
        until_asleep();
        queue.append_quietly(&mut vec![2]);
        assert!(queue.lock().sleeping.is_some(), "not woken");
        queue.push(3).unwrap();
        assert!(rests.join().unwrap());

        let mut taken = Vec::new();
        assert!(!queue.take_if(&mut taken, |items| items.len() > 2) && queue.is_due());
        queue.rest(Duration::from_secs(60));
        assert!(queue.take_if(&mut taken, |items| items == [2, 3]) && !queue.is_due());
        queue.append_quietly(&mut vec![4]);
        assert!(!queue.is_due() && queue.look(<[_]>::len) == 1);
        queue.close();
        assert!(!queue.is_over());
        assert!(queue.take_if(&mut Vec::new(), |_| true) && queue.is_over());
    }

    #[test]
    fn a_timeout_ends_the_wait() {
        let queue = Queue::<u8>::new();
        let mut taken = Vec::new();
        assert!(queue.take_all(&mut taken, Some(Duration::from_millis(1)), Sleep::Light));
        assert!(taken.is_empty());
    }
}
