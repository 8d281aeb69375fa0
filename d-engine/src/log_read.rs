//! One read of old entries from the log, which is answered whatever happens to it.

use std::ops::RangeInclusive;
use std::sync::Arc;

use d_engine_core::{Entry, Error, LogStore};
use d_engine_raft::{Event, Input};
use tokio::runtime::Handle;

use crate::inbox::Inbox;

/// A read that the driver waits for.
pub(crate) struct LogRead {
    pub(crate) log: Arc<dyn LogStore>,
    pub(crate) range: RangeInclusive<u64>,
    pub(crate) max_bytes: usize,
    pub(crate) answer: Answer,
}

impl LogRead {
    /// Reads and answers; blocks.
    pub(crate) fn run(self, runtime: &Handle) {
        let Self { log, range, max_bytes, answer } = self;
        let read = runtime.block_on(log.read_limited(range.clone(), max_bytes));
        // Whoever hears of the answer finds that the log is not held any more.
        drop(log);
        if let Err(error) = &read {
            tracing::warn!(%error, first = range.start(), last = range.end(), "entries of the log cannot be read");
            if matches!(error, Error::Corrupt { .. }) {
                // What was durable is damaged: no promise of this node can be trusted.
                answer.inbox.complete(Input::StorageFailed { why: format!("reading the log: {error}") });
            }
        }
        answer.give(read.map_err(|error| error.to_string()));
    }
}

/// The answer that is owed to the driver. Dropped without one, by a panic or by the end of the application's runtime, it
/// says so: a message that waits for the entries would hold back all that follow.
pub(crate) struct Answer {
    inbox: Arc<Inbox>,
    ticket: Option<u64>,
}

impl Answer {
    pub(crate) fn new(inbox: Arc<Inbox>, ticket: u64) -> Self {
        Self { inbox, ticket: Some(ticket) }
    }

    fn give(mut self, entries: Result<Vec<Entry>, String>) {
        if let Some(ticket) = self.ticket.take() {
            self.inbox.complete(Event::LogRead { ticket, entries });
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            tracing::warn!(ticket, "a read of the log was cut off");
            self.inbox.complete(Event::LogRead { ticket, entries: Err("the read was cut off".into()) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use d_engine_core::LogId;

    use crate::inbox::{Bounds, Inbound};

    /// Fails as it is told.
    struct Sick(fn() -> Error);

    #[async_trait]
    impl LogStore for Sick {
        async fn persist_entries(&self, _: Vec<Entry>) -> Result<(), Error> {
            Err(self.0())
        }
        async fn entry(&self, _: u64) -> Result<Option<Entry>, Error> {
            Err(self.0())
        }
        async fn get_entries(&self, _: RangeInclusive<u64>) -> Result<Vec<Entry>, Error> {
            Err(self.0())
        }
        async fn purge(&self, _: LogId) -> Result<(), Error> {
            Err(self.0())
        }
        async fn truncate(&self, _: u64) -> Result<(), Error> {
            Err(self.0())
        }
        async fn flush(&self) -> Result<(), Error> {
            Err(self.0())
        }
        async fn reset(&self) -> Result<(), Error> {
            Err(self.0())
        }
        fn last_index(&self) -> u64 {
            9
        }
        fn purged(&self) -> LogId {
            LogId::default()
        }
    }

    /// What the driver hears of a read of such a log.
    fn heard(fault: fn() -> Error) -> Vec<Event> {
        let inbox = Arc::new(Inbox::new(Bounds { callers: 1, bytes: 1, messages: 1 }));
        let answer = Answer::new(Arc::clone(&inbox), 7);
        let read = LogRead { log: Arc::new(Sick(fault)), range: 1..=9, max_bytes: 100, answer };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let handle = runtime.handle().clone();
        let _ = runtime.block_on(runtime.spawn_blocking(move || read.run(&handle)));
        let mut taken = Vec::new();
        inbox.take_all(&mut taken);
        let event = |inbound| match inbound {
            Inbound::Event(event) => *event,
            _ => panic!("no event"),
        };
        taken.into_iter().map(event).collect()
    }

    #[test]
    fn a_read_that_panics_is_answered() {
        let events = heard(|| panic!("the head of the drive has landed"));
        assert!(matches!(&events[..], [Event::LogRead { ticket: 7, entries: Err(_) }]), "{events:?}");
    }

    #[test]
    fn damage_stops_the_node_and_other_errors_do_not() {
        let events = heard(|| Error::corrupt("segment 4"));
        let [Event::Input(Input::StorageFailed { why }), Event::LogRead { ticket: 7, entries: Err(_) }] = &events[..]
        else {
            panic!("{events:?}")
        };
        assert!(why.contains("segment 4"), "{why}");
        let events = heard(|| Error::Compacted { first: 5 });
        assert!(matches!(&events[..], [Event::LogRead { ticket: 7, entries: Err(_) }]), "{events:?}");
    }
}
