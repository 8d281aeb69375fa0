//! Writing snapshots.

use std::cmp::Ordering;
use std::io::Write;

use sha2::{Digest, Sha256};

use super::section::{FLAG_LZ4, KIND_BLOCK, KIND_FOOTER, SECTION_HEADER_LEN, encode_header};
use super::{
    BLOCK_LEN_MAX, HEADER_LEN, RECORD_HEADER_LEN, SnapshotBlock, SnapshotCompression, SnapshotFooter, SnapshotHeader,
    encode_trailer, write_all,
};
use crate::{Error, Result, SnapshotChecksum};

/// Writes a snapshot record by record; holds one block in memory.
///
/// After an error the output is incomplete and to be thrown away. Nothing is synced.
pub struct SnapshotWriter<W> {
    output: W,
    position: u64,
    compression: SnapshotCompression,
    body: Vec<u8>,
    /// The body, compressed; of no use between blocks.
    packed: Vec<u8>,
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
            compression: SnapshotCompression::None,
            body: Vec::new(),
            packed: Vec::new(),
            body_records: 0,
            last_key: Vec::new(),
            digest: Sha256::new(),
            footer: SnapshotFooter::default(),
        })
    }

    /// How the blocks from here on are stored; as they are, if nothing is said.
    pub fn with_compression(mut self, compression: SnapshotCompression) -> Self {
        self.compression = compression;
        self
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
        let header = encode_header(KIND_FOOTER, 0, 0, body.len(), &body);
        write_all(&mut self.output, &header)?;
        write_all(&mut self.output, &body)?;
        write_all(&mut self.output, &encode_trailer(self.position))?;
        self.output.flush().map_err(|source| Error::io("writing a snapshot", source))?;
        Ok((self.output, self.footer))
    }

    fn finish_block(&mut self) -> Result<()> {
        self.digest.update(&self.body);
        let (flags, stored) = match self.compression {
            SnapshotCompression::Lz4 => pack(&self.body, &mut self.packed)?,
            SnapshotCompression::None => (0, &self.body[..]),
        };
        let header = encode_header(KIND_BLOCK, flags, self.body_records, self.body.len(), stored);
        write_all(&mut self.output, &header)?;
        write_all(&mut self.output, stored)?;
        let len = (SECTION_HEADER_LEN + stored.len()) as u32;
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
        self.packed.shrink_to(BLOCK_LEN_MAX);
        self.body_records = 0;
        Ok(())
    }
}

/// What is stored of `body`, and the flags that say so; `packed` is scratch memory.
fn pack<'a>(body: &'a [u8], packed: &'a mut Vec<u8>) -> Result<(u8, &'a [u8])> {
    packed.resize(lz4_flex::block::get_maximum_output_size(body.len()), 0);
    let len = lz4_flex::block::compress_into(body, packed)
        .map_err(|error| Error::backend(format!("a snapshot block of {} bytes, LZ4: {error}", body.len())))?;
    Ok(if len < body.len() { (FLAG_LZ4, &packed[..len]) } else { (0, body) })
}

impl<W> std::fmt::Debug for SnapshotWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SnapshotWriter({} records, byte {})", self.footer.records, self.position)
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
