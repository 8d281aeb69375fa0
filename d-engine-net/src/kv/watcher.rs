//! A watch that outlives the nodes it watches on.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use d_engine_core::command::{KvChange, KvWatch, WatchEnd, WatchMessage};
use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};

use super::{KvCalls, WatchStream};
use crate::{ClientError, Reason, Result};

/// Before a watch that broke at once is begun again.
const PAUSE: Duration = Duration::from_millis(100);

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Watched {
    /// Changes of one revision, in the order in which they were made.
    Changes {
        /// The revision.
        revision: u64,
        /// The changes, at least one.
        changes: Vec<KvChange>,
        /// Whether further changes of this revision follow.
        more: bool,
    },
    /// Every change up to this revision has been told; only if it was asked for.
    Progress {
        /// The revision.
        revision: u64,
    },
}

/// A watch: every change of its keys, each once and in the order of revisions.
///
/// When the node that it watches on stops, fails, cannot be reached or no longer keeps the changes that come next, it goes on
/// at another one, at the change after the last one that was told. So it does when it was ended because its messages were
/// not taken in time, as long as the changes are still kept. Dropping it ends the watch.
pub struct Watcher {
    calls: Arc<dyn KvCalls>,
    watch: KvWatch,
    stream: Option<WatchStream>,
    place: Place,
    revision: u64,
}

impl Watcher {
    /// Returns once the watch has begun: changes that are made afterwards are told.
    pub(super) async fn begin(calls: Arc<dyn KvCalls>, watch: KvWatch) -> Result<Self> {
        watch.check()?;
        let place = Place { next: watch.from_revision, told: 0, skip: 0 };
        let mut watcher = Self { calls, watch, stream: None, place, revision: 0 };
        watcher.reopen().await?;
        Ok(watcher)
    }

    /// The store's revision when the watch began, as the asked node knew it.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The next message. Cancel safe.
    ///
    /// # Errors
    /// `Rejected` with `Compacted`: no node that can be reached keeps the changes that were to come next; read the keys and
    /// watch from there. `Unavailable`: no node could be reached within the time of one call; the next call goes on trying.
    /// `ShuttingDown`: the node in process has ended, and its watches with it.
    pub async fn next(&mut self) -> Result<Watched> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.reopen().await?;
                continue;
            };
            let message = match stream.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    tracing::debug!(%error, "a watch broke");
                    self.stream = None;
                    sleep(PAUSE).await;
                    continue;
                }
                None => {
                    self.stream = None;
                    continue;
                }
            };
            match message {
                WatchMessage::Changes { revision, changes, more } => {
                    let changes = self.place.accept(revision, changes, more);
                    if !changes.is_empty() {
                        return Ok(Watched::Changes { revision, changes, more });
                    }
                }
                WatchMessage::Progress { revision } => {
                    let is_news = self.place.pass(revision);
                    if is_news && self.watch.progress {
                        return Ok(Watched::Progress { revision });
                    }
                }
                WatchMessage::Ended(end) => self.ended(end).await,
                _ => {}
            }
        }
    }

    async fn ended(&mut self, end: WatchEnd) {
        self.stream = None;
        // It goes on where it was, as long as the changes are kept, by this node or another one.
        if !matches!(end, WatchEnd::Slow { .. }) {
            sleep(PAUSE).await;
        }
    }

    /// Begins, or goes on, on whichever node takes it.
    async fn reopen(&mut self) -> Result<()> {
        self.place.restart();
        let mut watch = self.watch.clone();
        watch.from_revision = self.place.next;
        let mut stream = self.calls.watch(watch).await?;
        let late = || ClientError::unavailable("the asked node took the watch and did not begin it");
        let first = timeout(self.calls.timeout(), stream.next()).await.map_err(|_| late())?;
        match first {
            Some(Ok(WatchMessage::Created { revision })) => {
                self.place.begin(revision);
                if self.revision == 0 {
                    self.revision = revision;
                }
            }
            Some(Ok(WatchMessage::Ended(WatchEnd::Compacted { first_revision }))) => {
                return Err(Reason::Compacted { first_revision }.into());
            }
            Some(Ok(WatchMessage::Ended(end))) => return Err(ClientError::unavailable(end.to_string())),
            Some(Ok(_)) => return Err(late()),
            Some(Err(error)) => return Err(error),
            None => return Err(ClientError::unavailable("the asked node ended the watch at once")),
        }
        self.stream = Some(stream);
        Ok(())
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("watch", &self.watch)
            .field("next_revision", &self.place.next)
            .finish_non_exhaustive()
    }
}

/// How far a watcher has come.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// The revision that comes next, or that some changes of are still to come; 0: whatever comes first.
    next: u64,
    /// How many of its changes have been told.
    told: usize,
    /// How many of its changes come again, because the stream was begun anew at it. Every replica tells them in one order.
    skip: usize,
}

impl Place {
    /// A stream begins at `next`.
    fn restart(&mut self) {
        self.skip = self.told;
    }

    /// The stream has begun; one that began at no certain revision tells what comes after this one.
    fn begin(&mut self, revision: u64) {
        if self.next == 0 {
            self.next = revision + 1;
        }
    }

