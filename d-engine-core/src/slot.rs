//! The slot file: small state that is replaced as a whole and survives a torn write.
//!
//! Pure bytes; whoever owns the file does the reading, writing and syncing. A file is four slots of 4 KiB. Generation g
//! goes to slots g mod 2 and 2 + g mod 2 under one sync, so that the generation before it stays untouched in the two
//! others, and one damaged page costs nothing. Loading takes the highest valid generation; a file without one is an
//! error, never "empty".
//!
//! One slot, little-endian, zeros up to its end:
//!
//! ```text
//!  0  magic       8 bytes "d-eng\0sl"
//!  8  checksum    u32, CRC-32 of everything after itself, padding included
//! 12  version     u16, 1
//! 14  flags       u16, 0
//! 16  tag         4 bytes: what the file is for
//! 20  length      u32, of the payload
//! 24  generation  u64, from 1
//! 32  payload
//! ```

use bytes::Bytes;

use crate::codec::{Reader, checksum};
use crate::{Error, Result};

/// Bytes of one slot: the unit that a disk is assumed to damage or lose alone.
pub const SLOT_LEN: usize = 4096;
/// Slots of a file.
pub const SLOT_COUNT: usize = 4;
/// Bytes of a slot file.
pub const SLOT_FILE_LEN: usize = SLOT_LEN * SLOT_COUNT;
/// The longest payload, in bytes.
pub const SLOT_PAYLOAD_MAX: usize = SLOT_LEN - HEADER_LEN;
/// The newest format version that this build reads; it writes this one.
pub const SLOT_VERSION: u16 = 1;

const HEADER_LEN: usize = 32;
const MAGIC: [u8; 8] = *b"d-eng\0sl";

/// What a slot file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Slot {
    /// Counts the writes of the file, from 1.
    pub generation: u64,
    /// The state.
    pub payload: Bytes,
}

/// The byte offsets at which the slot of `generation` is to be written, under one sync.
pub const fn offsets(generation: u64) -> [u64; 2] {
    let first = (generation % 2) * SLOT_LEN as u64;
    [first, first + 2 * SLOT_LEN as u64]
}

/// One slot. `tag` says what the file is for, so that swapped files are noticed.
///
/// # Errors
/// `Invalid` for a payload longer than [`SLOT_PAYLOAD_MAX`].
pub fn encode(tag: [u8; 4], generation: u64, payload: &[u8]) -> Result<Vec<u8>> {
    if payload.len() > SLOT_PAYLOAD_MAX {
        return Err(Error::invalid(format!(
            "{} bytes do not fit into a slot of the file '{}': at most {SLOT_PAYLOAD_MAX}",
            payload.len(),
            tag.escape_ascii()
        )));
    }
    let mut slot = vec![0u8; SLOT_LEN];
    slot[..8].copy_from_slice(&MAGIC);
    slot[12..14].copy_from_slice(&SLOT_VERSION.to_le_bytes());
    slot[16..20].copy_from_slice(&tag);
    slot[20..24].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    slot[24..32].copy_from_slice(&generation.to_le_bytes());
    slot[HEADER_LEN..HEADER_LEN + payload.len()].copy_from_slice(payload);
    let sum = checksum(&[&slot[12..]]);
    slot[8..12].copy_from_slice(&sum.to_le_bytes());
    Ok(slot)
}

/// A whole new file of generation 1. It has no older generation to fall back to: write it under another name, sync,
/// rename, sync the directory.
///
/// # Errors
/// `Invalid` for a payload longer than [`SLOT_PAYLOAD_MAX`].
pub fn new_file(tag: [u8; 4], payload: &[u8]) -> Result<Vec<u8>> {
    let slot = encode(tag, 1, payload)?;
    let mut file = vec![0u8; SLOT_FILE_LEN];
    for offset in offsets(1) {
        file[offset as usize..offset as usize + SLOT_LEN].copy_from_slice(&slot);
    }
    Ok(file)
}

