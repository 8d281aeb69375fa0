//! A registry of services: who is there, and at which address.

use std::time::Duration;

use bytes::Bytes;
use d_engine::{ClientError, KeyValue, Put, Reason};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::lease::KeptLease;
use crate::view::View;
use crate::{Result, directory, insist};

/// An instance of a service that is registered for as long as this exists. Dropped, it goes when its lease has run out, as it
/// does when the process dies.
#[derive(Debug)]
pub struct Registration {
    stop: Option<oneshot::Sender<()>>,
    keeper: JoinHandle<Result<()>>,
}

impl Registration {
    /// Registers `instance`, whose name no other instance of the service may have, at `address`. It stays registered also
    /// when it was out of reach for longer than `ttl`: then it registers anew.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn begin(
        store: &KeyValue,
        service: &str,
        instance: &str,
        address: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<Self> {
        let place = Entry {
            store: store.clone(),
            key: format!("{}{instance}", directory("service", service)?).into(),
            address: address.into(),
            ttl,
        };
        let lease = place.announce().await?;
        let (stop, stopped) = oneshot::channel();
        Ok(Self { stop: Some(stop), keeper: tokio::spawn(place.stay(lease, stopped)) })
    }

    /// Takes the instance out now.
    ///
    /// # Errors
    /// The store did not answer; the instance goes once its lease has run out.
    pub async fn deregister(mut self) -> Result<()> {
        if let Some(stop) = self.stop.take() {
            // The keeper is gone if the store refused it.
            let _ = stop.send(());
        }
        match (&mut self.keeper).await {
            Ok(ended) => ended,
            Err(why) => Err(ClientError::unavailable(format!("the task of the registration ended: {why}")).into()),
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// What is registered.
struct Entry {
    store: KeyValue,
    key: Bytes,
    address: Bytes,
    ttl: Duration,
}

impl Entry {
    async fn announce(&self) -> Result<KeptLease> {
        loop {
            let lease = KeptLease::begin(&self.store, self.ttl).await?;
            let put = Put::new(self.key.clone(), self.address.clone()).lease(lease.id());
            match insist(|| self.store.put_with(put.clone())).await {
                // It ran out meanwhile.
                Err(ClientError::Rejected { why: Reason::LeaseNotFound { .. } }) => {}
                answer => return Ok(answer.map(|_| lease)?),
            }
        }
    }

    async fn stay(self, mut lease: KeptLease, mut stopped: oneshot::Receiver<()>) -> Result<()> {
        loop {
            tokio::select! {
                _ = &mut stopped => return lease.revoke().await,
                () = lease.ended() => lease = self.announce().await?,
            }
        }
    }
}

/// The instances of one service.
#[derive(Debug)]
pub struct Instances {
    view: View,
}

impl Instances {
    /// Reads the instances of `service`, and watches them.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn of(store: &KeyValue, service: &str) -> Result<Self> {
        Ok(Self { view: View::begin(store, directory("service", service)?).await? })
    }

    /// Names and addresses, in the order of names.
    pub fn list(&self) -> Vec<(String, Bytes)> {
        let name = |record| String::from_utf8_lossy(self.view.name_of(record)).into_owned();
        self.view.records().map(|record| (name(record), record.value.clone())).collect()
    }

    /// Waits until an instance comes, goes, or moves. Cancel safe.
    ///
    /// # Errors
    /// The store refuses, or the node in process has ended.
    pub async fn changed(&mut self) -> Result<()> {
        self.view.changed().await
    }
}
