//! An ordered map of byte strings whose point-in-time views cost O(1).
//!
//! Two levels: a sorted vector of chunks, each a sorted vector of pairs, both behind `Arc`. A view is a clone of the
//! outer `Arc`. A write copies what a view still shares: once per view the vector of chunks (one element per about two
//! hundred pairs), and each chunk that it changes. Without a view nothing is copied.
//!
//! One key is looked up by its hash within its chunk, and waits for two cache lines that are likely to be far away: the pair
//! and the key's bytes. What that takes beside the pairs, four bytes per pair that there is room for (about six per key), is
//! part of the chunk, so that views have it too.
//!
//! The map knows nothing of locks or durability.

mod ahead;
mod chunks;
mod leaf;
mod places;

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use d_engine_core::{Direction, Error, KeyRange, KvView, Result, WriteBatch, WriteOp};

use ahead::{GROUP, Likely};
use chunks::{Chunk, Chunks};
use leaf::{Hashing, KeyHeads, Pair};

/// Pairs that a chunk holds before it is split. Small in unit tests, so that short inputs split and merge.
const CHUNK_MAX: usize = if cfg!(test) { 8 } else { 256 };
/// Pairs put into a chunk by bulk build, and the most that a merge may produce: room to grow before the next split.
const CHUNK_FILL: usize = CHUNK_MAX * 3 / 4;
/// A chunk smaller than this is merged into a neighbour if one has room.
const CHUNK_MIN: usize = CHUNK_MAX / 4;
/// So many keys are looked up one by one.
const FEW: usize = 2;

/// An ordered map of byte strings; cloning it is O(1) and gives a view that later writes do not change.
///
/// `get` is O(log n), a write O(log n) plus the copy of one chunk that a view still shares.
#[derive(Debug, Clone, Default)]
pub struct OrderedMap {
    chunks: Arc<Chunks>,
    len: usize,
    hashing: Hashing,
}

