//! The pairs of one chunk: one is found by its key's hash, a place among them without visiting their keys.
//!
//! A key's bytes lie wherever they were allocated, and each visit is likely to miss the caches. So a part of each key, behind
//! what all keys of the chunk have in common, stands in one array beside the pairs.

use std::hash::{BuildHasher, Hasher};

use bytes::Bytes;

use super::CHUNK_MAX;
use super::places::Places;

/// A key and its value, whose handles fill a cache line and lie in one.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub(super) struct Pair {
    key_value: (Bytes, Bytes),
}

impl Pair {
    pub(super) fn new(key: Bytes, value: Bytes) -> Self {
        Self { key_value: (key, value) }
    }

    pub(super) fn key(&self) -> &Bytes {
        &self.key_value.0
    }

    pub(super) fn value(&self) -> &Bytes {
        &self.key_value.1
    }

    pub(super) fn key_value(&self) -> &(Bytes, Bytes) {
        &self.key_value
    }

    pub(super) fn into_key_value(self) -> (Bytes, Bytes) {
        self.key_value
    }
}

/// The first sixteen bytes of a key that is searched for, and of any key of the leaf, as numbers (`super::chunks::head`).
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyHeads {
    pub(super) asked: u128,
    pub(super) of_leaf: u128,
}

/// How keys are hashed: seeded anew for each map, because clients choose the keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Hashing(foldhash::fast::RandomState);

impl Hashing {
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write(key);
        hasher.finish()
    }
}

/// Pairs in ascending key order, [`CHUNK_MAX`] at most.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub(super) struct Leaf {
    pairs: Vec<Pair>,
    /// Length of a beginning that all keys have in common; not always the longest.
    shared: usize,
    /// For each pair the [`head`] of its key behind the shared beginning.
    heads: Vec<u64>,
    places: Places,
}

/// The first eight bytes as a number; zeros where there are fewer. Of two keys with different heads the one with the lesser
/// head is the lesser; equal heads say nothing.
fn head(bytes: &[u8]) -> u64 {
    match bytes.first_chunk::<8>() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            u64::from_be_bytes(padded)
        }
    }
}

