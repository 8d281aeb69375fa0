//! What callers note of their calls while others call: little, often, and in a place that stays in the processor's cache.
//!
//! A histogram has a quarter of a MiB. One for each of a thousand callers fits no cache, and what is measured then is the
//! memory.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Result;
use crate::round::Seen;

/// Callers share so many histograms.
const PARTS: usize = 4;
/// Latencies that a caller keeps before it tells them.
const KEPT_MAX: usize = 32;

/// Where the callers of one round tell what they saw.
pub(crate) struct Board {
    parts: Vec<Arc<Mutex<Seen>>>,
}

impl Board {
    pub(crate) fn new() -> Result<Self> {
        let parts = (0..PARTS).map(|_| Ok(Arc::new(Mutex::new(Seen::new()?)))).collect::<Result<_>>()?;
        Ok(Self { parts })
    }

    /// What all of them saw that have ended.
    pub(crate) fn seen(self) -> Result<Seen> {
        let mut all = Seen::new()?;
        for part in &self.parts {
            all.add(&locked(part))?;
        }
        Ok(all)
    }
}

fn locked(part: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of one caller; dropping them tells the rest.
pub(crate) struct Notes {
    part: Arc<Mutex<Seen>>,
    latencies: Vec<u64>,
}

impl Notes {
    pub(crate) fn new(board: &Board, caller: usize) -> Self {
        let part = Arc::clone(&board.parts[caller % PARTS]);
        Self { part, latencies: Vec::with_capacity(KEPT_MAX) }
    }

    /// A call was answered after so many nanoseconds.
    pub(crate) fn took(&mut self, latency: u64) {
        self.latencies.push(latency);
        if self.latencies.len() >= KEPT_MAX {
            self.tell();
        }
    }

    pub(crate) fn failed(&self, error: impl Display) {
        locked(&self.part).fail(error);
    }

    fn tell(&mut self) {
        let mut seen = locked(&self.part);
        for latency in self.latencies.drain(..) {
            seen.latencies.saturating_record(latency);
        }
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_every_caller_is_counted_once() {
        let board = Board::new().unwrap();
        for caller in 0..2 * PARTS {
            let mut notes = Notes::new(&board, caller);
            (0..100).for_each(|latency| notes.took(latency));
            notes.failed("refused");
        }
        let seen = board.seen().unwrap();
        assert_eq!((seen.latencies.len(), seen.errors), (200 * PARTS as u64, 2 * PARTS as u64));
        assert_eq!(seen.first_error.as_deref(), Some("refused"));
    }
}
