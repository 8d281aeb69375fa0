//! The portable snapshot: sorted records in checksummed blocks, the same bytes on every backend for the same state.
//!
//! This file is about bytes only. It reads and writes through `std::io` traits that the caller provides and opens,
//! syncs and renames nothing; what the records mean is the state machine's business.
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
//! 0 of a block's flags says that the body is compressed with LZ4; this version neither writes nor reads that.
//! Position and size of magic, version and checksum in the header never change, so that a newer version is told from
//! damage.

use std::cmp::Ordering;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::codec::{Reader, checksum};
use crate::{Error, LogId, Result, SnapshotChecksum};

/// Most bytes of a block with its header, unless it holds a single record.
pub const BLOCK_LEN_MAX: usize = 1 << 20;

const MAGIC: [u8; 8] = *b"dengsnap";
const END_MAGIC: [u8; 8] = *b"dengsend";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 40;
const SECTION_HEADER_LEN: usize = 20;
const TRAILER_LEN: usize = 20;
const KIND_BLOCK: u8 = 1;
const KIND_FOOTER: u8 = 2;
const FLAG_LZ4: u8 = 1;
const RECORD_HEADER_LEN: usize = 8;

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

/// Writes a snapshot record by record; holds one block in memory.
///
/// After an error the output is incomplete and to be thrown away. Nothing is synced.
pub struct SnapshotWriter<W> {
    output: W,
    position: u64,
    body: Vec<u8>,
    body_records: u32,
    last_key: Vec<u8>,
    digest: Sha256,
    footer: SnapshotFooter,
}

impl<W: Write> SnapshotWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// `Io`.
    pub fn new(mut output: W, header: SnapshotHeader) -> Result<Self> {
        write_all(&mut output, &header.encode())?;
        Ok(Self {
            output,
            position: HEADER_LEN as u64,
            body: Vec::new(),
            body_records: 0,
            last_key: Vec::new(),
            digest: Sha256::new(),
            footer: SnapshotFooter::default(),
        })
    }

    /// Adds a record, whose key is above the one before it in byte order.
    ///
    /// # Errors
    /// `Invalid` for a key out of order or a record near 4 GiB, and nothing is added; `Io`.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if self.footer.records > 0 && key.cmp(&self.last_key) != Ordering::Greater {
            let number = self.footer.records;
            return Err(Error::invalid(format!("snapshot record {number} is not above the record before it")));
        }
        let record_len = RECORD_HEADER_LEN as u64 + key.len() as u64 + value.len() as u64;
        if record_len + SECTION_HEADER_LEN as u64 > u64::from(u32::MAX) {
            return Err(Error::invalid(format!(
                "a snapshot record of {record_len} bytes is beyond the format's 4 GiB"
            )));
        }
        if self.body_records > 0 && SECTION_HEADER_LEN + self.body.len() + record_len as usize > BLOCK_LEN_MAX {
            self.finish_block()?;
        }
        self.body.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.body.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.body.extend_from_slice(key);
        self.body.extend_from_slice(value);
        self.body_records += 1;
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.footer.records += 1;
        self.footer.bytes += record_len;
        Ok(())
    }

    /// Writes the last block and the footer, and gives back the output, which the caller syncs.
    ///
    /// # Errors
    /// `Io`.
    pub fn finish(mut self) -> Result<(W, SnapshotFooter)> {
        if self.body_records > 0 {
            self.finish_block()?;
        }
        self.footer.digest = SnapshotChecksum::new(self.digest.finalize().into());
        let body = self.footer.encode();
        let header = encode_section_header(KIND_FOOTER, 0, &body);
        write_all(&mut self.output, &header)?;
        write_all(&mut self.output, &body)?;
        write_all(&mut self.output, &encode_trailer(self.position))?;
        self.output.flush().map_err(|source| Error::io("writing a snapshot", source))?;
        Ok((self.output, self.footer))
    }

    fn finish_block(&mut self) -> Result<()> {
        let header = encode_section_header(KIND_BLOCK, self.body_records, &self.body);
        write_all(&mut self.output, &header)?;
        write_all(&mut self.output, &self.body)?;
        self.digest.update(&self.body);
        let len = (SECTION_HEADER_LEN + self.body.len()) as u32;
        self.footer.blocks.push(SnapshotBlock {
            offset: self.position,
            len,
            records: self.body_records,
            checksum: u32::from_le_bytes([header[0], header[1], header[2], header[3]]),
        });
        self.position += u64::from(len);
        self.body.clear();
        // A single huge record does not keep its memory.
        self.body.shrink_to(BLOCK_LEN_MAX);
        self.body_records = 0;
        Ok(())
    }
}

