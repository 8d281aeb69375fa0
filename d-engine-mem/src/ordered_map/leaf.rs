//! The pairs of one chunk, searched without visiting their keys.
//!
//! A key's bytes lie wherever they were allocated, and each visit is likely to miss the caches. So a part of each key, behind
//! what all keys of the chunk have in common, stands in one array beside the pairs.

use std::cmp::Ordering;

use bytes::Bytes;

pub(super) type Pair = (Bytes, Bytes);

/// The first sixteen bytes of a key that is searched for, and of any key of the leaf, as numbers (`super::head`).
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyHeads {
    pub(super) asked: u128,
    pub(super) of_leaf: u128,
}

/// Pairs in ascending key order.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pairs: Vec<Pair>,
    /// Length of a beginning that all keys have in common; not always the longest.
    shared: usize,
    /// For each pair the [`head`] of its key behind the shared beginning.
    heads: Vec<u64>,
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
    pub(super) fn new(pairs: Vec<Pair>) -> Self {
        let shared = match (pairs.first(), pairs.last()) {
            (Some((first, _)), Some((last, _))) => shared_len(first, last),
            _ => 0,
        };
        let mut leaf = Self { heads: Vec::with_capacity(pairs.capacity()), pairs, shared };
        leaf.find_heads();
        leaf
    }

    fn find_heads(&mut self) {
        let shared = self.shared;
        self.heads.clear();
        self.heads.extend(self.pairs.iter().map(|(key, _)| head(&key[shared..])));
    }

    pub(super) fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    pub(super) fn into_pairs(self) -> Vec<Pair> {
        self.pairs
    }

    /// Where `key` is, or would be. While what the keys share is no longer than their `heads`, not even
    /// that is read from a key.
    pub(super) fn search(&self, key: &[u8], heads: KeyHeads) -> Result<usize, usize> {
        if !self.shares(key, heads) {
            let Some((first, _)) = self.pairs.first() else { return Err(0) };
            return Err(if *key < first[..self.shared] { 0 } else { self.pairs.len() });
        }
        let head = head(&key[self.shared..]);
        let start = self.heads.partition_point(|other| *other < head);
        // All of it stands in the head: of equal heads one is this key only if it is as long.
        let is_short = key.len() - self.shared <= size_of::<u64>();
        let mut at = start;
        while self.heads.get(at) == Some(&head) {
            let candidate = &self.pairs[at].0;
            let order = match is_short && candidate.len() - self.shared <= size_of::<u64>() {
                true => candidate.len().cmp(&key.len()),
                false => candidate[..].cmp(key),
            };
            match order {
                Ordering::Less => at += 1,
                Ordering::Equal => return Ok(at),
                Ordering::Greater => break,
            }
        }
        Err(at)
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
            _ => self.pairs.first().is_some_and(|(first, _)| key[..self.shared] == first[..self.shared]),
        }
    }

    /// Puts another pair of the same key at a place that [`search`](Leaf::search) has found, and gives back the old one.
    pub(super) fn replace(&mut self, at: usize, pair: Pair) -> Pair {
        std::mem::replace(&mut self.pairs[at], pair)
    }

    /// Puts a pair where [`search`](Leaf::search) says.
    pub(super) fn insert(&mut self, at: usize, key: Bytes, value: Bytes) {
        let shared = self.pairs.first().map_or(0, |(first, _)| shared_len(&first[..self.shared], &key));
        if shared < self.shared {
            self.shared = shared;
            self.find_heads();
        }
        self.heads.insert(at, head(&key[self.shared..]));
        self.pairs.insert(at, (key, value));
    }

    /// Takes out a pair that [`search`](Leaf::search) has found.
    pub(super) fn remove(&mut self, at: usize) -> Pair {
        self.heads.remove(at);
        self.pairs.remove(at)
    }

    /// Keeps the pairs before `at` and gives the others away.
    pub(super) fn split_off(&mut self, at: usize) -> Vec<Pair> {
        let right = self.pairs.split_off(at);
        *self = Self::new(std::mem::take(&mut self.pairs));
        right
    }

    /// Takes in pairs that are above its own.
    pub(super) fn append(&mut self, pairs: Vec<Pair>) {
        self.pairs.extend(pairs);
        *self = Self::new(std::mem::take(&mut self.pairs));
    }
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
            keys in btree_set(key(), 1..40), more in vec(key(), 0..20), asked in vec(key(), 20)
        ) {
            let pair = |key: &Vec<u8>| (Bytes::from(key.clone()), Bytes::new());
            let mut leaf = Leaf::new(keys.iter().map(pair).collect());
            let search = |leaf: &Leaf, key: &[u8]| {
                let of_leaf = super::super::head(&leaf.pairs()[0].0);
                leaf.search(key, KeyHeads { asked: super::super::head(key), of_leaf })
            };
            let mut sorted: Vec<_> = keys.into_iter().collect();
            for key in more {
                let at = sorted.binary_search(&key);
                prop_assert_eq!(search(&leaf, &key), at);
                match at {
                    Err(at) => {
                        leaf.insert(at, key.clone().into(), Bytes::new());
                        sorted.insert(at, key);
                    }
                    Ok(at) if sorted.len() > 1 => {
                        prop_assert_eq!(leaf.remove(at).0, key);
                        sorted.remove(at);
                    }
                    Ok(at) => _ = leaf.replace(at, (key.into(), Bytes::from_static(b"v"))),
                }
            }
            for key in asked {
                prop_assert_eq!(search(&leaf, &key), sorted.binary_search(&key), "{:?} in {:?}", key, sorted);
            }
        }
    }
}
