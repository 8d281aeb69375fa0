//! Calls that wait for their answer, and the end of those that nobody answers in time.
//!
//! No call has a timer of its own: who sets one and takes it back for each call pays more for it than for everything else that
//! waiting costs. All that wait are kept together instead ([`Calls`]); the driver's own thread looks for those that are late when the
//! time of the first of them is over, without the caller's runtime, and though the disk's or the apply thread may hang. What a call has
//! waited in serves the next one, so that waiting allocates nothing.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::task::coop::poll_proceed;
use tokio::time::Instant;

use super::Refusal;

/// So few that are over are not worth a look.
const LOOK_MIN: usize = 64;

/// The end of a call that the node answers. Dropping it unanswered tells the caller that the node stops.
pub(crate) struct Caller<T> {
    /// Until it is answered.
    call: Option<Arc<Call<T>>>,
}

impl<T> Caller<T> {
    pub(crate) fn answer(mut self, answer: Result<T, Refusal>) {
        if let Some(call) = self.call.take() {
            call.end(Stage::Answered(answer));
        }
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn has_gone(&self) -> bool {
        self.call.as_ref().is_none_or(|call| call.lock().is_over())
    }
}

impl<T> Drop for Caller<T> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            call.end(Stage::Dropped);
        }
    }
}

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// The node has dropped it.
    Dropped,
    /// Its time is over.
    Late,
}

/// Gets the end of a call.
#[derive(Debug)]
pub(crate) struct Answered<T> {
    call: Arc<Call<T>>,
    is_over: bool,
}

impl<T> Future for Answered<T> {
    type Output = Result<Result<T, Refusal>, NoAnswer>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A caller whose calls are all answered at once lets the other tasks of its thread run now and then.
        let budget = ready!(poll_proceed(context));
        let mut stage = self.call.lock();
        if let Stage::Waits(waker) = &*stage
            && waker.will_wake(context.waker())
        {
            return Poll::Pending;
        }
        let is_pending = stage.is_open();
        let next = if is_pending { Stage::Waits(context.waker().clone()) } else { Stage::Over };
        let before = std::mem::replace(&mut *stage, next);
        drop(stage);
        self.is_over = !is_pending;
        if self.is_over {
            budget.made_progress();
        }
        match before {
            // Another waker than before is dropped here, without the lock.
            Stage::Begun | Stage::Waits(_) => Poll::Pending,
            Stage::Answered(answer) => Poll::Ready(Ok(answer)),
            Stage::Dropped | Stage::Over => Poll::Ready(Err(NoAnswer::Dropped)),
            Stage::Late => Poll::Ready(Err(NoAnswer::Late)),
        }
    }
}

