//! Leader election among processes of the application; it has nothing to do with who leads the cluster of the store.

use std::time::Duration;

use bytes::Bytes;
use d_engine::{KeyValue, Put, Txn};

use crate::queue::Claim;
use crate::view::View;
use crate::{Result, directory};

/// This process leads. Dropped, another one does once the lease has run out.
#[derive(Debug)]
pub struct Elected {
    claim: Claim,
}

impl Elected {
    /// Stands for election and waits to be elected. `value` is what observers are told of this process, such as its address.
    /// If the process dies, another one is elected after `ttl`.
    ///
    /// # Errors
    /// `Lost` if the lease ended meanwhile: nobody could be reached for so long.
    pub async fn campaign(store: &KeyValue, election: &str, value: impl Into<Bytes>, ttl: Duration) -> Result<Self> {
        let claim = Claim::enter(store, directory("election", election)?, value.into(), ttl).await?;
        claim.turn().await?;
        Ok(Self { claim })
    }

    /// The fencing token: larger than that of every leader before.
    pub fn token(&self) -> u64 {
        self.claim.token()
    }

    /// Whether this process certainly leads at this moment; only a hint, as for a [`Lock`](crate::lock::Lock::is_certain).
    pub fn is_certain(&self) -> bool {
        self.claim.lease().is_certain()
    }

    /// Returns once this process is known not to lead any more.
    pub async fn lost(&self) {
        self.claim.lease().ended().await;
    }

    /// The beginning of a transaction that is carried out only while this process leads.
    pub fn fenced(&self) -> Txn {
        self.claim.fenced()
    }

    /// Carries out a transaction that [`fenced`](Elected::fenced) began; the revision at which it was.
    ///
    /// # Errors
    /// `Lost`, also if another comparison of the transaction does not hold; `Store` with `Unknown` if nobody knows whether it
    /// was carried out.
    pub async fn carry_out(&self, txn: Txn) -> Result<u64> {
        self.claim.carry_out(txn).await
    }

    /// Tells observers something else of this process.
    ///
    /// # Errors
    /// As [`carry_out`](Elected::carry_out).
    pub async fn proclaim(&self, value: impl Into<Bytes>) -> Result<u64> {
        self.carry_out(self.fenced().then(Put::new(self.claim.key().clone(), value).keep_lease())).await
    }

    /// Leads no more: the next one is elected at once.
    ///
    /// # Errors
    /// The store did not answer; another one is elected once the lease has run out.
    pub async fn resign(self) -> Result<()> {
        self.claim.leave().await
    }
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its fencing token.
    pub token: u64,
    /// What it tells of itself.
    pub value: Bytes,
}

/// Tells who leads.
#[derive(Debug)]
pub struct Observer {
    view: View,
    told: Option<Leader>,
}

impl Observer {
    /// Begins to observe an election.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn begin(store: &KeyValue, election: &str) -> Result<Self> {
        let view = View::begin(store, directory("election", election)?).await?;
        let told = leader(&view);
        Ok(Self { view, told })
    }

    /// Who leads, as far as this observer knows.
    pub fn leader(&self) -> Option<&Leader> {
        self.told.as_ref()
    }

    /// Waits until somebody else leads, nobody does, or the leader tells something else. Cancel safe.
    ///
    /// # Errors
    /// The store refuses, or the node in process has ended.
    pub async fn changed(&mut self) -> Result<Option<&Leader>> {
        loop {
            self.view.changed().await?;
            let now = leader(&self.view);
            if now != self.told {
                self.told = now;
                return Ok(self.told.as_ref());
            }
        }
    }
}

/// The first claim of the queue.
fn leader(view: &View) -> Option<Leader> {
    let first = view.records().min_by_key(|record| record.create_revision)?;
    Some(Leader { token: first.create_revision, value: first.value.clone() })
}
