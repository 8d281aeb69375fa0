//! The clients: every one asks, waits for the answer, and writes both down.
//!
//! Eight clients share a pair of keys and go on to the next pair before a key has had a thousand operations or many
//! whose fate nobody knows, so that the search for an order stays short.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use d_engine_net::{Client, ClientError, ClientOptions, Delete, Got, KvOpResult, Put, Range, Relation, Result, Txn};
use d_engine_test_suite::history::{self, Action, Answer, Key, Operation, Seen, Value};
use tokio::task::JoinSet;
use tokio::time::sleep;

const GROUPS: u32 = 6;
const CLIENTS: u32 = 8;
/// With the last reads there are at most a thousand.
const OPERATIONS_PER_KEY: u32 = 990;
const UNKNOWN_PER_KEY: u32 = 8;
const TIMEOUT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// What all clients share.
pub(crate) struct Book {
    origin: Instant,
    next_key: AtomicU64,
    next_value: AtomicU64,
    stop: AtomicBool,
    operations: Mutex<Vec<Operation>>,
    pub(crate) unknown: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// What no fault explains.
    wrong: Mutex<Vec<String>>,
}

impl Book {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            origin: Instant::now(),
            next_key: 2.into(),
            next_value: 1.into(),
            stop: false.into(),
            operations: Mutex::default(),
            unknown: 0.into(),
            refused: 0.into(),
            wrong: Mutex::default(),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX - 1)
    }

    fn write_down(&self, operation: Operation) {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
    }

    pub(crate) fn stop(&self, stop: bool) {
        self.stop.store(stop, Ordering::Relaxed);
    }

    /// What was written down so far.
    pub(crate) fn take(&self) -> (Vec<Operation>, Vec<String>) {
        let operations = std::mem::take(&mut *self.operations.lock().unwrap_or_else(PoisonError::into_inner));
        (operations, std::mem::take(&mut *self.wrong.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// The keys of what was written down so far.
    pub(crate) fn keys(&self) -> BTreeSet<Key> {
        let operations = self.operations.lock().unwrap_or_else(PoisonError::into_inner);
        history::keys(operations.iter())
    }

    pub(crate) fn count(&self) -> usize {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// The keys that a group works on.
struct Keys {
    first: Key,
    operations: u32,
    unknown: u32,
}

/// All groups at work until the book says stop.
pub(crate) fn begin(book: &Arc<Book>, addresses: &[String]) -> Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    for group in 0..GROUPS {
        let keys = Arc::new(Mutex::new(Keys { first: 0, operations: OPERATIONS_PER_KEY, unknown: 0 }));
        let options = ClientOptions::default().timeout(TIMEOUT);
        let with_session = Client::with_options(addresses, options.clone())?;
        let without = Client::with_options(addresses, options.without_session())?;
        for number in 0..CLIENTS {
            let client = if number % 2 == 0 { with_session.clone() } else { without.clone() };
            let worker = Worker {
                book: Arc::clone(book),
                keys: Arc::clone(&keys),
                client,
                number: group * CLIENTS + number,
                known: [None; 2],
            };
            tasks.spawn(worker.run());
        }
    }
    Ok(tasks)
}

struct Worker {
    book: Arc<Book>,
    keys: Arc<Mutex<Keys>>,
    client: Client,
    number: u32,
    /// What it last saw of its two keys.
    known: [Option<Value>; 2],
}

impl Worker {
    async fn run(mut self) {
        while !self.book.stop.load(Ordering::Relaxed) {
            let first = self.pair();
            let place = fastrand::usize(..2);
            let key = first + place as Key;
            let operation = self.some_operation(first, place, key);
            match ask(&self.client, operation.clone(), &self.book).await {
                Ok(answered) => {
                    self.learn(first, &answered);
                    self.book.write_down(answered);
                }
                Err(ClientError::Unknown) => {
                    self.book.unknown.fetch_add(1, Ordering::Relaxed);
                    self.keys.lock().unwrap_or_else(PoisonError::into_inner).unknown += 1;
                    self.book.write_down(operation);
                }
                Err(error @ ClientError::Rejected { .. }) => {
                    let text = format!("{operation:?} was rejected: {error}");
                    self.book.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                    sleep(PAUSE).await;
                }
                Err(_) => {
                    self.book.refused.fetch_add(1, Ordering::Relaxed);
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// The first of the two keys; one more operation on them.
    fn pair(&mut self) -> Key {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.operations >= OPERATIONS_PER_KEY || keys.unknown >= UNKNOWN_PER_KEY {
            let next = self.book.next_key.fetch_add(2, Ordering::Relaxed);
            *keys = Keys { first: Key::try_from(next).unwrap_or(Key::MAX), operations: 0, unknown: 0 };
        }
        keys.operations += 1;
        keys.first
    }

    fn some_operation(&self, first: Key, place: usize, key: Key) -> Operation {
        let value = || self.book.next_value.fetch_add(1, Ordering::Relaxed);
        let known = self.known[place];
        let called = self.book.now();
        match fastrand::u8(..20) {
            0..9 => Operation::read(self.number, called, key),
            9..14 => Operation::put(self.number, called, key, value()),
            14..16 => Operation::delete(self.number, called, key),
            16..18 => Operation::cas(self.number, called, key, known, Some(value())),
            _ => Operation {
                client: self.number,
                called,
                when: vec![(key, known)],
                then: vec![(first, Action::Put(value())), (first + 1, Action::Put(value()))],
                otherwise: vec![first, first + 1],
                answer: None,
            },
        }
    }

    fn learn(&mut self, first: Key, operation: &Operation) {
        let Some(answer) = &operation.answer else { return };
        let keys: Vec<Key> = if answer.succeeded {
            operation.then.iter().map(|(key, _)| *key).collect()
        } else {
            operation.otherwise.clone()
        };
        for (place, key) in keys.into_iter().enumerate() {
            let done = operation.then.get(place).filter(|_| answer.succeeded).map(|(_, action)| *action);
            let Some(known) = self.known.get_mut(key.wrapping_sub(first) as usize) else { continue };
            match (done, answer.seen.get(place)) {
                (Some(Action::Put(value)), _) => *known = Some(value),
                (Some(Action::Delete), _) => *known = None,
                (_, Some(Seen::Record(record))) => *known = record.map(|(value, _)| value),
                (_, Some(Seen::Value(value))) => *known = *value,
                _ => {}
            }
        }
    }
}

/// Carries an operation out.
pub(crate) async fn ask(client: &Client, operation: Operation, book: &Book) -> Result<Operation> {
    let (key, action) = operation.then[0];
    let (index, revision, succeeded, seen) = if operation.then.len() > 1 {
        let mut txn = Txn::new();
        for (key, expected) in &operation.when {
            txn = match expected {
                Some(value) => txn.if_value(name(*key), Relation::Equal, text(*value)),
                None => txn.if_absent(name(*key)),
            };
        }
        for (key, action) in &operation.then {
            txn = match action {
                Action::Put(value) => txn.then(Put::new(name(*key), text(*value))),
                Action::Delete => txn.then(Delete::key(name(*key))),
                Action::Read => txn.then(Range::key(name(*key))),
            };
        }
        txn = operation.otherwise.iter().fold(txn, |txn, key| txn.otherwise_get(name(*key)));
        let decided = client.txn(txn).await?;
        let seen = decided.results.iter().map(of_result).collect();
        (decided.index, decided.revision, decided.succeeded, seen)
    } else if let Some((_, expected)) = operation.when.first() {
        let new = if let Action::Put(value) = action { Some(text(value)) } else { None };
        let swapped = client.cas(name(key), expected.map(text), new).await?;
        let seen = if swapped.succeeded { Seen::Nothing } else { Seen::Value(swapped.current.as_deref().map(number)) };
        (swapped.index, swapped.revision, swapped.succeeded, vec![seen])
    } else {
        match action {
            Action::Read => {
                let got = client.get(name(key)).await?;
                (got.index, got.revision, true, vec![record(&got)])
            }
            Action::Put(value) => {
                let written = client.put(name(key), text(value)).await?;
                (written.index, written.revision, true, vec![Seen::Nothing])
            }
            Action::Delete => {
                let deleted = client.delete(name(key)).await?;
                (deleted.index, deleted.revision, true, vec![Seen::Existed(deleted.existed)])
            }
        }
    };
    Ok(operation.answered(Answer { answered: book.now(), index, revision, succeeded, seen }))
}

/// Reads every key once more, when all is quiet.
pub(crate) async fn read_all(client: &Client, book: &Book, keys: impl IntoIterator<Item = Key>) -> Result<()> {
    for key in keys {
        let operation = ask(client, Operation::read(u32::MAX, book.now(), key), book).await?;
        book.write_down(operation);
    }
    Ok(())
}

fn of_result(result: &KvOpResult) -> Seen {
    match result {
        KvOpResult::Range { records, .. } => {
            Seen::Record(records.first().map(|record| (number(&record.value), record.mod_revision)))
        }
        KvOpResult::Deleted { deleted, .. } => Seen::Existed(*deleted > 0),
        _ => Seen::Nothing,
    }
}

fn record(got: &Got) -> Seen {
    Seen::Record(got.record.as_ref().map(|record| (number(&record.value), record.mod_revision)))
}

pub(crate) const PREFIX: &str = "chaos/";

fn name(key: Key) -> Bytes {
    format!("{PREFIX}{key:08}").into()
}

/// The key of a name; one that nobody uses for other names.
pub(crate) fn key_of(name: &[u8]) -> Key {
    let digits = name.strip_prefix(PREFIX.as_bytes()).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(Key::MAX)
}

/// What the store keeps for a value: of different lengths, and its number in every part.
fn text(value: Value) -> Bytes {
    format!("{value:016x}").repeat(1 + (value % 13) as usize).into()
}

/// The value of what the store keeps; one that nobody writes for anything else.
pub(crate) fn number(kept: &[u8]) -> Value {
    let digits = kept.get(..16).and_then(|digits| std::str::from_utf8(digits).ok());
    let value = digits.and_then(|digits| Value::from_str_radix(digits, 16).ok());
    value.filter(|value| text(*value) == kept).unwrap_or(Value::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_again_only_if_it_is_whole() {
        let kept = text(25);
        assert_eq!((number(&kept), key_of(&name(7))), (25, 7));
        assert_eq!(number(&kept[..kept.len() - 1]), Value::MAX);
        assert_eq!((number(b""), key_of(b"other")), (Value::MAX, Key::MAX));
    }
}
