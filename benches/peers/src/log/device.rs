//! The device: what a log at best does with the same bytes. One copy, one checksum for each entry, one write and one data
//! sync into a file that is full of zeros, or of what was written before.

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;

use d_engine_core::{Entry, checksum};

use super::{Result, SEGMENT_BYTES, Subject};

/// Bytes that a log adds to a batch and to each entry of it.
const BATCH_BYTES: usize = 72;
const RECORD_BYTES: usize = 20;
const PAGE: usize = 4096;

pub struct Device {
    file: File,
    end: u64,
    next_index: u64,
    buffer: Vec<u8>,
    entries: Vec<Entry>,
}

impl Device {
    pub fn create(dir: &Path) -> Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(dir.join("device"))?;
        let zeros = vec![0; 1 << 20];
        for at in (0..SEGMENT_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
        Ok(Self { file, end: 0, next_index: 1, buffer: Vec::new(), entries: Vec::new() })
    }
}

impl Subject for Device {
    fn name(&self) -> &'static str {
        "device"
    }

    fn next_index(&self) -> u64 {
        self.next_index
    }

    fn prepare(&mut self, entries: Vec<Entry>) -> Result<()> {
        self.next_index += entries.len() as u64;
        self.entries = entries;
        Ok(())
    }

    fn append(&mut self) -> Result<()> {
        self.buffer.clear();
        self.buffer.resize(BATCH_BYTES + RECORD_BYTES * self.entries.len(), 1);
        for entry in self.entries.drain(..) {
            let bytes = entry.encode();
            black_box(checksum(&[&bytes]));
            self.buffer.extend_from_slice(&bytes);
        }
        self.buffer.resize(self.buffer.len().next_multiple_of(PAGE), 0);
        if self.end + self.buffer.len() as u64 > SEGMENT_BYTES {
            self.end = 0;
        }
        self.file.write_all_at(&self.buffer, self.end)?;
        self.file.sync_data()?;
        self.end += self.buffer.len() as u64;
        Ok(())
    }
}
