//! The state machine's data: one row per key.

use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;
use d_engine_core::{Direction, Error, KeyRange, KvStore, Result, WriteBatch, WriteOp, checksum};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use crate::database::{Content, Database, Failure};
use crate::state::State;

/// A key-value store in SQLite.
///
/// A batch is readable on return and durable after [`flush`](KvStore::flush). There are no views: the only connection
/// that could keep one would keep the writers waiting.
#[derive(Debug)]
pub struct SqliteKvStore {
    database: Database,
}

impl SqliteKvStore {
    /// Opens the store in `dir`, which is made if needed. Every row is read and checked.
    ///
    /// # Errors
    /// `Locked` if it is open already, `Corrupt` for damage and missing files, `Unsupported` for another format, `Io` if
    /// the directory cannot be made, read or written.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let database = Database::open(dir.as_ref(), Content::Data, &State::default().encode())?;
        State::verified(&database, |_, row| {
            let (key, sum) = (row.get::<_, Vec<u8>>(0)?, row.get(1)?);
            pair(&key, sum, row.get(2)?)?;
            Ok(sum)
        })?;
        Ok(Self { database })
    }
}

fn sum_of(key: &[u8], value: &[u8]) -> u32 {
    checksum(&[&(key.len() as u64).to_le_bytes(), key, value])
}

/// What a row holds, if its checksum says so.
fn pair(key: &[u8], sum: u32, value: Vec<u8>) -> Result<(Bytes, Bytes)> {
    let found = sum_of(key, &value);
    if found == sum {
        return Ok((Bytes::copy_from_slice(key), value.into()));
    }
    Err(Error::corrupt(format!("key {}: checksum {found:08x}, expected {sum:08x}", key.escape_ascii())))
}

fn pair_of(row: &Row<'_>) -> Result<(Bytes, Bytes), Failure> {
    Ok(pair(&row.get::<_, Vec<u8>>(0)?, row.get(1)?, row.get(2)?)?)
}

fn get(connection: &Connection, key: &[u8]) -> Result<Option<Bytes>, Failure> {
    let mut statement = connection.prepare_cached("SELECT sum, bytes FROM rows WHERE id = ?")?;
    let found: Option<(u32, Vec<u8>)> =
        statement.query_row(params![key], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    Ok(found.map(|(sum, value)| pair(key, sum, value)).transpose()?.map(|(_, value)| value))
}

fn remove(connection: &Connection, state: &mut State, key: &[u8]) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached("DELETE FROM rows WHERE id = ? RETURNING sum")?;
    if let Some(sum) = statement.query_row(params![key], |row| row.get::<_, u32>(0)).optional()? {
        state.subtract(1, sum.into());
    }
    Ok(())
}

fn insert(connection: &Connection, state: &mut State, key: &[u8], value: &[u8]) -> Result<(), Failure> {
    let sum = sum_of(key, value);
    let mut statement = connection.prepare_cached("INSERT INTO rows (id, sum, bytes) VALUES (?, ?, ?)")?;
    statement.execute(params![key, sum, value])?;
    state.add(sum);
    Ok(())
}

/// One end of a range as a condition; its value is added to `values`.
fn condition(end: Bound<&[u8]>, inclusive: &str, exclusive: &str, values: &mut Vec<Value>) -> String {
    let (operator, key) = match end {
        Bound::Included(key) => (inclusive, key),
        Bound::Excluded(key) => (exclusive, key),
        Bound::Unbounded => return "TRUE".into(),
    };
    values.push(Value::Blob(key.to_vec()));
    format!("id {operator} ?")
}

impl KvStore for SqliteKvStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.database.read("reading a key", |connection| get(connection, key))
    }

    fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let mut values = Vec::new();
        let start = condition(range.start, ">=", ">", &mut values);
        let end = condition(range.end, "<=", "<", &mut values);
        let order = match direction {
            Direction::Forward => "ASC",
            Direction::Backward => "DESC",
        };
        values.push(Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
        let sql = format!("SELECT id, sum, bytes FROM rows WHERE {start} AND {end} ORDER BY id {order} LIMIT ?");
        self.database.read("reading a range", |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params_from_iter(values))?;
            let mut pairs = Vec::new();
            while let Some(row) = rows.next()? {
                pairs.push(pair_of(row)?);
            }
            Ok(pairs)
        })
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        let change = |connection: &Connection, state: &mut State| {
            for op in &batch.ops {
                match op {
                    WriteOp::Put(key, value) => {
                        remove(connection, state, key)?;
                        insert(connection, state, key, value)?;
                    }
                    WriteOp::Delete(key) => remove(connection, state, key)?,
                }
            }
            Ok(())
        };
        State::update(&self.database, "writing a batch", change, |_| {})
    }

    fn replace_all(&self, sorted: &mut dyn Iterator<Item = Result<(Bytes, Bytes), Error>>) -> Result<(), Error> {
        let change = |connection: &Connection, state: &mut State| {
            connection.execute("DELETE FROM rows", [])?;
            (state.rows, state.sum) = (0, 0);
            for pair in sorted {
                let (key, value) = pair.map_err(Failure::Caller)?;
                insert(connection, state, &key, &value)?;
            }
            Ok(())
        };
        State::update(&self.database, "replacing the content", change, |_| {})?;
        self.database.flush()
    }

    fn flush(&self) -> Result<(), Error> {
        self.database.flush()
    }

    /// At one point in time, though there are no views.
    fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, Error> {
        self.database.read("reading keys", |connection| keys.iter().map(|key| get(connection, key)).collect())
    }
}
