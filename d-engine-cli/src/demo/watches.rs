//! The demo's watches: one on each node, so that one loses its node when the leader is killed.
//!
//! The cluster has no other users, so every revision is one change: a watch that is told every change once and in order is
//! told revisions without a gap.

use std::time::Duration;

use d_engine_net::{Client, ClientError, Watch, Watched, Watcher};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::processes::PATIENCE;

/// Wrong events that are shown in full.
const EXAMPLES: usize = 3;
/// Before a read that was refused is sent again.
const PAUSE: Duration = Duration::from_millis(20);

/// Watches at work.
pub(super) struct Watches {
    tasks: JoinSet<Result<Told, String>>,
    /// The revision to end with, once it is known.
    last: watch::Sender<Option<u64>>,
}

/// What one watch was told, or all of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Changes; of all watches together the fewest.
    pub(super) told: u64,
    /// Changes that were told twice, late, or never.
    pub(super) wrong: u64,
    pub(super) examples: Vec<String>,
}

impl Watches {
    /// Begins so many watches, each on another node: a client takes its nodes in turn.
    pub(super) async fn begin(client: &Client, count: u64) -> Result<Self, String> {
        let (last, known) = watch::channel(None);
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let watcher = client.watch(Watch::all()).await.map_err(|error| format!("no watch began: {error}"))?;
            tasks.spawn(follow(watcher, known.clone()));
        }
        Ok(Self { tasks, last })
    }

    /// Waits until each has been told everything up to now.
    pub(super) async fn end(mut self, client: &Client) -> Result<Told, String> {
        self.last.send_replace(Some(revision(client).await?));
        let mut all = Told { told: u64::MAX, ..Told::default() };
        while let Some(ended) = self.tasks.join_next().await {
            let told = ended.map_err(|error| format!("a watch's task ended: {error}"))??;
            all.told = all.told.min(told.told);
            all.wrong += told.wrong;
            all.examples.extend(told.examples);
        }
        all.examples.truncate(EXAMPLES);
        Ok(all)
    }
}

/// Takes what a watch is told until the last revision was.
async fn follow(mut watcher: Watcher, mut known: watch::Receiver<Option<u64>>) -> Result<Told, String> {
    let mut told = Told::default();
    let mut revision = watcher.revision();
    let mut last = None;
    loop {
        if last.is_some_and(|last| revision >= last) {
            return Ok(told);
        }
        // Without load there may be nothing to tell for as long as an election takes.
        let next = async {
            match last {
                Some(_) => timeout(PATIENCE, watcher.next()).await.map_err(|_| ()),
                None => Ok(watcher.next().await),
            }
        };
        tokio::select! {
            next = next => match next {
                Ok(Ok(Watched::Changes { revision: at, changes, .. })) => {
                    told.take(&mut revision, at, changes.len());
                }
                Ok(Ok(_)) => {}
                Ok(Err(error @ ClientError::Rejected { .. })) => return Err(format!("a watch broke: {error}")),
                // It goes on where it was.
                Ok(Err(_)) => {}
                Err(()) => {
                    told.miss(last.unwrap_or(revision) - revision, format!("a watch was told nothing after revision {revision}"));
                    return Ok(told);
                }
            },
            changed = known.wait_for(Option::is_some), if last.is_none() => {
                last = *changed.map_err(|_| "the demo has ended")?;
            }
        }
    }
}

impl Told {
    /// Takes the changes of one revision, which is to follow the one before.
    fn take(&mut self, before: &mut u64, at: u64, changes: usize) {
        self.told += 1;
        if at != *before + 1 {
            // Of a revision that comes again one change is wrong, of a gap every one that is missing.
            self.miss(at.saturating_sub(*before + 1).max(1), format!("a watch was told revision {at} after {before}"));
        } else if changes != 1 {
            self.miss(1, format!("a watch was told {changes} changes of revision {at}, which has one"));
        }
        *before = at.max(*before);
    }

    fn miss(&mut self, count: u64, what: String) {
        self.wrong += count;
        if self.examples.len() < EXAMPLES {
            self.examples.push(what);
        }
    }
}

/// The store's revision.
async fn revision(client: &Client) -> Result<u64, String> {
    let asking = async {
        loop {
            match client.get("demo").await {
                Ok(got) => return Ok(got.revision),
                Err(error @ ClientError::Rejected { .. }) => return Err(error.to_string()),
                Err(_) => sleep(PAUSE).await,
            }
        }
    };
    timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err("nobody says at which revision the store is".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(revisions: &[(u64, usize)]) -> Told {
        let mut told = Told::default();
        let mut before = 4;
        revisions.iter().for_each(|(at, changes)| told.take(&mut before, *at, *changes));
        told
    }

    #[test]
    fn a_gap_a_repetition_and_a_wrong_order_are_noticed() {
        assert_eq!(told(&[(5, 1), (6, 1)]), Told { told: 2, ..Told::default() });
        assert_eq!(told(&[(5, 1), (8, 1)]).wrong, 2);
        assert_eq!(told(&[(5, 1), (5, 1), (6, 1)]).wrong, 1);
        assert_eq!(told(&[(6, 1), (5, 1), (7, 1)]).wrong, 2);
        assert_eq!(told(&[(5, 2)]).wrong, 1);
    }
}