/// Refuses a file of any other length than [`SLOT_FILE_LEN`]: it was made whole before it got its name, so what is missing
/// was lost later, perhaps with the newest state.
///
/// # Errors
/// `Corrupt`, without the file's path.
pub fn check_len(tag: [u8; 4], len: u64) -> Result<()> {
    if len == SLOT_FILE_LEN as u64 {
        return Ok(());
    }
    Err(Error::corrupt(format!("slot file '{}' has {len} bytes, not {SLOT_FILE_LEN}", tag.escape_ascii())))
}

/// The highest valid generation of a whole file.
///
/// # Errors
/// `Corrupt` if the length is another one, no slot is valid or the newest carries another tag; `Unsupported` if a newer version wrote the newest.
/// The errors do not name the file: the caller adds its path.
pub fn load(tag: [u8; 4], file: &[u8]) -> Result<Slot> {
    check_len(tag, file.len() as u64)?;
    let mut newest: Option<(u64, &[u8])> = None;
    for slot in file.chunks_exact(SLOT_LEN) {
        if let Some(generation) = valid_generation(slot)
            && newest.is_none_or(|(highest, _)| generation > highest)
        {
            newest = Some((generation, slot));
        }
    }
    match newest {
        Some((generation, slot)) => Ok(Slot { generation, payload: payload(tag, slot)? }),
        None => {
            Err(Error::corrupt(format!("slot file '{}': none of its {SLOT_COUNT} slots is valid", tag.escape_ascii())))
        }
    }
}

/// The generation of a slot whose magic and checksum hold, whatever its version.
fn valid_generation(slot: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(slot, "slot");
    let magic = reader.take(8).ok()?;
    let sum = reader.u32().ok()?;
    if magic != MAGIC || checksum(&[reader.rest()]) != sum {
        return None;
    }
    reader.take(12).ok()?;
    reader.u64().ok()
}

