//! The records as the commands of a chunk see and change them, on top of a store that does not change meanwhile.
//!
//! The hash tables only find a key's slot; their order is never looked at.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher;

use bytes::Bytes;
use d_engine_core::{Direction, Error, KvStore, Result, WriteBatch, compact_bytes};
use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use crate::layout::{Bookkeeping, Place, StoreKeys, StoreRange, leased_key, user_key};
use crate::leases::Leases;
use crate::machine::Present;
use crate::record::Record;
use crate::scan::Scan;

/// One change of one key, for watchers.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// The store's revision with it.
    pub(crate) revision: u64,
    /// The key in the store.
    pub(crate) key: Bytes,
    /// The stored bytes of the record after it; `None`: the key was removed.
    pub(crate) record: Option<Bytes>,
    /// Those of the record before it.
    pub(crate) prev: Option<Bytes>,
}

/// A key's record as the chunk's commands see it.
#[derive(Debug, Default)]
struct Slot {
    now: Option<Record>,
    /// The lease of the record in the store.
    stored_lease: u64,
    stored: bool,
    changed: bool,
}

/// The records that a chunk has touched so far.
pub(crate) struct Overlay<'a> {
    store: &'a dyn KvStore,
    /// In the order of the slots, so that all are asked for at once. That of a record which the chunk has made belongs to the
    /// record; the others do not outlive the chunk.
    keys: Vec<Bytes>,
    slots: Vec<Slot>,
    places: Places,
    /// Where keys are made that live as long as the chunk.
    short_lived: StoreKeys,
    /// The changed slots whose record has a lease, by lease.
    leased: HashMap<u64, BTreeSet<usize>>,
    pub(crate) book: Bookkeeping,
    /// Whether the present command has changed something, and the revision with it.
    counted: bool,
    changes: Vec<Change>,
}

/// The slots by the keys of users. It holds neither keys nor hashes, so that a look-up reads one key; the hash is seeded anew
/// for each chunk: clients choose the keys.
#[derive(Default)]
struct Places {
    table: HashTable<usize>,
    hasher: DefaultHashBuilder,
}

impl Places {
    fn find(&self, keys: &[Bytes], user_key: &[u8]) -> Option<usize> {
        let hash = self.hasher.hash_one(user_key);
        self.table.find(hash, |place| keys[*place][1..] == *user_key).copied()
    }

    /// [`find`](Places::find) that gives the place behind `keys` to a key that has none, to be filled by the caller.
    fn find_or_add(&mut self, keys: &[Bytes], user_key: &[u8]) -> Option<usize> {
        let hash = |place: &usize| self.hasher.hash_one(&keys[*place][1..]);
        let is_it = |place: &usize| keys[*place][1..] == *user_key;
        match self.table.entry(self.hasher.hash_one(user_key), is_it, hash) {
            Entry::Occupied(found) => Some(*found.get()),
            Entry::Vacant(free) => {
                free.insert(keys.len());
                None
            }
        }
    }

    /// Adds the last of `keys`, which is not there yet.
    fn push(&mut self, keys: &[Bytes]) {
        let hash = |place: &usize| self.hasher.hash_one(&keys[*place][1..]);
        let place = keys.len() - 1;
        self.table.insert_unique(hash(&place), place, hash);
    }
}

impl<'a> Overlay<'a> {
    /// Nothing touched yet, on top of the state that `book` describes.
    pub(crate) fn new(store: &'a dyn KvStore, book: Bookkeeping, entries: usize) -> Self {
        Self {
            store,
            keys: Vec::with_capacity(entries),
            slots: Vec::with_capacity(entries),
            places: Places { table: HashTable::with_capacity(entries), hasher: DefaultHashBuilder::default() },
            short_lived: StoreKeys::new(entries),
            leased: HashMap::new(),
            book,
            counted: false,
            changes: Vec::with_capacity(entries),
        }
    }

    /// Makes a place for a user's key, to be filled by [`load`](Overlay::load).
    pub(crate) fn reserve(&mut self, user_key: &[u8]) -> usize {
        if let Some(place) = self.places.find_or_add(&self.keys, user_key) {
            return place;
        }
        self.keys.push(self.short_lived.make(user_key));
        self.slots.push(Slot::default());
        self.slots.len() - 1
    }

