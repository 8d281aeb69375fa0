//! The hard state in a slot file. An empty payload means that none was ever saved.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use d_engine_core::{Error, HardState, MetaStore, Result};

use crate::shared::lock;
use crate::slot_file::SlotFile;
use crate::vfs::{Vfs, VfsLock};

const TAG: [u8; 4] = *b"hard";

/// The hard state of one data directory: term, vote and identity. Saving is one write of two slots and one sync.
#[derive(Debug)]
pub struct FileMetaStore {
    file: Mutex<SlotFile>,
    failure: OnceLock<String>,
    _lock: Arc<dyn VfsLock>,
}

impl FileMetaStore {
    /// Makes the file of a new directory, in which nothing is saved yet.
    pub(crate) fn create(disk: &dyn Vfs, path: &Path) -> Result<()> {
        SlotFile::create(disk, path, TAG, &[]).map(|_| ())
    }

    /// Reads the file and changes nothing.
    pub(crate) fn read(disk: &dyn Vfs, path: &Path) -> Result<(SlotFile, Option<HardState>)> {
        let (file, payload) = SlotFile::open(disk, path, TAG)?;
        let state = decode(&file, &payload)?;
        Ok((file, state))
    }

    /// The store over a file from [`FileMetaStore::read`]; what it shows is durable.
    pub(crate) fn new(file: SlotFile, lock: Arc<dyn VfsLock>) -> Result<Self> {
        let newest = file.load()?;
        file.settle(&newest.payload)?;
        Ok(Self { file: Mutex::new(file), failure: OnceLock::new(), _lock: lock })
    }
}

fn decode(file: &SlotFile, payload: &[u8]) -> Result<Option<HardState>> {
    if payload.is_empty() {
        return Ok(None);
    }
    HardState::decode(payload).map(Some).map_err(|error| file.name(error))
}

impl MetaStore for FileMetaStore {
    fn save_hard_state(&self, state: &HardState) -> Result<(), Error> {
        let mut file = lock(&self.file);
        if let Some(why) = self.failure.get() {
            return Err(Error::Poisoned { why: why.clone() });
        }
        file.save(&state.encode()).inspect_err(|error| {
            let _ = self.failure.set(error.to_string());
        })
    }

    fn load_hard_state(&self) -> Result<Option<HardState>, Error> {
        let file = lock(&self.file);
        let payload = file.load()?.payload;
        decode(&file, &payload)
    }
}
