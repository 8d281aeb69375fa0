//! The hard state, in the state row of the log's database.

use std::sync::Arc;

use d_engine_core::{Error, HardState, MetaStore, Result};
use rusqlite::Connection;

use crate::database::Database;
use crate::state::State;

/// The hard state of one directory: term, vote and identity. Saving is one transaction and one flush.
#[derive(Debug)]
pub struct SqliteMetaStore {
    database: Arc<Database>,
}

impl SqliteMetaStore {
    pub(crate) fn new(database: Arc<Database>) -> Self {
        Self { database }
    }
}

impl MetaStore for SqliteMetaStore {
    fn save_hard_state(&self, hard_state: &HardState) -> Result<(), Error> {
        let saved = |_: &Connection, state: &mut State| {
            state.hard_state = hard_state.encode().to_vec();
            Ok(())
        };
        State::update(&self.database, "saving the hard state", saved, |_| {})?;
        self.database.flush()
    }

    fn load_hard_state(&self) -> Result<Option<HardState>, Error> {
        self.database.read("reading the hard state", |connection| {
            let state = State::load(connection)?;
            let saved = Some(state.hard_state).filter(|bytes| !bytes.is_empty());
            Ok(saved.map(|bytes| HardState::decode(&bytes)).transpose()?)
        })
    }
}
