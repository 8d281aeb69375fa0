//! The background thread of the log: prepares the next segment ahead of use, a purged one or a new file of zeros in steps
//! paced by the appends, notes the synced position in the state file once the log rests, frees what left memory, and
//! closes the files of removed segments.
//!
//! It is owned and joined by the log store, and never touches a segment that has its name.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use d_engine_core::{Error, Result};

use crate::log_index::Segment;
use crate::segment::Position;
use crate::shared::{Shared, lock};
use crate::tail::Cached;
use crate::wal::{Prepared, STEP};

/// The synced position goes to the state file after this time without a flush.
const REST: Duration = Duration::from_millis(50);

/// Appends of so many bytes make a segment of allocated space cheaper than one of zeros: these would be as much again for
/// the disk to write, and the journal's work at the first write of a place is nothing beside so many bytes.
const LARGE: u64 = 512 << 10;

/// The handle to the thread.
#[derive(Debug)]
pub(crate) struct Keeper {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
    spares_max: usize,
}

#[derive(Debug, Default)]
struct State {
    stop: bool,
    /// A segment of this length is wanted.
    wanted: Option<u64>,
    /// It may be prepared up to here.
    allowed: u64,
    /// Somebody waits for it.
    urgent: bool,
    /// Appends are large: what it lacks is allocated, all at once, instead of written.
    large_appends: bool,
    /// It could not be prepared; the next who waits tries again.
    stalled: bool,
    ready: Option<Result<Prepared>>,
    /// Files of purged segments, to be taken before a new one is made.
    spares: Vec<Prepared>,
    /// There was no space the last time: what is purged is given back.
    is_full: bool,
    /// Flushes were made that the state file does not know of.
    unsaved: bool,
    /// It is to hear of them now.
    save_now: bool,
    /// Entries that are to be freed.
    discarded: Vec<Cached>,
    /// Removed segments whose files are to be closed.
    removed: VecDeque<Segment>,
}

impl Keeper {
    pub(crate) fn start(shared: Arc<Shared>, spares: Vec<Prepared>, spares_max: usize) -> Result<Self> {
        let state = Mutex::new(State { spares, ..State::default() });
        let desk = Arc::new(Desk { state, changed: Condvar::new(), spares_max });
        let at_work = Arc::clone(&desk);
        let thread = std::thread::Builder::new()
            .name("d-engine-wal".into())
            .spawn(move || run(&shared, &at_work))
            .map_err(|e| Error::io("starting the thread that prepares log segments", e))?;
        Ok(Self { desk, thread: Some(thread) })
    }

    /// Asks for a segment of `length` bytes, to be prepared as [`Keeper::allow`] says.
    pub(crate) fn request(&self, length: u64) {
        let mut state = lock(&self.desk.state);
        if state.wanted.is_none() && state.ready.is_none() {
            state.wanted = Some(length);
            state.allowed = 0;
            self.desk.changed.notify_all();
        }
    }

    /// Lets the preparation go on up to `length` bytes, after an append of `appended` bytes.
    pub(crate) fn allow(&self, length: u64, appended: u64) {
        let mut state = lock(&self.desk.state);
        state.large_appends = appended >= LARGE;
        if state.allowed < length {
            state.allowed = length;
            self.desk.changed.notify_all();
        }
    }

    /// The prepared segment, as long as it was requested and at least `length` bytes; waits until it is ready.
    ///
    /// # Errors
    /// `NoSpace` or `Io`; nothing has changed, and the next call tries anew.
    pub(crate) fn take(&self, length: u64) -> Result<Prepared> {
        self.wait_for(|requested| requested.max(length))
    }

    /// [`Keeper::take`] of what there is by now, at least `length` bytes and one step: filling a whole segment would take
    /// too long.
    ///
    /// # Errors
    /// As [`Keeper::take`].
    pub(crate) fn take_short(&self, length: u64) -> Result<Prepared> {
        self.wait_for(|requested| requested.min(STEP).max(length))
    }

