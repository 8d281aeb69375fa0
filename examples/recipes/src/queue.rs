//! A queue of claims: the first one that came has what they are about.
//!
//! A claim is a key of its own, bound to a lease of its own. The store's revision at which it was created gives it its place,
//! and is the token of whoever has its turn: later claims have larger ones. Each waits for the one right before it, so a claim
//! that goes wakes one process and not all of them.

use std::time::Duration;

use bytes::Bytes;
use d_engine::{
    ClientError, KeyValue, KvChange, KvOpResult, KvRecord, Put, Range, Reason, Relation, Txn, Watch, Watched,
};

use crate::lease::KeptLease;
use crate::{RecipeError, Result, insist, passes};

/// A place in a queue. Dropped, it goes when its lease has run out.
#[derive(Debug)]
pub(crate) struct Claim {
    store: KeyValue,
    queue: String,
    key: Bytes,
    token: u64,
    lease: KeptLease,
}

impl Claim {
    /// Goes to the end of the queue, which is a prefix of keys.
    pub(crate) async fn enter(store: &KeyValue, queue: String, value: Bytes, ttl: Duration) -> Result<Self> {
        let lease = KeptLease::begin(store, ttl).await?;
        let key = Bytes::from(format!("{queue}{:020}", lease.id()));
        // Repeated after an answer that did not come, it finds what it has made.
        let txn = Txn::new()
            .if_absent(key.clone())
            .then(Put::new(key.clone(), value).lease(lease.id()))
            .otherwise_get(key.clone());
        let decided = match insist(|| store.txn(txn.clone())).await {
            Err(ClientError::Rejected { why: Reason::LeaseNotFound { .. } }) => return Err(lost(&queue)),
            decided => decided?,
        };
        let token = match &decided.results[..] {
            _ if decided.succeeded => decided.revision,
            [KvOpResult::Range { records, .. }] if records.len() == 1 => records[0].create_revision,
            other => return Err(ClientError::unavailable(format!("the transaction answered {other:?}")).into()),
        };
        Ok(Self { store: store.clone(), queue, key, token, lease })
    }

    pub(crate) fn key(&self) -> &Bytes {
        &self.key
    }

    pub(crate) fn token(&self) -> u64 {
        self.token
    }

    pub(crate) fn lease(&self) -> &KeptLease {
        &self.lease
    }

    /// Returns once no claim is before this one.
    pub(crate) async fn turn(&self) -> Result<()> {
        tokio::select! {
            turn = self.all_before_are_gone() => turn,
            () = self.lease.ended() => Err(lost(&self.queue)),
        }
    }

    /// A transaction that is carried out only while the claim is there.
    pub(crate) fn fenced(&self) -> Txn {
        Txn::new().if_create_revision(self.key.clone(), Relation::Equal, self.token)
    }

    /// Carries out `txn`, which [`fenced`](Claim::fenced) began; the revision.
    pub(crate) async fn carry_out(&self, txn: Txn) -> Result<u64> {
        let decided = self.store.txn(txn).await?;
        if decided.succeeded { Ok(decided.revision) } else { Err(lost(&self.queue)) }
    }

    /// Leaves the queue.
    pub(crate) async fn leave(self) -> Result<()> {
        self.lease.revoke().await
    }

    async fn all_before_are_gone(&self) -> Result<()> {
        loop {
            let (records, revision) = list(&self.store, &self.queue, true).await?;
            if !records.iter().any(|record| record.key == self.key && record.create_revision == self.token) {
                return Err(lost(&self.queue));
            }
            let before = records.into_iter().filter(|record| record.create_revision < self.token);
            let Some(last) = before.max_by_key(|record| record.create_revision) else { return Ok(()) };
            // It may have gone while it waited itself: whoever has its turn now is looked for again.
            gone(&self.store, last.key, revision + 1).await?;
        }
    }
}

fn lost(queue: &str) -> RecipeError {
    RecipeError::Lost { what: queue.trim_end_matches('/').to_owned() }
}

/// Everything below a prefix, and a revision whose changes, and those before it, are in it.
pub(crate) async fn list(store: &KeyValue, prefix: &str, keys_only: bool) -> Result<(Vec<KvRecord>, u64)> {
    let mut records: Vec<KvRecord> = Vec::new();
    let mut revision = None;
    loop {
        let page = insist(|| {
            let range = Range { keys_only, ..Range::prefix(prefix.to_owned()) };
            store.range(match records.last() {
                Some(last) => range.after(last.key.clone()),
                None => range,
            })
        })
        .await?;
        records.extend(page.records);
        let revision = *revision.get_or_insert(page.revision);
        if !page.more {
            return Ok((records, revision));
        }
    }
}

/// Returns once the key is removed at `since` or later, or when that cannot be said any more.
async fn gone(store: &KeyValue, key: Bytes, since: u64) -> Result<()> {
    let compacted = |error: &ClientError| matches!(error, ClientError::Rejected { why: Reason::Compacted { .. } });
    let mut watcher = match insist(|| store.watch(Watch::key(key.clone()).since(since))).await {
        Err(error) if compacted(&error) => return Ok(()),
        begun => begun?,
    };
    loop {
        match watcher.next().await {
            Ok(Watched::Changes { changes, .. })
                if changes.iter().any(|change| matches!(change, KvChange::Delete { .. })) =>
            {
                return Ok(());
            }
            Ok(_) => {}
            Err(error) if compacted(&error) => return Ok(()),
            // The watcher goes on where it was.
            Err(error) if passes(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
