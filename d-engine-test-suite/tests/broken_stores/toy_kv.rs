//! A key-value store over a toy file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use d_engine_core::{Direction, Error, KeyRange, KvStore, Result, WriteBatch, WriteOp};

use crate::fault::{Fault, is};
use crate::toy_file::ToyFile;

type Map = BTreeMap<Bytes, Bytes>;

struct State {
    file: ToyFile,
    map: Map,
}

pub(crate) struct ToyKv {
    state: Mutex<State>,
}

impl ToyKv {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let (file, records) = ToyFile::open(dir, None)?;
        let mut map = Map::new();
        for record in &records {
            apply(&mut map, decode(record)?);
        }
        Ok(Self { state: Mutex::new(State { file, map }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn apply(map: &mut Map, ops: Vec<WriteOp>) {
    for op in ops {
        match op {
            WriteOp::Put(key, value) => map.insert(key, value),
            WriteOp::Delete(key) => map.remove(&key),
        };
    }
}

/// `b`, then for each step its kind, its key and, for a put, its value, both behind their lengths.
fn encode(ops: &[WriteOp]) -> Vec<u8> {
    let mut record = vec![b'b'];
    let bytes = |bytes: &Bytes| {
        let mut out = (bytes.len() as u32).to_le_bytes().to_vec();
        out.extend_from_slice(bytes);
        out
    };
    for op in ops {
        match op {
            WriteOp::Put(_, value) if value.is_empty() && is(Fault::EmptyValueIsLost) => {}
            WriteOp::Put(key, value) => record.extend([vec![b'p'], bytes(key), bytes(value)].concat()),
            WriteOp::Delete(key) => record.extend([vec![b'd'], bytes(key)].concat()),
        }
    }
    record
}

fn decode(record: &[u8]) -> Result<Vec<WriteOp>> {
    fn bytes(rest: &mut &[u8]) -> Option<Bytes> {
        let (len, tail) = rest.split_first_chunk::<4>()?;
        let (bytes, tail) = tail.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        *rest = tail;
        Some(Bytes::copy_from_slice(bytes))
    }
    fn op(kind: u8, rest: &mut &[u8]) -> Option<WriteOp> {
        match kind {
            b'p' => Some(WriteOp::Put(bytes(rest)?, bytes(rest)?)),
            b'd' => Some(WriteOp::Delete(bytes(rest)?)),
            _ => None,
        }
    }
    let mut rest = record.strip_prefix(b"b").ok_or_else(|| Error::corrupt("a record of no kind"))?;
    let mut ops = Vec::new();
    while let Some((kind, tail)) = rest.split_first() {
        rest = tail;
        ops.push(op(*kind, &mut rest).ok_or_else(|| Error::corrupt("a record that is too short"))?);
    }
    Ok(ops)
}

impl KvStore for ToyKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.state().map.get(key).cloned())
    }

    fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let state = self.state();
        let found = state.map.iter().filter(|(key, _)| range.contains(key));
        let pair = |(key, value): (&Bytes, &Bytes)| (key.clone(), value.clone());
        Ok(match direction {
            Direction::Forward => found.take(limit).map(pair).collect(),
            Direction::Backward => found.rev().take(limit).map(pair).collect(),
        })
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        let mut state = self.state();
        if is(Fault::BatchIsWrittenInHalves) {
            let (one, other) = batch.ops.split_at(batch.ops.len() / 2);
            state.file.append(&[encode(one), encode(other)])?;
        } else {
            state.file.append(&[encode(&batch.ops)])?;
        }
        apply(&mut state.map, batch.ops);
        Ok(())
    }

    fn replace_all(&self, sorted: &mut dyn Iterator<Item = Result<(Bytes, Bytes), Error>>) -> Result<(), Error> {
        let new = sorted.collect::<Result<Map>>()?;
        let ops: Vec<WriteOp> = new.iter().map(|(key, value)| WriteOp::Put(key.clone(), value.clone())).collect();
        let mut state = self.state();
        if is(Fault::ReplaceAllIsNotAtomic) {
            let records: Vec<Vec<u8>> = ops.chunks(20).map(encode).collect();
            state.file.rewrite_in_place(&records)?;
        } else {
            state.file.rewrite(&[encode(&ops)])?;
        }
        state.map = new;
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        self.state().file.sync()
    }
}
