//! Looking for several keys at once.
//!
//! One key is found by way of four lines of memory, each of which tells where the next one is, and far more than a cache
//! holds. A processor waits for many lines at a time, if it is asked for them one directly after the other: so all keys of a
//! group take each step together.

use std::hint::black_box;

use super::OrderedMap;
use super::chunks::head;
use super::leaf::{Leaf, Pair};

/// Keys that are looked for together: more than lines that a processor waits for at a time, and few enough for what was
/// brought to stay until it is used.
pub(super) const GROUP: usize = 32;

/// Where a key is, as far as that is known without a look at any pair: it may be elsewhere by the time it is used.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Likely {
    pub(super) chunk: usize,
    pub(super) head: u128,
    pub(super) hash: u64,
}

impl OrderedMap {
    /// Where a key belongs.
    pub(super) fn likely(&self, key: &[u8]) -> Likely {
        let head = head(key);
        Likely { chunk: self.chunks.of(head, key), head, hash: self.hashing.hash(key) }
    }

    /// Where up to [`GROUP`] keys belong. What looking them up reads is in the caches afterwards.
    pub(super) fn look_ahead<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> [Likely; GROUP] {
        let mut found = [Likely::default(); GROUP];
        let mut leaves: [Option<(&Leaf, u64)>; GROUP] = [None; GROUP];
        for ((found, leaf), key) in found.iter_mut().zip(&mut leaves).zip(keys) {
            *found = self.likely(key);
            *leaf = self.chunks.get(found.chunk).map(|chunk| (&*chunk.leaf, found.hash));
        }
        for (leaf, hash) in leaves.iter().flatten() {
            leaf.touch(*hash);
        }
        let mut pairs: [Option<&Pair>; GROUP] = [None; GROUP];
        for (pair, leaf) in pairs.iter_mut().zip(leaves) {
            *pair = leaf.and_then(|(leaf, hash)| leaf.candidate(hash));
        }
        for pair in pairs.iter().flatten() {
            black_box(pair.key().len());
        }
        for pair in pairs.iter().flatten() {
            // The bytes, and the number of references, which stands in front of them.
            black_box((pair.value().first(), pair.key().is_unique()));
        }
        found
    }
}