impl OrderedMap {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// Builds a map from pairs in strictly ascending key order, in O(n).
    ///
    /// # Errors
    /// The iterator's first error; `Invalid` for a key that is not above the one before it.
    pub fn from_sorted(sorted: impl IntoIterator<Item = Result<(Bytes, Bytes)>>) -> Result<Self> {
        let hashing = Hashing::default();
        let mut chunks = Chunks::default();
        let mut filling: Vec<Pair> = Vec::new();
        let mut len = 0;
        for pair in sorted {
            let (key, value) = pair?;
            if filling.len() == CHUNK_FILL {
                let full = std::mem::replace(&mut filling, Vec::with_capacity(CHUNK_FILL));
                chunks.push(Chunk::new(full, &hashing));
            }
            let before = filling.last().or_else(|| chunks.last().and_then(|chunk| chunk.pairs().last()));
            if before.is_some_and(|before| *before.key() >= key) {
                return Err(Error::invalid(format!("record {len} of a sorted load is not above the record before it")));
            }
            filling.push(Pair::new(key, value));
            len += 1;
        }
        if !filling.is_empty() {
            chunks.push(Chunk::new(filling, &hashing));
        }
        Ok(Self { chunks: Arc::new(chunks), len, hashing })
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Option<&Bytes> {
        self.get_at(key, self.likely(key))
    }

    fn get_at(&self, key: &[u8], likely: Likely) -> Option<&Bytes> {
        let leaf = &self.chunks.get(likely.chunk)?.leaf;
        leaf.find(key, likely.hash).map(|at| leaf.pairs()[at].value())
    }

    /// The values of several keys, which are found faster together than one by one.
    pub fn get_many(&self, keys: &[Bytes]) -> Vec<Option<Bytes>> {
        if keys.len() <= FEW {
            return keys.iter().map(|key| self.get(key).cloned()).collect();
        }
        let mut values = Vec::with_capacity(keys.len());
        for keys in keys.chunks(GROUP) {
            let likely = self.look_ahead(keys.iter().map(AsRef::as_ref));
            values.extend(keys.iter().zip(likely).map(|(key, likely)| self.get_at(key, likely).cloned()));
        }
        values
    }

    /// Sets `key` and returns the value it had.
    pub fn insert(&mut self, key: Bytes, value: Bytes) -> Option<Bytes> {
        let likely = self.likely(&key);
        self.exchange(key, value, likely).map(|(_, value)| value)
    }

    /// [`insert`](OrderedMap::insert) that returns the pair there was. The new key takes the place of the old one, because
    /// key and value may be slices of one allocation, which then goes as a whole.
    fn exchange(&mut self, key: Bytes, value: Bytes, likely: Likely) -> Option<(Bytes, Bytes)> {
        let Likely { chunk: slot, head, hash } = likely;
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(chunk) = chunks.get(slot) else {
            chunks.push(Chunk::new(vec![Pair::new(key, value)], &self.hashing));
            self.len = 1;
            return None;
        };
        let heads = KeyHeads { asked: head, of_leaf: chunks.head(slot) };
        let found = chunk.leaf.find(&key, hash).map_or_else(|| Err(chunk.leaf.place_for(&key, heads)), Ok);
        if matches!(found, Ok(0) | Err(0)) {
            chunks.begin_at(slot, key.clone());
        }
        let leaf = chunks.leaf_mut(slot);
        match found {
            Ok(at) => Some(leaf.replace(at, Pair::new(key, value)).into_key_value()),
            Err(at) => {
                self.len += 1;
                if let Some(upper) = leaf.insert(at, Pair::new(key, value), hash, &self.hashing) {
                    chunks.insert(slot + 1, Chunk::new(upper, &self.hashing));
                }
                None
            }
        }
    }

    /// Removes `key` and returns the value it had.
    pub fn remove(&mut self, key: &[u8]) -> Option<Bytes> {
        self.take(key, self.likely(key)).map(|(_, value)| value)
    }

    fn take(&mut self, key: &[u8], likely: Likely) -> Option<(Bytes, Bytes)> {
        let Likely { chunk: slot, hash, .. } = likely;
        // Looked up first: removing a key that is not there copies nothing.
        let at = self.chunks.get(slot)?.leaf.find(key, hash)?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let leaf = chunks.leaf_mut(slot);
        let pair = leaf.remove(at, hash);
        let first = leaf.pairs().first().map(|first| first.key().clone());
        self.len -= 1;
        match first {
            None => _ = chunks.remove(slot),
            Some(first) => {
                if at == 0 {
                    chunks.begin_at(slot, first);
                }
                chunks.maybe_merge(slot, &self.hashing);
            }
        }
        Some(pair.into_key_value())
    }

    /// Applies the steps of a batch in order. Afterwards it holds what they took out of the map: whoever applies under a
    /// lock frees that without it, because each freed value is likely to be a cache miss or more.
    pub fn apply(&mut self, batch: &mut WriteBatch) {
        for ops in batch.ops.chunks_mut(GROUP) {
            let likely = if ops.len() <= FEW { None } else { Some(self.look_ahead(ops.iter().map(key_of))) };
            for (at, op) in ops.iter_mut().enumerate() {
                self.apply_one(op, likely.as_ref().map(|likely| likely[at]));
            }
        }
    }

    /// Applies one step; `likely` is where its key belonged before the steps in front of it.
    fn apply_one(&mut self, op: &mut WriteOp, likely: Option<Likely>) {
        let still_there = |likely: &Likely| self.chunks.is_of(likely.chunk, likely.head);
        let likely = likely.filter(still_there).unwrap_or_else(|| self.likely(key_of(op)));
        let taken = match op {
            WriteOp::Put(key, value) => self.exchange(std::mem::take(key), std::mem::take(value), likely),
            WriteOp::Delete(key) => self.take(key, likely),
        };
        if let Some((key, value)) = taken {
            *op = WriteOp::Put(key, value);
        }
    }

    /// The pairs of a range, from both ends. A range whose ends cross is empty.
    pub fn range(&self, range: KeyRange<'_>) -> Range<'_> {
        let front = match range.start {
            Bound::Unbounded => Position { chunk: 0, pair: 0 },
            Bound::Included(start) => self.position(|key| key < start),
            Bound::Excluded(start) => self.position(|key| key <= start),
        };
        let back = match range.end {
            Bound::Unbounded => Position { chunk: self.chunks.len(), pair: 0 },
            Bound::Included(end) => self.position(|key| key <= end),
            Bound::Excluded(end) => self.position(|key| key < end),
        };
        Range { chunks: &self.chunks, front, back }
    }

    /// At most `limit` pairs of the range, in the direction's order. Copies no bytes.
    pub fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Vec<(Bytes, Bytes)> {
        let pairs = self.range(range);
        match direction {
            Direction::Forward => pairs.take(limit).cloned().collect(),
            Direction::Backward => pairs.rev().take(limit).cloned().collect(),
        }
    }

    /// The position of the first pair whose key is not `before`, which holds for a leading part of the keys only.
    fn position(&self, before: impl Fn(&[u8]) -> bool) -> Position {
        let chunk = self.chunks.partition_point(|chunk| before(&chunk.first)).saturating_sub(1);
        let Some(pairs) = self.chunks.get(chunk).map(Chunk::pairs) else {
            return Position { chunk: 0, pair: 0 };
        };
        match pairs.partition_point(|pair| before(pair.key())) {
            pair if pair == pairs.len() => Position { chunk: chunk + 1, pair: 0 },
            pair => Position { chunk, pair },
        }
    }
}

fn key_of(op: &WriteOp) -> &[u8] {
    match op {
        WriteOp::Put(key, _) | WriteOp::Delete(key) => key,
    }
}

impl KvView for OrderedMap {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(OrderedMap::get(self, key).cloned())
    }

    fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>, Error> {
        Ok(OrderedMap::scan(self, range, limit, direction))
    }
}

/// A place between two pairs: in front of the pair it names. `pair` lies within its chunk, or is 0 after the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    chunk: usize,
    pair: usize,
}

