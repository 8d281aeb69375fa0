//! A watch of every key, which is held to what it promises: each change once, in the order of revisions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use d_engine_net::{Client, ClientError, KvChange, Reason, Watch, Watched};
use d_engine_test_suite::history::Change;
use tokio::time::sleep;

use crate::load::{PREFIX, key_of, number};

/// What one watch was told.
#[derive(Default)]
pub(crate) struct Told {
    /// Everything up to this revision was told, or is known to be missing.
    pub(crate) revision: AtomicU64,
    state: Mutex<State>,
    pub(crate) compacted: AtomicU64,
}

#[derive(Default)]
struct State {
    changes: Vec<Change>,
    /// A revision of which more is to come.
    unfinished: Option<u64>,
    violations: Vec<String>,
}

impl Told {
    pub(crate) fn take(&self) -> (Vec<Change>, Vec<String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut state.changes), std::mem::take(&mut state.violations))
    }

    fn accept(&self, revision: u64, changes: &[KvChange], more: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.revision.load(Ordering::Acquire);
        // Every revision changes one of the keys that are watched, so none may be left out.
        if revision != before + 1 && !(before == 0 && state.changes.is_empty()) {
            state.violations.push(format!("a watch was told revision {revision} after {before}"));
        }
        for change in changes {
            let value = match change {
                KvChange::Put { record, .. } => Some(number(&record.value)),
                _ => None,
            };
            let change = Change { revision, key: key_of(change.key()), value };
            if state.unfinished == Some(revision) && state.changes.contains(&change) {
                state.violations.push(format!("a watch was told {change:?} twice"));
            }
            state.changes.push(change);
        }
        state.unfinished = more.then_some(revision);
        if !more {
            self.revision.store(revision, Ordering::Release);
        }
    }

    /// What was to come is not kept any more.
    fn skip_to(&self, first_revision: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Of a revision that was told in part the rest is missing: it is as if it had not been told.
        if let Some(unfinished) = state.unfinished.take() {
            state.changes.retain(|change| change.revision != unfinished);
        }
        self.compacted.fetch_add(1, Ordering::Relaxed);
        self.revision.fetch_max(first_revision.saturating_sub(1), Ordering::AcqRel);
    }
}

/// Watches until it is dropped.
pub(crate) async fn watch(client: Client, told: Arc<Told>) {
    loop {
        let since = told.revision.load(Ordering::Acquire) + 1;
        let opened = client.watch(Watch::prefix(PREFIX).since(since)).await;
        let mut watcher = match opened {
            Ok(watcher) => watcher,
            Err(error) => {
                pause_or_skip(&told, &error).await;
                continue;
            }
        };
        loop {
            match watcher.next().await {
                Ok(Watched::Changes { revision, changes, more }) => told.accept(revision, &changes, more),
                Ok(_) => {}
                Err(error @ ClientError::Rejected { .. }) => {
                    pause_or_skip(&told, &error).await;
                    break;
                }
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

async fn pause_or_skip(told: &Told, error: &ClientError) {
    if let ClientError::Rejected { why: Reason::Compacted { first_revision } } = error {
        told.skip_to(*first_revision);
    }
    sleep(Duration::from_millis(50)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delete(key: &'static str) -> KvChange {
        KvChange::Delete { key: key.into(), prev: None }
    }

    #[test]
    fn a_doubled_and_a_missing_event_are_found() {
        let told = Told::default();
        told.accept(1, &[delete("chaos/1")], false);
        told.accept(2, &[delete("chaos/1")], true);
        told.accept(2, &[delete("chaos/2")], false);
        assert_eq!(told.take().1, Vec::<String>::new());
        told.accept(2, &[delete("chaos/2")], false);
        assert!(told.take().1[0].contains("revision 2 after 2"));
        told.accept(4, &[delete("chaos/2")], false);
        assert!(told.take().1[0].contains("revision 4 after 2"));
        told.accept(5, &[delete("chaos/1")], true);
        told.accept(5, &[delete("chaos/1")], false);
        assert!(told.take().1[0].contains("twice"));
    }

    #[test]
    fn what_is_not_kept_any_more_is_no_violation() {
        let told = Told::default();
        told.accept(1, &[delete("chaos/1")], false);
        told.accept(2, &[delete("chaos/1")], true);
        told.skip_to(9);
        told.accept(9, &[delete("chaos/1")], false);
        let (changes, violations) = told.take();
        assert_eq!((changes.iter().map(|c| c.revision).collect::<Vec<_>>(), violations), (vec![1, 9], vec![]));
    }
}
