//! Archives: a snapshot of a cluster's state as one file, to be kept elsewhere and restored into a new cluster.
//!
//! ```text
//! magic "dengarch" | version u16 = 1 | flags u16 = 0 | length of the body u32 | crc32 of all of this and of the body
//! body      time u64, Unix milliseconds | node u64 | SHA-256 of the snapshot | length u32 and bytes of SnapshotMetadata
//! snapshot  as the state machine wrote it, as many bytes as the metadata says
//! trailer   SHA-256 of all bytes before it | magic "dengaend"
//! ```
//!
//! Numbers are little-endian. Place and size of magic, version, length and checksum never change, so that a newer version is
//! told from damage. Every bit is covered by the trailer's checksum or compared.

mod writer;

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use d_engine_core::snapshot::ChecksumWriter;
use d_engine_core::{Error, Reader, Result, SnapshotChecksum, SnapshotMetadata, checksum};

use crate::clock::milliseconds;
use crate::durable::io_error;
pub use writer::{SaveOptions, save};

const MAGIC: [u8; 8] = *b"dengarch";
const END_MAGIC: [u8; 8] = *b"dengaend";
const VERSION: u16 = 1;
const PREFIX_LEN: usize = 20;
const TRAILER_LEN: usize = 40;
/// A header holds a membership and little else; a longer one is damage.
const BODY_LEN_MAX: u32 = 16 << 20;

/// What an archive says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArchiveHead {
    /// When the snapshot was fetched, by the clock of whoever saved it, in milliseconds since 1970.
    pub saved_ms: u64,
    /// The node whose state it is.
    pub node: u64,
    /// SHA-256 of the snapshot.
    pub digest: SnapshotChecksum,
    /// The snapshot's last entry, cluster, membership and length.
    pub metadata: SnapshotMetadata,
}

impl ArchiveHead {
    pub(crate) fn now(node: u64, digest: SnapshotChecksum, metadata: SnapshotMetadata) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { saved_ms: milliseconds(since), node, digest, metadata }
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let metadata = self.metadata.encode();
        let mut body = Vec::with_capacity(52 + metadata.len());
        body.extend_from_slice(&self.saved_ms.to_le_bytes());
        body.extend_from_slice(&self.node.to_le_bytes());
        body.extend_from_slice(self.digest.as_ref());
        body.extend_from_slice(&(metadata.len() as u32).to_le_bytes());
        body.extend_from_slice(&metadata);
        let len = u32::try_from(body.len()).ok().filter(|len| *len <= BODY_LEN_MAX);
        let len = len.ok_or_else(|| Error::invalid("a membership is too long for an archive"))?;
        let mut out = Vec::with_capacity(PREFIX_LEN + body.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&0u16.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        let sum = checksum(&[&out, &body]);
        out.extend_from_slice(&sum.to_le_bytes());
        out.extend_from_slice(&body);
        Ok(out)
    }

    /// Reads a header from the front of `input`; gives its length too.
    fn read(input: &mut impl Read) -> Result<(Self, u64)> {
        let mut prefix = [0; PREFIX_LEN];
        read_exact(input, &mut prefix, "header")?;
        let mut reader = Reader::new(&prefix, "archive header");
        if reader.take(8)? != MAGIC {
            return Err(Error::invalid("this is no archive of d-engine: it does not begin like one"));
        }
        let (version, flags, len, sum) = (reader.u16()?, reader.u16()?, reader.u32()?, reader.u32()?);
        if len > BODY_LEN_MAX {
            return Err(Error::corrupt(format!("archive header: a length of {len} bytes cannot be")));
        }
        let mut body = vec![0; len as usize];
        read_exact(input, &mut body, "header")?;
        let found = checksum(&[&prefix[..16], &body]);
        if found != sum {
            return Err(Error::corrupt(format!("archive header: checksum {found:08x}, expected {sum:08x}")));
        }
        if version != VERSION || flags != 0 {
            return Err(Error::unsupported(format!(
                "archive version {version} with flags {flags:04x}; this build reads version {VERSION}. Use the version of \
                 d-engine that wrote it, or a newer one"
            )));
        }
        Ok((Self::decode(&body)?, PREFIX_LEN as u64 + u64::from(len)))
    }