fn shared_len(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

impl Leaf {
    /// A leaf of pairs in ascending order, of which there is at least one.
    pub(super) fn new(pairs: Vec<Pair>, hashing: &Hashing) -> Self {
        let shared = match (pairs.first(), pairs.last()) {
            (Some(first), Some(last)) => shared_len(first.key(), last.key()),
            _ => 0,
        };
        let places = find_places(&pairs, hashing);
        let mut leaf = Self { heads: Vec::with_capacity(pairs.capacity()), pairs, shared, places };
        leaf.find_heads();
        leaf
    }

    fn find_heads(&mut self) {
        let shared = self.shared;
        self.heads.clear();
        self.heads.extend(self.pairs.iter().map(|pair| head(&pair.key()[shared..])));
    }

    pub(super) fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    pub(super) fn into_pairs(self) -> Vec<Pair> {
        self.pairs
    }

    /// Where `key` is, whose hash is given.
    pub(super) fn find(&self, key: &[u8], hash: u64) -> Option<usize> {
        self.places.find(hash, |place| self.pairs[place].key() == key)
    }

    /// Reads what [`candidate`](Leaf::candidate) is going to.
    pub(super) fn touch(&self, hash: u64) {
        self.places.touch(hash);
        std::hint::black_box(self.pairs.len());
    }

    /// The pair whose key has this hash, or another one, whose key has the same part of the hash.
    pub(super) fn candidate(&self, hash: u64) -> Option<&Pair> {
        self.places.find(hash, |_| true).map(|place| &self.pairs[place])
    }

    /// The place of the first key that is not below `key`. While what the keys share is no longer than their `heads`, not even
    /// that is read from a key.
    pub(super) fn place_for(&self, key: &[u8], heads: KeyHeads) -> usize {
        if !self.shares(key, heads) {
            let Some(first) = self.pairs.first() else { return 0 };
            return if *key < first.key()[..self.shared] { 0 } else { self.pairs.len() };
        }
        let head = head(&key[self.shared..]);
        // Of equal heads that hold all of their keys, the one of the shorter key comes first.
        let is_short = |key: &[u8]| key.len() - self.shared <= size_of::<u64>();
        let is_below = |other: &[u8]| match is_short(key) && is_short(other) {
            true => other.len() < key.len(),
            false => other < key,
        };
        let mut at = self.heads.partition_point(|other| *other < head);
        while self.heads.get(at) == Some(&head) && is_below(self.pairs[at].key()) {
            at += 1;
        }
        at
    }

    /// Whether `key` begins as all keys of the leaf do.
    fn shares(&self, key: &[u8], heads: KeyHeads) -> bool {
        const BITS: usize = u128::BITS as usize;
        if key.len() < self.shared {
            return false;
        }
        match self.shared * 8 {
            0 => true,
            bits @ ..=BITS => (heads.asked ^ heads.of_leaf) >> (BITS - bits) == 0,
            _ => self.pairs.first().is_some_and(|first| key[..self.shared] == first.key()[..self.shared]),
        }
    }

    /// Puts another pair of the same key at a place that was found, and gives back the old one.
    pub(super) fn replace(&mut self, at: usize, pair: Pair) -> Pair {
        std::mem::replace(&mut self.pairs[at], pair)
    }

    /// Puts a pair where [`place_for`](Leaf::place_for) says. Gives back, of a full leaf, the upper part of its pairs.
    pub(super) fn insert(&mut self, at: usize, pair: Pair, hash: u64, hashing: &Hashing) -> Option<Vec<Pair>> {
        if self.pairs.len() == CHUNK_MAX {
            return Some(self.split(at, pair, hashing));
        }
        let shared = self.pairs.first().map_or(0, |first| shared_len(&first.key()[..self.shared], pair.key()));
        if shared < self.shared {
            self.shared = shared;
            self.find_heads();
        }
        if self.places.is_worn() {
            self.places = find_places(&self.pairs, hashing);
        }
        self.places.insert(hash, at, self.pairs.len());
        self.heads.insert(at, head(&pair.key()[self.shared..]));
        self.pairs.insert(at, pair);
        None
    }

    fn split(&mut self, at: usize, pair: Pair, hashing: &Hashing) -> Vec<Pair> {
        // Keys that only grow leave full chunks behind instead of half empty ones.
        if at == self.pairs.len() {
            return vec![pair];
        }
        let mut pairs = std::mem::take(&mut self.pairs);
        pairs.insert(at, pair);
        let upper = pairs.split_off(CHUNK_MAX / 2);
        *self = Self::new(pairs, hashing);
        upper
    }

    /// Takes out a pair that was found by its hash.
    pub(super) fn remove(&mut self, at: usize, hash: u64) -> Pair {
        self.places.remove(hash, at);
        self.heads.remove(at);
        self.pairs.remove(at)
    }

    /// Takes in pairs that are above its own.
    pub(super) fn append(&mut self, more: Vec<Pair>, hashing: &Hashing) {
        let mut pairs = std::mem::take(&mut self.pairs);
        pairs.extend(more);
        *self = Self::new(pairs, hashing);
    }
}

fn find_places(pairs: &[Pair], hashing: &Hashing) -> Places {
    Places::new(pairs.iter().map(|pair| hashing.hash(pair.key())))
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        let tail = || prop_oneof![Just(0u8), Just(1), Just(b'a'), Just(0xff)];
        let behind = |prefix: &'static [u8]| vec(tail(), 0..12).prop_map(move |tail| [prefix, &tail].concat());
        prop_oneof![vec(tail(), 0..12), behind(b"prefix:"), behind(b"a prefix longer than a head:")]
    }

    proptest! {
        #[test]
        fn it_finds_what_a_plain_search_finds(
            keys in btree_set(key(), 1..=CHUNK_MAX), more in vec(key(), 0..60), asked in vec(key(), 20)
        ) {
            let hashing = Hashing::default();
            let pair = |key: &Vec<u8>| Pair::new(Bytes::from(key.clone()), Bytes::new());
            let mut leaf = Leaf::new(keys.iter().map(pair).collect(), &hashing);
            let place_for = |leaf: &Leaf, key: &[u8]| {
                let of_leaf = super::super::chunks::head(leaf.pairs()[0].key());
                leaf.place_for(key, KeyHeads { asked: super::super::chunks::head(key), of_leaf })
            };
            let either = |at: Result<usize, usize>| at.unwrap_or_else(|at| at);
            let mut sorted: Vec<_> = keys.into_iter().collect();
            for key in more {
                let at = sorted.binary_search(&key);
                let hash = hashing.hash(&key);
                prop_assert_eq!(place_for(&leaf, &key), either(at));
                prop_assert_eq!(leaf.find(&key, hash), at.ok());
                match at {
                    Err(at) => {
                        let upper = leaf.insert(at, pair(&key), hash, &hashing);
                        sorted.insert(at, key);
                        if let Some(upper) = upper {
                            let upper_keys: Vec<_> = upper.iter().map(|pair| pair.key().to_vec()).collect();
                            prop_assert_eq!(sorted.split_off(leaf.pairs().len()), upper_keys);
                        }
                    }
                    Ok(at) if sorted.len() > 1 => {
                        prop_assert_eq!(leaf.remove(at, hash).into_key_value().0, key);
                        sorted.remove(at);
                    }
                    Ok(at) => _ = leaf.replace(at, Pair::new(key.into(), Bytes::from_static(b"v"))),
                }
            }
            for key in asked.iter().chain(&sorted) {
                let at = sorted.binary_search(key);
                prop_assert_eq!(place_for(&leaf, key), either(at), "{:?} in {:?}", key, sorted);
                prop_assert_eq!(leaf.find(key, hashing.hash(key)), at.ok(), "{:?} in {:?}", key, sorted);
            }
        }
    }
}
