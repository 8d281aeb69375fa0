//! Compression of a batch's data with LZ4. Pure bytes.

use bytes::Bytes;
use d_engine_core::Entry;

use crate::segment::Seed;

/// Data shorter than this is never compressed.
pub(crate) const RAW_LEN_MIN: u64 = 4 << 10;
const CHECKSUM_LEN: usize = 4;

/// Lengths of compressed data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packed {
    /// In the file.
    pub(crate) stored_len: u32,
    /// Before compression.
    pub(crate) raw_len: u32,
}

/// Compresses, with a buffer that is reused.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    raw: Vec<u8>,
}

impl Packer {
    /// Appends the compressed data of the entries, `len` bytes before, to `out`. `None` if it is short or would not get
    /// shorter; then nothing was appended.
    pub(crate) fn pack(&mut self, entries: &[Entry], len: u64, seed: &Seed, out: &mut Vec<u8>) -> Option<Packed> {
        if len < RAW_LEN_MIN {
            return None;
        }
        self.raw.clear();
        for entry in entries {
            self.raw.extend_from_slice(entry.encoded());
        }
        let start = out.len();
        let packed_at = start + CHECKSUM_LEN;
        out.resize(packed_at + lz4_flex::block::get_maximum_output_size(self.raw.len()), 0);
        let written = lz4_flex::block::compress_into(&self.raw, &mut out[packed_at..]).unwrap_or(usize::MAX);
        let raw_len = self.raw.len();
        self.raw.shrink_to(crate::log_store::BUFFER_BYTES_MAX);
        if written >= raw_len - CHECKSUM_LEN {
            out.truncate(start);
            return None;
        }
        out.truncate(packed_at + written);
        let sum = seed.checksum(&out[packed_at..]);
        out[start..packed_at].copy_from_slice(&sum.to_le_bytes());
        Some(Packed { stored_len: (out.len() - start) as u32, raw_len: raw_len as u32 })
    }
}

/// The data before compression. With a seed the checksum is verified too; without, the entries' own have to do.
pub(crate) fn unpack(stored: &[u8], packed: Packed, seed: Option<&Seed>) -> Result<Bytes, String> {
    let Some((sum, block)) = stored.split_first_chunk::<CHECKSUM_LEN>() else {
        return Err(format!("compressed data of {} bytes", stored.len()));
    };
    if seed.is_some_and(|seed| seed.checksum(block) != u32::from_le_bytes(*sum)) {
        return Err("the checksum of the compressed data does not match".into());
    }
    // LZ4 makes at most 255 bytes of one: what claims more is damaged, and allocates nothing.
    if u64::from(packed.raw_len) > 255 * block.len() as u64 {
        return Err(format!("{} bytes cannot be {} compressed ones", packed.raw_len, block.len()));
    }
    match lz4_flex::block::decompress(block, packed.raw_len as usize) {
        Ok(raw) if raw.len() == packed.raw_len as usize => Ok(raw.into()),
        Ok(raw) => Err(format!("{} bytes after decompression, {} expected", raw.len(), packed.raw_len)),
        Err(error) => Err(format!("decompression: {error}")),
    }
}
