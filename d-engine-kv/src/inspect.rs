//! What a portable snapshot holds, for people who keep snapshots.

use std::io::Read;

use d_engine_core::snapshot::SnapshotReader;
use d_engine_core::{LogId, Result, SnapshotChecksum};

use crate::snapshot::Content;

/// What is in a portable snapshot of the key-value machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotContent {
    /// The last entry whose effects are in it.
    pub last_applied: LogId,
    /// The store's revision.
    pub revision: u64,
    /// Keys.
    pub keys: u64,
    /// Leases that have not ended.
    pub leases: u64,
    /// Sessions that are open.
    pub sessions: u64,
    /// Bytes of all records, uncompressed.
    pub bytes: u64,
    /// SHA-256 of the records: equal states have equal digests on every backend.
    pub digest: SnapshotChecksum,
}

impl SnapshotContent {
    /// Reads a snapshot to its end and checks every block and record, without installing anything.
    ///
    /// # Errors
    /// `Corrupt` for damage and for what is no portable snapshot, `Unsupported` for what a newer version wrote, `Io`.
    pub fn read(input: impl Read) -> Result<Self> {
        let mut reader = SnapshotReader::new(input)?;
        let mut content = Content::default();
        while let Some((key, value)) = reader.next_record()? {
            content.take_in(&key, value)?;
        }
        content.check()?;
        let header = reader.header();
        let footer = reader.footer().cloned().unwrap_or_default();
        Ok(Self {
            last_applied: header.last_included,
            revision: header.revision,
            keys: content.keys,
            leases: content.tables.leases.iter().count() as u64,
            sessions: content.tables.sessions.len() as u64,
            bytes: footer.bytes,
            digest: footer.digest,
        })
    }
}