    fn insert(&mut self, key: Bytes, now: Option<Record>) -> usize {
        self.keys.push(key);
        self.places.push(&self.keys);
        let (stored, stored_lease) = (now.is_some(), now.as_ref().map_or(0, |record| record.lease));
        self.slots.push(Slot { now, stored_lease, stored, changed: false });
        self.slots.len() - 1
    }

    /// Reads every place that was reserved.
    pub(crate) fn load(&mut self) -> Result<()> {
        if self.slots.is_empty() {
            return Ok(());
        }
        let values = self.store.get_many(&self.keys)?;
        if values.len() != self.keys.len() {
            let (found, asked) = (values.len(), self.keys.len());
            return Err(Error::backend(format!("KvStore::get_many gave {found} values for {asked} keys")));
        }
        for (slot, value) in self.slots.iter_mut().zip(values) {
            slot.stored = value.is_some();
            slot.now = value.map(Record::decode).transpose()?;
            slot.stored_lease = slot.now.as_ref().map_or(0, |record| record.lease);
        }
        Ok(())
    }

    /// The place of a user's key, read now if it was not reserved.
    pub(crate) fn place(&mut self, user_key: &[u8]) -> Result<usize> {
        if let Some(place) = self.places.find(&self.keys, user_key) {
            return Ok(place);
        }
        let key = self.short_lived.make(user_key);
        let now = self.store.get(&key)?.map(Record::decode).transpose()?;
        Ok(self.insert(key, now))
    }

    /// The record there.
    pub(crate) fn record(&self, place: usize) -> Option<&Record> {
        self.slots[place].now.as_ref()
    }

    /// The user's key there.
    pub(crate) fn key(&self, place: usize) -> Bytes {
        user_key(&self.keys[place])
    }

    /// Begins a command: what it changes has one revision.
    pub(crate) fn begin(&mut self) {
        self.counted = false;
    }

    fn revision(&mut self) -> u64 {
        if !self.counted {
            self.counted = true;
            self.book.revision += 1;
        }
        self.book.revision
    }

    /// Sets the key there; `lease` exists or is 0.
    pub(crate) fn put(&mut self, place: usize, value: &[u8], lease: u64, leases: &mut Leases) {
        let revision = self.revision();
        let (key, record) = match &self.slots[place].now {
            Some(record) => record.set(&self.keys[place], revision, lease, value),
            None => {
                self.book.keys += 1;
                Record::created(&self.keys[place], revision, lease, value)
            }
        };
        self.keys[place] = key.clone();
        self.change(place, key, Some(record), revision, leases);
    }

    /// Removes the key there; whether it existed.
    pub(crate) fn delete(&mut self, place: usize, leases: &mut Leases) -> bool {
        if self.slots[place].now.is_none() {
            return false;
        }
        let revision = self.revision();
        self.book.keys -= 1;
        // Watchers may be told long after the chunk.
        let key = compact_bytes(&[&self.keys[place]]);
        self.change(place, key, None, revision, leases);
        true
    }

    fn change(&mut self, place: usize, key: Bytes, record: Option<Record>, revision: u64, leases: &mut Leases) {
        let slot = &mut self.slots[place];
        let lease_of = |record: &Option<Record>| record.as_ref().map_or(0, |record| record.lease);
        let (from, to) = (lease_of(&slot.now), lease_of(&record));
        let stored = record.as_ref().map(|record| record.bytes().clone());
        let prev = std::mem::replace(&mut slot.now, record).map(Record::into_bytes);
        self.changes.push(Change { revision, key, record: stored, prev });
        slot.changed = true;
        if from == 0 && to == 0 {
            return;
        }
        leases.move_key(from, to);
        if let Some(places) = self.leased.get_mut(&from) {
            places.remove(&place);
        }
        if to != 0 {
            self.leased.entry(to).or_default().insert(place);
        }
    }

    /// The places of the keys that belong to a lease, in key order.
    pub(crate) fn leased(&mut self, lease: u64) -> Result<Vec<usize>> {
        let mut places = BTreeMap::new();
        for place in self.leased.get(&lease).into_iter().flatten() {
            places.insert(self.keys[*place].clone(), *place);
        }
        let view = Present(self.store);
        let mut scan = Scan::new(&view, StoreRange::leased(lease), Direction::Forward, usize::MAX);
        while let Some((key, _)) = scan.next_pair()? {
            let Some(Place::Leased { key, .. }) = Place::of(&key) else {
                return Err(Error::corrupt(format!(
                    "the key-value state: {} among the keys of a lease",
                    key.escape_ascii()
                )));
            };
            let place = self.place(key)?;
            if self.record(place).is_some_and(|record| record.lease == lease) {
                places.insert(self.keys[place].clone(), place);
            }
        }
        Ok(places.into_values().collect())
    }

