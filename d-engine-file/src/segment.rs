//! The first page of a segment of the log, and positions in the log. Pure bytes.
//!
//! A file `wal/{sequence:016x}.wal` gets its name only when this page is durable in it, so each such file has a valid
//! one; anything else is damage. Little-endian, zeros up to 4096:
//!
//! ```text
//!  0  magic         8 bytes "d-engWAL"
//!  8  checksum      u32, seeded, over everything of the page after itself
//! 12  version       u16, 2; 1 is read too, and has zeros from offset 88 on
//! 14  flags         u16, 0
//! 16  log uuid      u128
//! 32  sequence      u64
//! 40  group         u64, 0
//! 48  base index    u64, of the first entry that can follow
//! 56  previous id   term u64, index u64, of the entry before it
//! 72  previous end  u64, offset in the segment before: what lies behind it there does not count
//! 80  length        u64, of this file
//! 88  salt          u64, not 0, drawn anew for each segment (0 in version 1)
//! 96  seal length   u64, of the batch right behind this page that seals the segment before; 0: there is none
//! ```
//!
//! The checksum of this page is seeded with the log's uuid and the segment's sequence, those of the batches behind it
//! with the salt as well: bytes of another log or segment never validate here, nor does what the file held when it was
//! another segment, or when an earlier attempt to make this one ended in a crash.

use d_engine_core::{Error, LogId, Reader, Result};

/// Bytes of a page: what a torn write leaves old or new, and what holds acknowledged bytes is never written again.
pub(crate) const PAGE: u64 = 4096;
/// The offset of the first batch in a segment.
pub(crate) const FIRST_BATCH: u64 = PAGE;
/// The newest format of segments and batches that this build reads; it writes this one.
pub(crate) const WAL_VERSION: u16 = 2;

const MAGIC: [u8; 8] = *b"d-engWAL";
const HEADER_LEN: usize = 104;

/// A place in the log on disk. Ordered as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Position {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

impl Position {
    pub(crate) const fn new(segment: u64, offset: u64) -> Self {
        Self { segment, offset }
    }
}

/// The start of every checksum in one segment.
#[derive(Debug, Clone)]
pub(crate) struct Seed(crc32fast::Hasher);

impl Seed {
    pub(crate) fn new(uuid: u128, sequence: u64) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&uuid.to_le_bytes());
        hasher.update(&sequence.to_le_bytes());
        Self(hasher)
    }

    fn salted(mut self, salt: u64) -> Self {
        if salt != 0 {
            self.0.update(&salt.to_le_bytes());
        }
        self
    }

    pub(crate) fn checksum(&self, bytes: &[u8]) -> u32 {
        let mut hasher = self.0.clone();
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// What the first page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) uuid: u128,
    pub(crate) sequence: u64,
    /// The id of the entry before the segment's first.
    pub(crate) previous: LogId,
    /// Where the segment before ends; 0 if nothing before counts.
    pub(crate) previous_end: u64,
    /// Length of the file.
    pub(crate) length: u64,
    /// Tells this segment's batches from whatever else the file ever held; 0 in version 1.
    pub(crate) salt: u64,
    /// Length of the batch behind this page that seals the segment before; 0 if none does.
    pub(crate) seal_length: u64,
}

impl SegmentHeader {
    /// The seed of the batches.
    pub(crate) fn seed(&self) -> Seed {
        Seed::new(self.uuid, self.sequence).salted(self.salt)
    }

    /// Where the first batch of entries can begin; before it, everything was durable when the segment got its name.
    pub(crate) fn first_batch(&self) -> u64 {
        FIRST_BATCH + self.seal_length
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(PAGE as usize);
        page.extend_from_slice(&MAGIC);
        page.extend_from_slice(&[0; 4]);
        page.extend_from_slice(&WAL_VERSION.to_le_bytes());
        page.extend_from_slice(&[0; 2]);
        page.extend_from_slice(&self.uuid.to_le_bytes());
        let group = 0;
        let base = self.previous.index + 1;
        let LogId { term, index } = self.previous;
        let fields =
            [self.sequence, group, base, term, index, self.previous_end, self.length, self.salt, self.seal_length];
        for field in fields {
            page.extend_from_slice(&field.to_le_bytes());
        }
        debug_assert_eq!(page.len(), HEADER_LEN);
        page.resize(PAGE as usize, 0);
        let sum = Seed::new(self.uuid, self.sequence).checksum(&page[12..]);
        page[8..12].copy_from_slice(&sum.to_le_bytes());
        page
    }

