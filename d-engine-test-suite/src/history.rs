//! Whether what clients were told by a key-value store can have happened in one order: linearizability.
//!
//! Two checks that know nothing of each other. [`witness`] believes the revisions that the answers carry, and verifies in
//! linear time that they are an order in which every answer is right. [`black_box`] sees no index and no revision: it
//! searches, for one key at a time, for any order that explains the answers. [`judge`] asks both.
//!
//! Values are numbers, and every put of a history has its own: a value that was read names its writer. What a store keeps for
//! a number is the caller's business.

mod black_box;
mod witness;

use std::collections::{BTreeMap, BTreeSet};

pub use black_box::{Verdict, black_box};
pub use witness::witness;

/// What is wrong with a history by either check, in words; empty: it is linearizable. That the search found no verdict within
/// `steps_max` for a key is wrong too. `changes` are what watches told, as for [`witness`].
pub fn judge(operations: &[Operation], changes: &[Change], steps_max: u64) -> Vec<String> {
    let mut wrong = witness(operations, changes);
    let mut of_keys: BTreeMap<Key, Vec<Operation>> = BTreeMap::new();
    for operation in operations {
        for key in operation.keys() {
            of_keys.entry(key).or_default().push(operation.clone());
        }
    }
    for (key, operations) in &of_keys {
        match black_box(operations, *key, steps_max) {
            Verdict::Linearizable => {}
            Verdict::Violated => wrong.push(format!("key {key}: no order explains what its clients were told")),
            Verdict::Unknown => wrong.push(format!("key {key}: no verdict within {steps_max} steps")),
        }
    }
    wrong
}

/// The keys that operations touch.
pub fn keys<'a>(operations: impl IntoIterator<Item = &'a Operation>) -> BTreeSet<Key> {
    operations.into_iter().flat_map(Operation::keys).collect()
}

/// Number of a key.
pub type Key = u32;
/// Number of a value; no two puts of a history have the same.
pub type Value = u64;

/// What a client asked for, and what it was told. Requests that certainly had no effect are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Who asked, for people.
    pub client: u32,
    /// When, on a clock that is common to all operations of the history.
    pub called: u64,
    /// What must hold of keys for `then` to be carried out: their values, or that they do not exist.
    pub when: Vec<(Key, Option<Value>)>,
    /// What is done then, at most one action for each key.
    pub then: Vec<(Key, Action)>,
    /// What is read otherwise.
    pub otherwise: Vec<Key>,
    /// `None`: nobody knows whether it took effect, or whether it still will.
    pub answer: Option<Answer>,
}

/// What is done to one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Its record is read.
    Read,
    /// It is set.
    Put(Value),
    /// It is removed.
    Delete,
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// When.
    pub answered: u64,
    /// Index of the log's entry that the answer belongs to, or up to which it includes all.
    pub index: u64,
    /// The store's revision after the operation.
    pub revision: u64,
    /// Whether everything in `when` held.
    pub succeeded: bool,
    /// What was seen of each key of `then`, or of `otherwise`.
    pub seen: Vec<Seen>,
}

/// What an answer says about one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing.
    Nothing,
    /// Its value and the revision at which that was set; `None`: no such key.
    Record(Option<(Value, u64)>),
    /// Its value; `None`: no such key.
    Value(Option<Value>),
    /// Whether it existed before.
    Existed(bool),
}

/// A change that a watch has told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Change {
    /// The revision.
    pub revision: u64,
    /// The key.
    pub key: Key,
    /// The value that it was set to; `None`: it was removed.
    pub value: Option<Value>,
}

impl Operation {
    fn new(client: u32, called: u64, key: Key, action: Action) -> Self {
        Self { client, called, when: Vec::new(), then: vec![(key, action)], otherwise: Vec::new(), answer: None }
    }

    /// A read of one key.
    pub fn read(client: u32, called: u64, key: Key) -> Self {
        Self::new(client, called, key, Action::Read)
    }

    /// A put.
    pub fn put(client: u32, called: u64, key: Key, value: Value) -> Self {
        Self::new(client, called, key, Action::Put(value))
    }

    /// A delete.
    pub fn delete(client: u32, called: u64, key: Key) -> Self {
        Self::new(client, called, key, Action::Delete)
    }

    /// A compare-and-swap; on failure the key's value is seen.
    pub fn cas(client: u32, called: u64, key: Key, expected: Option<Value>, new: Option<Value>) -> Self {
        let action = new.map_or(Action::Delete, Action::Put);
        Self { when: vec![(key, expected)], otherwise: vec![key], ..Self::new(client, called, key, action) }
    }

    /// The same with an answer.
    #[must_use]
    pub fn answered(mut self, answer: Answer) -> Self {
        self.answer = Some(answer);
        self
    }

    /// The keys that it touches.
    pub fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.when.iter().map(|(key, _)| *key).collect();
        keys.extend(self.then.iter().map(|(key, _)| *key));
        keys.extend(&self.otherwise);
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Whether it may change something.
    pub fn is_write(&self) -> bool {
        self.then.iter().any(|(_, action)| *action != Action::Read)
    }

    /// What it changed, as far as the answer says; nothing without one.
    fn changes(&self) -> Vec<(Key, Option<Value>)> {
        let Some(answer) = self.answer.as_ref().filter(|answer| answer.succeeded) else { return Vec::new() };
        let effect = |(place, (key, action)): (usize, &(Key, Action))| match action {
            Action::Read => None,
            Action::Put(value) => Some((*key, Some(*value))),
            // A compare-and-swap that removes a key has found it, unless it was to find none.
            Action::Delete => match answer.seen.get(place) {
                Some(Seen::Existed(existed)) => existed.then_some((*key, None)),
                _ => self.when.contains(&(*key, None)).then_some(()).map_or(Some((*key, None)), |()| None),
            },
        };
        self.then.iter().enumerate().filter_map(effect).collect()
    }
}
