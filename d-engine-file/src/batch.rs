//! A batch: what one write call puts into the log, whole or not at all. Pure bytes.
//!
//! ```text
//!  0  magic           u32 "dBat"
//!  4  checksum        u32, seeded, over the header after itself
//!  8  table checksum  u32, seeded, over the table of records
//! 12  flags           u16, 0; 1: the data is compressed with LZ4
//! 14  reserved        u16, 0
//! 16  records         u32
//! 20  raw length      u32, of the data before compression; 0 if it is not compressed
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
//! with), 1 truncate-from (value: the index; no data), 2 seal (a digest of the segment before, see `seal.rs`; alone in
//! its batch; checksum over its data). The checksum of an entry is made once, by the leader; the table repeats it, which
//! ties the bytes to this batch without another pass over them.
//!
//! Compressed data is a seeded checksum (u32) and an LZ4 block after it. Data is compressed only if that makes it
//! shorter.

use bytes::Bytes;
use d_engine_core::{Entry, EntryKind, Error, Reader};

use crate::pack::{self, Packed, Packer};
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
const FLAG_LZ4: u16 = 1;

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

/// Where the data of a batch lies in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Body {
    /// Offset in the segment.
    pub(crate) offset: u64,
    /// Set if the data is compressed.
    pub(crate) packed: Option<Packed>,
}

impl Change {
    fn records(&self) -> usize {
        usize::from(self.truncate_from.is_some()) + self.entries.len()
    }

    /// Offset of the data in the batch.
    fn data_start(&self) -> u64 {
        (HEADER_LEN + RECORD_LEN * self.records()) as u64
    }

    fn data_len(&self) -> u64 {
        self.entries.iter().map(|entry| entry.encoded_len() as u64).sum()
    }

    /// Whether it carries a command of a client; other changes may use the last bytes of a full disk.
    pub(crate) fn has_command(&self) -> bool {
        self.entries.iter().any(|entry| entry.kind == EntryKind::Command)
    }

    /// Length of the batch without compression, a multiple of 8. Compression only ever makes it shorter.
    pub(crate) fn encoded_len(&self) -> u64 {
        (self.data_start() + self.data_len()).next_multiple_of(8)
    }

    /// Replaces the content of `out` by the batch, compressed if there is a packer and it pays; says where its data
    /// lies.
    pub(crate) fn encode(&self, seed: &Seed, place: Place, packer: Option<&mut Packer>, out: &mut Vec<u8>) -> Body {
        begin(out, self.encoded_len());
        if let Some(from) = self.truncate_from {
            push_record(out, 0, 0, KIND_TRUNCATE_FROM, 0, from);
        }
        for entry in &self.entries {
            let bytes = entry.encoded();
            push_record(out, bytes.len() as u32, own_checksum(bytes), KIND_ENTRY, entry.kind.to_byte(), entry.term);
        }
        let packed = packer.and_then(|packer| packer.pack(&self.entries, self.data_len(), seed, out));
        if packed.is_none() {
            for entry in &self.entries {
                out.extend_from_slice(entry.encoded());
            }
        }
        let first_index = self.entries.first().map_or(0, |entry| entry.index);
        complete(out, seed, place, self.records(), first_index, packed);
        Body { offset: place.position + self.data_start(), packed }
    }
}

/// Replaces the content of `out` by a batch that holds a seal alone.
pub(crate) fn encode_seal(seal: &[u8], seed: &Seed, place: Place, out: &mut Vec<u8>) {
    begin(out, (HEADER_LEN + RECORD_LEN + seal.len()) as u64);
    push_record(out, seal.len() as u32, d_engine_core::checksum(&[seal]), KIND_SEAL, 0, 0);
    out.extend_from_slice(seal);
    complete(out, seed, place, 1, 0, None);
}

/// Length of the batch of a seal, a multiple of 8.
pub(crate) fn seal_batch_len(seal: &[u8]) -> u64 {
    ((HEADER_LEN + RECORD_LEN + seal.len()) as u64).next_multiple_of(8)
}

fn begin(out: &mut Vec<u8>, length: u64) {
    out.clear();
    out.reserve(length as usize);
    out.resize(HEADER_LEN, 0);
}

/// Pads a batch whose table and data are there, and writes its header.
fn complete(out: &mut Vec<u8>, seed: &Seed, place: Place, records: usize, first_index: u64, packed: Option<Packed>) {
    let table_sum = seed.checksum(&out[HEADER_LEN..HEADER_LEN + RECORD_LEN * records]);
    let length = out.len() as u64;
    out.resize(out.len().next_multiple_of(8), 0);
    out[..4].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&table_sum.to_le_bytes());
    out[12..14].copy_from_slice(&if packed.is_some() { FLAG_LZ4 } else { 0 }.to_le_bytes());
    out[16..20].copy_from_slice(&(records as u32).to_le_bytes());
    out[20..24].copy_from_slice(&packed.map_or(0, |packed| packed.raw_len).to_le_bytes());
    let fields = [length, place.position, place.previous_end, place.synced.segment, place.synced.offset, first_index];
    for (field, at) in fields.iter().zip((24..).step_by(8)) {
        out[at..at + 8].copy_from_slice(&field.to_le_bytes());
    }
    let sum = seed.checksum(&out[8..HEADER_LEN]);
    out[4..8].copy_from_slice(&sum.to_le_bytes());
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
    raw_len: u32,
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
    /// The digest of the segment before, if the batch is one; the change is empty then.
    pub(crate) seal: Option<Bytes>,
    /// Where the data of the entries lies.
    pub(crate) body: Body,
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
    let raw_len = reader.u32()?;
    let length = reader.u64()?;
    let place = Place {
        position: reader.u64()?,
        previous_end: reader.u64()?,
        synced: Position::new(reader.u64()?, reader.u64()?),
    };
    Ok(Header { table_sum, flags, records, raw_len, length, place, first_index: reader.u64()? })
}

