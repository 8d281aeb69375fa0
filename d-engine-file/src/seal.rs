//! The seal of a segment: what its batches add up to, so that opening need not read them. Pure bytes.
//!
//! It stands in the first batch of the segment behind, which exists only once everything it speaks of is durable. Of a
//! sealed segment opening reads the first page alone; damage behind it is found by whoever reads the entry, and by
//! verifying.
//!
//! ```text
//!  0  version      u8, 1
//!  1  sequence     u64, of the segment it seals
//!  9  end          u64, of what counts there
//! 17  first index  u64: the segment removes what the log holds from there on, then adds its entries
//! 25  runs of terms: count u32, each term u64 and first index u64; from the purge boundary of that time on
//!     memberships: count u32, each index u64; behind the purge boundary of that time
//!     compressed batches: count u32, each first index u64, entries u32, offset, stored length and raw length u32
//!     entries: count u32, each a varint of the distance from the end of the one before, zigzag, and one of its length
//! ```
//!
//! Offsets are those of `log_index.rs`: in the segment, or, in a compressed batch, in its data before compression.

use bytes::Bytes;
use d_engine_core::{Error, LogId, Reader, Result};

use crate::log_index::{Pack, Span};
use crate::pack::Packed;
use crate::segment::FIRST_BATCH;

const VERSION: u8 = 1;

/// What one segment does to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) sequence: u64,
    pub(crate) end: u64,
    pub(crate) first: u64,
    pub(crate) runs: Vec<LogId>,
    pub(crate) memberships: Vec<u64>,
    pub(crate) packs: Vec<Pack>,
    pub(crate) spans: Vec<Span>,
}

impl Seal {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + 16 * self.runs.len() + 24 * self.packs.len() + 4 * self.spans.len());
        out.push(VERSION);
        for field in [self.sequence, self.end, self.first] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        let count = |out: &mut Vec<u8>, n: usize| out.extend_from_slice(&(n as u32).to_le_bytes());
        count(&mut out, self.runs.len());
        for run in &self.runs {
            out.extend_from_slice(&run.term.to_le_bytes());
            out.extend_from_slice(&run.index.to_le_bytes());
        }
        count(&mut out, self.memberships.len());
        for index in &self.memberships {
            out.extend_from_slice(&index.to_le_bytes());
        }
        count(&mut out, self.packs.len());
        for pack in &self.packs {
            out.extend_from_slice(&pack.first.to_le_bytes());
            for field in [pack.entries, pack.offset, pack.packed.stored_len, pack.packed.raw_len] {
                out.extend_from_slice(&field.to_le_bytes());
            }
        }
        count(&mut out, self.spans.len());
        let mut end = 0;
        for span in &self.spans {
            push_varint(&mut out, zigzag(i64::from(span.offset) - end));
            push_varint(&mut out, u64::from(span.len));
            end = i64::from(span.offset) + i64::from(span.len);
        }
        out
    }

    /// Reads a seal whose checksum holds.
    ///
    /// # Errors
    /// `Corrupt` if it is not one, `Unsupported` for a newer version.
    pub(crate) fn decode(payload: &Bytes) -> Result<Self> {
        let mut reader = Reader::new(payload, "seal");
        let version = reader.u8()?;
        if version != VERSION {
            return Err(Error::unsupported(format!("a seal of version {version}; this build reads version {VERSION}")));
        }
        let (sequence, end, first) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let mut runs = Vec::new();
        for _ in 0..reader.u32()? {
            runs.push(LogId::new(reader.u64()?, reader.u64()?));
        }
        let mut memberships = Vec::new();
        for _ in 0..reader.u32()? {
            memberships.push(reader.u64()?);
        }
        let mut packs = Vec::new();
        for _ in 0..reader.u32()? {
            let (first, entries, offset) = (reader.u64()?, reader.u32()?, reader.u32()?);
            let packed = Packed { stored_len: reader.u32()?, raw_len: reader.u32()? };
            packs.push(Pack { first, entries, offset, packed });
        }
        let spans = read_spans(&mut reader)?;
        reader.finish()?;
        let seal = Self { sequence, end, first, runs, memberships, packs, spans };
        seal.check()?;
        Ok(seal)
    }

    /// Forgets what `written` leaves out because it was purged when that was written.
    pub(crate) fn clip_like(&mut self, written: &Self) {
        let from = written.runs.first().map_or(u64::MAX, |run| run.index);
        let covering = self.runs.partition_point(|run| run.index <= from);
        self.runs.drain(..covering.saturating_sub(1));
        match self.runs.first_mut() {
            Some(_) if from == u64::MAX => self.runs.clear(),
            Some(run) => run.index = run.index.max(from),
            None => {}
        }
        let from = written.memberships.first().copied().unwrap_or(u64::MAX);
        self.memberships.retain(|index| *index >= from);
    }

    /// Nothing in it may point where its segment has nothing.
    fn check(&self) -> Result<()> {
        let next = self.first.checked_add(self.spans.len() as u64);
        let within = |index: u64| index >= self.first && next.is_some_and(|next| index < next);
        let ascends = self.runs.windows(2).all(|pair| pair[0].index < pair[1].index)
            && self.packs.windows(2).all(|pair| pair[0].first < pair[1].first);
        let indexes = self.runs.iter().map(|run| run.index).chain(self.packs.iter().map(|pack| pack.first));
        let in_segment =
            |offset: u32, len: u32| u64::from(offset) >= FIRST_BATCH && u64::from(offset) + u64::from(len) <= self.end;
        let pack_fits = |pack: &Pack| in_segment(pack.offset, pack.packed.stored_len);
        let span_fits = |(at, span): (usize, &Span)| match Pack::of(&self.packs, self.first + at as u64) {
            Some(pack) => u64::from(span.offset) + u64::from(span.len) <= u64::from(pack.packed.raw_len),
            None => in_segment(span.offset, span.len),
        };
        if self.first > 0
            && next.is_some()
            && ascends
            && indexes.chain(self.memberships.iter().copied()).all(within)
            && self.packs.iter().all(pack_fits)
            && self.spans.iter().enumerate().all(span_fits)
        {
            return Ok(());
        }
        Err(Error::corrupt(format!("the seal of segment {} contradicts itself", self.sequence)))
    }
}

