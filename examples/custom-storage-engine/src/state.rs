//! The state row: one checksummed record that says what the other rows have to add up to. Without it, damage in a page
//! of SQLite's tree could hide rows, and an incomplete store would look like a smaller one.
//!
//! Little-endian: checksum u32 of everything after itself, version u8, rows u64, sum of the rows' checksums u64, purge
//! boundary (term u64, index u64), encoded hard state (empty: none was ever saved).

use d_engine_core::{Error, LogId, Reader, Result, checksum};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::database::{Database, Failure};

const VERSION: u8 = 1;

/// What the state row says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct State {
    /// How many rows there are.
    pub(crate) rows: u64,
    /// Their checksums, added up.
    pub(crate) sum: u64,
    /// The purge boundary; of a log only.
    pub(crate) purged: LogId,
    /// As encoded by core; of a log only.
    pub(crate) hard_state: Vec<u8>,
}

impl State {
    /// Index of the last entry of a log.
    pub(crate) fn last(&self) -> u64 {
        self.purged.index + self.rows
    }

    /// Counts a row in.
    pub(crate) fn add(&mut self, sum: u32) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(sum.into());
    }

    /// Counts rows out.
    pub(crate) fn subtract(&mut self, rows: u64, sum: u64) {
        self.rows = self.rows.wrapping_sub(rows);
        self.sum = self.sum.wrapping_sub(sum);
    }

    /// The state as stored. It is there from the beginning: a row that is missing is damage.
    pub(crate) fn load(connection: &Connection) -> Result<Self, Failure> {
        let mut statement = connection.prepare_cached("SELECT bytes FROM state WHERE id = 0")?;
        let bytes: Option<Vec<u8>> = statement.query_row([], |row| row.get(0)).optional()?;
        let bytes = bytes.ok_or_else(|| Error::corrupt("the state row is missing"))?;
        Ok(Self::decode(&bytes)?)
    }

    fn save(&self, connection: &Connection) -> Result<(), Failure> {
        let mut statement = connection.prepare_cached("INSERT OR REPLACE INTO state (id, bytes) VALUES (0, ?)")?;
        statement.execute(params![self.encode()])?;
        Ok(())
    }

    /// One write call: a transaction that changes rows and what the state says of them. `committed` sees the new state
    /// before anybody reads the new rows.
    pub(crate) fn update(
        database: &Database,
        doing: &str,
        change: impl FnOnce(&Connection, &mut Self) -> Result<(), Failure>,
        committed: impl FnOnce(&Self),
    ) -> Result<()> {
        let write = |connection: &Connection| {
            let mut state = Self::load(connection)?;
            change(connection, &mut state)?;
            state.save(connection)?;
            Ok(state)
        };
        database.write(doing, write, committed)
    }

    /// Reads all rows, each of which `check` finds sound and tells the checksum of, and compares them with the state.
    pub(crate) fn verified(
        database: &Database,
        mut check: impl FnMut(&Self, &Row<'_>) -> Result<u32, Failure>,
    ) -> Result<Self> {
        database.read("checking every row", |connection| {
            let state = Self::load(connection)?;
            let mut found = Self { rows: 0, sum: 0, ..state.clone() };
            let mut statement = connection.prepare("SELECT id, sum, bytes FROM rows ORDER BY id")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let sum = check(&found, row)?;
                found.add(sum);
            }
            if found == state {
                return Ok(state);
            }
            Err(Error::corrupt(format!(
                "{} rows with the sum {:x} are there, where {} with {:x} belong",
                found.rows, found.sum, state.rows, state.sum
            ))
            .into())
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 4];
        out.push(VERSION);
        for field in [self.rows, self.sum, self.purged.term, self.purged.index] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.hard_state);
        let sum = checksum(&[&out[4..]]);
        out[..4].copy_from_slice(&sum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes, "the state row");
        let sum = reader.u32()?;
        let found = checksum(&[reader.rest()]);
        if sum != found {
            return Err(Error::corrupt(format!("the state row: checksum {found:08x}, expected {sum:08x}")));
        }
        let version = reader.u8()?;
        if version != VERSION {
            let what = format!("a state row of version {version}; this build reads version {VERSION}");
            return Err(Error::unsupported(what));
        }
        let (rows, sum) = (reader.u64()?, reader.u64()?);
        let purged = LogId::new(reader.u64()?, reader.u64()?);
        Ok(Self { rows, sum, purged, hard_state: reader.rest().to_vec() })
    }
}