    /// The keys of a range and their records, in the order of `direction`.
    pub(crate) fn walk(&self, range: StoreRange, direction: Direction) -> Walk<'_> {
        let mut changed: Vec<_> = self
            .keys
            .iter()
            .zip(&self.slots)
            .filter(|(key, slot)| slot.changed && range.behind(None, direction).contains(key))
            .map(|(key, slot)| (key.clone(), slot.now.clone()))
            .collect();
        changed.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        if direction == Direction::Backward {
            changed.reverse();
        }
        Walk { store: self.store, range, direction, changed: changed.into_iter().peekable() }
    }

    /// The places of the existing keys of a range, in key order.
    pub(crate) fn existing(&mut self, range: StoreRange) -> Result<Vec<usize>> {
        let mut found = Vec::new();
        self.walk(range, Direction::Forward).each(&mut |key, record| {
            found.push((key, record));
            Ok(true)
        })?;
        let place = |(key, record): (Bytes, Record)| match self.places.find(&self.keys, &key[1..]) {
            Some(place) => place,
            None => self.insert(key, Some(record)),
        };
        Ok(found.into_iter().map(place).collect())
    }

    /// The batch that makes the changes of the records and of their leases, and what watchers are told.
    pub(crate) fn finish(self) -> (WriteBatch, Vec<Change>, Bookkeeping) {
        let mut batch = WriteBatch { ops: Vec::with_capacity(self.slots.len() + 1) };
        for (key, slot) in self.keys.into_iter().zip(self.slots).filter(|(_, slot)| slot.changed) {
            let lease = slot.now.as_ref().map_or(0, |record| record.lease);
            if lease != slot.stored_lease {
                if slot.stored_lease != 0 {
                    batch.delete(leased_key(slot.stored_lease, &key[1..]));
                }
                if lease != 0 {
                    batch.put(leased_key(lease, &key[1..]), Bytes::new());
                }
            }
            match slot.now {
                Some(record) => batch.put(key, record.into_bytes()),
                None if slot.stored => batch.delete(key),
                None => {}
            }
        }
        (batch, self.changes, self.book)
    }
}

/// The keys of a range with the changes of a chunk in it.
pub(crate) struct Walk<'a> {
    store: &'a dyn KvStore,
    range: StoreRange,
    direction: Direction,
    changed: std::iter::Peekable<std::vec::IntoIter<(Bytes, Option<Record>)>>,
}

impl Walk<'_> {
    /// Calls `f` with each existing key of the store, and its record, until it says no more.
    pub(crate) fn each(mut self, f: &mut dyn FnMut(Bytes, Record) -> Result<bool>) -> Result<()> {
        let view = Present(self.store);
        let mut scan = Scan::new(&view, self.range.clone(), self.direction, usize::MAX);
        while let Some((key, value)) = scan.next_pair()? {
            if !self.changes_before(Some(&key), f)? {
                return Ok(());
            }
            let record = match self.changed.next_if(|(changed, _)| *changed == key) {
                Some((_, record)) => record,
                None => Some(Record::decode(value)?),
            };
            if let Some(record) = record
                && !f(key, record)?
            {
                return Ok(());
            }
        }
        self.changes_before(None, f).map(|_| ())
    }

    /// The changed keys in front of `key`, or all that are left; whether to go on.
    fn changes_before(
        &mut self,
        key: Option<&Bytes>,
        f: &mut dyn FnMut(Bytes, Record) -> Result<bool>,
    ) -> Result<bool> {
        let direction = self.direction;
        let is_before = |changed: &Bytes| match (key, direction) {
            (None, _) => true,
            (Some(key), Direction::Forward) => changed < key,
            (Some(key), Direction::Backward) => changed > key,
        };
        while let Some((key, record)) = self.changed.next_if(|(changed, _)| is_before(changed)) {
            if let Some(record) = record
                && !f(key, record)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