impl<W> std::fmt::Debug for SnapshotWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SnapshotWriter({} records, byte {})", self.footer.records, self.position)
    }
}

/// Reads a snapshot record by record, as an iterator; holds one block in memory.
///
/// Each block is verified before its first record is given out; the footer, the digest and the end of the input after
/// the last record. So the records are the snapshot's only if the iterator ends without an error: what is built from
/// them must not take effect before. After an error the iterator has ended.
pub struct SnapshotReader<R> {
    input: R,
    header: SnapshotHeader,
    position: u64,
    body: Bytes,
    body_records: u32,
    last_key: Bytes,
    digest: Sha256,
    seen: SnapshotFooter,
    state: ReaderState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReaderState {
    Reading,
    Complete,
    Failed,
}

impl<R: Read> SnapshotReader<R> {
    /// Reads and verifies the header. The input is read in large pieces and needs no buffer.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported` for a newer version, `Io`.
    pub fn new(mut input: R) -> Result<Self> {
        let header = SnapshotHeader::decode(&read_array(&mut input, 0)?)?;
        Ok(Self {
            input,
            header,
            position: HEADER_LEN as u64,
            body: Bytes::new(),
            body_records: 0,
            last_key: Bytes::new(),
            digest: Sha256::new(),
            seen: SnapshotFooter::default(),
            state: ReaderState::Reading,
        })
    }

    /// Which state the snapshot holds.
    pub fn header(&self) -> SnapshotHeader {
        self.header
    }

    /// The verified footer; `None` before the iterator has ended, and after an error.
    pub fn footer(&self) -> Option<&SnapshotFooter> {
        (self.state == ReaderState::Complete).then_some(&self.seen)
    }

    /// The next record; `None` once everything has been read and verified. Both slices share the memory of their
    /// block: copy what is to be kept long.
    ///
    /// # Errors
    /// `Corrupt` for damage, a wrong order or an input cut short; `Unsupported` for compression; `Io`.
    pub fn next_record(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        if self.state != ReaderState::Reading {
            return Ok(None);
        }
        let next = self.advance();
        match &next {
            Ok(Some(_)) => {}
            Ok(None) => self.state = ReaderState::Complete,
            Err(_) => self.state = ReaderState::Failed,
        }
        next
    }

    fn advance(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        if self.body_records == 0 {
            if !self.body.is_empty() {
                let left = self.body.len();
                return Err(self.corrupt(format!("{left} bytes follow the last record of the block before")));
            }
            let section = Section::read(&mut self.input, self.position)?;
            if section.kind == KIND_FOOTER {
                return self.finish(&section).map(|()| None);
            }
            self.begin_block(section)?;
        }
        let record = self.take_record()?;
        if self.seen.records > 0 && record.0 <= self.last_key {
            return Err(self.corrupt(format!("record {} is not above the record before it", self.seen.records)));
        }
        self.last_key = record.0.clone();
        self.body_records -= 1;
        self.seen.records += 1;
        Ok(Some(record))
    }

    fn begin_block(&mut self, section: Section) -> Result<()> {
        if section.records == 0 {
            return Err(self.corrupt("a block without records"));
        }
        self.digest.update(&section.body);
        self.seen.bytes += section.body.len() as u64;
        self.seen.blocks.push(SnapshotBlock {
            offset: self.position,
            len: section.len(),
            records: section.records,
            checksum: section.checksum,
        });
        self.position += u64::from(section.len());
        self.body = section.body;
        self.body_records = section.records;
        Ok(())
    }

