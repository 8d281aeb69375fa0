//! The `log_state` file: which log this is, where it begins, and how far it is known to be durable.
//!
//! Payload of the slot file, little-endian: uuid u128, group u64 (0), first segment u64, purge boundary (term u64,
//! index u64), synced position (segment u64, offset u64), reserved u64 (0).

use bytes::Bytes;
use d_engine_core::{Error, LogId, Reader, Result};

use crate::segment::Position;

pub(crate) const TAG: [u8; 4] = *b"logs";

/// What the file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogState {
    /// Seeds the checksums of the log.
    pub(crate) uuid: u128,
    /// Segments before this one are gone or about to be.
    pub(crate) first_segment: u64,
    /// The purge boundary.
    pub(crate) purged: LogId,
    /// Everything before it was durable. Offset 0 of the first segment: that segment may not exist yet.
    pub(crate) synced: Position,
}

impl LogState {
    /// The state of a log whose first segment has yet to be made.
    pub(crate) fn new(uuid: u128) -> Self {
        Self { uuid, first_segment: 1, purged: LogId::default(), synced: Position::new(1, 0) }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.uuid.to_le_bytes().to_vec();
        let group = 0;
        let reserved = 0;
        for field in [
            group,
            self.first_segment,
            self.purged.term,
            self.purged.index,
            self.synced.segment,
            self.synced.offset,
            reserved,
        ] {
            out.extend_from_slice(&u64::to_le_bytes(field));
        }
        out
    }

    pub(crate) fn decode(payload: &Bytes) -> Result<Self> {
        let mut reader = Reader::new(payload, "log state");
        let uuid = reader.u128()?;
        let group = reader.u64()?;
        let state = Self {
            uuid,
            first_segment: reader.u64()?,
            purged: LogId::new(reader.u64()?, reader.u64()?),
            synced: Position::new(reader.u64()?, reader.u64()?),
        };
        let reserved = reader.u64()?;
        reader.finish()?;
        if group != 0 || reserved != 0 {
            return Err(Error::unsupported("a log state with fields of a newer version"));
        }
        Ok(state)
    }
}