/// Reads and verifies the batch at `offset`; the entries share the bytes of `segment`.
pub(crate) fn read(segment: &Bytes, offset: u64, seed: &Seed) -> Result<Batch, Flaw> {
    let bad = |what: &str| Flaw::Bad(what.to_owned());
    let header = header_at(segment, offset, seed).ok_or_else(|| bad("no valid batch header"))?;
    if header.flags & !FLAG_LZ4 != 0 {
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
    let stored = batch.slice(data_start as usize..);
    let (data, packed) = if header.flags & FLAG_LZ4 == 0 {
        (stored, None)
    } else {
        let packed = Packed { stored_len: stored.len() as u32, raw_len: header.raw_len };
        (pack::unpack(&stored, packed, Some(seed)).map_err(Flaw::Bad)?, Some(packed))
    };
    let (change, seal) = read_records(&data, table, &header)?;
    let body = Body { offset: offset + data_start, packed };
    Ok(Batch { header, change, seal, body, end: offset + header.length.next_multiple_of(8) })
}

fn read_records(body: &Bytes, table: &[u8], header: &Header) -> Result<(Change, Option<Bytes>), Flaw> {
    let mut change = Change::default();
    let mut seal = None;
    let mut at = 0;
    for record in table.chunks_exact(RECORD_LEN) {
        let (len, sum, kind, value) = parse_record(record).map_err(|error| Flaw::Bad(error.to_string()))?;
        let end = at + len as usize;
        if end > body.len() {
            return Err(Flaw::Bad("a record is longer than its batch".into()));
        }
        let data = body.slice(at..end);
        at = end;
        match kind {
            KIND_ENTRY => {
                let index = header.first_index + change.entries.len() as u64;
                change.entries.push(read_entry(data, index, value, sum)?);
            }
            KIND_TRUNCATE_FROM if change.entries.is_empty() => change.truncate_from = Some(value),
            KIND_SEAL if header.records == 1 && d_engine_core::checksum(&[&data]) == sum => seal = Some(data),
            KIND_SEAL => return Err(Flaw::Bad("a seal does not match its checksum, or is not alone".into())),
            other => {
                return Err(Flaw::Unsupported(Error::unsupported(format!(
                    "a record of kind {other} at this place; a newer version wrote it"
                ))));
            }
        }
    }
    if at != body.len() {
        return Err(Flaw::Bad("the records do not fill their batch".into()));
    }
    Ok((change, seal))
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

    const PLACE: Place = Place { position: 0, previous_end: 8, synced: Position::new(1, 4096) };

    fn change(len: usize) -> Change {
        let entries = (5..8).map(|i| Entry::new(i, 2, EntryKind::Command, vec![i as u8; len + i as usize])).collect();
        Change { truncate_from: Some(5), entries }
    }

    /// A short batch as it is, and a long one compressed.
    fn batches(seed: &Seed) -> [(Change, Body, Bytes); 2] {
        [(change(0), None), (change(2000), Some(Packer::default()))].map(|(change, mut packer)| {
            let mut out = vec![9; 1000];
            let body = change.encode(seed, PLACE, packer.as_mut(), &mut out);
            assert_eq!(body.packed.is_some(), packer.is_some());
            (change, body, out.into())
        })
    }

    #[test]
    fn a_batch_survives_its_encoding() {
        let seed = Seed::new(1, 2);
        for (change, body, bytes) in batches(&seed) {
            if body.packed.is_none() {
                assert_eq!(bytes.len() as u64, change.encoded_len());
            } else {
                assert!((bytes.len() as u64) < change.encoded_len() / 10, "{} bytes", bytes.len());
            }
            let batch = read(&bytes, 0, &seed).unwrap();
            assert_eq!((batch.header.place, batch.body), (PLACE, body));
            assert_eq!(batch.end, bytes.len() as u64);
            assert_eq!(batch.change.truncate_from, Some(5));
            assert_eq!(batch.change.entries, change.entries);
            assert!(matches!(read(&bytes, 0, &Seed::new(1, 3)), Err(Flaw::Bad(_))));
        }
    }

    #[test]
    fn a_seal_survives_its_encoding_and_is_no_change() {
        let seed = Seed::new(1, 2);
        let mut out = vec![9; 1000];
        encode_seal(b"digest", &seed, PLACE, &mut out);
        assert_eq!(out.len() as u64, seal_batch_len(b"digest"));
        let batch = read(&out.into(), 0, &seed).unwrap();
        assert_eq!(batch.seal.as_deref(), Some(&b"digest"[..]));
        assert!(batch.change.entries.is_empty() && batch.change.truncate_from.is_none());
    }

    #[test]
    fn every_changed_bit_and_every_cut_of_a_batch_is_noticed() {
        let seed = Seed::new(1, 2);
        let mut seal = Vec::new();
        encode_seal(b"digest", &seed, PLACE, &mut seal);
        for good in batches(&seed).map(|(_, _, bytes)| bytes).into_iter().chain([seal.into()]) {
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
    }

    #[test]
    fn an_unknown_flag_is_unsupported_not_damage() {
        let seed = Seed::new(1, 2);
        let mut bytes = batches(&seed)[0].2.to_vec();
        bytes[12] = 2;
        let sum = seed.checksum(&bytes[8..HEADER_LEN]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        assert!(matches!(read(&bytes.into(), 0, &seed), Err(Flaw::Unsupported(_))));
    }

    #[test]
    fn a_record_costs_48_bytes_with_its_entry_header() {
        assert_eq!(RECORD_LEN + d_engine_core::ENTRY_HEADER_LEN, 48);
    }
}
