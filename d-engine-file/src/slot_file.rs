//! A slot file on disk: state that is replaced as a whole, atomically and durably.
//!
//! The bytes are core's; here are the reads, writes and syncs, and nothing about what a payload means.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use d_engine_core::slot::{self, SLOT_FILE_LEN};
use d_engine_core::{Error, Result};

use crate::vfs::{Vfs, VfsFile};

/// An open slot file.
#[derive(Debug)]
pub(crate) struct SlotFile {
    tag: [u8; 4],
    path: PathBuf,
    file: Arc<dyn VfsFile>,
    generation: u64,
}

impl SlotFile {
    /// Makes the file with its first generation: all of it is there, durably, or none of it.
    pub(crate) fn create(disk: &dyn Vfs, path: &Path, tag: [u8; 4], payload: &[u8]) -> Result<Self> {
        let making = |what: &str| format!("{what} the new state file {}", path.display());
        let temporary = path.with_extension("tmp");
        let file = disk.create(&temporary).map_err(|e| crate::io_error(making("creating"), e))?;
        file.write_all_at(&slot::new_file(tag, payload)?, 0).map_err(|e| crate::io_error(making("writing"), e))?;
        file.sync_data().map_err(|e| crate::io_error(making("syncing"), e))?;
        disk.rename(&temporary, path).map_err(|e| crate::io_error(making("naming"), e))?;
        let parent = path.parent().unwrap_or_else(|| Path::new("."));
        disk.sync_dir(parent).map_err(|e| Error::io(making("syncing the directory of"), e))?;
        Ok(Self { tag, path: path.to_path_buf(), file, generation: 1 })
    }

    /// Opens an existing file and reads its newest state. Writes nothing: see [`SlotFile::settle`].
    pub(crate) fn open(disk: &dyn Vfs, path: &Path, tag: [u8; 4]) -> Result<(Self, Bytes)> {
        let file = disk.open(path).map_err(|e| Error::io(format!("opening {}", path.display()), e))?;
        let mut this = Self { tag, path: path.to_path_buf(), file, generation: 0 };
        let newest = this.load()?;
        this.generation = newest.generation;
        Ok((this, newest.payload))
    }

    /// Makes the state that [`SlotFile::open`] found durable: after a failed sync the cache may show what the disk
    /// never got, and only writing it anew makes the pages dirty again. One slot after the other, a missing one first: a
    /// power cut that garbles the page being written must find the state whole in the other.
    pub(crate) fn settle(&self, payload: &[u8]) -> Result<()> {
        let bytes = slot::encode(self.tag, self.generation, payload)?;
        let mut offsets = slot::offsets(self.generation);
        if self.holds(offsets[0], &bytes) {
            offsets.reverse();
        }
        for offset in offsets {
            self.write_slot(&bytes, offset)?;
            self.sync()?;
        }
        Ok(())
    }

    fn holds(&self, offset: u64, slot: &[u8]) -> bool {
        let mut found = vec![0u8; slot.len()];
        self.file.read_exact_at(&mut found, offset).is_ok() && found == slot
    }

    /// Replaces the state; durable on return. After an error either state may be on disk.
    pub(crate) fn save(&mut self, payload: &[u8]) -> Result<()> {
        let generation = self.generation + 1;
        let bytes = slot::encode(self.tag, generation, payload)?;
        for offset in slot::offsets(generation) {
            self.write_slot(&bytes, offset)?;
        }
        self.sync()?;
        self.generation = generation;
        Ok(())
    }

    /// Reads the newest state from the file.
    pub(crate) fn load(&self) -> Result<slot::Slot> {
        let reading = || format!("reading {}", self.path.display());
        let len = self.file.len().map_err(|e| Error::io(reading(), e))?;
        slot::check_len(self.tag, len).map_err(|error| self.name(error))?;
        let mut bytes = vec![0u8; SLOT_FILE_LEN];
        self.file.read_exact_at(&mut bytes, 0).map_err(|e| Error::io(reading(), e))?;
        slot::load(self.tag, &bytes).map_err(|error| self.name(error))
    }

    fn write_slot(&self, slot: &[u8], offset: u64) -> Result<()> {
        let doing = || format!("writing {} at {offset}", self.path.display());
        self.file.write_all_at(slot, offset).map_err(|e| Error::io(doing(), e))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(format!("syncing {}", self.path.display()), e))
    }

    /// Adds the path to an error about the content.
    pub(crate) fn name(&self, error: Error) -> Error {
        let path = self.path.display();
        match error {
            Error::Corrupt { place, indexes } => {
                Error::Corrupt { place: format!("{path}: {place}; {}", crate::RECOVERY), indexes }
            }
            Error::Unsupported { what } => Error::unsupported(format!("{path}: {what}")),
            other => other,
        }
    }
}
