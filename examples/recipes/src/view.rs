//! A copy of the keys below a prefix that a watch keeps up to date.

use std::collections::BTreeMap;

use bytes::Bytes;
use d_engine::{ClientError, KeyValue, KvChange, KvRecord, Reason, Watch, Watched, Watcher};

use crate::queue::list;
use crate::{Result, insist, passes};

/// The records below a prefix, as of the last change that was told.
#[derive(Debug)]
pub struct View {
    store: KeyValue,
    prefix: String,
    records: BTreeMap<Bytes, KvRecord>,
    watcher: Watcher,
}

impl View {
    /// Reads everything and watches from there, so that no change falls in between.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn begin(store: &KeyValue, prefix: impl Into<String>) -> Result<Self> {
        let prefix = prefix.into();
        let (records, watcher) = read_and_watch(store, &prefix).await?;
        Ok(Self { store: store.clone(), prefix, records, watcher })
    }

    /// The records in the order of their keys.
    pub fn records(&self) -> impl Iterator<Item = &KvRecord> {
        self.records.values()
    }

    /// What follows the prefix in the record's key.
    pub fn name_of<'a>(&self, record: &'a KvRecord) -> &'a [u8] {
        record.key.get(self.prefix.len()..).unwrap_or_default()
    }

    /// Waits for the next change and takes it in. Cancel safe.
    ///
    /// # Errors
    /// The store refuses, or the node in process has ended.
    pub async fn changed(&mut self) -> Result<()> {
        loop {
            match self.watcher.next().await {
                Ok(Watched::Changes { revision, changes, .. }) => {
                    changes.into_iter().for_each(|change| self.take_in(revision, change));
                    return Ok(());
                }
                Ok(_) => {}
                Err(ClientError::Rejected { why: Reason::Compacted { .. } }) => {
                    (self.records, self.watcher) = read_and_watch(&self.store, &self.prefix).await?;
                    return Ok(());
                }
                // The watcher goes on where it was.
                Err(error) if passes(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Later pages of the first reading may hold what is told again.
    fn take_in(&mut self, revision: u64, change: KvChange) {
        if self.records.get(change.key()).is_some_and(|known| known.mod_revision > revision) {
            return;
        }
        match change {
            KvChange::Put { record, .. } => drop(self.records.insert(record.key.clone(), record)),
            KvChange::Delete { key, .. } => drop(self.records.remove(&key)),
            // Of a kind that this version does not know.
            _ => {}
        }
    }
}

async fn read_and_watch(store: &KeyValue, prefix: &str) -> Result<(BTreeMap<Bytes, KvRecord>, Watcher)> {
    loop {
        let (records, revision) = list(store, prefix, false).await?;
        let watch = Watch::prefix(prefix.to_owned()).since(revision + 1);
        match insist(|| store.watch(watch.clone())).await {
            // It took longer than the store keeps changes.
            Err(ClientError::Rejected { why: Reason::Compacted { .. } }) => {}
            begun => {
                let records = records.into_iter().map(|record| (record.key.clone(), record)).collect();
                return Ok((records, begun?));
            }
        }
    }
}