    fn take_record(&mut self) -> Result<(Bytes, Bytes)> {
        let mut reader = Reader::new(&self.body, "snapshot record");
        let (key_len, value_len) = (reader.u32()? as usize, reader.u32()? as usize);
        reader.take(key_len)?;
        reader.take(value_len)?;
        let mut record = self.body.split_to(RECORD_HEADER_LEN + key_len + value_len);
        let key = record.slice(RECORD_HEADER_LEN..RECORD_HEADER_LEN + key_len);
        Ok((key, record.split_off(RECORD_HEADER_LEN + key_len)))
    }

    /// Compares the footer with what was read, and checks that the input ends where the snapshot does.
    fn finish(&mut self, section: &Section) -> Result<()> {
        self.seen.digest = SnapshotChecksum::new(std::mem::take(&mut self.digest).finalize().into());
        if SnapshotFooter::decode(&section.body)? != self.seen {
            return Err(self.corrupt("the footer does not describe the blocks before it"));
        }
        let trailer_at = self.position + u64::from(section.len());
        if decode_trailer(&read_array(&mut self.input, trailer_at)?, trailer_at)? != self.position {
            return Err(self.corrupt("the trailer points to another footer"));
        }
        let mut extra = [0; 1];
        match read_up_to(&mut self.input, &mut extra)? {
            0 => Ok(()),
            _ => Err(self.corrupt("bytes follow the trailer")),
        }
    }

    fn corrupt(&self, what: impl std::fmt::Display) -> Error {
        Error::corrupt(format!("snapshot, byte {}: {what}", self.position))
    }
}

impl<R: Read> Iterator for SnapshotReader<R> {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().transpose()
    }
}

impl<R> std::fmt::Debug for SnapshotReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SnapshotReader({:?}, byte {}, {:?})", self.header, self.position, self.state)
    }
}

/// Passes writes on and computes the [`SnapshotChecksum`] of every byte.
pub struct ChecksumWriter<W> {
    output: W,
    digest: Sha256,
}

impl<W> ChecksumWriter<W> {
    /// A writer in front of `output`.
    pub fn new(output: W) -> Self {
        Self { output, digest: Sha256::new() }
    }

    /// The output, and the checksum of what was written.
    pub fn finish(self) -> (W, SnapshotChecksum) {
        (self.output, SnapshotChecksum::new(self.digest.finalize().into()))
    }
}

impl<W: Write> Write for ChecksumWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.output.flush()
    }
}

impl<W> std::fmt::Debug for ChecksumWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChecksumWriter")
    }
}

/// A verified block or footer.
struct Section {
    checksum: u32,
    kind: u8,
    records: u32,
    body: Bytes,
}

impl Section {
    fn read(input: &mut impl Read, position: u64) -> Result<Self> {
        let header: [u8; SECTION_HEADER_LEN] = read_array(input, position)?;
        let mut reader = Reader::new(&header, "snapshot block");
        let sum = reader.u32()?;
        let (kind, flags, reserved) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let (stored_len, raw_len, records) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let mut body = Vec::with_capacity((stored_len as usize).min(BLOCK_LEN_MAX));
        // Grows with what is there, so that a damaged length does not allocate gigabytes.
        let found = input.take(u64::from(stored_len)).read_to_end(&mut body).map_err(reading)?;
        if found < stored_len as usize {
            return Err(cut_short(position));
        }
        expect_checksum(&format!("snapshot block at byte {position}"), sum, checksum(&[&header[4..], &body]))?;
        if flags & FLAG_LZ4 != 0 {
            return Err(Error::unsupported(format!(
                "the snapshot block at byte {position} is compressed with LZ4, which this build does not read"
            )));
        }
        if flags != 0 || reserved != 0 || !matches!(kind, KIND_BLOCK | KIND_FOOTER) {
            return Err(Error::unsupported(format!(
                "snapshot block of kind {kind} with flags {flags:02x} at byte {position}; a newer version wrote it"
            )));
        }
        if raw_len != stored_len {
            return Err(Error::corrupt(format!(
                "snapshot block at byte {position}: two lengths that must be equal differ"
            )));
        }
        Ok(Self { checksum: sum, kind, records, body: body.into() })
    }

