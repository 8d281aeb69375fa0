//! The portable snapshot: sorted records in checksummed blocks, the same bytes on every backend for the same state.
//!
//! This file is about bytes only. It reads and writes through `std::io` traits that the caller provides and opens
//! and renames nothing, nor does it sync, except for a caller that writes through [`Steady`]; what the records mean is the state machine's business.
//!
//! # Format, version 1 (little-endian)
//!
//! ```text
//! header   magic "dengsnap" | version u16 | flags u16 | last included term u64 | index u64 | revision u64 | crc32
//! block    crc32 | kind u8 = 1 | flags u8 | reserved u16 | stored length u32 | raw length u32 | records u32 | body
//! …        body: key length u32 | value length u32 | key | value, in strictly ascending key order over the file
//! footer   crc32 | kind u8 = 2 | flags u8 | reserved u16 | stored length u32 | raw length u32 | 0 u32 | body
//!          body: records u64 | bytes u64 | SHA-256 of all record bytes | blocks u32 |
//!                per block: offset u64 | length u32 | records u32 | crc32
//! trailer  offset of the footer u64 | crc32 | magic "dengsend"
//! ```
//!
//! A checksum covers everything of its part but itself. A block with its header is at most 1 MiB, or holds one larger
//! record alone; a new one begins only when the next record does not fit, so that equal records give equal files. Bit
//! 0 of a block's flags says that the body is one LZ4 block of the raw length; only a body that gets smaller is stored so,
//! and the limit of 1 MiB holds before compression. The footer is never compressed.
//! Position and size of magic, version and checksum in the header never change, so that a newer version is told from
//! damage.

mod reader;
mod section;
mod steady;
mod writer;

use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};

pub use reader::SnapshotReader;
pub use steady::{Steady, SyncData};
pub use writer::{ChecksumWriter, SnapshotWriter};

use crate::codec::{Reader, checksum};
use crate::{Error, LogId, Result, SnapshotChecksum};
use section::{KIND_FOOTER, Section};

/// Most bytes of a block with its header, unless it holds a single record.
pub const BLOCK_LEN_MAX: usize = 1 << 20;

const MAGIC: [u8; 8] = *b"dengsnap";
const END_MAGIC: [u8; 8] = *b"dengsend";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 40;
const TRAILER_LEN: usize = 20;
const RECORD_HEADER_LEN: usize = 8;

/// How the blocks of a snapshot are stored. Readers need no setting: each block says how it is stored, and the digest is of the
/// uncompressed records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SnapshotCompression {
    /// As they are: the fastest to write.
    #[default]
    None,
    /// By LZ4, those that it makes smaller: less to keep and to send, for more processor time.
    Lz4,
}

/// Which state a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SnapshotHeader {
    /// The last log entry whose effects are in the records.
    pub last_included: LogId,
    /// The state machine's revision.
    pub revision: u64,
}

impl SnapshotHeader {
    /// A header.
    pub const fn new(last_included: LogId, revision: u64) -> Self {
        Self { last_included, revision }
    }

    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[12..20].copy_from_slice(&self.last_included.term.to_le_bytes());
        out[20..28].copy_from_slice(&self.last_included.index.to_le_bytes());
        out[28..36].copy_from_slice(&self.revision.to_le_bytes());
        let sum = checksum(&[&out[..36]]);
        out[36..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self> {
        if bytes[..8] != MAGIC {
            return Err(Error::corrupt("snapshot header: this is not a snapshot of d-engine, the magic bytes differ"));
        }
        let mut reader = Reader::new(&bytes[8..], "snapshot header");
        let (version, flags) = (reader.u16()?, reader.u16()?);
        let header = Self::new(LogId::new(reader.u64()?, reader.u64()?), reader.u64()?);
        expect_checksum("snapshot header", reader.u32()?, checksum(&[&bytes[..36]]))?;
        if version != VERSION || flags != 0 {
            return Err(Error::unsupported(format!(
                "snapshot version {version} with flags {flags:04x}; this build reads version {VERSION}"
            )));
        }
        Ok(header)
    }
}

/// Where one block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotBlock {
    /// Offset of its header in the file.
    pub offset: u64,
    /// Length with its header, in bytes.
    pub len: u32,
    /// Number of records.
    pub records: u32,
    /// The checksum in its header.
    pub checksum: u32,
}

/// What stands at the end of a snapshot: totals, and where the blocks are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SnapshotFooter {
    /// Number of records.
    pub records: u64,
    /// Their bytes, uncompressed.
    pub bytes: u64,
    /// SHA-256 of the uncompressed records. Equal states give equal digests on every backend; the header and any
    /// compression do not enter.
    pub digest: SnapshotChecksum,
    /// The blocks in file order.
    pub blocks: Vec<SnapshotBlock>,
}