    fn wait_for(&self, enough: impl Fn(u64) -> u64) -> Result<Prepared> {
        let mut state = lock(&self.desk.state);
        loop {
            if let Some(prepared) = state.ready.take() {
                state.urgent = false;
                return prepared;
            }
            if state.stop {
                return Err(Error::Poisoned { why: "the thread that prepares log segments has ended".into() });
            }
            state.wanted = Some(enough(state.wanted.unwrap_or(0)));
            state.urgent = true;
            self.desk.changed.notify_all();
            state = self.desk.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether a purged segment is worth keeping.
    pub(crate) fn wants_spare(&self) -> bool {
        let state = lock(&self.desk.state);
        !state.is_full && state.spares.len() < self.desk.spares_max
    }

    pub(crate) fn add_spare(&self, spare: Prepared) {
        lock(&self.desk.state).spares.push(spare);
        self.desk.changed.notify_all();
    }

    /// Frees entries beside the caller. If the last ones are still waiting (the thread may be stuck in a sync), the caller
    /// frees these himself: what waits is bounded.
    pub(crate) fn discard(&self, entries: Vec<Cached>) {
        if entries.is_empty() {
            return;
        }
        let mut state = lock(&self.desk.state);
        if state.discarded.is_empty() && !state.stop {
            state.discarded = entries;
            self.desk.changed.notify_all();
        }
    }

    /// Closes the files of removed segments beside the caller: that is what gives their space back, and takes tens of
    /// milliseconds for a long one.
    pub(crate) fn close(&self, segments: Vec<Segment>) {
        let mut state = lock(&self.desk.state);
        if !segments.is_empty() && !state.stop {
            state.removed.extend(segments);
            self.desk.changed.notify_all();
        }
    }

    /// Says that a flush was made.
    pub(crate) fn flushed(&self) {
        let mut state = lock(&self.desk.state);
        if !state.unsaved {
            state.unsaved = true;
            self.desk.changed.notify_all();
        }
    }

    /// Says that a segment was completed: the synced position is saved without waiting for rest.
    pub(crate) fn rotated(&self) {
        let mut state = lock(&self.desk.state);
        state.unsaved = true;
        state.save_now = true;
        self.desk.changed.notify_all();
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(&mut self) {
        lock(&self.desk.state).stop = true;
        self.desk.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(shared: &Shared, desk: &Desk) {
    let _ended = Ended(desk);
    let mut partial: Option<Prepared> = None;
    let mut seen = Position::default();
    let mut state = lock(&desk.state);
    while !state.stop {
        let can_help = state.urgent && state.wanted.is_some() && !state.spares.is_empty();
        // Before a new segment is made: it may need the space.
        let has_unused = !state.discarded.is_empty() || !state.removed.is_empty();
        if has_unused && !can_help {
            let unused = (std::mem::take(&mut state.discarded), state.removed.pop_front());
            drop(state);
            drop(unused);
            state = lock(&desk.state);
            continue;
        }
        let length = partial.as_ref().map_or(0, |prepared| prepared.length);
        // A spare file is there already: it need not wait for its time.
        let spare = partial.is_none() && !state.spares.is_empty();
        match state.wanted {
            Some(wanted) if state.urgent || spare || (!state.stalled && length < state.allowed) => {
                let urgent = state.urgent;
                if spare {
                    partial = state.spares.pop();
                }
                let length = partial.as_ref().map_or(0, |prepared| prepared.length);
                let allocated = state.large_appends || (urgent && wanted.saturating_sub(length) > STEP);
                drop(state);
                let step = match (urgent || allocated, spare) {
                    (true, _) => wanted,
                    (false, true) => length,
                    (false, false) => (length + STEP).min(wanted),
                };
                let result = prepare(shared, partial.take(), step, allocated);
                state = lock(&desk.state);
                file_result(&mut state, &mut partial, result, urgent);
                desk.changed.notify_all();
            }
            _ if state.unsaved => {
                let mut rested = false;
                if !state.save_now {
                    let (guard, waited) =
                        desk.changed.wait_timeout(state, REST).unwrap_or_else(PoisonError::into_inner);
                    state = guard;
                    rested = waited.timed_out();
                }
                let synced = shared.synced();
                if state.save_now || (rested && synced == seen && !state.stop) {
                    state.unsaved = false;
                    state.save_now = false;
                    drop(state);
                    // A failure has poisoned the store, and the next write says so.
                    let _ = shared.save_state(|_| {});
                    state = lock(&desk.state);
                }
                seen = synced;
            }
            _ => state = desk.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }
    for prepared in partial.iter().chain(state.ready.iter().flatten()) {
        shared.wal.discard_if_new(prepared);
    }
}

/// Wakes whoever waits, also if the thread panics.
struct Ended<'a>(&'a Desk);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).stop = true;
        self.0.changed.notify_all();
    }
}

fn prepare(shared: &Shared, partial: Option<Prepared>, length: u64, allocated: bool) -> Result<Prepared> {
    let mut prepared = match partial {
        Some(prepared) => prepared,
        None => shared.wal.begin_prepared()?,
    };
    if allocated {
        shared.wal.allocate_prepared(&mut prepared, length)?;
    } else {
        shared.wal.extend_prepared(&mut prepared, length)?;
    }
    Ok(prepared)
}

fn file_result(state: &mut State, partial: &mut Option<Prepared>, result: Result<Prepared>, urgent: bool) {
    state.is_full = matches!(result, Err(Error::NoSpace { .. }));
    match result {
        Ok(prepared) if state.wanted.is_some_and(|wanted| prepared.length >= wanted) => {
            state.wanted = None;
            state.stalled = false;
            state.ready = Some(Ok(prepared));
        }
        Ok(prepared) => *partial = Some(prepared),
        // Whoever waits hears of it. Nobody waits: it is tried again when somebody does, from the start.
        Err(error) if urgent => {
            state.wanted = None;
            state.ready = Some(Err(error));
        }
        Err(_) => state.stalled = true,
    }
}
