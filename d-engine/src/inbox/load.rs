//! How many calls are under way.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Bounds, NotTaken};

/// Bits of a word that count bytes; the others count calls.
const BYTES_BITS: u32 = 40;
const BYTES_MASK: u64 = (1 << BYTES_BITS) - 1;

/// A call's place among those that may be under way; given back at the call's end.
pub(crate) struct Place<'a> {
    load: &'a Load,
    word: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.load.0.fetch_sub(self.word, Ordering::Relaxed);
    }
}

/// How many, and how many bytes they hold: one word, since every call of every thread changes both twice.
#[derive(Default)]
pub(super) struct Load(AtomicU64);

impl Load {
    /// Adds one unless that is too much.
    pub(super) fn enter(&self, bytes: usize, bounds: &Bounds) -> Result<Place<'_>, NotTaken> {
        // Half of what fits, so that those that are about to be refused fit as well.
        let bytes_max = (bounds.bytes as u64).min(BYTES_MASK / 2);
        let calls_max = (bounds.callers as u64).min((u64::MAX >> BYTES_BITS) / 2);
        let bytes = bytes as u64;
        if bytes > bytes_max {
            return Err(NotTaken::Busy);
        }
        let word = 1 << BYTES_BITS | bytes;
        let before = self.0.fetch_add(word, Ordering::Relaxed);
        let place = Place { load: self, word };
        let fits = before >> BYTES_BITS < calls_max && (before & BYTES_MASK) + bytes <= bytes_max;
        if fits { Ok(place) } else { Err(NotTaken::Busy) }
    }

    pub(super) fn count(&self) -> usize {
        (self.0.load(Ordering::Relaxed) >> BYTES_BITS) as usize
    }
}