impl SnapshotFooter {
    /// Reads and verifies the footer of a complete snapshot, from its end; the blocks are not looked at.
    ///
    /// # Errors
    /// `Corrupt` for damage or a file cut short, `Unsupported` for a newer format, `Io`.
    pub fn read(input: &mut (impl Read + Seek)) -> Result<Self> {
        let seeking = |source| Error::io("seeking the footer of a snapshot", source);
        let len = input.seek(SeekFrom::End(0)).map_err(seeking)?;
        let Some(trailer_at) = len.checked_sub(TRAILER_LEN as u64) else {
            return Err(Error::corrupt(format!("snapshot: {len} bytes are too few for its trailer")));
        };
        input.seek(SeekFrom::Start(trailer_at)).map_err(seeking)?;
        let footer_at = decode_trailer(&read_array(input, trailer_at)?, trailer_at)?;
        input.seek(SeekFrom::Start(footer_at)).map_err(seeking)?;
        let section = Section::read(input, footer_at)?;
        if section.kind != KIND_FOOTER || footer_at + u64::from(section.len()) != trailer_at {
            return Err(Error::corrupt(format!(
                "snapshot, byte {footer_at}: the trailer points here, but not to a footer"
            )));
        }
        Self::decode(&section.body)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(52 + self.blocks.len() * 20);
        out.extend_from_slice(&self.records.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(self.digest.as_ref());
        out.extend_from_slice(&(self.blocks.len() as u32).to_le_bytes());
        for block in &self.blocks {
            out.extend_from_slice(&block.offset.to_le_bytes());
            out.extend_from_slice(&block.len.to_le_bytes());
            out.extend_from_slice(&block.records.to_le_bytes());
            out.extend_from_slice(&block.checksum.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes, "snapshot footer");
        let (records, bytes) = (reader.u64()?, reader.u64()?);
        let mut digest = [0; 32];
        digest.copy_from_slice(reader.take(32)?);
        let mut blocks = Vec::new();
        for _ in 0..reader.u32()? {
            let (offset, len) = (reader.u64()?, reader.u32()?);
            blocks.push(SnapshotBlock { offset, len, records: reader.u32()?, checksum: reader.u32()? });
        }
        reader.finish()?;
        Ok(Self { records, bytes, digest: SnapshotChecksum::new(digest), blocks })
    }
}

fn encode_trailer(footer_at: u64) -> [u8; TRAILER_LEN] {
    let mut out = [0; TRAILER_LEN];
    out[..8].copy_from_slice(&footer_at.to_le_bytes());
    out[8..12].copy_from_slice(&checksum(&[&footer_at.to_le_bytes()]).to_le_bytes());
    out[12..].copy_from_slice(&END_MAGIC);
    out
}

/// Where the footer is.
fn decode_trailer(bytes: &[u8; TRAILER_LEN], position: u64) -> Result<u64> {
    if bytes[12..] != END_MAGIC {
        return Err(Error::corrupt(format!("snapshot, byte {position}: no trailer; the file is cut short or damaged")));
    }
    let mut reader = Reader::new(bytes, "snapshot trailer");
    let footer_at = reader.u64()?;
    expect_checksum("snapshot trailer", reader.u32()?, checksum(&[&footer_at.to_le_bytes()]))?;
    Ok(footer_at)
}

fn expect_checksum(place: &str, expected: u32, found: u32) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::corrupt(format!("{place}: checksum {found:08x}, expected {expected:08x}")))
}

fn read_array<const N: usize>(input: &mut impl Read, position: u64) -> Result<[u8; N]> {
    let mut out = [0; N];
    if read_up_to(input, &mut out)? < N {
        return Err(cut_short(position));
    }
    Ok(out)
}

/// Fills `out` as far as the input goes.
fn read_up_to(input: &mut impl Read, out: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < out.len() {
        match input.read(&mut out[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(reading(error)),
        }
    }
    Ok(filled)
}

fn write_all(output: &mut impl Write, bytes: &[u8]) -> Result<()> {
    output.write_all(bytes).map_err(|source| Error::io("writing a snapshot", source))
}

fn reading(source: std::io::Error) -> Error {
    Error::io("reading a snapshot", source)
}

fn cut_short(position: u64) -> Error {
    Error::corrupt(format!("snapshot: the input ends within the part that begins at byte {position}"))
}

#[cfg(test)]
mod tests;
