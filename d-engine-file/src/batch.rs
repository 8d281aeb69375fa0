//! A batch: what one write call puts into the log, whole or not at all. Pure bytes.
//!
//! ```text
//!  0  magic           u32 "dBat"
//!  4  checksum        u32, seeded, over the header after itself
//!  8  table checksum  u32, seeded, over the table of records
//! 12  flags           u16, 0; 1 is for a body compressed with LZ4
//! 14  reserved        u16, 0
//! 16  records         u32
//! 20  reserved        u32, 0
//! 24  length          u64, of header, table and data
//! 32  position        u64, offset of the batch in its segment
//! 40  previous end    u64, where the batch before it ends
//! 48  synced          segment u64, offset u64: everything before was durable when this was written
//! 64  first index     u64, of the first entry
//! 72  table           20 bytes per record: length u32, checksum u32, kind u8, entry kind u8, flags u16 (0), value u64
//!     data            the records' bytes, one after the other; then zeros up to a multiple of 8
//! ```
//!
//! Kinds of records: 0 entry (value: its term; the data is `Entry::encode()`, and the checksum is the one it begins
//! with), 1 truncate-from (value: the index; no data), 2 seal (reserved for a digest of the segment; checksum over its
//! data; readers that do not use it skip it). The checksum of an entry is made once, by the leader; the table repeats
//! it, which ties the bytes to this batch without another pass over them.

use bytes::Bytes;
use d_engine_core::{Entry, Error, Reader};

use crate::segment::{Position, Seed};

/// Bytes of a batch before its table.
pub(crate) const HEADER_LEN: usize = 72;
/// Bytes of a record in the table.
pub(crate) const RECORD_LEN: usize = 20;
/// The longest batch in bytes; offsets in a segment fit into 32 bits with room to spare.
pub(crate) const LENGTH_MAX: u64 = 1 << 30;

pub(crate) const MAGIC: [u8; 4] = *b"dBat";
const KIND_ENTRY: u8 = 0;
const KIND_TRUNCATE_FROM: u8 = 1;
const KIND_SEAL: u8 = 2;

/// What one write call changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    /// First, everything from this index on goes.
    pub(crate) truncate_from: Option<u64>,
    /// Then these follow.
    pub(crate) entries: Vec<Entry>,
}

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its offset in the segment.
    pub(crate) position: u64,
    /// Where the batch before it ends.
    pub(crate) previous_end: u64,
    /// Everything before this was durable.
    pub(crate) synced: Position,
}

impl Change {
    fn records(&self) -> usize {
        usize::from(self.truncate_from.is_some()) + self.entries.len()
    }

    /// Offset of the first entry's bytes in the batch.
    pub(crate) fn data_start(&self) -> u64 {
        (HEADER_LEN + RECORD_LEN * self.records()) as u64
    }

    /// Length of the batch, a multiple of 8.
    pub(crate) fn encoded_len(&self) -> u64 {
        let data: u64 = self.entries.iter().map(|entry| entry.encoded_len() as u64).sum();
        (self.data_start() + data).next_multiple_of(8)
    }

    /// Replaces the content of `out` by the batch.
    pub(crate) fn encode(&self, seed: &Seed, place: Place, out: &mut Vec<u8>) {
        out.clear();
        out.reserve(self.encoded_len() as usize);
        out.resize(HEADER_LEN, 0);
        if let Some(from) = self.truncate_from {
            push_record(out, 0, 0, KIND_TRUNCATE_FROM, 0, from);
        }
        for entry in &self.entries {
            let bytes = entry.encode();
            push_record(out, bytes.len() as u32, own_checksum(&bytes), KIND_ENTRY, entry.kind.to_byte(), entry.term);
        }
        let table_sum = seed.checksum(&out[HEADER_LEN..]);
        for entry in &self.entries {
            out.extend_from_slice(&entry.encode());
        }
        let length = out.len() as u64;
        out.resize(out.len().next_multiple_of(8), 0);

        let first_index = self.entries.first().map_or(0, |entry| entry.index);
        out[..4].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&table_sum.to_le_bytes());
        out[16..20].copy_from_slice(&(self.records() as u32).to_le_bytes());
        let fields =
            [length, place.position, place.previous_end, place.synced.segment, place.synced.offset, first_index];
        for (field, at) in fields.iter().zip((24..).step_by(8)) {
            out[at..at + 8].copy_from_slice(&field.to_le_bytes());
        }
        let sum = seed.checksum(&out[8..HEADER_LEN]);
        out[4..8].copy_from_slice(&sum.to_le_bytes());
    }
}

