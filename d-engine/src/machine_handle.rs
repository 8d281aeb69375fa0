//! The state machine as the node's callers have it: asked by every call, and given up once, when the node ends.
//!
//! Readers that share one lock write to its cache line twice per read, and each takes it away from the others. So there are
//! several locks, each with a handle of the machine, and a thread always takes the same one.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use d_engine_core::StateMachine;

/// A thread more than locks shares one.
const LOCKS: usize = 16;

/// The machine, until it is given up.
pub(crate) struct MachineHandle {
    handles: [Handle; LOCKS],
}

/// A lock with nothing else in its cache lines.
#[repr(align(128))]
struct Handle(RwLock<Option<Arc<dyn StateMachine>>>);

impl MachineHandle {
    pub(crate) fn new(machine: &Arc<dyn StateMachine>) -> Self {
        Self { handles: std::array::from_fn(|_| Handle(RwLock::new(Some(Arc::clone(machine))))) }
    }

    /// Runs `ask` on the machine; `None`: it was given up.
    pub(crate) fn ask<T>(&self, ask: impl FnOnce(&dyn StateMachine) -> T) -> Option<T> {
        // A poisoned lock is used on: nobody changes the machine under it.
        let machine = self.handles[thread_number() % LOCKS].0.read().unwrap_or_else(PoisonError::into_inner);
        machine.as_deref().map(ask)
    }

    /// Gives the machine up. Nobody asks it afterwards, though handles of the node remain.
    pub(crate) fn release(&self) {
        for Handle(machine) in &self.handles {
            machine.write().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

/// The number of this thread, in the order in which threads have asked.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
    }
    NUMBER.with(|number| match number.get() {
        Some(known) => known,
        None => {
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            number.set(Some(next));
            next
        }
    })
}

#[cfg(test)]
mod tests {
    use d_engine_kv::KvStateMachine;
    use d_engine_mem::MemKvStore;

    use super::*;

    #[test]
    fn every_thread_finds_the_machine_until_it_is_given_up_and_then_it_is_free() {
        let machine: Arc<dyn StateMachine> = Arc::new(KvStateMachine::new(MemKvStore::new()).unwrap());
        let handle = MachineHandle::new(&machine);
        let ask_in_threads = || {
            std::thread::scope(|scope| {
                let asked: Vec<_> =
                    (0..2 * LOCKS).map(|_| scope.spawn(|| handle.ask(|machine| machine.len()))).collect();
                asked.into_iter().map(|asked| asked.join().unwrap()).collect::<Vec<_>>()
            })
        };
        assert_eq!(ask_in_threads(), [Some(0); 2 * LOCKS]);
        handle.release();
        assert_eq!(ask_in_threads(), [None; 2 * LOCKS]);
        assert_eq!(Arc::strong_count(&machine), 1);
    }
}