    /// What of a message is new.
    fn accept(&mut self, revision: u64, changes: Vec<KvChange>, more: bool) -> Vec<KvChange> {
        if revision < self.next {
            return Vec::new();
        }
        if revision > self.next {
            *self = Self { next: revision, told: 0, skip: 0 };
        }
        let mut changes = VecDeque::from(changes);
        let again = self.skip.min(changes.len());
        changes.drain(..again);
        self.skip -= again;
        self.told += changes.len();
        if !more {
            *self = Self { next: revision + 1, told: 0, skip: 0 };
        }
        changes.into()
    }

    /// Everything up to `revision` has been told; whether that is news.
    fn pass(&mut self, revision: u64) -> bool {
        let is_news = revision >= self.next;
        if is_news {
            *self = Self { next: revision + 1, told: 0, skip: 0 };
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use d_engine_core::{KvAnswer, KvOutcome, KvQuery, KvRequest, LogId};
    use futures_util::stream;
    use tokio::time::Instant;

    use super::*;
    use crate::ReadMode;
    use crate::peer::lock;

    type Told = Vec<Result<WatchMessage>>;

    /// Nodes that tell what they are told to, one after the other.
    #[derive(Default)]
    struct Nodes {
        streams: Mutex<VecDeque<Told>>,
        asked_from: Mutex<Vec<u64>>,
    }

    #[async_trait]
    impl KvCalls for Nodes {
        async fn propose(&self, _: KvRequest, _: Instant) -> Result<(LogId, KvOutcome)> {
            Err(ClientError::Busy)
        }
        async fn ask(&self, _: KvQuery, _: ReadMode) -> Result<(LogId, KvAnswer)> {
            Err(ClientError::Busy)
        }
        async fn watch(&self, watch: KvWatch) -> Result<WatchStream> {
            lock(&self.asked_from).push(watch.from_revision);
            match lock(&self.streams).pop_front() {
                Some(told) => Ok(Box::pin(stream::iter(told))),
                None => Err(ClientError::ShuttingDown),
            }
        }
        fn timeout(&self) -> Duration {
            Duration::from_secs(1)
        }
    }

    fn created(revision: u64) -> Result<WatchMessage> {
        Ok(WatchMessage::Created { revision })
    }

    fn changes(revision: u64, keys: &[&'static str], more: bool) -> Result<WatchMessage> {
        let change = |key: &&'static str| KvChange::Delete { key: (*key).into(), prev: None };
        Ok(WatchMessage::Changes { revision, changes: keys.iter().map(change).collect(), more })
    }

    fn ended(end: WatchEnd) -> Result<WatchMessage> {
        Ok(WatchMessage::Ended(end))
    }

    /// Everything that a watcher of these nodes is told, as `revision key`, the error at the end, and where it began.
    async fn watched(watch: KvWatch, streams: Vec<Told>) -> (Vec<String>, ClientError, Vec<u64>) {
        let nodes = Arc::new(Nodes { streams: Mutex::new(streams.into()), ..Nodes::default() });
        let mut watcher = Watcher::begin(nodes.clone(), watch).await.unwrap();
        let mut seen = Vec::new();
        loop {
            match watcher.next().await {
                Ok(Watched::Changes { revision, changes, .. }) => {
                    seen.extend(changes.iter().map(|change| format!("{revision} {}", change.key().escape_ascii())));
                }
                Ok(Watched::Progress { revision }) => seen.push(format!("{revision}")),
                Err(error) => return (seen, error, lock(&nodes.asked_from).clone()),
            }
        }
    }

    #[tokio::test]
    async fn a_watch_goes_on_at_another_node_with_the_change_after_the_last_one_told() {
        let streams = vec![
            vec![created(4), changes(5, &["a"], false), changes(6, &["b", "c"], true), ended(WatchEnd::Stopped)],
            // Another node, which may be behind, tells the revision that was told in part from its beginning.
            vec![created(3), changes(6, &["b"], true), changes(6, &["c", "d"], true), Err(ClientError::Unknown)],
            vec![created(9), changes(6, &["b", "c", "d", "e"], false), changes(8, &["f"], false)],
        ];
        let (seen, error, asked_from) = watched(KvWatch::default(), streams).await;
        assert_eq!(seen, ["5 a", "6 b", "6 c", "6 d", "6 e", "8 f"]);
        assert_eq!((error, asked_from), (ClientError::ShuttingDown, vec![0, 6, 6, 9]));
    }

    #[tokio::test]
    async fn a_watch_of_the_present_that_saw_nothing_yet_misses_nothing_later() {
        let streams = vec![vec![created(4)], vec![created(7), changes(5, &["a"], false)]];
        let (seen, _, asked_from) = watched(KvWatch::default(), streams).await;
        assert_eq!((seen, asked_from), (vec!["5 a".to_owned()], vec![0, 5, 6]));
    }

    #[tokio::test]
    async fn a_slow_watcher_goes_on_and_is_told_when_the_changes_are_gone() {
        let mut watch = KvWatch::default();
        (watch.from_revision, watch.progress) = (2, true);
        let streams = vec![
            vec![
                created(9),
                changes(2, &["a"], false),
                Ok(WatchMessage::Progress { revision: 3 }),
                ended(WatchEnd::Slow { next_revision: 4 }),
            ],
            vec![ended(WatchEnd::Compacted { first_revision: 8 })],
        ];
        let (seen, error, asked_from) = watched(watch, streams).await;
        assert_eq!((seen, asked_from), (vec!["2 a".to_owned(), "3".to_owned()], vec![2, 4]));
        assert_eq!(error, Reason::Compacted { first_revision: 8 }.into());
    }
}
