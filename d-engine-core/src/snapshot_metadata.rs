//! What the engine knows about a snapshot, and its bytes.

use bytes::Bytes;

use crate::types::{seal, unseal};
use crate::{LogId, Membership, Result, SnapshotChecksum};

/// What the engine knows about a snapshot, kept beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SnapshotMetadata {
    /// The last entry whose effects are in the snapshot.
    pub last_included: LogId,
    /// The configuration as of that entry.
    pub membership: Membership,
    /// Checksum of the file.
    pub checksum: SnapshotChecksum,
    /// Length of the file in bytes.
    pub size: u64,
    /// Cluster the snapshot belongs to.
    pub cluster: u128,
    /// Raft group within the cluster; 0 for now.
    pub group: u64,
}

const VERSION: u8 = 1;

impl SnapshotMetadata {
    /// Metadata of a snapshot file.
    pub fn new(last_included: LogId, membership: Membership, checksum: SnapshotChecksum, size: u64) -> Self {
        let cluster = membership.cluster;
        Self { last_included, membership, checksum, size, cluster, group: 0 }
    }

    /// Versioned, checksummed bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![0u8; 4];
        out.push(VERSION);
        out.extend_from_slice(&self.last_included.term.to_le_bytes());
        out.extend_from_slice(&self.last_included.index.to_le_bytes());
        out.extend_from_slice(self.checksum.as_ref());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.cluster.to_le_bytes());
        out.extend_from_slice(&self.group.to_le_bytes());
        let membership = self.membership.encode();
        out.extend_from_slice(&(membership.len() as u32).to_le_bytes());
        out.extend_from_slice(&membership);
        seal(out)
    }

    /// Reads and verifies what [`SnapshotMetadata::encode`] wrote.
    ///
    /// # Errors
    /// `Corrupt` or `Unsupported`.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = unseal(bytes, "snapshot metadata", VERSION)?;
        let term = reader.u64()?;
        let last_included = LogId::new(term, reader.u64()?);
        let mut checksum = [0; 32];
        checksum.copy_from_slice(reader.take(32)?);
        let (size, cluster, group) = (reader.u64()?, reader.u128()?, reader.u64()?);
        let membership = Membership::decode(reader.bytes()?)?;
        reader.finish()?;
        Ok(Self { last_included, membership, checksum: SnapshotChecksum::new(checksum), size, cluster, group })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClusterSettings, Error, Member, MemberKind};

    fn metadata() -> SnapshotMetadata {
        let members = vec![Member::new(1, 10, "a:1", MemberKind::Voter)];
        let membership = Membership::new(7, members, ClusterSettings::new(500, 500, 1));
        SnapshotMetadata::new(LogId::new(3, 9), membership, SnapshotChecksum::new([5; 32]), 1234)
    }

    #[test]
    fn metadata_survives_its_bytes_and_version_1_stays_readable() {
        let bytes = metadata().encode();
        assert_eq!(SnapshotMetadata::decode(&bytes).unwrap(), metadata());
        assert_eq!(bytes[4], 1, "the version");
        assert_eq!(bytes[5..21], [3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0], "term, then index");
        assert_eq!(bytes[21..53], [5; 32]);
        assert_eq!(bytes[53..61], 1234u64.to_le_bytes());
    }

    #[test]
    fn every_damaged_byte_is_noticed_and_a_newer_version_named() {
        let bytes = metadata().encode();
        for place in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[place] ^= 1;
            assert!(SnapshotMetadata::decode(&damaged).is_err(), "byte {place}");
            assert!(SnapshotMetadata::decode(&bytes[..place]).is_err(), "cut at {place}");
        }
        let mut newer = bytes.to_vec();
        newer[4] = 2;
        let newer = seal(newer);
        assert!(matches!(SnapshotMetadata::decode(&newer), Err(Error::Unsupported { .. })));
    }
}
