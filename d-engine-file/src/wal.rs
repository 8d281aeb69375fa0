//! The `wal` directory: making segments and giving them their names. Knows nothing of entries.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use d_engine_core::{Error, Result};

use crate::segment::{PAGE, SegmentHeader, file_name, is_spare, spare_name};
use crate::vfs::{Vfs, VfsFile, ZEROS_STEP, fill_with_zeros};

/// Bytes that a segment is prepared by in one step.
pub(crate) const STEP: u64 = ZEROS_STEP;
const PREPARED: &str = "next.tmp";

/// The directory of segments on its disk.
#[derive(Debug, Clone)]
pub(crate) struct WalDir {
    pub(crate) disk: Arc<dyn Vfs>,
    path: PathBuf,
}

/// A file that becomes the next segment: zeros, or a purged segment with whatever it held. Durable but for its name.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) file: Arc<dyn VfsFile>,
    pub(crate) length: u64,
    path: PathBuf,
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
        Ok(Prepared { file, length: 0, path })
    }

    /// Appends zeros up to `length`, durably. They are written, not allocated: unwritten extents would cost the log a
    /// journal commit at each first use. On an error the file is removed.
    pub(crate) fn extend_prepared(&self, prepared: &mut Prepared, length: u64) -> Result<()> {
        let done = fill_with_zeros(prepared.file.as_ref(), prepared.length, length);
        done.map_err(|error| self.not_prepared(prepared, error))?;
        prepared.length = prepared.length.max(length);
        Ok(())
    }

    /// [`WalDir::extend_prepared`] by space that reads as zeros and was not written: the whole rest for the price of a few
    /// pages, where the appends are so large that theirs does not show.
    pub(crate) fn allocate_prepared(&self, prepared: &mut Prepared, length: u64) -> Result<()> {
        if prepared.length >= length {
            return Ok(());
        }
        let done = prepared.file.allocate(length).and_then(|()| prepared.file.sync_data());
        done.map_err(|error| self.not_prepared(prepared, error))?;
        prepared.length = length;
        Ok(())
    }

    /// The file is given up: on a full disk, what was prepared in vain is space that something else can use.
    fn not_prepared(&self, prepared: &Prepared, error: std::io::Error) -> Error {
        self.discard(prepared);
        crate::io_error(format!("preparing the next segment in {}", self.path.display()), error)
    }

    /// Gives up what was being prepared, and its space. Best effort: opening cleans up as well.
    pub(crate) fn discard(&self, prepared: &Prepared) {
        let _ = self.disk.remove(&prepared.path);
    }

    /// Gives up a new file. A spare one stays for the next who opens the log.
    pub(crate) fn discard_if_new(&self, prepared: &Prepared) {
        if prepared.path.file_name().is_some_and(|name| name == PREPARED) {
            self.discard(prepared);
        }
    }

    /// Makes a prepared file the segment of `header`, with `content` behind the first page; durable on return, bytes and
    /// name. What the file held before does not validate under the new header, and the name comes only after the bytes:
    /// a crash leaves the segment as it should be, or none.
    pub(crate) fn activate(&self, prepared: &Prepared, header: &SegmentHeader, content: &[u8]) -> Result<()> {
        let path = self.segment_path(header.sequence);
        let doing = |what: &str| format!("{what} the new segment {}", path.display());
        let mut bytes = header.encode();
        debug_assert_eq!(bytes.len() as u64, PAGE);
        bytes.extend_from_slice(content);
        prepared.file.write_all_at(&bytes, 0).map_err(|e| Error::io(doing("writing the header of"), e))?;
        prepared.file.sync_data().map_err(|e| Error::io(doing("syncing"), e))?;
        self.disk.rename(&prepared.path, &path).map_err(|e| Error::io(doing("naming"), e))?;
        self.disk.sync_dir(&self.path).map_err(|e| Error::io(doing("syncing the directory of"), e))
    }

    /// Keeps the file of a segment that the state file no longer counts, to be written again. Nobody else may hold the
    /// file. The new name need not be durable: under the old one it is not counted either.
    pub(crate) fn retire(&self, sequence: u64, file: Arc<dyn VfsFile>) -> Result<Prepared> {
        let (from, path) = (self.segment_path(sequence), self.path.join(spare_name(sequence)));
        let length = whole_pages(file.as_ref())
            .map_err(|e| Error::io(format!("reading the length of {}", from.display()), e))?;
        self.disk
            .rename(&from, &path)
            .map_err(|e| Error::io(format!("keeping {} as {}", from.display(), path.display()), e))?;
        Ok(Prepared { file, length, path })
    }

    pub(crate) fn remove(&self, sequence: u64) -> Result<()> {
        let path = self.segment_path(sequence);
        self.disk.remove(&path).map_err(|e| Error::io(format!("removing {}", path.display()), e))
    }

    /// What an earlier owner left: spare files, at most `max` of them, while all else that is no segment is removed.
    pub(crate) fn leftovers(&self, names: &[String], max: usize) -> Result<Vec<Prepared>> {
        let mut spares = Vec::new();
        for name in names.iter().filter(|name| is_spare(name) || *name == PREPARED) {
            let path = self.path.join(name);
            if is_spare(name) && spares.len() < max {
                let opening = |e| Error::io(format!("opening {}", path.display()), e);
                let file = self.disk.open(&path).map_err(opening)?;
                let length = whole_pages(file.as_ref()).map_err(opening)?;
                spares.push(Prepared { file, length, path });
            } else {
                self.disk.remove(&path).map_err(|e| Error::io(format!("removing {}", path.display()), e))?;
            }
        }
        Ok(spares)
    }
}

/// Length of a file in bytes, without the part of a page at its end.
fn whole_pages(file: &dyn VfsFile) -> std::io::Result<u64> {
    Ok(file.len()? / PAGE * PAGE)
}
