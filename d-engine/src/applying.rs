//! Who applies: the apply thread, or for a moment whoever has just driven.
//!
//! One at a time has the handler, and jobs are taken only by who has it, so that they are performed in their order. A
//! thread that drives and finds the handler taken goes on: whoever has it looks again after letting it go. A few entries of
//! a quick machine are applied there and then ([`Pace`](crate::pace::Pace)); everything else, all that could take long, is left to the apply thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use d_engine_raft::Input;

use crate::ending::cause;
use crate::inbox::Inbox;
use crate::state_machine_handler::{ApplyQueue, Pause, StateMachineHandler, is_worth_gathering};

/// How long a follower gathers what it applies: a chunk costs less than its entries one by one, and wakes one thread.
const GATHER: Duration = Duration::from_millis(2);
/// How often a thread that has driven takes what has come meanwhile, before the apply thread goes on.
const TURNS_MAX: usize = 2;

pub(crate) struct Applying {
    queue: Arc<ApplyQueue>,
    /// `None` before the apply thread runs, and after it.
    handler: Mutex<Option<StateMachineHandler>>,
}

impl Applying {
    pub(crate) fn new(queue: Arc<ApplyQueue>) -> Self {
        Self { queue, handler: Mutex::default() }
    }

    pub(crate) fn queue(&self) -> &ApplyQueue {
        &self.queue
    }

    // A poisoned lock is used on: panics are caught under it.
    fn handler(&self) -> MutexGuard<'_, Option<StateMachineHandler>> {
        self.handler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The apply thread: serves the queue until it is closed and empty, then flushes and stops the machine.
    pub(crate) fn run(&self, handler: StateMachineHandler, inbox: &Inbox) {
        *self.handler() = Some(handler);
        loop {
            let Some(Pause { at_most, sleep }) = self.handler().as_ref().map(StateMachineHandler::pause) else {
                return;
            };
            self.queue.wait(at_most, sleep);
            let may_gather = self.handler().as_ref().is_some_and(StateMachineHandler::may_gather);
            if may_gather && self.queue.look(is_worth_gathering) {
                self.queue.rest(GATHER);
            }
            let mut held = self.handler();
            self.with(&mut held, inbox, |handler| {
                handler.perform_all(&self.queue, inbox);
                true
            });
            if self.queue.is_over() {
                let handler = held.take();
                drop(held);
                return handler.into_iter().for_each(StateMachineHandler::end);
            }
            drop(held);
            fence(Ordering::SeqCst);
        }
    }

    /// What waits is performed: on this thread, if nobody is at it and it is little, and otherwise by the apply thread.
    pub(crate) fn drive(&self, inbox: &Inbox) {
        for _ in 0..TURNS_MAX {
            // Between adding and trying, as between letting go and looking: one of two threads sees what the other did.
            fence(Ordering::SeqCst);
            let mut held = match self.handler.try_lock() {
                Ok(held) => held,
                // Whoever has it looks again.
                Err(TryLockError::WouldBlock) => return,
                Err(TryLockError::Poisoned(held)) => held.into_inner(),
            };
            if !self.with(&mut held, inbox, |handler| handler.perform_few(&self.queue, inbox)) {
                break;
            }
            drop(held);
            fence(Ordering::SeqCst);
            if !self.queue.is_due() {
                return;
            }
        }
        self.queue.wake();
    }

    /// Lets the handler work. A panic ends its use and this node's part, and not the thread, which may be any.
    fn with(
        &self,
        held: &mut Option<StateMachineHandler>,
        inbox: &Inbox,
        work: impl FnOnce(&mut StateMachineHandler) -> bool,
    ) -> bool {
        let Some(handler) = held else { return false };
        // The state that a panic leaves behind is not looked at again.
        let panic = match catch_unwind(AssertUnwindSafe(|| work(handler))) {
            Ok(done) => return done,
            Err(panic) => panic,
        };
        let what = cause(&*panic);
        tracing::error!(what, "the state machine panicked; this node stops taking part");
        // Before those in the queue are told by being dropped: whoever asks again is told the cause.
        inbox.complete(Input::StorageFailed { why: format!("its state machine panicked: {what}") });
        *held = None;
        self.queue.abandon();
        false
    }
}

#[cfg(test)]
#[cfg(feature = "mem")]
mod tests;