fn payload(tag: [u8; 4], slot: &[u8]) -> Result<Bytes> {
    let mut reader = Reader::new(&slot[12..], "slot");
    let version = reader.u16()?;
    let flags = reader.u16()?;
    if version != SLOT_VERSION || flags != 0 {
        return Err(Error::unsupported(format!(
            "slot file '{}' has format version {version} with flags {flags:04x}; this build reads version \
             {SLOT_VERSION}: use the build that wrote it, or a newer one",
            tag.escape_ascii()
        )));
    }
    let found = reader.take(4)?;
    if found != tag {
        return Err(Error::corrupt(format!(
            "slot file '{}': its content belongs to '{}'",
            tag.escape_ascii(),
            found.escape_ascii()
        )));
    }
    let len = reader.u32()? as usize;
    reader.u64()?;
    Ok(Bytes::copy_from_slice(reader.take(len)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: [u8; 4] = *b"test";

    /// Writes a generation as an owner of the file does.
    fn write(file: &mut [u8], generation: u64, payload: &[u8]) {
        let slot = encode(TAG, generation, payload).unwrap();
        for offset in offsets(generation) {
            file[offset as usize..offset as usize + SLOT_LEN].copy_from_slice(&slot);
        }
    }

    fn file_with(generations: u64) -> Vec<u8> {
        let mut file = new_file(TAG, b"state 1").unwrap();
        for generation in 2..=generations {
            write(&mut file, generation, format!("state {generation}").as_bytes());
        }
        file
    }

    #[test]
    fn load_gives_the_newest_generation() {
        for generation in 1..6 {
            let slot = load(TAG, &file_with(generation)).unwrap();
            assert_eq!(slot.generation, generation);
            assert_eq!(slot.payload, format!("state {generation}"));
        }
    }

    #[test]
    fn payloads_of_every_length_fit_up_to_the_bound() {
        for len in [0, 1, 2000, SLOT_PAYLOAD_MAX] {
            let payload = vec![7u8; len];
            assert_eq!(load(TAG, &new_file(TAG, &payload).unwrap()).unwrap().payload, payload);
        }
        assert!(matches!(encode(TAG, 1, &vec![0; SLOT_PAYLOAD_MAX + 1]), Err(Error::Invalid { .. })));
    }

    #[test]
    fn any_one_flipped_bit_changes_nothing() {
        let good = file_with(4);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let slot = load(TAG, &bad).unwrap();
            assert_eq!((slot.generation, &slot.payload[..]), (4, &b"state 4"[..]), "bit {bit}");
        }
    }

    #[test]
    fn any_flipped_bit_of_a_single_slot_is_noticed() {
        let slot = encode(TAG, 3, b"state").unwrap();
        for bit in 0..slot.len() * 8 {
            let mut bad = slot.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(load(TAG, &bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_torn_write_keeps_the_previous_generation_or_gives_the_new_one() {
        let old = file_with(3);
        let new = encode(TAG, 4, b"state 4").unwrap();
        // Each slot of generation 4 independently: a prefix, a suffix, nothing or all of it has reached the disk.
        let torn = |file: &mut [u8], offset: u64, cut: usize, head: bool| {
            let range = if head { 0..cut } else { cut..SLOT_LEN };
            file[offset as usize..][range.clone()].copy_from_slice(&new[range]);
        };
        let cuts = [0, 1, 8, 12, 24, 31, 32, 35, 39, 512, 2048, SLOT_LEN];
        for first in cuts {
            for second in cuts {
                for head in [true, false] {
                    let mut file = old.clone();
                    torn(&mut file, offsets(4)[0], first, head);
                    torn(&mut file, offsets(4)[1], second, !head);
                    let slot = load(TAG, &file).unwrap();
                    assert_eq!(slot.payload, format!("state {}", slot.generation));
                    assert!(slot.generation == 3 || slot.generation == 4, "cuts {first} and {second}");
                }
            }
        }
    }

    #[test]
    fn a_file_without_a_valid_slot_is_damage_not_empty() {
        for file in [vec![], vec![0; SLOT_FILE_LEN], vec![0xff; SLOT_FILE_LEN], file_with(1)[..100].to_vec()] {
            assert!(matches!(load(TAG, &file), Err(Error::Corrupt { .. })));
        }
    }

    #[test]
    fn a_file_of_another_length_is_damage_whatever_its_slots_hold() {
        let good = file_with(4);
        for len in [SLOT_LEN, 2 * SLOT_LEN, 3 * SLOT_LEN, SLOT_FILE_LEN - 1] {
            let found = load(TAG, &good[..len]).unwrap_err();
            assert!(matches!(&found, Error::Corrupt { place, .. } if place.contains("16384")), "{len}: {found}");
        }
        assert!(matches!(load(TAG, &[&good[..], b"x"].concat()), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn a_newer_format_is_unsupported_and_a_foreign_tag_is_damage() {
        let mut newer = encode(TAG, 9, b"from the future").unwrap();
        newer[12] = 2;
        let sum = checksum(&[&newer[12..]]);
        newer[8..12].copy_from_slice(&sum.to_le_bytes());
        let mut file = file_with(2);
        file[..SLOT_LEN].copy_from_slice(&newer);
        assert!(matches!(load(TAG, &file), Err(Error::Unsupported { .. })));
        assert!(matches!(load(*b"else", &file_with(2)), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn the_bytes_of_version_1_stay_as_they_are() {
        let slot = encode(*b"hard", 0x0102, b"payload").unwrap();
        let golden = [
            0x64, 0x2d, 0x65, 0x6e, 0x67, 0x00, 0x73, 0x6c, // magic
            0x6a, 0xdb, 0xd6, 0xbe, // checksum
            0x01, 0x00, 0x00, 0x00, // version, flags
            0x68, 0x61, 0x72, 0x64, // tag
            0x07, 0x00, 0x00, 0x00, // length
            0x02, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // generation
            0x70, 0x61, 0x79, 0x6c, 0x6f, 0x61, 0x64, // payload
        ];
        assert_eq!(&slot[..golden.len()], golden);
        assert!(slot[golden.len()..].iter().all(|byte| *byte == 0));
        assert_eq!(offsets(0x0102), [0, 8192]);
        assert_eq!(offsets(0x0103), [4096, 12288]);
    }
}
