//! raft-engine, the log of TiKV: no compression, files filled beforehand and recycled, as it is fastest.

use std::path::Path;

use d_engine_core::Entry;
use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use super::{Result, SEGMENT_BYTES, Subject};

const REGION: u64 = 1;

/// An entry's bytes as a protobuf message, which is what raft-engine stores.
#[derive(Clone)]
struct Stored;

impl MessageExt for Stored {
    type Entry = BytesValue;

    /// Where d-engine's encoding of an entry has it.
    fn index(entry: &BytesValue) -> u64 {
        entry.value.get(20..28).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
    }
}

pub struct RaftEngineLog {
    engine: Engine,
    next_index: u64,
    entries: Vec<BytesValue>,
    batch: LogBatch,
    /// Bytes appended since the last purge.
    unpurged: u64,
}

impl RaftEngineLog {
    pub fn open(dir: &Path) -> Result<Self> {
        let config = Config {
            dir: dir.join("raft-engine").display().to_string(),
            batch_compression_threshold: ReadableSize(0),
            target_file_size: ReadableSize(SEGMENT_BYTES),
            purge_threshold: ReadableSize(SEGMENT_BYTES),
            enable_log_recycle: true,
            prefill_for_recycle: true,
            prefill_limit: Some(ReadableSize(4 * SEGMENT_BYTES)),
            ..Config::default()
        };
        let engine = Engine::open(config)?;
        Ok(Self { engine, next_index: 1, entries: Vec::new(), batch: LogBatch::default(), unpurged: 0 })
    }
}

impl Subject for RaftEngineLog {
    fn name(&self) -> &'static str {
        "raft-engine"
    }

    fn next_index(&self) -> u64 {
        self.next_index
    }

    fn prepare(&mut self, entries: Vec<Entry>) -> Result<()> {
        if self.unpurged > SEGMENT_BYTES / 2 {
            self.engine.compact_to(REGION, self.next_index - 1);
            self.engine.purge_expired_files()?;
            self.unpurged = 0;
        }
        self.next_index += entries.len() as u64;
        self.entries.clear();
        for entry in entries {
            let mut value = BytesValue::new();
            value.value = entry.encode().to_vec();
            self.unpurged += value.value.len() as u64;
            self.entries.push(value);
        }
        Ok(())
    }

    fn append(&mut self) -> Result<()> {
        self.batch.add_entries::<Stored>(REGION, &self.entries)?;
        self.engine.write(&mut self.batch, true)?;
        Ok(())
    }
}
