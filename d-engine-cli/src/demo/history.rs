//! The demo's history: a few clients that contend for a few keys while the leader is killed, and everything they were told.
//!
//! Afterwards two checks that know nothing of each other look for an order that explains all of the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use d_engine_net::{Client, ClientError, Got};
use d_engine_test_suite::history::{Answer, Key, Operation, Seen, Value, judge};
use tokio::task::JoinSet;
use tokio::time::sleep;

const CLIENTS: u32 = 6;
const KEYS: Key = 4;
/// Between two requests of a client: what the search can take is about a thousand operations for each key.
const PAUSE: Duration = Duration::from_millis(10);
/// Operations of one client, at most.
const OPERATIONS_MAX: usize = 600;
/// Of the search, for each key; more of them would take minutes.
const STEPS_MAX: u64 = 20_000_000;

/// Clients at work.
pub(super) struct History {
    tasks: JoinSet<Result<Vec<Operation>, String>>,
    stop: Arc<AtomicBool>,
}

/// What the checks found.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) operations: u64,
    /// Everything that no order explains, in words; also what could not be decided.
    pub(super) wrong: Vec<String>,
}

impl History {
    pub(super) fn begin(client: &Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let values = Arc::new(AtomicU64::new(1));
        let origin = Instant::now();
        let mut tasks = JoinSet::new();
        for number in 0..CLIENTS {
            let recorder = Recorder { client: client.clone(), number, origin, values: Arc::clone(&values) };
            tasks.spawn(recorder.run(Arc::clone(&stop)));
        }
        Self { tasks, stop }
    }

    /// Ends the clients and judges what they were told.
    pub(super) async fn end(mut self) -> Result<Checked, String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut operations = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            operations.extend(ended.map_err(|error| format!("a client of the history ended: {error}"))??);
        }
        tokio::task::spawn_blocking(move || check(&operations)).await.map_err(|error| error.to_string())
    }
}

fn check(operations: &[Operation]) -> Checked {
    Checked { operations: operations.len() as u64, wrong: judge(operations, &[], STEPS_MAX) }
}

/// One client of the history.
struct Recorder {
    client: Client,
    number: u32,
    origin: Instant,
    /// The next value; no two puts have the same.
    values: Arc<AtomicU64>,
}

impl Recorder {
    async fn run(self, stop: Arc<AtomicBool>) -> Result<Vec<Operation>, String> {
        let mut operations = Vec::new();
        let mut last_seen = None;
        while operations.len() < OPERATIONS_MAX && !stop.load(Ordering::Relaxed) {
            let turn = operations.len();
            let key = (self.number + u32::try_from(turn).unwrap_or_default() / 3) % KEYS;
            let called = self.now();
            let (operation, answer) = match turn % 3 {
                0 => self.read(called, key, &mut last_seen).await,
                1 => self.swap(called, key, last_seen.take()).await,
                _ if turn % 12 == 11 => self.delete(called, key).await,
                _ => self.put(called, key).await,
            };
            match answer {
                Ok(answer) => operations.push(operation.answered(answer)),
                Err(ClientError::Unknown) => operations.push(operation),
                Err(error @ ClientError::Rejected { .. }) => return Err(format!("a request was rejected: {error}")),
                // It had no effect.
                Err(_) => {}
            }
            sleep(PAUSE).await;
        }
        Ok(operations)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn answer(&self, index: u64, revision: u64, succeeded: bool, seen: Seen) -> Answer {
        Answer { answered: self.now(), index, revision, succeeded, seen: vec![seen] }
    }

    fn value(&self) -> Value {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    async fn read(&self, called: u64, key: Key, last_seen: &mut Option<Value>) -> Told {
        let answer = self.client.get(name(key)).await.map(|got| {
            let seen = record(&got);
            *last_seen = seen.map(|(value, _)| value);
            self.answer(got.index, got.revision, true, Seen::Record(seen))
        });
        (Operation::read(self.number, called, key), answer)
    }

    /// Changes what this client read before; of another key, or when others were faster, it fails.
    async fn swap(&self, called: u64, key: Key, expected: Option<Value>) -> Told {
        let value = self.value();
        let bytes = |value: Value| value.to_string().into();
        let answer = self.client.cas(name(key), expected.map(bytes), Some(bytes(value))).await.map(|swapped| {
            let seen = match swapped.succeeded {
                true => Seen::Nothing,
                false => Seen::Value(swapped.current.as_deref().map(number)),
            };
            self.answer(swapped.index, swapped.revision, swapped.succeeded, seen)
        });
        (Operation::cas(self.number, called, key, expected, Some(value)), answer)
    }

    async fn put(&self, called: u64, key: Key) -> Told {
        let value = self.value();
        let written = self.client.put(name(key), value.to_string()).await;
        let answer = written.map(|written| self.answer(written.index, written.revision, true, Seen::Nothing));
        (Operation::put(self.number, called, key, value), answer)
    }

    async fn delete(&self, called: u64, key: Key) -> Told {
        let deleted = self.client.delete(name(key)).await;
        let answer =
            deleted.map(|deleted| self.answer(deleted.index, deleted.revision, true, Seen::Existed(deleted.existed)));
        (Operation::delete(self.number, called, key), answer)
    }
}

/// What was asked, and what was told.
type Told = (Operation, Result<Answer, ClientError>);

fn record(got: &Got) -> Option<(Value, u64)> {
    got.record.as_ref().map(|record| (number(&record.value), record.mod_revision))
}

/// The value in a key of the history; `u64::MAX`, which nobody has written, for bytes that are none.
fn number(bytes: &[u8]) -> Value {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

fn name(key: Key) -> String {
    format!("history/{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_read_is_found_by_both_checks() {
        let answer =
            |answered, index, seen| Answer { answered, index, revision: index, succeeded: true, seen: vec![seen] };
        let first = Operation::put(1, 1, 0, 7).answered(answer(2, 1, Seen::Nothing));
        let second = Operation::put(1, 3, 0, 8).answered(answer(4, 2, Seen::Nothing));
        let read =
            |value, index| Operation::read(2, 5, 0).answered(answer(6, index, Seen::Record(Some((value, index)))));
        let right = check(&[first.clone(), second.clone(), read(8, 2)]);
        assert_eq!((right.operations, right.wrong.len()), (3, 0), "{:?}", right.wrong);
        let stale = check(&[first, second, read(7, 1)]);
        assert!(stale.wrong.len() >= 2, "{:?}", stale.wrong);
    }
}
