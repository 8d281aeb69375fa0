//! The `wal` directory: making segments and giving them their names. Knows nothing of entries.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use d_engine_core::{Error, Result};

use crate::segment::{PAGE, SegmentHeader, file_name};
use crate::vfs::{Vfs, VfsFile};

/// Bytes that are written and synced in one step while a segment is prepared.
pub(crate) const STEP: u64 = 1 << 20;
const PREPARED: &str = "next.tmp";

/// The directory of segments on its disk.
#[derive(Debug, Clone)]
pub(crate) struct WalDir {
    pub(crate) disk: Arc<dyn Vfs>,
    path: PathBuf,
}

/// A file of zeros, durable but for its name, which becomes the next segment.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) file: Arc<dyn VfsFile>,
    pub(crate) length: u64,
}

impl WalDir {
    pub(crate) fn new(disk: Arc<dyn Vfs>, dir: &Path) -> Self {
        Self { disk, path: dir.join("wal") }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn segment_path(&self, sequence: u64) -> PathBuf {
        self.path.join(file_name(sequence))
    }

    /// Begins to prepare a segment. One at a time: there is one name for it.
    pub(crate) fn begin_prepared(&self) -> Result<Prepared> {
        let path = self.path.join(PREPARED);
        let file = self.disk.create(&path).map_err(|e| crate::io_error(format!("creating {}", path.display()), e))?;
        Ok(Prepared { file, length: 0 })
    }

    /// Appends zeros up to `length`, durably. They are written, not allocated: unwritten extents would cost the log a
    /// journal commit at each first use.
    pub(crate) fn extend_prepared(&self, prepared: &mut Prepared, length: u64) -> Result<()> {
        let doing = || format!("preparing the next segment in {}", self.path.display());
        let zeros = vec![0u8; (length.saturating_sub(prepared.length)).min(STEP) as usize];
        while prepared.length < length {
            let step = &zeros[..(length - prepared.length).min(STEP) as usize];
            prepared.file.write_all_at(step, prepared.length).map_err(|e| crate::io_error(doing(), e))?;
            prepared.file.sync_data().map_err(|e| crate::io_error(doing(), e))?;
            prepared.length += step.len() as u64;
        }
        Ok(())
    }

    /// Gives up what was being prepared, and its space. Best effort: opening cleans up as well.
    pub(crate) fn discard_prepared(&self) {
        let _ = self.disk.remove(&self.path.join(PREPARED));
    }

    /// Makes a prepared file the segment of `header`; durable on return, content and name.
    pub(crate) fn activate(&self, prepared: &Prepared, header: &SegmentHeader) -> Result<()> {
        let path = self.segment_path(header.sequence);
        let doing = |what: &str| format!("{what} the new segment {}", path.display());
        let page = header.encode();
        debug_assert_eq!(page.len() as u64, PAGE);
        prepared.file.write_all_at(&page, 0).map_err(|e| Error::io(doing("writing the header of"), e))?;
        prepared.file.sync_data().map_err(|e| Error::io(doing("syncing"), e))?;
        self.disk.rename(&self.path.join(PREPARED), &path).map_err(|e| Error::io(doing("naming"), e))?;
        self.disk.sync_dir(&self.path).map_err(|e| Error::io(doing("syncing the directory of"), e))
    }

    pub(crate) fn remove(&self, sequence: u64) -> Result<()> {
        let path = self.segment_path(sequence);
        self.disk.remove(&path).map_err(|e| Error::io(format!("removing {}", path.display()), e))
    }
}
