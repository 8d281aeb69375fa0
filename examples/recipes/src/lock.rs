//! A lock that one process in the cluster holds at a time, with fencing tokens.
//!
//! A process that is paused can find out too late that its lease has ended and that another one holds the lock. No lock
//! service can prevent that; what it can do is to make the late process's writes fail. Here they fail in the store, by a
//! comparison in the same transaction: [`Lock::put`], [`Lock::carry_out`]. A resource elsewhere is given the
//! [`token`](Lock::token) with each request, and refuses tokens below the highest one it has seen.

use std::time::Duration;

use bytes::Bytes;
use d_engine::{KeyValue, Txn};

use crate::queue::Claim;
use crate::{Result, directory};

/// A lock that this process holds. Dropped, it is free again once its lease has run out.
#[derive(Debug)]
pub struct Lock {
    claim: Claim,
}

impl Lock {
    /// Waits for the lock `name` and takes it; whoever asks first has it first. If this process dies, the lock is free again
    /// after `ttl`. Dropping the future gives up the place in the queue, after `ttl` as well.
    ///
    /// # Errors
    /// `Lost` if the lease ended while it waited: nobody could be reached for so long.
    pub async fn acquire(store: &KeyValue, name: &str, ttl: Duration) -> Result<Self> {
        let claim = Claim::enter(store, directory("lock", name)?, Bytes::new(), ttl).await?;
        claim.turn().await?;
        Ok(Self { claim })
    }

    /// The fencing token: larger than that of everybody who held the lock before.
    pub fn token(&self) -> u64 {
        self.claim.token()
    }

    /// The lease that the lock hangs on.
    pub fn lease(&self) -> u64 {
        self.claim.lease().id()
    }

    /// Whether the lock is certainly held at this moment, by this process's clock. Only a hint: the moment is over when the
    /// caller acts on it.
    pub fn is_certain(&self) -> bool {
        self.claim.lease().is_certain()
    }

    /// Returns once the lock is known to be lost.
    pub async fn lost(&self) {
        self.claim.lease().ended().await;
    }

    /// The beginning of a transaction that is carried out only while this process holds the lock.
    pub fn fenced(&self) -> Txn {
        self.claim.fenced()
    }

    /// Carries out a transaction that [`fenced`](Lock::fenced) began; the revision at which it was.
    ///
    /// # Errors
    /// `Lost`, also if another comparison of the transaction does not hold; `Store` with `Unknown` if nobody knows whether it
    /// was carried out.
    pub async fn carry_out(&self, txn: Txn) -> Result<u64> {
        self.claim.carry_out(txn).await
    }

    /// Sets a key, unless the lock is lost.
    ///
    /// # Errors
    /// As [`carry_out`](Lock::carry_out).
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<u64> {
        self.carry_out(self.fenced().then_put(key, value)).await
    }

    /// Gives the lock to the next one.
    ///
    /// # Errors
    /// The store did not answer; the lock is free once its lease has run out.
    pub async fn release(self) -> Result<()> {
        self.claim.leave().await
    }
}