fn read_spans(reader: &mut Reader<'_>) -> Result<Vec<Span>> {
    let wrong = || Error::corrupt("an entry in a seal lies nowhere");
    let count = reader.u32()? as usize;
    // Two bytes at least for each: a damaged count allocates nothing.
    let mut spans = Vec::with_capacity(count.min(reader.rest().len() / 2));
    let mut end = 0i64;
    for _ in 0..count {
        let offset = end.checked_add(unzigzag(read_varint(reader)?)).and_then(|offset| u32::try_from(offset).ok());
        let (offset, len) = (offset.ok_or_else(wrong)?, u32::try_from(read_varint(reader)?).map_err(|_| wrong())?);
        end = i64::from(offset) + i64::from(len);
        spans.push(Span { offset, len });
    }
    Ok(spans)
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_varint(reader: &mut Reader<'_>) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = reader.u8()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Error::corrupt("a number in a seal has no end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal() -> Seal {
        let spans = [(4200, 40), (4240, 300), (0, 5000), (5000, 70), (9000, 1)];
        Seal {
            sequence: 3,
            end: 10_000,
            first: 7,
            runs: vec![LogId::new(2, 7), LogId::new(5, 9)],
            memberships: vec![8],
            packs: vec![Pack { first: 9, entries: 2, offset: 5000, packed: Packed { stored_len: 90, raw_len: 5070 } }],
            spans: spans.map(|(offset, len)| Span { offset, len }).to_vec(),
        }
    }

    #[test]
    fn a_seal_survives_its_encoding() {
        let empty = Seal { runs: vec![], memberships: vec![], packs: vec![], spans: vec![], ..seal() };
        for seal in [seal(), empty] {
            assert_eq!(Seal::decode(&seal.encode().into()).unwrap(), seal);
        }
    }

    #[test]
    fn an_entry_costs_few_bytes() {
        let spans: Vec<Span> = (0..1000).map(|i| Span { offset: 5000 + 300 * i, len: 284 }).collect();
        let many = Seal { end: 1 << 20, packs: vec![], spans, ..seal() };
        assert!(many.encode().len() < 100 + 1000 * 3);
    }

    #[test]
    fn a_cut_or_contradictory_seal_is_damage() {
        let good = seal().encode();
        for cut in 0..good.len() {
            assert!(Seal::decode(&good[..cut].to_vec().into()).is_err(), "cut at {cut}");
        }
        type Break = fn(&mut Seal);
        let breaks: [Break; 8] = [
            |seal| seal.end = 9000,
            |seal| seal.first = u64::MAX,
            |seal| seal.runs[0].index = 6,
            |seal| seal.runs[1].index = 12,
            |seal| seal.memberships[0] = 12,
            |seal| seal.packs[0].packed.raw_len = 5069,
            |seal| seal.packs[0].offset = 4000,
            |seal| seal.spans[0].offset = 4095,
        ];
        for (at, break_it) in breaks.into_iter().enumerate() {
            let mut bad = seal();
            break_it(&mut bad);
            assert!(matches!(Seal::decode(&bad.encode().into()), Err(Error::Corrupt { .. })), "break {at}");
        }
    }

    #[test]
    fn a_seal_is_compared_from_where_the_other_one_begins() {
        for (runs, memberships) in [
            (vec![LogId::new(2, 7), LogId::new(5, 9)], vec![8]),
            (vec![LogId::new(2, 8), LogId::new(5, 9)], vec![]),
            (vec![LogId::new(5, 10)], vec![]),
            (vec![], vec![]),
        ] {
            let written = Seal { runs, memberships, ..seal() };
            let mut whole = seal();
            whole.clip_like(&written);
            assert_eq!(whole, written);
            assert_eq!(Seal::decode(&written.encode().into()).unwrap(), written);
        }
    }

    #[test]
    fn a_newer_seal_is_unsupported() {
        let mut newer = seal().encode();
        newer[0] = 2;
        assert!(matches!(Seal::decode(&newer.into()), Err(Error::Unsupported { .. })));
    }

    #[test]
    fn numbers_of_every_size_survive() {
        for value in [0, 1, -1, 63, -64, 64, 300, -70_000, i64::from(u32::MAX), -i64::from(u32::MAX)] {
            let mut out = Vec::new();
            push_varint(&mut out, zigzag(value));
            assert_eq!(unzigzag(read_varint(&mut Reader::new(&out, "test")).unwrap()), value);
        }
    }
}