/// The checksum that an encoded entry begins with.
fn own_checksum(encoded: &[u8]) -> u32 {
    let mut sum = [0; 4];
    sum.copy_from_slice(&encoded[..4]);
    u32::from_le_bytes(sum)
}

fn push_record(out: &mut Vec<u8>, len: u32, sum: u32, kind: u8, entry_kind: u8, value: u64) {
    let mut record = [0u8; RECORD_LEN];
    record[..4].copy_from_slice(&len.to_le_bytes());
    record[4..8].copy_from_slice(&sum.to_le_bytes());
    record[8] = kind;
    record[9] = entry_kind;
    record[12..].copy_from_slice(&value.to_le_bytes());
    out.extend_from_slice(&record);
}

/// A header whose own checksum and position hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    table_sum: u32,
    flags: u16,
    records: u32,
    length: u64,
    pub(crate) place: Place,
    pub(crate) first_index: u64,
}

/// Why there is no batch to be had at an offset.
#[derive(Debug)]
pub(crate) enum Flaw {
    /// The bytes are not a whole batch: torn or damaged, which only the surroundings can tell.
    Bad(String),
    /// A sound batch in a form that this build does not know.
    Unsupported(Error),
}

/// A verified batch.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) header: Header,
    pub(crate) change: Change,
    /// Where it ends, a multiple of 8.
    pub(crate) end: u64,
}

/// The header at `offset`, if its checksum holds and it was written for this place.
pub(crate) fn header_at(segment: &[u8], offset: u64, seed: &Seed) -> Option<Header> {
    let start = usize::try_from(offset).ok()?;
    let bytes = segment.get(start..start.checked_add(HEADER_LEN)?)?;
    if bytes[..4] != MAGIC || seed.checksum(&bytes[8..]).to_le_bytes() != bytes[4..8] {
        return None;
    }
    let header = parse_header(bytes).ok()?;
    (header.place.position == offset).then_some(header)
}

fn parse_header(bytes: &[u8]) -> d_engine_core::Result<Header> {
    let mut reader = Reader::new(&bytes[8..], "batch header");
    let table_sum = reader.u32()?;
    let flags = reader.u16()? | reader.u16()?;
    let records = reader.u32()?;
    reader.u32()?;
    let length = reader.u64()?;
    let place = Place {
        position: reader.u64()?,
        previous_end: reader.u64()?,
        synced: Position::new(reader.u64()?, reader.u64()?),
    };
    Ok(Header { table_sum, flags, records, length, place, first_index: reader.u64()? })
}

/// Reads and verifies the batch at `offset`; the entries share the bytes of `segment`.
pub(crate) fn read(segment: &Bytes, offset: u64, seed: &Seed) -> Result<Batch, Flaw> {
    let bad = |what: &str| Flaw::Bad(what.to_owned());
    let header = header_at(segment, offset, seed).ok_or_else(|| bad("no valid batch header"))?;
    if header.flags != 0 {
        return Err(Flaw::Unsupported(Error::unsupported(format!(
            "a batch with flags {:04x}; a newer version wrote it",
            header.flags
        ))));
    }
    let available = segment.len() as u64 - offset;
    let data_start = HEADER_LEN as u64 + RECORD_LEN as u64 * u64::from(header.records);
    if header.length > available || data_start > header.length {
        return Err(bad("the batch is longer than the segment"));
    }
    let batch = segment.slice(offset as usize..(offset + header.length) as usize);
    let table = &batch[HEADER_LEN..data_start as usize];
    if seed.checksum(table) != header.table_sum {
        return Err(bad("the checksum of the batch's table does not match"));
    }
    let change = read_records(&batch, table, data_start as usize, &header)?;
    Ok(Batch { header, change, end: offset + header.length.next_multiple_of(8) })
}

