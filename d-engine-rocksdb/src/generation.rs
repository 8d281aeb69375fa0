//! One generation of the data: a RocksDB in a directory of its own. Nothing writes to a generation that has been replaced;
//! its files go with the last view of it.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use d_engine_core::{Error, Result};
use rocksdb::{Cache, DB, IngestExternalFileOptions, SstFileWriter};

use crate::directory::{Directory, sync_dir};
use crate::error::name_error;
use crate::manifest::{self, Manifest};
use crate::{log_file, options};

const NAME: &str = "generation-";
/// Where the files of a new generation are written before RocksDB takes them in.
const SORTED: &str = "sorted";
/// Bytes of a sorted file.
const SORTED_FILE: u64 = 64 << 20;

/// Bytes of new content after which the space left is looked at again.
const SPACE_STEP: u64 = 1 << 20;

/// An open generation.
pub(crate) struct Generation {
    number: u64,
    // Before the files: they may be removed once it is closed.
    db: DB,
    files: Files,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("files", &self.files).finish_non_exhaustive()
    }
}

/// The directory of a generation, removed when this is dropped if it does not count any more.
#[derive(Debug)]
struct Files {
    path: PathBuf,
    is_obsolete: AtomicBool,
}

impl Drop for Files {
    fn drop(&mut self) {
        if self.is_obsolete.load(Ordering::Relaxed) {
            // What stays is removed by the next open.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// The directory of that generation.
pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{NAME}{number:016x}"))
}

/// Removes all generations but one.
pub(crate) fn remove_others(dir: &Path, number: u64) -> Result<()> {
    others(dir, number)?.iter().try_for_each(|path| remove(path))
}

/// Whether there are other generations than this one.
pub(crate) fn has_others(dir: &Path, number: u64) -> Result<bool> {
    Ok(!others(dir, number)?.is_empty())
}

fn others(dir: &Path, number: u64) -> Result<Vec<PathBuf>> {
    let doing = |error| Error::io(format!("listing {}", dir.display()), error);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(doing)? {
        let entry = entry.map_err(doing)?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(NAME)) {
            found.push(entry.path());
        }
    }
    let kept = path(dir, number);
    found.retain(|path| *path != kept);
    Ok(found)
}

impl Generation {
    /// Opens a generation. What it shows then is durable: nothing else is in its files.
    pub(crate) fn open(dir: &Path, number: u64, may_make: bool, cache: &Cache) -> Result<Self> {
        let path = path(dir, number);
        if let Some(manifest) = Manifest::check(&path)? {
            manifest.cut()?;
        }
        log_file::remove_empty(&path)?;
        let doing = || format!("opening {}", path.display());
        let db = DB::open(&options::data(may_make, cache), &path).map_err(|error| {
            let says = error.as_ref();
            if says.contains("does not exist") {
                return Error::corrupt(format!("{}: {says}", doing()));
            }
            name_error(&doing(), &error)
        })?;
        manifest::note_synced(&path);
        Ok(Self { number, db, files: Files { path, is_obsolete: AtomicBool::new(false) } })
    }

    /// Makes a generation with this content, durably. It does not count yet; after an error nothing of it is left.
    pub(crate) fn build(
        directory: &Directory,
        number: u64,
        sorted: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
        cache: &Cache,
    ) -> Result<Self> {
        let path = path(directory.path(), number);
        let built = remove(&path).and_then(|()| fill(directory, number, sorted, cache));
        if built.is_err() {
            // Best effort: open removes it too.
            let _ = remove(&path);
        }
        built
    }

    pub(crate) fn is_empty(&self) -> bool {
        let mut pairs = self.db.raw_iterator();
        pairs.seek_to_first();
        !pairs.valid()
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn db(&self) -> &DB {
        &self.db
    }

    /// Notes that the list of its files is synced as it is, so that damage to it can be told from an interrupted write.
    pub(crate) fn note_synced(&self) {
        manifest::note_synced(&self.files.path);
    }

    /// Its files go with its last handle.
    pub(crate) fn retire(&self) {
        self.files.is_obsolete.store(true, Ordering::Relaxed);
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

fn fill(
    directory: &Directory,
    number: u64,
    sorted: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
    cache: &Cache,
) -> Result<Generation> {
    let dir = directory.path();
    let path = path(dir, number);
    let place = path.join(SORTED);
    fs::create_dir_all(&place).map_err(|error| Error::io(format!("making {}", place.display()), error))?;
    let files = write_files(directory, &place, sorted, cache)?;
    let generation = Generation::open(dir, number, true, cache)?;
    if !files.is_empty() {
        let mut taking = IngestExternalFileOptions::default();
        taking.set_move_files(true);
        generation
            .db
            .ingest_external_file_opts(&taking, files)
            .map_err(|error| name_error(&format!("taking in the new content in {}", path.display()), &error))?;
    }
    generation.note_synced();
    remove(&place)?;
    sync_dir(&path)?;
    sync_dir(dir)?;
    Ok(generation)
}

/// Writes the pairs into sorted files, each synced.
fn write_files(
    directory: &Directory,
    place: &Path,
    sorted: &mut dyn Iterator<Item = Result<(Bytes, Bytes)>>,
    cache: &Cache,
) -> Result<Vec<PathBuf>> {
    let options = options::data(true, cache);
    let mut pairs = sorted.peekable();
    let mut files = Vec::new();
    let mut last: Option<Bytes> = None;
    while pairs.peek().is_some() {
        let path = place.join(format!("{:08}.sst", files.len()));
        let doing = |error| name_error(&format!("writing the new content to {}", path.display()), &error);
        let mut writer = SstFileWriter::create(&options);
        writer.open(&path).map_err(doing)?;
        let mut checked = 0;
        while writer.file_size() < SORTED_FILE
            && let Some(pair) = pairs.next()
        {
            // Installing must not take the last space, which the store in use needs to go on.
            if writer.file_size() >= checked {
                directory.check_space("writing the new content", SPACE_STEP as usize)?;
                checked += SPACE_STEP;
            }
            let (key, value) = pair?;
            if last.as_ref().is_some_and(|last| *last >= key) {
                return Err(Error::invalid("the pairs of a new content come in ascending order of their keys"));
            }
            writer.put(&key, &value).map_err(doing)?;
            last = Some(key);
        }
        writer.finish().map_err(doing)?;
        files.push(path);
    }
    Ok(files)
}
