//! The format of RocksDB's two kinds of log files, the write-ahead log and the manifest, as far as it must be read to tell
//! a write that a crash interrupted from damage. Nothing here touches a file.
//!
//! Blocks of 32 KiB; fragments in them of a masked CRC-32C of kind and payload, the payload's length (u16), the kind, and
//! the payload. A record is one fragment, or split into several at the ends of blocks, anywhere: its first fragment may
//! be without payload. Fewer than 7 bytes at the end of a block are left unused.

use crate::crc32c;

pub(crate) const BLOCK: usize = 32 << 10;
pub(crate) const HEADER: usize = 7;

pub(crate) const FULL: u8 = 1;
pub(crate) const FIRST: u8 = 2;
pub(crate) const MIDDLE: u8 = 3;
pub(crate) const LAST: u8 = 4;
/// Kinds that carry settings of the file.
const SETTINGS: [u8; 3] = [9, 10, 130];

/// A sound fragment of a file.
#[derive(Clone, Copy)]
pub(crate) struct Fragment<'a> {
    bytes: &'a [u8],
    pub(crate) at: usize,
    pub(crate) kind: u8,
    payload: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// The fragment at `at`, if there is a sound one.
    pub(crate) fn read(bytes: &'a [u8], at: usize) -> Option<Self> {
        let left = BLOCK - at % BLOCK;
        let header = bytes.get(at..at + HEADER).filter(|_| left >= HEADER)?;
        let len = usize::from(u16::from_le_bytes([header[4], header[5]]));
        let kind = header[6];
        let is_known = matches!(kind, FULL | FIRST | MIDDLE | LAST) || SETTINGS.contains(&kind);
        if !is_known || HEADER + len > left {
            return None;
        }
        let summed = bytes.get(at + HEADER - 1..at + HEADER + len)?;
        let is_sound = header[..4] == crc32c::masked(summed).to_le_bytes();
        is_sound.then(|| Self { bytes, at, kind, payload: &summed[1..] })
    }

    fn end(&self) -> usize {
        self.at + HEADER + self.payload.len()
    }

    pub(crate) fn begins_record(&self) -> bool {
        matches!(self.kind, FULL | FIRST)
    }

    fn next(&self) -> Option<Self> {
        Self::read(self.bytes, next_place(self.end()))
    }

    /// The first `len` bytes of the record that begins here, from as many fragments as it takes. Shorter if the record is
    /// shorter or a fragment is not sound; empty if no record begins here.
    pub(crate) fn head(self, len: usize) -> Vec<u8> {
        let mut head = Vec::new();
        let mut here = Some(self).filter(Self::begins_record);
        while let Some(fragment) = here {
            let part = fragment.payload.len().min(len - head.len());
            head.extend_from_slice(&fragment.payload[..part]);
            let goes_on = head.len() < len && matches!(fragment.kind, FIRST | MIDDLE);
            let next = if goes_on { fragment.next() } else { None };
            here = next.filter(|next| matches!(next.kind, MIDDLE | LAST));
        }
        head
    }
}

/// Where the next fragment stands after one that ends at `end`.
fn next_place(end: usize) -> usize {
    let left = BLOCK - end % BLOCK;
    if left < HEADER { end + left } else { end }
}

/// The sound fragments from a place on.
pub(crate) struct Scan<'a> {
    bytes: &'a [u8],
    /// Where the next one stands, or the first that is not sound or not there.
    pub(crate) at: usize,
}

impl<'a> Scan<'a> {
    pub(crate) fn from(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Fragment<'a>;

    fn next(&mut self) -> Option<Fragment<'a>> {
        let fragment = Fragment::read(self.bytes, self.at)?;
        self.at = next_place(fragment.end());
        Some(fragment)
    }
}

/// The sound fragments from a bad place on: anywhere in its block, for the place of the next one is not known, and then
/// from the beginning of each later block.
pub(crate) fn from_bad_place(bytes: &[u8], bad: usize) -> impl Iterator<Item = Fragment<'_>> {
    let block_end = (bad / BLOCK + 1) * BLOCK;
    let here = (bad..block_end.min(bytes.len())).filter_map(move |at| Fragment::read(bytes, at));
    let blocks = (block_end..bytes.len()).step_by(BLOCK);
    here.chain(blocks.flat_map(move |at| Scan::from(bytes, at).take_while(move |found| found.at < at + BLOCK)))
}

/// The end of a file that is not made of sound, whole records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unsound {
    /// Where the first fragment is that is not sound, not there, or not one that can follow.
    pub(crate) bad: usize,
    /// Where its record begins: all before it are whole.
    pub(crate) record: usize,
}

/// Calls `whole` with the first fragment of each record from the beginning, up to where the file stops being sound.
pub(crate) fn whole_records<'a>(bytes: &'a [u8], mut whole: impl FnMut(Fragment<'a>)) -> Option<Unsound> {
    let mut scan = Scan::from(bytes, 0);
    let mut first: Option<Fragment<'_>> = None;
    for fragment in scan.by_ref() {
        match (fragment.kind, first) {
            (FULL | FIRST, Some(begun)) => return Some(Unsound { bad: fragment.at, record: begun.at }),
            (MIDDLE | LAST, None) => return Some(Unsound { bad: fragment.at, record: fragment.at }),
            (FULL, None) => whole(fragment),
            (FIRST, None) => first = Some(fragment),
            (LAST, Some(begun)) => {
                whole(begun);
                first = None;
            }
            _ => {}
        }
    }
    let bad = scan.at;
    (bad < bytes.len() || first.is_some()).then(|| Unsound { bad, record: first.map_or(bad, |begun| begun.at) })
}

#[cfg(test)]
pub(crate) mod written {
    use super::*;

    /// A file as RocksDB writes it.
    #[derive(Default)]
    pub(crate) struct Written(pub(crate) Vec<u8>);

    impl Written {
        fn fragment(&mut self, kind: u8, payload: &[u8]) {
            let summed = [&[kind], payload].concat();
            self.0.extend_from_slice(&crc32c::masked(&summed).to_le_bytes());
            self.0.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_le_bytes());
            self.0.extend_from_slice(&summed);
        }

        pub(crate) fn record(&mut self, mut payload: &[u8]) {
            let mut is_first = true;
            loop {
                let left = BLOCK - self.0.len() % BLOCK;
                if left < HEADER {
                    self.0.resize(self.0.len() + left, 0);
                    continue;
                }
                let part = payload.len().min(left - HEADER);
                let is_last = part == payload.len();
                let kind = match (is_first, is_last) {
                    (true, true) => FULL,
                    (true, false) => FIRST,
                    (false, false) => MIDDLE,
                    (false, true) => LAST,
                };
                self.fragment(kind, &payload[..part]);
                payload = &payload[part..];
                is_first = false;
                if is_last {
                    return;
                }
            }
        }
    }
}