    /// Reads the first page of segment `sequence` of the log `uuid`.
    pub(crate) fn decode(page: &[u8], uuid: u128, sequence: u64) -> Result<Self> {
        let mut reader = Reader::new(page, "segment header");
        if reader.take(8)? != MAGIC {
            return Err(Error::corrupt("the header page does not begin as one of a log segment"));
        }
        let sum = reader.u32()?;
        let found = Seed::new(uuid, sequence).checksum(reader.rest());
        if found != sum {
            return Err(Error::corrupt(match owner_of(page) {
                Some((other, number)) if other != uuid => format!(
                    "it belongs to another log: its header is the one of segment {number} of log {other:032x}, and this \
                     is log {uuid:032x}"
                ),
                Some((_, number)) => format!("its header is the one of segment {number} of this log"),
                None => format!("header checksum {found:08x}, expected {sum:08x}"),
            }));
        }
        let version = reader.u16()?;
        let flags = reader.u16()?;
        if !(1..=WAL_VERSION).contains(&version) || flags != 0 {
            return Err(Error::unsupported(format!(
                "segment format version {version} with flags {flags:04x}; this build reads versions 1 to \
                 {WAL_VERSION}: use the build that wrote it, or a newer one"
            )));
        }
        let uuid = reader.u128()?;
        let sequence = reader.u64()?;
        let group = reader.u64()?;
        let base = reader.u64()?;
        let previous = LogId::new(reader.u64()?, reader.u64()?);
        let header = Self {
            uuid,
            sequence,
            previous,
            previous_end: reader.u64()?,
            length: reader.u64()?,
            salt: reader.u64()?,
            seal_length: reader.u64()?,
        };
        if group != 0 {
            return Err(Error::unsupported(format!("a segment of log group {group}; this build keeps one group")));
        }
        if version == 1 && (header.salt, header.seal_length) != (0, 0) {
            return Err(Error::corrupt("a header of version 1 with fields of version 2"));
        }
        if header.seal_length > header.length.saturating_sub(FIRST_BATCH) || !header.seal_length.is_multiple_of(8) {
            return Err(Error::corrupt(format!("a seal of {} bytes in {}", header.seal_length, header.length)));
        }
        if previous.index.checked_add(1) != Some(base) {
            return Err(Error::corrupt(format!("base index {base} does not follow the previous id {previous}")));
        }
        Ok(header)
    }
}

/// The log and the sequence that a first page says it belongs to, if its checksum holds for them.
pub(crate) fn owner_of(page: &[u8]) -> Option<(u128, u64)> {
    let mut reader = Reader::new(page, "segment header");
    let magic = reader.take(8).ok()?;
    let sum = reader.u32().ok()?;
    let sealed = reader.rest();
    reader.take(4).ok()?;
    let (uuid, sequence) = (reader.u128().ok()?, reader.u64().ok()?);
    (magic == MAGIC && Seed::new(uuid, sequence).checksum(sealed) == sum).then_some((uuid, sequence))
}

/// Tells segments apart that have the same log and sequence; never 0.
pub(crate) fn new_salt() -> u64 {
    crate::random_uuid() as u64 | 1
}

/// The name of a segment's file.
pub(crate) fn file_name(sequence: u64) -> String {
    format!("{sequence:016x}.wal")
}

/// The name of the file of a purged segment that is kept to be written again.
pub(crate) fn spare_name(sequence: u64) -> String {
    format!("{sequence:016x}.old")
}

/// Whether a name is one of [`spare_name`].
pub(crate) fn is_spare(name: &str) -> bool {
    name.strip_suffix(".old").is_some_and(|digits| sequence_of(&format!("{digits}.wal")).is_some())
}

/// The sequence in a file name; `None` if it is not one of a segment.
pub(crate) fn sequence_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    let sequence = u64::from_str_radix(digits, 16).ok()?;
    (file_name(sequence) == name).then_some(sequence)
}

/// The next page boundary at or after `offset`.
pub(crate) const fn page_up(offset: u64) -> u64 {
    offset.next_multiple_of(PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            uuid: 7,
            sequence: 3,
            previous: LogId::new(2, 9),
            previous_end: 8192,
            length: 1 << 20,
            salt: 5,
            seal_length: 96,
        }
    }

    #[test]
    fn a_header_survives_its_encoding() {
        assert_eq!(SegmentHeader::decode(&header().encode(), 7, 3).unwrap(), header());
    }

    #[test]
    fn every_changed_bit_of_a_header_page_is_noticed() {
        let good = header().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bad, 7, 3).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_header_of_another_log_or_sequence_does_not_validate() {
        assert!(SegmentHeader::decode(&header().encode(), 8, 3).is_err());
        assert!(SegmentHeader::decode(&header().encode(), 7, 4).is_err());
    }

    #[test]
    fn batches_of_two_segments_with_one_sequence_do_not_validate_in_each_other() {
        let other = SegmentHeader { salt: 6, ..header() };
        assert_ne!(header().seed().checksum(b"batch"), other.seed().checksum(b"batch"));
        assert_eq!(
            SegmentHeader { salt: 0, ..header() }.seed().checksum(b"batch"),
            Seed::new(7, 3).checksum(b"batch"),
            "version 1 had no salt"
        );
        assert!(new_salt() != 0 && new_salt() != new_salt());
    }

    #[test]
    fn a_seal_that_does_not_fit_the_file_is_damage() {
        for seal_length in [12, 2 << 20] {
            let bad = SegmentHeader { seal_length, ..header() };
            assert!(matches!(SegmentHeader::decode(&bad.encode(), 7, 3), Err(Error::Corrupt { .. })));
        }
    }

    #[test]
    fn only_names_of_segments_have_a_sequence() {
        assert_eq!(sequence_of(&file_name(0xabc)), Some(0xabc));
        for name in ["next.tmp", "1.wal", "000000000000000G.wal", "0000000000000ABC.wal", "+000000000000001.wal"] {
            assert_eq!(sequence_of(name), None, "{name}");
        }
        assert!(is_spare(&spare_name(0xabc)) && sequence_of(&spare_name(0xabc)).is_none());
        assert!(!is_spare(&file_name(0xabc)) && !is_spare("1.old"));
    }
}
