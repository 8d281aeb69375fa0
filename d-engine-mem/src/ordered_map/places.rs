//! Where in a chunk the key with a certain hash stands: what a look-up of one key reads of a chunk besides that pair.
//!
//! A search in sorted keys, however cleverly stored, waits for one cache line after the other. Here it is one line, whose
//! address the hash gives.

use super::CHUNK_MAX;

/// Twice the pairs of a full chunk: a search ends after a step or two. A power of two.
const SLOTS: usize = 2 * CHUNK_MAX;
/// With more slots than this in use, by keys or by what removed keys left, the table is made anew.
const USED_MAX: usize = SLOTS * 3 / 4;
const EMPTY: u16 = 0;
/// Left by a removed key; searches go on behind it.
const LEFT: u16 = 1;
/// A slot of a key: this bit, seven bits of the hash, the place.
const TAKEN: u16 = 1 << 15;
const PLACE: u16 = 0xff;

const _: () = assert!(SLOTS.is_power_of_two() && CHUNK_MAX <= PLACE as usize + 1, "a place has eight bits");

/// A table from hashes to places below [`CHUNK_MAX`]. It is told of every pair that comes, goes or moves.
#[derive(Debug, Clone)]
pub(super) struct Places {
    slots: [u16; SLOTS],
    used: usize,
}

impl Places {
    /// The table of keys that stand in the order of their hashes given here.
    pub(super) fn new(hashes: impl Iterator<Item = u64>) -> Self {
        let mut places = Self { slots: [EMPTY; SLOTS], used: 0 };
        for (place, hash) in hashes.enumerate() {
            places.add(hash, place);
        }
        places
    }

    /// The place with this hash which `is_it`.
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(usize) -> bool) -> Option<usize> {
        let wanted = tag(hash);
        for at in probes(hash) {
            let slot = self.slots[at];
            if slot & !PLACE == wanted && is_it(place(slot)) {
                return Some(place(slot));
            }
            if slot == EMPTY {
                break;
            }
        }
        None
    }

    /// Reads what a search for this hash begins with.
    pub(super) fn touch(&self, hash: u64) {
        std::hint::black_box(self.slots[hash as usize % SLOTS]);
    }

    /// Makes way for a pair at `at`: those from there on, of `len`, move up by one.
    pub(super) fn insert(&mut self, hash: u64, at: usize, len: usize) {
        if at < len {
            self.shift(at, 1);
        }
        self.add(hash, at);
    }

    /// The pair at `at` goes, those behind it move down by one.
    pub(super) fn remove(&mut self, hash: u64, at: usize) {
        let gone = tag(hash) | at as u16;
        if let Some(slot) = probes(hash).find(|slot| self.slots[*slot] == gone) {
            self.slots[slot] = LEFT;
        }
        self.shift(at, u16::MAX);
    }

    /// Whether another key needs a table without what removed ones have left.
    pub(super) fn is_worn(&self) -> bool {
        self.used >= USED_MAX
    }

    fn add(&mut self, hash: u64, place: usize) {
        debug_assert!(place < CHUNK_MAX, "a chunk is split before it has more pairs");
        if let Some(at) = probes(hash).find(|at| self.slots[*at] & TAKEN == 0) {
            self.used += usize::from(self.slots[at] == EMPTY);
            self.slots[at] = tag(hash) | place as u16;
        }
    }

    /// Adds to every place from `from` on. Without a branch, so that it becomes a few vector instructions.
    fn shift(&mut self, from: usize, by: u16) {
        let from = TAKEN | from as u16;
        for slot in &mut self.slots {
            let moves = (*slot & (TAKEN | PLACE)) >= from;
            *slot = slot.wrapping_add(if moves { by } else { 0 });
        }
    }
}

fn probes(hash: u64) -> impl Iterator<Item = usize> {
    let first = hash as usize % SLOTS;
    (first..first + SLOTS).map(|at| at % SLOTS)
}

fn tag(hash: u64) -> u16 {
    TAKEN | (hash >> 48) as u16 & !PLACE
}

fn place(slot: u16) -> usize {
    usize::from(slot & PLACE)
}