/// The pairs of a range of an [`OrderedMap`], in ascending order from the front and descending from the back.
#[derive(Debug, Clone)]
pub struct Range<'a> {
    chunks: &'a [Chunk],
    front: Position,
    back: Position,
}

impl<'a> Iterator for Range<'a> {
    type Item = &'a (Bytes, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        if self.front >= self.back {
            return None;
        }
        let pairs = self.chunks[self.front.chunk].pairs();
        let item = pairs[self.front.pair].key_value();
        self.front.pair += 1;
        if self.front.pair == pairs.len() {
            self.front = Position { chunk: self.front.chunk + 1, pair: 0 };
        }
        Some(item)
    }
}

impl DoubleEndedIterator for Range<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.front >= self.back {
            return None;
        }
        if self.back.pair == 0 {
            self.back.chunk -= 1;
            self.back.pair = self.chunks[self.back.chunk].pairs().len();
        }
        self.back.pair -= 1;
        Some(self.chunks[self.back.chunk].pairs()[self.back.pair].key_value())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    #[derive(Debug, Clone)]
    enum Op {
        Put(Vec<u8>, Vec<u8>),
        Delete(Vec<u8>),
        TakeView,
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => (0u8..120).prop_map(|n| vec![b'k', n]),
            2 => (0u8..60).prop_map(|n| [&b"longer than a head:"[..], &[n]].concat()),
            1 => prop::collection::vec(any::<u8>(), 0..4),
        ]
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => (key(), prop::collection::vec(any::<u8>(), 0..3)).prop_map(|(k, v)| Op::Put(k, v)),
            6 => key().prop_map(Op::Delete),
            1 => Just(Op::TakeView),
        ]
    }

    fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
        prop_oneof![key().prop_map(Bound::Included), key().prop_map(Bound::Excluded), Just(Bound::Unbounded)]
    }

    fn model_scan(model: &Model, range: KeyRange<'_>, limit: usize, direction: Direction) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut all: Vec<_> = model.iter().filter(|(k, _)| range.contains(k)).collect();
        if direction == Direction::Backward {
            all.reverse();
        }
        all.into_iter().take(limit).map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    fn owned(pairs: Vec<(Bytes, Bytes)>) -> Vec<(Vec<u8>, Vec<u8>)> {
        pairs.into_iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect()
    }

    fn check_shape(map: &OrderedMap) {
        assert_eq!(map.len(), map.chunks.iter().map(|chunk| chunk.pairs().len()).sum::<usize>());
        for (at, chunk) in map.chunks.iter().enumerate() {
            assert_eq!(map.chunks.head(at), chunks::head(&chunk.first));
            assert!(!chunk.pairs().is_empty() && chunk.pairs().len() <= CHUNK_MAX);
            assert_eq!(chunk.first, chunk.pairs()[0].key());
        }
        let keys: Vec<_> = map.range(KeyRange::ALL).map(|(key, _)| key).collect();
        assert!(keys.windows(2).all(|pair| pair[0] < pair[1]), "keys ascend strictly");
    }

    fn same(map: &OrderedMap, model: &Model) {
        check_shape(map);
        let all = owned(map.scan(KeyRange::ALL, usize::MAX, Direction::Forward));
        assert_eq!(all, model_scan(model, KeyRange::ALL, usize::MAX, Direction::Forward));
    }

    fn as_slices(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
        bound.as_ref().map(Vec::as_slice)
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_btree_map_and_views_stand_still(
            ops in prop::collection::vec(op(), 0..300),
            scans in prop::collection::vec((bound(), bound(), 0usize..40), 12),
        ) {
            let (mut map, mut model) = (OrderedMap::new(), Model::new());
            let mut views = Vec::new();
            for op in ops {
                match op {
                    Op::Put(key, value) => {
                        let old = map.insert(key.clone().into(), value.clone().into());
                        prop_assert_eq!(old.map(|v| v.to_vec()), model.insert(key, value));
                    }
                    Op::Delete(key) => {
                        prop_assert_eq!(map.remove(&key).map(|v| v.to_vec()), model.remove(&key));
                        prop_assert_eq!(map.get(&key), None);
                    }
                    Op::TakeView => views.push((map.clone(), model.clone())),
                }
                prop_assert_eq!(map.len(), model.len());
            }
            views.push((map, model));
            for (map, model) in &views {
                same(map, model);
                for (key, value) in model {
                    prop_assert_eq!(map.get(key).map(|v| &v[..]), Some(&value[..]));
                }
                for (start, end, limit) in &scans {
                    let range = KeyRange { start: as_slices(start), end: as_slices(end) };
                    for direction in [Direction::Forward, Direction::Backward] {
                        prop_assert_eq!(
                            owned(map.scan(range, *limit, direction)),
                            model_scan(model, range, *limit, direction)
                        );
                    }
                }
            }
        }

        #[test]
        fn a_batch_does_what_its_steps_do_and_many_keys_are_found_as_one(
            batches in prop::collection::vec(prop::collection::vec(op(), 0..120), 1..6),
            asked in prop::collection::vec(key(), 0..70),
        ) {
            let (mut map, mut model) = (OrderedMap::new(), Model::new());
            for ops in batches {
                let mut batch = WriteBatch::new();
                for op in ops {
                    match op {
                        Op::Put(key, value) => {
                            batch.put(key.clone(), value.clone());
                            model.insert(key, value);
                        }
                        Op::Delete(key) => {
                            model.remove(&key);
                            batch.delete(key);
                        }
                        Op::TakeView => {}
                    }
                }
                map.apply(&mut batch);
                same(&map, &model);
            }
            let found = map.get_many(&asked.iter().cloned().map(Bytes::from).collect::<Vec<_>>());
            let expected: Vec<_> = asked.iter().map(|key| model.get(key).cloned().map(Bytes::from)).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn a_bulk_built_map_is_the_inserted_one(model in prop::collection::btree_map(key(), key(), 0..100)) {
            let pairs = model.iter().map(|(k, v)| Ok((Bytes::copy_from_slice(k), Bytes::copy_from_slice(v))));
            same(&OrderedMap::from_sorted(pairs).unwrap(), &model);
        }

        #[test]
        fn both_ends_of_a_range_meet_once(count in 0u8..60, picks in prop::collection::vec(any::<bool>(), 60)) {
            let map = OrderedMap::from_sorted((0..count).map(|n| Ok((Bytes::from(vec![n]), Bytes::new())))).unwrap();
            let mut range = map.range(KeyRange::ALL);
            let (mut low, mut high) = (0, count);
            for front in picks.into_iter().take(usize::from(count)) {
                let expected = if front { low += 1; low - 1 } else { high -= 1; high };
                let found = if front { range.next() } else { range.next_back() };
                prop_assert_eq!(found.map(|(key, _)| key[0]), Some(expected));
            }
            prop_assert!(range.next().is_none() && range.next_back().is_none());
        }
    }

    #[test]
    fn a_bulk_build_refuses_keys_out_of_order_and_passes_errors_on() {
        let pair = |n: u8| Ok((Bytes::from(vec![n]), Bytes::new()));
        assert!(matches!(OrderedMap::from_sorted([pair(1), pair(1)]), Err(Error::Invalid { .. })));
        let across_chunks = (0..=CHUNK_FILL as u8).map(pair).chain([pair(0)]);
        assert!(matches!(OrderedMap::from_sorted(across_chunks), Err(Error::Invalid { .. })));
        assert!(matches!(OrderedMap::from_sorted([pair(1), Err(Error::corrupt("x"))]), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn a_write_copies_only_the_chunk_it_changes() {
        let mut map = OrderedMap::from_sorted((0..100u8).map(|n| Ok((Bytes::from(vec![n]), Bytes::new())))).unwrap();
        let view = map.clone();
        map.insert(Bytes::from_static(&[50]), Bytes::from_static(b"new"));
        let shared = map.chunks.iter().zip(view.chunks.iter()).filter(|(a, b)| Arc::ptr_eq(&a.leaf, &b.leaf)).count();
        assert_eq!(shared, map.chunks.len() - 1);
        assert_eq!(view.get(&[50]), Some(&Bytes::new()));
    }

    #[test]
    fn growing_keys_leave_full_chunks_and_removals_leave_few() {
        let mut map = OrderedMap::new();
        for n in 0..1000u16 {
            map.insert(Bytes::copy_from_slice(&n.to_be_bytes()), Bytes::new());
        }
        assert_eq!(map.chunks.len(), 1000 / CHUNK_MAX);
        for n in (0..1000u16).filter(|n| n % 10 != 0) {
            map.remove(&n.to_be_bytes());
        }
        check_shape(&map);
        assert_eq!(map.len(), 100);
        assert!(map.chunks.len() <= 2 * 100 / CHUNK_MIN, "{} chunks for 100 pairs", map.chunks.len());
    }
}
