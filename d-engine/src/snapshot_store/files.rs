//! One snapshot on disk: a directory with the file and, in a slot file beside it, what the engine knows about it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use d_engine_core::snapshot::ChecksumWriter;
use d_engine_core::{Error, LogId, Result, SnapshotChecksum, SnapshotMetadata, slot};

use crate::durable::{io_error, sync_dir, sync_file};

/// The snapshot itself, whatever the state machine called it.
pub(super) const DATA: &str = "snapshot.bin";
const METADATA: &str = "metadata.slots";
const TAG: [u8; 4] = *b"snap";

/// What is kept about a snapshot, here and on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) metadata: SnapshotMetadata,
    /// SHA-256 of the file by the engine's own count; the metadata has the state machine's checksum.
    pub(crate) digest: SnapshotChecksum,
}

impl Record {
    pub(crate) fn at(&self) -> LogId {
        self.metadata.last_included
    }

    /// Whether both are about the same bytes, so that a broken transfer of one may go on with the other.
    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        (self.at(), self.digest, self.metadata.size) == (other.at(), other.digest, other.metadata.size)
    }

    fn encode(&self) -> Vec<u8> {
        [self.digest.as_ref(), &self.metadata.encode()].concat()
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let (digest, metadata) =
            bytes.split_first_chunk::<32>().ok_or_else(|| Error::corrupt("snapshot metadata: too short"))?;
        Ok(Self { metadata: SnapshotMetadata::decode(metadata)?, digest: SnapshotChecksum::new(*digest) })
    }
}

/// Writes the record into the snapshot's directory; durable on return, the directory's names too.
pub(super) fn save(dir: &Path, record: &Record) -> Result<()> {
    let path = dir.join(METADATA);
    let bytes = slot::new_file(TAG, &record.encode())?;
    fs::write(&path, bytes).map_err(io_error("writing", &path))?;
    sync_file(&path)?;
    sync_dir(dir)
}

/// Reads the record of a snapshot's directory.
pub(super) fn load(dir: &Path) -> Result<Record> {
    let path = dir.join(METADATA);
    let bytes = fs::read(&path).map_err(io_error("reading", &path))?;
    slot::check_len(TAG, bytes.len() as u64)
        .and_then(|()| slot::load(TAG, &bytes))
        .and_then(|slot| Record::decode(&slot.payload))
        .map_err(|error| match error {
            Error::Corrupt { place, .. } => Error::corrupt(format!("{}: {place}", path.display())),
            other => other,
        })
}

/// SHA-256 of a file and its length, by reading it.
pub(super) fn digest(path: &Path) -> Result<(SnapshotChecksum, u64)> {
    let mut file = File::open(path).map_err(io_error("opening", path))?;
    let mut sum = ChecksumWriter::new(io::sink());
    let len = io::copy(&mut file, &mut sum).map_err(io_error("reading", path))?;
    Ok((sum.finish().1, len))
}

/// Gives the one file that a state machine has written its name.
pub(super) fn settle_data(dir: &Path) -> Result<PathBuf> {
    let listing = || fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let files = listing().map_err(io_error("listing", dir))?;
    let [file] = &files[..] else {
        return Err(Error::invalid(format!(
            "a snapshot is one file in the directory that the state machine is given; it has written {} into {}",
            files.len(),
            dir.display()
        )));
    };
    let data = dir.join(DATA);
    fs::rename(file, &data).map_err(io_error("renaming", file))?;
    sync_file(&data)?;
    Ok(data)
}

/// Removes a directory with everything in it, if it is there.
pub(super) fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("removing", dir)(error)),
        _ => Ok(()),
    }
}