fn read_records(batch: &Bytes, table: &[u8], data_start: usize, header: &Header) -> Result<Change, Flaw> {
    let mut change = Change::default();
    let mut at = data_start;
    for record in table.chunks_exact(RECORD_LEN) {
        let (len, sum, kind, value) = parse_record(record).map_err(|error| Flaw::Bad(error.to_string()))?;
        let end = at + len as usize;
        if end > batch.len() {
            return Err(Flaw::Bad("a record is longer than its batch".into()));
        }
        let data = batch.slice(at..end);
        at = end;
        match kind {
            KIND_ENTRY => {
                let index = header.first_index + change.entries.len() as u64;
                change.entries.push(read_entry(data, index, value, sum)?);
            }
            KIND_TRUNCATE_FROM if change.entries.is_empty() => change.truncate_from = Some(value),
            KIND_SEAL if d_engine_core::checksum(&[&data]) == sum => {}
            KIND_SEAL => return Err(Flaw::Bad("the checksum of a seal does not match".into())),
            other => {
                return Err(Flaw::Unsupported(Error::unsupported(format!(
                    "a record of kind {other} at this place; a newer version wrote it"
                ))));
            }
        }
    }
    if at != batch.len() {
        return Err(Flaw::Bad("the records do not fill their batch".into()));
    }
    Ok(change)
}

fn parse_record(record: &[u8]) -> d_engine_core::Result<(u32, u32, u8, u64)> {
    let mut reader = Reader::new(record, "record");
    let (len, sum, kind) = (reader.u32()?, reader.u32()?, reader.u8()?);
    reader.take(3)?;
    Ok((len, sum, kind, reader.u64()?))
}

fn read_entry(data: Bytes, index: u64, term: u64, sum: u32) -> Result<Entry, Flaw> {
    if data.len() < 4 || own_checksum(&data) != sum {
        return Err(Flaw::Bad(format!("the bytes of entry {index} are not the ones of its batch")));
    }
    match Entry::decode(data) {
        Ok(entry) if entry.index == index && entry.term == term => Ok(entry),
        Ok(entry) => Err(Flaw::Bad(format!("entry {} stands where {term}.{index} belongs", entry.id()))),
        Err(error @ Error::Unsupported { .. }) => Err(Flaw::Unsupported(error)),
        Err(error) => Err(Flaw::Bad(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use d_engine_core::EntryKind;

    const PLACE: Place = Place { position: 0, previous_end: 8, synced: Position::new(1, 4096) };

    fn change() -> Change {
        let entries = (5..8).map(|i| Entry::new(i, 2, EntryKind::Command, vec![i as u8; i as usize])).collect();
        Change { truncate_from: Some(5), entries }
    }

    fn encoded(seed: &Seed) -> Bytes {
        let mut out = vec![9; 1000];
        change().encode(seed, PLACE, &mut out);
        out.into()
    }

    #[test]
    fn a_batch_survives_its_encoding() {
        let seed = Seed::new(1, 2);
        let bytes = encoded(&seed);
        assert_eq!(bytes.len() as u64, change().encoded_len());
        let batch = read(&bytes, 0, &seed).unwrap();
        assert_eq!(batch.header.place, PLACE);
        assert_eq!(batch.end, bytes.len() as u64);
        assert_eq!(batch.change.truncate_from, Some(5));
        assert_eq!(batch.change.entries, change().entries);
        assert!(matches!(read(&bytes, 0, &Seed::new(1, 3)), Err(Flaw::Bad(_))));
    }

    #[test]
    fn every_changed_bit_and_every_cut_of_a_batch_is_noticed() {
        let seed = Seed::new(1, 2);
        let good = encoded(&seed);
        let length = read(&good, 0, &seed).unwrap().header.length as usize;
        for bit in 0..length * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad.into(), 0, &seed).is_err(), "bit {bit}");
        }
        for cut in 0..length {
            let mut torn = good.to_vec();
            torn[cut..].fill(0);
            if torn != good {
                assert!(read(&torn.into(), 0, &seed).is_err(), "cut at {cut}");
            }
            assert!(read(&good.slice(..cut), 0, &seed).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn an_unknown_flag_is_unsupported_not_damage() {
        let seed = Seed::new(1, 2);
        let mut bytes = encoded(&seed).to_vec();
        bytes[12] = 1;
        let sum = seed.checksum(&bytes[8..HEADER_LEN]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        assert!(matches!(read(&bytes.into(), 0, &seed), Err(Flaw::Unsupported(_))));
    }

    #[test]
    fn a_record_costs_48_bytes_with_its_entry_header() {
        assert_eq!(RECORD_LEN + d_engine_core::ENTRY_HEADER_LEN, 48);
    }
}
