//! The hard state in sled.

use std::fmt;
use std::sync::Arc;

use d_engine_core::{Error, HardState, MetaStore, Result};
use sled::Tree;

use crate::database::Database;

const HARD_STATE: &str = "hard_state";

/// The hard state of one data directory: term, vote and identity. Saving is one write and one sync.
pub struct SledMetaStore {
    // Before the database: its last handle closes sled.
    meta: Tree,
    database: Arc<Database>,
}

impl fmt::Debug for SledMetaStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledMetaStore").field("database", &self.database).finish_non_exhaustive()
    }
}

impl SledMetaStore {
    /// # Errors
    /// As [`MetaStore::load_hard_state`]: an unreadable state is noticed now.
    pub(crate) fn new(database: Arc<Database>) -> Result<Self> {
        let store = Self { meta: database.tree("meta")?, database };
        store.load_hard_state()?;
        Ok(store)
    }
}

impl MetaStore for SledMetaStore {
    fn save_hard_state(&self, state: &HardState) -> Result<(), Error> {
        self.database.check()?;
        self.database.written("saving the hard state", self.meta.insert(HARD_STATE, &state.encode()[..]))?;
        self.database.flush()
    }

    fn load_hard_state(&self) -> Result<Option<HardState>, Error> {
        let found = self.meta.get(HARD_STATE).map_err(|error| self.database.error("reading the hard state", error))?;
        found.map(|bytes| HardState::decode(&bytes)).transpose()
    }
}
