//! The hard state in RocksDB.

use std::sync::Arc;

use d_engine_core::{Error, HardState, MetaStore, Result};

use crate::log_database::LogDatabase;

const HARD_STATE: &str = "hard_state";

/// The hard state of one data directory: term, vote and identity. Saving is one write and one sync.
#[derive(Debug)]
pub struct RocksMetaStore {
    database: Arc<LogDatabase>,
}

impl RocksMetaStore {
    /// # Errors
    /// As [`MetaStore::load_hard_state`]: an unreadable state is noticed now.
    pub(crate) fn new(database: Arc<LogDatabase>) -> Result<Self> {
        let store = Self { database };
        store.load_hard_state()?;
        Ok(store)
    }
}

impl MetaStore for RocksMetaStore {
    fn save_hard_state(&self, state: &HardState) -> Result<(), Error> {
        let doing = "saving the hard state";
        let bytes = state.encode();
        let mut writer = self.database.writer()?;
        writer.check_space(doing, bytes.len())?;
        let mut batch = writer.batch();
        batch.put_cf(self.database.meta()?, HARD_STATE, &bytes);
        writer.write(doing, batch)?;
        writer.sync()
    }

    fn load_hard_state(&self) -> Result<Option<HardState>, Error> {
        let found = self.database.db().get_pinned_cf(self.database.meta()?, HARD_STATE);
        let found = self.database.failures().read("reading the hard state", found)?;
        found.map(|bytes| HardState::decode(&bytes)).transpose()
    }
}
