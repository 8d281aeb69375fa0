//! Watches: every change of some keys, once and in order, to sinks that may be slow.
//!
//! Applying only appends to the history. One thread, started by the first watch, matches and hands out; a watcher whose sink
//! is full waits in the history, at the cost of a number, and is ended with a reason if the history moves past it.

mod history;
mod index;
mod thread;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Wake;
use std::thread::JoinHandle;

use d_engine_core::command::{KvWatch, WatchEnd, WatchMessage};
use d_engine_core::{Error, Result, WatchSink};

use crate::overlay::Change;
use history::History;

/// Bytes of changes that are kept for watchers which are behind.
pub(crate) const HISTORY_BYTES: usize = 16 << 20;

/// The machine's side of its watches.
pub(crate) struct Watches {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the machine and the thread share.
struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

struct State {
    history: History,
    /// Watchers that the thread has not taken yet.
    arrived: Vec<Arrival>,
    /// The thread is to look at what it waits for: a sink has room again, or progress is to be told.
    woken: bool,
    /// Whether watchers that ask for it are to be told how far they have come.
    progress: bool,
    /// Every watcher that there is is to be ended.
    end_all: bool,
    /// The thread waits, and is to be notified.
    waits: bool,
    stop: bool,
}

/// A watcher that begins at a place of the history.
struct Arrival {
    watch: KvWatch,
    sink: Box<dyn WatchSink>,
    number: u64,
    revision: u64,
}

impl Watches {
    pub(crate) fn new(revision: u64, history_bytes: usize) -> Self {
        let state = State {
            history: History::new(revision, history_bytes),
            arrived: Vec::new(),
            woken: false,
            progress: false,
            end_all: false,
            waits: false,
            stop: false,
        };
        let shared = Shared { state: Mutex::new(state), news: Condvar::new() };
        Self { shared: Arc::new(shared), thread: Mutex::new(None) }
    }

    /// Appends what a chunk has changed. Never waits for a watcher.
    pub(crate) fn publish(&self, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.shared.change(|state| state.history.extend(changes));
        }
    }

    /// The state was replaced by one at `revision`.
    pub(crate) fn reset(&self, revision: u64) {
        self.shared.change(|state| state.history.reset(revision));
    }

    /// Tells those who asked for it how far they have come.
    pub(crate) fn tell_progress(&self) {
        self.shared.change(|state| state.progress = true);
    }

    /// Registers a watcher. One that asks for changes that are not kept any more is ended at once.
    ///
    /// # Errors
    /// `Invalid` for a request whose keys cannot be; `Io` if the thread cannot be started.
    pub(crate) fn watch(&self, watch: KvWatch, sink: Box<dyn WatchSink>) -> Result<()> {
        watch.check().map_err(|reject| Error::invalid(reject.to_string()))?;
        self.start()?;
        let refused = self.shared.change(|state| {
            let history = &state.history;
            let first_revision = history.first_revision();
            if state.stop {
                return Some((sink, WatchEnd::Stopped));
            }
            if watch.from_revision != 0 && watch.from_revision < first_revision {
                return Some((sink, WatchEnd::Compacted { first_revision }));
            }
            let number = if watch.from_revision == 0 { history.end() } else { history.find(watch.from_revision) };
            let revision = history.revision();
            state.arrived.push(Arrival { watch, sink, number, revision });
            None
        });
        if let Some((sink, end)) = refused {
            sink.end(WatchMessage::Ended(end).encode());
        }
        Ok(())
    }

    fn start(&self) -> Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            {
                let mut state = self.shared.lock();
                // Whom it was about has gone with the thread before.
                (state.stop, state.end_all) = (false, false);
            }
            let shared = Arc::clone(&self.shared);
            let started = std::thread::Builder::new().name("kv-watch".into()).spawn(move || thread::run(&shared));
            *thread = Some(started.map_err(|source| Error::io("starting the thread of watches", source))?);
        }
        Ok(())
    }

    /// Ends every watch that there is.
    pub(crate) fn end_all(&self) {
        self.shared.change(|state| state.end_all = true);
    }

    /// Ends every watch, and the thread.
    pub(crate) fn stop(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = thread.take() else { return };
        self.shared.change(|state| state.stop = true);
        // It panics only if a sink does; then there is nobody left to tell.
        let _ = running.join();
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    // A poisoned lock is used on: each change of what it guards is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the thread if it waits.
    fn change<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = f(&mut state);
        let waits = std::mem::take(&mut state.waits);
        drop(state);
        if waits {
            self.news.notify_one();
        }
        result
    }
}

/// A sink has room again.
impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.change(|state| state.woken = true);
    }
}