#[cfg(test)]
impl<T> Answered<T> {
    /// Waits on this thread.
    pub(crate) fn wait(mut self) -> Result<Result<T, Refusal>, NoAnswer> {
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Arc::new(Unpark(std::thread::current())).into();
        loop {
            match Pin::new(&mut self).poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(end) => return end,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    /// Whether there is no end yet.
    pub(crate) fn is_pending(&mut self) -> bool {
        Pin::new(self).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }
}

impl<T> Drop for Answered<T> {
    fn drop(&mut self) {
        if !self.is_over {
            let before = std::mem::replace(&mut *self.call.lock(), Stage::Over);
            // Without the lock.
            drop(before);
        }
    }
}

#[derive(Debug)]
struct Call<T> {
    /// When it is late.
    until: Option<Instant>,
    stage: Mutex<Stage<T>>,
}

#[derive(Debug)]
enum Stage<T> {
    /// Nobody has asked for the answer.
    Begun,
    Waits(Waker),
    Answered(Result<T, Refusal>),
    /// There will be no answer.
    Dropped,
    Late,
    /// The caller has its answer, or has gone.
    Over,
}

impl<T> Stage<T> {
    /// Whether it has no end yet.
    fn is_open(&self) -> bool {
        matches!(self, Self::Begun | Self::Waits(_))
    }

    /// Whether an answer would reach nobody.
    fn is_over(&self) -> bool {
        matches!(self, Self::Late | Self::Over)
    }
}

impl<T> Call<T> {
    fn new(until: Option<Instant>) -> Self {
        Self { until, stage: Mutex::new(Stage::Begun) }
    }

    // A poisoned lock is used on: nothing that can panic runs under it.
    fn lock(&self) -> MutexGuard<'_, Stage<T>> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a call that still waits its end, and wakes its caller.
    fn end(&self, end: Stage<T>) {
        if let Some(waker) = self.end_quietly(end) {
            waker.wake();
        }
    }

    fn end_quietly(&self, end: Stage<T>) -> Option<Waker> {
        let mut stage = self.lock();
        if !stage.is_open() {
            return None;
        }
        match std::mem::replace(&mut *stage, end) {
            Stage::Waits(waker) => Some(waker),
            _ => None,
        }
    }
}

/// Both ends of a call that nothing ends but an answer.
pub(super) fn alone<T>() -> (Caller<T>, Answered<T>) {
    ends(Arc::new(Call::new(None)))
}

fn ends<T>(call: Arc<Call<T>>) -> (Caller<T>, Answered<T>) {
    (Caller { call: Some(Arc::clone(&call)) }, Answered { call, is_over: false })
}

/// Calls of one kind that have a time to end.
pub(super) struct Calls<T> {
    /// Those that wait, and as many at most that are over.
    begun: Vec<Arc<Call<T>>>,
    /// With so many it is time to look for those that are over.
    look_at: usize,
    /// For the next calls.
    free: Vec<Arc<Call<T>>>,
}

impl<T> Calls<T> {
    pub(super) fn new() -> Self {
        Self { begun: Vec::new(), look_at: LOOK_MIN, free: Vec::new() }
    }

    /// Begins a call that is late from `until` on.
    pub(super) fn begin(&mut self, until: Instant) -> (Caller<T>, Answered<T>) {
        if self.begun.len() >= self.look_at {
            self.look();
        }
        let call = self.next(until);
        self.begun.push(Arc::clone(&call));
        ends(call)
    }

    fn next(&mut self, until: Instant) -> Arc<Call<T>> {
        if let Some(mut free) = self.free.pop()
            && let Some(call) = Arc::get_mut(&mut free)
        {
            call.until = Some(until);
            *call.stage.get_mut().unwrap_or_else(PoisonError::into_inner) = Stage::Begun;
            return free;
        }
        Arc::new(Call::new(Some(until)))
    }

    /// Takes out what both ends have left. What is kept is bounded by what waits.
    fn look(&mut self) {
        self.free.extend(self.begun.extract_if(.., |call| Arc::strong_count(call) == 1));
        self.look_at = LOOK_MIN.max(2 * self.begun.len());
        self.free.truncate(self.look_at);
        self.free.shrink_to(self.look_at);
        self.begun.shrink_to(self.look_at);
    }

    /// Ends those that are late by now; their callers are to be woken. Gives the time of the next that waits.
    pub(super) fn end_late(&mut self, now: Instant, callers: &mut Vec<Waker>) -> Option<Instant> {
        self.look();
        let mut next: Option<Instant> = None;
        for call in &self.begun {
            match call.until {
                Some(until) if until <= now => callers.extend(call.end_quietly(Stage::Late)),
                Some(until) if next.is_none_or(|next| until < next) && call.lock().is_open() => next = Some(until),
                _ => {}
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn poll<T>(answered: &mut Answered<T>) -> Poll<Result<Result<T, Refusal>, NoAnswer>> {
        Pin::new(answered).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn each_call_gets_its_own_answer_though_they_wait_in_the_same_places() {
        let (mut calls, later) = (Calls::new(), Instant::now() + Duration::from_secs(60));
        let mut places = BTreeSet::new();
        for number in 0..10 * LOOK_MIN {
            let (caller, mut answered) = calls.begin(later);
            places.insert(Arc::as_ptr(&answered.call).addr());
            assert!(answered.is_pending());
            caller.answer(Ok(number));
            assert!(matches!(poll(&mut answered), Poll::Ready(Ok(Ok(answer))) if answer == number));
        }
        assert_eq!(places.len(), LOOK_MIN);
    }

    #[test]
    fn a_call_of_which_one_end_is_held_is_nobody_elses_and_ends_in_time() {
        let (mut calls, start) = (Calls::new(), Instant::now());
        let (soon, later) = (start + Duration::from_secs(1), start + Duration::from_secs(60));
        let mut held: Vec<_> = (0..3 * LOOK_MIN).map(|_| calls.begin(soon)).collect();
        let callers: Vec<_> = held.drain(..LOOK_MIN).map(|(caller, _)| caller).collect();
        let mut dropped: Vec<_> = held.drain(..LOOK_MIN).map(|(_, answered)| answered).collect();
        for number in 0..10 * LOOK_MIN {
            let (caller, mut own) = calls.begin(later);
            caller.answer(Ok(number));
            assert!(matches!(poll(&mut own), Poll::Ready(Ok(Ok(answer))) if answer == number));
        }
        assert!(callers.iter().all(Caller::has_gone));
        assert!(dropped.iter_mut().all(|answered| matches!(poll(answered), Poll::Ready(Err(NoAnswer::Dropped)))));
        assert_eq!(calls.end_late(start, &mut Vec::new()), Some(soon));
        assert_eq!(calls.end_late(soon, &mut Vec::new()), None);
        assert!(held.iter_mut().all(|(_, answered)| matches!(poll(answered), Poll::Ready(Err(NoAnswer::Late)))));
    }

    #[test]
    fn after_a_crowd_little_is_kept() {
        let (mut calls, start) = (Calls::<()>::new(), Instant::now());
        let crowd: Vec<_> = (0..100 * LOOK_MIN).map(|_| calls.begin(start)).collect();
        drop(crowd);
        assert_eq!(calls.end_late(start, &mut Vec::new()), None);
        assert!(calls.begun.capacity() <= LOOK_MIN && calls.free.capacity() <= LOOK_MIN);
    }

    #[test]
    fn who_is_late_is_told_so_and_the_answer_reaches_nobody() {
        let (mut calls, start) = (Calls::new(), Instant::now());
        let (late, mut early_end) = calls.begin(start + Duration::from_secs(1));
        let (in_time, mut late_end) = calls.begin(start + Duration::from_secs(2));
        assert!(poll(&mut early_end).is_pending() && poll(&mut late_end).is_pending());
        let mut callers = Vec::new();
        assert_eq!(calls.end_late(start, &mut callers), Some(start + Duration::from_secs(1)));
        assert!(callers.is_empty());
        let next = calls.end_late(start + Duration::from_secs(1), &mut callers);
        assert_eq!((callers.len(), next), (1, Some(start + Duration::from_secs(2))));
        assert!(late.has_gone() && !in_time.has_gone());
        late.answer(Ok(1));
        in_time.answer(Ok(2));
        assert!(matches!(poll(&mut early_end), Poll::Ready(Err(NoAnswer::Late))));
        assert!(matches!(poll(&mut late_end), Poll::Ready(Ok(Ok(2)))));
    }

    #[test]
    fn a_caller_that_has_gone_is_known_and_one_that_is_dropped_is_told() {
        let (caller, mut answered) = alone::<()>();
        assert!(poll(&mut answered).is_pending() && !caller.has_gone());
        drop(caller);
        assert!(matches!(poll(&mut answered), Poll::Ready(Err(NoAnswer::Dropped))));
        let (caller, answered) = alone::<()>();
        drop(answered);
        assert!(caller.has_gone());
    }
}
