//! A snapshot on its way in: written chunk by chunk, verified as a whole, and only then marked as being installed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use d_engine_core::snapshot::{ChecksumWriter, Steady};
use d_engine_core::{Error, Result};

use super::files::{self, DATA, Record};
use crate::durable::io_error;

/// What has arrived of one snapshot. It stays when its sender goes, so that the next one may go on; a restart forgets it.
pub(super) struct Receiving {
    dir: PathBuf,
    pub(super) file: Steady<File>,
    pub(super) record: Record,
    pub(super) written: u64,
    /// Of everything that is written.
    sum: ChecksumWriter<io::Sink>,
    /// Names the sender that may write: an older one, whose connection is slow to break, may not.
    pub(super) turn: u64,
}

impl Receiving {
    pub(super) fn begin(dir: &Path, record: Record, turn: u64) -> Result<Self> {
        files::remove(dir)?;
        fs::create_dir_all(dir).map_err(io_error("making", dir))?;
        let path = dir.join(DATA);
        let file = Steady::new(File::create(&path).map_err(io_error("creating", &path))?);
        let sum = ChecksumWriter::new(io::sink());
        Ok(Self { dir: dir.to_path_buf(), file, record, written: 0, sum, turn })
    }

    /// Appends a chunk, which must begin where the last one ended.
    pub(super) fn write(&mut self, turn: u64, offset: u64, chunk: &[u8]) -> Result<()> {
        self.check_turn(turn)?;
        let end = offset.saturating_add(chunk.len() as u64);
        if offset != self.written || end > self.record.metadata.size {
            return Err(Error::invalid(format!(
                "bytes {offset} to {end} of a snapshot of {} bytes, {} of which have arrived",
                self.record.metadata.size, self.written
            )));
        }
        self.file.write_all(chunk).and_then(|()| self.sum.write_all(chunk)).map_err(io_error("writing", &self.dir))?;
        self.written = end;
        Ok(())
    }

    pub(super) fn check_turn(&self, turn: u64) -> Result<()> {
        if turn == self.turn {
            return Ok(());
        }
        Err(Error::invalid("another sender has taken over the transfer of this snapshot"))
    }

    /// Verifies that every byte has arrived as announced, and makes file and metadata durable. Another file is removed.
    pub(super) fn verify(self) -> Result<Record> {
        let Self { dir, file, record, written, sum, .. } = self;
        let file = file.into_inner();
        file.sync_all().map_err(io_error("syncing", &dir))?;
        let size = file.metadata().map_err(io_error("looking at", &dir))?.len();
        let (_, digest) = sum.finish();
        if (digest, size) != (record.digest, record.metadata.size) {
            files::remove(&dir)?;
            return Err(Error::corrupt(format!(
                "the received snapshot of {}: {written} bytes with SHA-256 {digest}, announced were {} with {}",
                record.at(),
                record.metadata.size,
                record.digest
            )));
        }
        files::save(&dir, &record)?;
        Ok(record)
    }
}