    fn decode(body: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(body, "archive header");
        let (saved_ms, node) = (reader.u64()?, reader.u64()?);
        let mut digest = [0; 32];
        digest.copy_from_slice(reader.take(32)?);
        let metadata = SnapshotMetadata::decode(reader.bytes()?)?;
        reader.finish()?;
        Ok(Self { saved_ms, node, digest: SnapshotChecksum::new(digest), metadata })
    }
}

/// An archive of which every byte has been verified.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    file: File,
    head: ArchiveHead,
    /// Where the snapshot begins.
    snapshot_at: u64,
    checksum: SnapshotChecksum,
}

impl Archive {
    /// Opens an archive and verifies all of it. Blocks while it is read.
    ///
    /// # Errors
    /// `Invalid` for a file that is no archive, `Corrupt` for one that is damaged or cut short, `Unsupported` for a newer
    /// version, `Io`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(io_error("opening the archive", path))?;
        Self::verify(path, file).map_err(|error| named(path, error))
    }

    fn verify(path: &Path, mut file: File) -> Result<Self> {
        let failed = |doing| io_error(doing, path);
        let details = file.metadata().map_err(failed("reading"))?;
        if !details.is_file() {
            return Err(Error::invalid("an archive is a file, this is none"));
        }
        let len = details.len();
        let (head, snapshot_at) = ArchiveHead::read(&mut file)?;
        let expected = snapshot_at.saturating_add(head.metadata.size).saturating_add(TRAILER_LEN as u64);
        if len != expected {
            return Err(Error::corrupt(format!(
                "{len} bytes where the header says {expected}; it was cut or added to"
            )));
        }
        if head.metadata.cluster != head.metadata.membership.cluster {
            return Err(Error::corrupt("archive header: it names two clusters"));
        }
        let copy = |file: &mut File, from: u64, len: u64, to: &mut dyn std::io::Write| {
            file.seek(SeekFrom::Start(from))
                .and_then(|_| std::io::copy(&mut file.take(len), &mut &mut *to))
                .map_err(failed("reading"))
        };
        let mut whole = ChecksumWriter::new(std::io::sink());
        copy(&mut file, 0, snapshot_at, &mut whole)?;
        let mut both = ChecksumWriter::new(whole);
        copy(&mut file, snapshot_at, head.metadata.size, &mut both)?;
        let (whole, digest) = both.finish();
        let checksum = whole.finish().1;
        let mut trailer = [0; TRAILER_LEN];
        read_exact(&mut file, &mut trailer, "trailer")?;
        if trailer[..32] != *checksum.as_ref() || trailer[32..] != END_MAGIC {
            return Err(Error::corrupt("its bytes do not have the checksum at its end"));
        }
        if digest != head.digest {
            return Err(Error::corrupt(format!("the snapshot in it has SHA-256 {digest}, expected {}", head.digest)));
        }
        Ok(Self { path: path.to_path_buf(), file, head, snapshot_at, checksum })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says about itself.
    pub fn head(&self) -> &ArchiveHead {
        &self.head
    }

    /// SHA-256 of everything before the trailer: names this archive.
    pub fn checksum(&self) -> SnapshotChecksum {
        self.checksum
    }

    /// The snapshot's bytes, read anew from the file.
    ///
    /// # Errors
    /// `Io`.
    pub fn snapshot(&mut self) -> Result<impl Read> {
        self.file.seek(SeekFrom::Start(self.snapshot_at)).map_err(io_error("reading", &self.path))?;
        Ok((&mut self.file).take(self.head.metadata.size))
    }
}

/// Adds the path to what is wrong with a file.
fn named(path: &Path, error: Error) -> Error {
    let path = path.display();
    match error {
        Error::Corrupt { place, .. } => Error::corrupt(format!("{path}: {place}")),
        Error::Invalid { why } => Error::invalid(format!("{path}: {why}")),
        Error::Unsupported { what } => Error::unsupported(format!("{path}: {what}")),
        other => other,
    }
}

fn read_exact(input: &mut impl Read, out: &mut [u8], part: &str) -> Result<()> {
    input.read_exact(out).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::corrupt(format!("it ends within the {part} of an archive")),
        _ => Error::io(format!("reading the {part} of an archive"), error),
    })
}

#[cfg(test)]
mod tests;
