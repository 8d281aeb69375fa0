//! Reading snapshots.

use std::io::Read;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::section::{KIND_FOOTER, Section};
use super::{
    HEADER_LEN, RECORD_HEADER_LEN, SnapshotBlock, SnapshotFooter, SnapshotHeader, decode_trailer, read_array,
    read_up_to,
};
use crate::codec::Reader;
use crate::{Error, Result, SnapshotChecksum};

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
    /// `Corrupt` for damage, a wrong order or an input cut short; `Unsupported` for what a newer version wrote; `Io`.
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