    /// With the header. The sum fits, because the writer refuses records that would not.
    fn len(&self) -> u32 {
        (SECTION_HEADER_LEN + self.body.len()) as u32
    }
}

fn encode_section_header(kind: u8, records: u32, body: &[u8]) -> [u8; SECTION_HEADER_LEN] {
    let mut out = [0; SECTION_HEADER_LEN];
    out[4] = kind;
    out[8..12].copy_from_slice(&(body.len() as u32).to_le_bytes());
    out[12..16].copy_from_slice(&(body.len() as u32).to_le_bytes());
    out[16..20].copy_from_slice(&records.to_le_bytes());
    let sum = checksum(&[&out[4..], body]);
    out[..4].copy_from_slice(&sum.to_le_bytes());
    out
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
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    type Records = Vec<(Vec<u8>, Vec<u8>)>;

    fn write(records: &Records) -> (Vec<u8>, SnapshotFooter) {
        let mut writer = SnapshotWriter::new(Vec::new(), SnapshotHeader::new(LogId::new(3, 70), 41)).unwrap();
        for (key, value) in records {
            writer.push(key, value).unwrap();
        }
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<(SnapshotHeader, Records, SnapshotFooter)> {
        let mut reader = SnapshotReader::new(bytes)?;
        let mut records = Vec::new();
        for record in &mut reader {
            let (key, value) = record?;
            records.push((key.to_vec(), value.to_vec()));
        }
        Ok((reader.header(), records, reader.footer().unwrap().clone()))
    }

    fn small() -> Records {
        vec![(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), Vec::new()), (b"ba".to_vec(), b"xyz".to_vec())]
    }

    /// Puts a right checksum over a changed section.
    fn reseal(bytes: &mut [u8], offset: usize, len: usize) {
        let sum = checksum(&[&bytes[offset + 4..offset + len]]);
        bytes[offset..offset + 4].copy_from_slice(&sum.to_le_bytes());
    }

    #[test]
    fn bytes_of_version_1_stay_readable() {
        let golden = GOLDEN.concat();
        let golden: Vec<u8> =
            (0..golden.len() / 2).map(|at| u8::from_str_radix(&golden[2 * at..2 * at + 2], 16).unwrap()).collect();
        let (header, records, footer) = read(&golden).unwrap();
        assert_eq!(header, SnapshotHeader::new(LogId::new(3, 70), 41));
        assert_eq!(records, small());
        assert_eq!((footer.records, footer.bytes, footer.blocks.len()), (3, 32, 1));
        let hex: String = write(&small()).0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN.concat(), "what is written now");
    }

    // Made from the description above by other code.
    const GOLDEN: [&str; 6] = [
        "64656e67736e61700100000003000000000000004600000000000000290000000000000086db4367",
        "26b27fba01000000200000002000000003000000010000000100000061310100000000000000620200000003000000626178",
        "797a",
        "bd08f7a602000000480000004800000000000000030000000000000020000000000000005583d1cdbb2fbeb3dfbe7c81dd7d",
        "8ba5d5fef4c4bfb655516acb3fad78e91d78010000002800000000000000340000000300000026b27fba",
        "5c00000000000000e039ab6764656e6773656e64",
    ];

    #[test]
    fn every_changed_bit_is_noticed() {
        let (good, _) = write(&small());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad).is_err(), "bit {} of byte {}", bit % 8, bit / 8);
        }
    }

    #[test]
    fn every_cut_and_every_extra_byte_is_noticed() {
        let (good, _) = write(&small());
        for len in 0..good.len() {
            assert!(matches!(read(&good[..len]), Err(Error::Corrupt { .. })), "cut to {len}");
            assert!(SnapshotFooter::read(&mut Cursor::new(&good[..len])).is_err(), "footer of {len} bytes");
        }
        assert!(matches!(read(&[&good[..], b"x"].concat()), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn the_footer_is_found_from_the_end() {
        for records in [Vec::new(), small()] {
            let (bytes, footer) = write(&records);
            assert_eq!(SnapshotFooter::read(&mut Cursor::new(&bytes)).unwrap(), footer);
        }
    }

    #[test]
    fn compression_and_newer_versions_are_unsupported_not_corrupt() {
        let (good, footer) = write(&small());
        let mut lz4 = good.clone();
        let block = footer.blocks[0];
        lz4[block.offset as usize + 5] = FLAG_LZ4;
        reseal(&mut lz4, block.offset as usize, block.len as usize);
        assert!(matches!(read(&lz4), Err(Error::Unsupported { .. })));

        let mut newer = good;
        newer[8] = 2;
        let sum = checksum(&[&newer[..36]]);
        newer[36..40].copy_from_slice(&sum.to_le_bytes());
        assert!(matches!(read(&newer), Err(Error::Unsupported { .. })));
    }

    #[test]
    fn a_record_swapped_for_another_with_a_right_checksum_is_noticed_by_the_digest() {
        let (mut bytes, footer) = write(&small());
        let block = footer.blocks[0];
        let value_at = block.offset as usize + SECTION_HEADER_LEN + RECORD_HEADER_LEN + 1;
        assert_eq!(bytes[value_at], b'1');
        bytes[value_at] = b'2';
        reseal(&mut bytes, block.offset as usize, block.len as usize);
        assert!(matches!(read(&bytes), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn a_damaged_length_neither_allocates_nor_reads_on() {
        let (mut bytes, footer) = write(&small());
        let at = footer.blocks[0].offset as usize + 8;
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(read(&bytes), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn keys_out_of_order_are_refused_in_both_directions() {
        let mut writer = SnapshotWriter::new(Vec::new(), SnapshotHeader::default()).unwrap();
        writer.push(b"b", b"").unwrap();
        assert!(matches!(writer.push(b"b", b""), Err(Error::Invalid { .. })));
        assert!(matches!(writer.push(b"a", b""), Err(Error::Invalid { .. })));
        writer.push(b"c", b"").unwrap();
        let (mut bytes, footer) = writer.finish().unwrap();
        assert_eq!(footer.records, 2);

        let block = footer.blocks[0];
        let second_key = block.offset as usize + SECTION_HEADER_LEN + 2 * RECORD_HEADER_LEN + 1;
        assert_eq!(bytes[second_key], b'c');
        bytes[second_key] = b'a';
        reseal(&mut bytes, block.offset as usize, block.len as usize);
        let found = SnapshotReader::new(&bytes[..]).unwrap().find_map(Result::err);
        assert!(matches!(found, Some(Error::Corrupt { place, .. }) if place.contains("not above")));
    }

    #[test]
    fn blocks_stay_within_a_mebibyte_and_a_larger_record_stands_alone() {
        let mut records: Records = (0..40u8).map(|n| (vec![n], vec![n; 100_000])).collect();
        records.push((vec![40], vec![40; 3 * BLOCK_LEN_MAX]));
        records.push((vec![41], Vec::new()));
        let (bytes, footer) = write(&records);
        for block in &footer.blocks {
            assert!(block.len as usize <= BLOCK_LEN_MAX || block.records == 1);
        }
        assert_eq!(footer.blocks.iter().map(|block| block.records).collect::<Vec<_>>(), [10, 10, 10, 10, 1, 1]);
        let (_, found, found_footer) = read(&bytes).unwrap();
        assert_eq!((found, found_footer), (records, footer));
    }

    #[test]
    fn the_checksum_writer_hashes_what_arrives() {
        let (bytes, _) = write(&small());
        let mut writer = ChecksumWriter::new(Vec::new());
        writer.write_all(&bytes).unwrap();
        let (out, checksum) = writer.finish();
        assert_eq!(out, bytes);
        assert_eq!(checksum.as_ref(), Sha256::digest(&bytes).as_slice());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            map in prop::collection::btree_map(
                prop::collection::vec(any::<u8>(), 0..20),
                prop::collection::vec(any::<u8>(), 0..50),
                0..50,
            )
        ) {
            let records: Records = map.into_iter().collect();
            let (bytes, footer) = write(&records);
            let (_, found, found_footer) = read(&bytes).unwrap();
            prop_assert_eq!(found, records);
            prop_assert_eq!(found_footer, footer);
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read(&bytes).is_err());
            prop_assert!(SnapshotFooter::read(&mut Cursor::new(&bytes)).is_err());
        }
    }
}
