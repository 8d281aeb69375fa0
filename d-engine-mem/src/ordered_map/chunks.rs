//! The chunks of a map in order, and the search for the one that a key belongs to.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use super::leaf::{Hashing, Leaf, Pair};
use super::{CHUNK_FILL, CHUNK_MIN};

/// Never without pairs; `first` is the first pair's key, kept here so that a search need not visit the leaf.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) first: Bytes,
    pub(super) leaf: Arc<Leaf>,
}

impl Chunk {
    pub(super) fn new(pairs: Vec<Pair>, hashing: &Hashing) -> Self {
        debug_assert!(!pairs.is_empty(), "a chunk is never empty");
        Self { first: pairs[0].key().clone(), leaf: Arc::new(Leaf::new(pairs, hashing)) }
    }

    pub(super) fn pairs(&self) -> &[Pair] {
        self.leaf.pairs()
    }
}

/// Chunks in ascending order.
#[derive(Debug, Clone, Default)]
pub(super) struct Chunks {
    /// For each chunk the [`head`] of its first key: together, so that a search in them stays in the nearest cache.
    heads: Vec<u128>,
    list: Vec<Chunk>,
}

impl Deref for Chunks {
    type Target = [Chunk];

    fn deref(&self) -> &[Chunk] {
        &self.list
    }
}

impl Chunks {
    /// The chunk that holds `key`, whose head is given, or would: the last one that begins at or before it, else the first.
    /// The heads alone are searched without branches that a processor would have to guess.
    pub(super) fn of(&self, head: u128, key: &[u8]) -> usize {
        let mut behind = self.heads.partition_point(|other| *other < head);
        if self.heads.get(behind) == Some(&head) {
            let equal = self.heads[behind..].partition_point(|other| *other == head);
            behind += self.list[behind..behind + equal].partition_point(|chunk| chunk.first[..] <= *key);
        }
        behind.saturating_sub(1)
    }

    /// Whether a key with this head belongs to the chunk `at` for certain, without a look at other keys.
    pub(super) fn is_of(&self, at: usize, head: u128) -> bool {
        let begins = self.heads.get(at).is_some_and(|first| *first < head);
        begins && self.heads.get(at + 1).is_none_or(|next| head < *next)
    }

    /// The head of the first key of a chunk.
    pub(super) fn head(&self, at: usize) -> u128 {
        self.heads[at]
    }

    pub(super) fn push(&mut self, chunk: Chunk) {
        self.insert(self.list.len(), chunk);
    }

    pub(super) fn insert(&mut self, at: usize, chunk: Chunk) {
        self.heads.insert(at, head(&chunk.first));
        self.list.insert(at, chunk);
    }

    pub(super) fn remove(&mut self, at: usize) -> Chunk {
        self.heads.remove(at);
        self.list.remove(at)
    }

    /// A chunk's leaf, to be changed; a view keeps it as it is.
    pub(super) fn leaf_mut(&mut self, at: usize) -> &mut Leaf {
        Arc::make_mut(&mut self.list[at].leaf)
    }

    /// A chunk has another first key.
    pub(super) fn begin_at(&mut self, at: usize, first: Bytes) {
        self.heads[at] = head(&first);
        self.list[at].first = first;
    }

    /// Moves the pairs of a small chunk into a neighbour with room, so that removals do not leave crumbs behind.
    pub(super) fn maybe_merge(&mut self, at: usize, hashing: &Hashing) {
        let len = |at: usize| self.list[at].pairs().len();
        if len(at) >= CHUNK_MIN {
            return;
        }
        let fits = |left: usize| left + 1 < self.list.len() && len(left) + len(left + 1) <= CHUNK_FILL;
        let left = if fits(at) {
            at
        } else if at > 0 && fits(at - 1) {
            at - 1
        } else {
            return;
        };
        let right = self.remove(left + 1);
        self.leaf_mut(left).append(Arc::unwrap_or_clone(right.leaf).into_pairs(), hashing);
    }
}

/// The first sixteen bytes as a number; zeros where there are fewer. Of two keys with different heads the one with the lesser
/// head is the lesser; equal heads say nothing.
pub(super) fn head(key: &[u8]) -> u128 {
    match key.first_chunk::<16>() {
        Some(bytes) => u128::from_be_bytes(*bytes),
        None => {
            let mut padded = [0; 16];
            padded[..key.len()].copy_from_slice(key);
            u128::from_be_bytes(padded)
        }
    }
}
