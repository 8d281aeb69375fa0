//! The parts between header and trailer: blocks and the footer.

use std::io::Read;

use bytes::Bytes;

use super::{BLOCK_LEN_MAX, cut_short, expect_checksum, read_array, reading};
use crate::codec::{Reader, checksum};
use crate::{Error, Result};

pub(super) const SECTION_HEADER_LEN: usize = 20;
pub(super) const KIND_BLOCK: u8 = 1;
pub(super) const KIND_FOOTER: u8 = 2;
pub(super) const FLAG_LZ4: u8 = 1;

/// LZ4 never makes more than so many bytes of one.
const LZ4_RATIO_MAX: u64 = 255;

/// A verified block or footer.
pub(super) struct Section {
    pub(super) checksum: u32,
    pub(super) kind: u8,
    pub(super) records: u32,
    stored_len: u32,
    /// Uncompressed.
    pub(super) body: Bytes,
}

impl Section {
    pub(super) fn read(input: &mut impl Read, position: u64) -> Result<Self> {
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
        let is_known = match kind {
            KIND_BLOCK => flags & !FLAG_LZ4 == 0,
            KIND_FOOTER => flags == 0,
            _ => false,
        };
        if !is_known || reserved != 0 {
            return Err(Error::unsupported(format!(
                "snapshot block of kind {kind} with flags {flags:02x} at byte {position}; a newer version wrote it"
            )));
        }
        if flags & FLAG_LZ4 != 0 {
            body = decompress(&body, raw_len, records)
                .map_err(|what| Error::corrupt(format!("snapshot block at byte {position}: {what}")))?;
        } else if raw_len != stored_len {
            return Err(Error::corrupt(format!(
                "snapshot block at byte {position}: two lengths that must be equal differ"
            )));
        }
        Ok(Self { checksum: sum, kind, records, stored_len, body: body.into() })
    }

    /// With the header, as it is stored. The sum fits, because the writer refuses records that would not.
    pub(super) fn len(&self) -> u32 {
        SECTION_HEADER_LEN as u32 + self.stored_len
    }
}

/// The `raw_len` bytes that `stored` was made from.
fn decompress(stored: &[u8], raw_len: u32, records: u32) -> Result<Vec<u8>, String> {
    let limit = BLOCK_LEN_MAX - SECTION_HEADER_LEN;
    if raw_len as usize <= stored.len() || raw_len as usize > limit && records != 1 {
        return Err(format!("{records} records of {raw_len} bytes are compressed to {}", stored.len()));
    }
    // Before so much is allocated.
    if u64::from(raw_len) > (stored.len() as u64).saturating_mul(LZ4_RATIO_MAX) {
        return Err(format!("{} bytes of LZ4 are never {raw_len}", stored.len()));
    }
    let mut raw = vec![0; raw_len as usize];
    match lz4_flex::block::decompress_into(stored, &mut raw) {
        Ok(len) if len == raw.len() => Ok(raw),
        Ok(len) => Err(format!("{len} bytes were compressed, not {raw_len}")),
        Err(error) => Err(format!("it is not LZ4 of {raw_len} bytes: {error}")),
    }
}

/// The header of a section whose body is stored as `stored`.
pub(super) fn encode_header(
    kind: u8,
    flags: u8,
    records: u32,
    raw_len: usize,
    stored: &[u8],
) -> [u8; SECTION_HEADER_LEN] {
    let mut out = [0; SECTION_HEADER_LEN];
    out[4] = kind;
    out[5] = flags;
    out[8..12].copy_from_slice(&(stored.len() as u32).to_le_bytes());
    out[12..16].copy_from_slice(&(raw_len as u32).to_le_bytes());
    out[16..20].copy_from_slice(&records.to_le_bytes());
    let sum = checksum(&[&out[4..], stored]);
    out[..4].copy_from_slice(&sum.to_le_bytes());
    out
}
