//! Writing an archive: beside its place, verified whole, and only then named.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use d_engine_core::snapshot::ChecksumWriter;
use d_engine_core::{Error, Result};
use d_engine_net::SnapshotSource;

use super::{Archive, ArchiveHead, END_MAGIC, named};
use crate::durable::{io_error, parent, rename_new, sync_dir};

/// How an archive is saved.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct SaveOptions {
    /// Whether a file that is there already is replaced.
    pub replace: bool,
}

impl SaveOptions {
    /// Replaces a file that is there already.
    #[must_use]
    pub fn replacing(mut self) -> Self {
        self.replace = true;
        self
    }
}

/// Writes what `source` gives into an archive at `path`, and returns it verified. `progress` is told how many bytes of how
/// many have arrived.
///
/// The file is written beside its place, synced, read back and verified whole before it gets its name; the name is durable
/// on return. After an error, or when the future is dropped, nothing has that name that had it not before.
///
/// # Errors
/// `Invalid` if the file exists and is not to be replaced, `Corrupt` if what arrived is not what was announced, `Backend`
/// with what the source says, `Io`, `NoSpace`.
pub async fn save(
    mut source: Box<dyn SnapshotSource>,
    path: impl Into<PathBuf>,
    options: SaveOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<Archive> {
    let path = path.into();
    let said = source.head();
    let total = said.metadata.size;
    let head = ArchiveHead::now(said.node, said.digest, said.metadata);
    let mut writer = blocking(move || ArchiveWriter::create(path, &head, options)).await?;
    let mut done = 0;
    while let Some(chunk) = source.next().await.map_err(Error::backend)? {
        done += chunk.len() as u64;
        writer = blocking(move || {
            writer.write(&chunk)?;
            Ok(writer)
        })
        .await?;
        progress(done, total);
    }
    blocking(move || writer.finish()).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(Error::backend("the work was cut off")))
}

/// An archive that is being written. Dropped unfinished, it leaves nothing.
pub(super) struct ArchiveWriter {
    path: PathBuf,
    unfinished: PathBuf,
    /// Away once it is finished.
    output: Option<ChecksumWriter<BufWriter<File>>>,
    replace: bool,
}

impl ArchiveWriter {
    pub(super) fn create(path: PathBuf, head: &ArchiveHead, options: SaveOptions) -> Result<Self> {
        check_place(&path, options)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let unfinished = path.with_file_name(format!(".{name}.unfinished-{}", std::process::id()));
        let file = File::create(&unfinished).map_err(io_error("creating", &unfinished))?;
        let output = Some(ChecksumWriter::new(BufWriter::new(file)));
        let mut writer = Self { path, unfinished, output, replace: options.replace };
        writer.write(&head.encode()?)?;
        Ok(writer)
    }

    /// Appends bytes of the snapshot.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let output = self.output.as_mut().ok_or_else(|| Error::invalid("the archive is finished"))?;
        output.write_all(bytes).map_err(io_error("writing", &self.unfinished))
    }

    /// Seals, syncs, verifies and names it.
    pub(super) fn finish(mut self) -> Result<Archive> {
        let output = self.output.take().ok_or_else(|| Error::invalid("the archive is finished"))?;
        let (mut output, checksum) = output.finish();
        let failed = |doing| io_error(doing, &self.unfinished);
        output.write_all(checksum.as_ref()).and_then(|()| output.write_all(&END_MAGIC)).map_err(failed("writing"))?;
        let file = output.into_inner().map_err(|error| failed("writing")(error.into_error()))?;
        file.sync_all().map_err(failed("syncing"))?;
        let archive = Archive::open(&self.unfinished)?;
        if self.replace {
            fs::rename(&self.unfinished, &self.path).map_err(io_error("naming", &self.path))?;
            sync_dir(parent(&self.path))?;
        } else {
            rename_new(&self.unfinished, &self.path).map_err(|error| match error {
                Error::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => taken(&self.path),
                other => other,
            })?;
        }
        Ok(Archive { path: self.path.clone(), ..archive })
    }
}

impl Drop for ArchiveWriter {
    fn drop(&mut self) {
        // Not there any more once it has its name.
        let _ = fs::remove_file(&self.unfinished);
    }
}

/// Refuses early what would be refused at the end.
fn check_place(path: &Path, options: SaveOptions) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Err(named(path, Error::invalid("a directory; name a file in it"))),
        Ok(_) if !options.replace => Err(taken(path)),
        _ if path.file_name().is_none() => Err(named(path, Error::invalid("no name for a file"))),
        _ => Ok(()),
    }
}

fn taken(path: &Path) -> Error {
    named(path, Error::invalid("there is a file of this name already, which is left as it is"))
}
