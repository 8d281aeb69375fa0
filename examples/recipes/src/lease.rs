//! A lease that is kept alive for as long as its owner exists.

use std::time::Duration;

use d_engine::{ClientError, KeyValue, Reason};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::{PAUSE, RecipeError, Result, insist, passes};

/// What is known of a lease.
#[derive(Debug, Clone, Copy)]
enum Known {
    /// It certainly lasts until then: counted from before the store was asked, so never too long.
    Until(Instant),
    Ended,
}

/// A lease with a task that keeps it alive. Dropped, it is left to run out, as if the process had died.
#[derive(Debug)]
pub(crate) struct KeptLease {
    store: KeyValue,
    id: u64,
    known: watch::Receiver<Known>,
    keeper: JoinHandle<()>,
}

impl KeptLease {
    /// A new lease of `ttl`.
    pub(crate) async fn begin(store: &KeyValue, ttl: Duration) -> Result<Self> {
        // If a grant's fate is unknown, another lease is asked for: one that nobody knows of runs out.
        let (granted, until) = insist(|| async {
            let asked = Instant::now();
            let granted = store.lease_grant(ttl).await?;
            Ok((granted, asked + granted.ttl))
        })
        .await?;
        let (tell, known) = watch::channel(Known::Until(until));
        let keeper = tokio::spawn(keep_alive(store.clone(), granted.id, granted.ttl, tell));
        Ok(Self { store: store.clone(), id: granted.id, known, keeper })
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether it certainly runs. Not certain is not ended: the store may have been out of reach for a while.
    pub(crate) fn is_certain(&self) -> bool {
        matches!(*self.known.borrow(), Known::Until(until) if Instant::now() < until)
    }

    /// Returns once the store has said that it has ended.
    pub(crate) async fn ended(&self) {
        // The error says that the keeper is gone, and nobody keeps it alive any more.
        let _ = self.known.clone().wait_for(|known| matches!(known, Known::Ended)).await;
    }

    /// Ends it now, and everything that hangs on it.
    pub(crate) async fn revoke(mut self) -> Result<()> {
        self.keeper.abort();
        // It was told to end, and that is how it ends.
        let _ = (&mut self.keeper).await;
        match insist(|| self.store.lease_revoke(self.id)).await {
            Ok(_) | Err(ClientError::Rejected { why: Reason::LeaseNotFound { .. } }) => Ok(()),
            Err(error) => Err(RecipeError::Store(error)),
        }
    }
}

impl Drop for KeptLease {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

async fn keep_alive(store: KeyValue, id: u64, ttl: Duration, tell: watch::Sender<Known>) {
    let mut pause = ttl / 3;
    loop {
        sleep(pause).await;
        let asked = Instant::now();
        pause = match store.lease_keep_alive(id).await {
            Ok(kept) => {
                tell.send_replace(Known::Until(asked + kept.ttl));
                kept.ttl / 3
            }
            Err(error) if passes(&error) => PAUSE,
            Err(_) => {
                tell.send_replace(Known::Ended);
                return;
            }
        };
    }
}
