//! The plain types of the contract and their versioned, checksummed bytes.
//!
//! Adaptors store what [`Entry::encode`], [`HardState::encode`] and [`Membership::encode`] give them and read it back
//! with `decode`; none of them serialises fields itself, so a new field breaks nobody.

use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::codec::{Reader, checksum};
use crate::{Error, Result};

/// Position of an entry in the log (§5.3 of the Raft paper): indexes start at 1; the default is before the first.
///
/// Ordered by term, then index: the order in which logs are compared for votes (§3.6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogId {
    /// Term of the leader that created the entry.
    pub term: u64,
    /// Index in the log.
    pub index: u64,
}

impl LogId {
    /// The id of the entry at `index` that was created in `term`.
    pub const fn new(term: u64, index: u64) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

/// What an entry is for. Exhaustive on purpose: a new kind must break every match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A command for the state machine.
    Command,
    /// Appended by a new leader so that it may commit (§3.6.2, §6.4).
    Noop,
    /// A [`Membership`]: formation, configuration change, feature level, cluster settings.
    Membership,
}

/// Bytes of an encoded entry before its data.
pub const ENTRY_HEADER_LEN: usize = 28;
const ENTRY_VERSION: u8 = 1;

/// One entry of the Raft log.
///
/// It is encoded once, where it is made; the encoded bytes are kept, sent and stored as they are, and `data` is a slice
/// of them. Cloning is cheap and copies no bytes.
#[derive(Clone)]
#[non_exhaustive]
pub struct Entry {
    /// Index in the log.
    pub index: u64,
    /// Term in which the entry was created.
    pub term: u64,
    /// What the entry is for.
    pub kind: EntryKind,
    /// The command or membership; empty for a no-op.
    pub data: Bytes,
    encoded: Bytes,
}

impl Entry {
    /// Makes and encodes an entry.
    pub fn new(index: u64, term: u64, kind: EntryKind, data: impl AsRef<[u8]>) -> Self {
        let data = data.as_ref();
        let mut buffer = BytesMut::with_capacity(ENTRY_HEADER_LEN + data.len());
        Self::put(&mut buffer, index, term, kind, data);
        Self::of_bytes(index, term, kind, buffer.freeze())
    }

    /// Appends an entry's bytes.
    pub(crate) fn put(buffer: &mut BytesMut, index: u64, term: u64, kind: EntryKind, data: &[u8]) {
        let mut header = [0u8; ENTRY_HEADER_LEN];
        header[4] = ENTRY_VERSION;
        header[5] = kind.to_byte();
        header[8..12].copy_from_slice(&(data.len() as u32).to_le_bytes());
        header[12..20].copy_from_slice(&term.to_le_bytes());
        header[20..28].copy_from_slice(&index.to_le_bytes());
        let sum = checksum(&[&header[4..], data]);
        header[..4].copy_from_slice(&sum.to_le_bytes());
        buffer.extend_from_slice(&header);
        buffer.extend_from_slice(data);
    }

    /// The entry of its bytes, which are known to be these.
    pub(crate) fn of_bytes(index: u64, term: u64, kind: EntryKind, encoded: Bytes) -> Self {
        Self { index, term, kind, data: encoded.slice(ENTRY_HEADER_LEN..), encoded }
    }

    /// Position and term of the entry.
    pub fn id(&self) -> LogId {
        LogId::new(self.term, self.index)
    }

    /// The bytes to store and send: version 1 is `crc32 | version u8 | kind u8 | flags u16 | len u32 | term u64 |
    /// index u64 | data`, little-endian, the checksum over everything after itself.
    pub fn encode(&self) -> Bytes {
        self.encoded.clone()
    }

    /// The bytes of [`Entry::encode`], borrowed.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// Length of [`Entry::encode`] in bytes.
    pub fn encoded_len(&self) -> usize {
        self.encoded.len()
    }

    /// Reads exactly one entry and verifies it; keeps `bytes` without copying.
    ///
    /// # Errors
    /// `Corrupt` when a length or the checksum does not match, `Unsupported` for a newer version.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        let mut reader = Reader::new(&bytes, "entry");
        let sum = reader.u32()?;
        let version = reader.u8()?;
        let kind = reader.u8()?;
        let flags = reader.u16()?;
        let len = reader.u32()? as usize;
        let term = reader.u64()?;
        let index = reader.u64()?;
        if reader.rest().len() != len {
            return Err(Error::corrupt(format!(
                "entry {term}.{index}: length says {len} bytes, {} are there",
                reader.rest().len()
            )));
        }
        let found = checksum(&[&bytes[4..]]);
        if found != sum {
            return Err(Error::corrupt(format!("entry {term}.{index}: checksum {found:08x}, expected {sum:08x}")));
        }
        if version != ENTRY_VERSION || flags != 0 {
            return Err(Error::unsupported(format!(
                "entry version {version} with flags {flags:04x}; this build reads version {ENTRY_VERSION}"
            )));
        }
        let kind = EntryKind::from_byte(kind)?;
        Ok(Self { index, term, kind, data: bytes.slice(ENTRY_HEADER_LEN..), encoded: bytes })
    }
}

impl EntryKind {
    /// The byte that stands for the kind on disk and on the wire.
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Command => 0,
            Self::Noop => 1,
            Self::Membership => 2,
        }
    }

    /// The kind behind a byte of [`EntryKind::to_byte`].
    pub fn from_byte(byte: u8) -> Result<Self> {
        match byte {
            0 => Ok(Self::Command),
            1 => Ok(Self::Noop),
            2 => Ok(Self::Membership),
            other => Err(Error::unsupported(format!("entry kind {other}; a newer version wrote it"))),
        }
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

impl Eq for Entry {}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({} {:?} {} bytes)", self.id(), self.kind, self.data.len())
    }
}

/// Who a data directory is. Part of the hard state, so that it shares the vote's fate in every adaptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Identity {
    /// Random id of the cluster; 0 until formed.
    pub cluster: u128,
    /// Node id, chosen by the operator.
    pub node: u64,
    /// Random id of this directory: a wiped node comes back with another one.
    pub incarnation: u128,
    /// Whether the directory belongs to a cluster. Never goes back to false.
    pub formed: bool,
}

impl Identity {
    /// An identity that belongs to no cluster yet.
    pub const fn unformed(node: u64, incarnation: u128) -> Self {
        Self { cluster: 0, node, incarnation, formed: false }
    }

    /// The same directory, now a part of `cluster`.
    #[must_use]
    pub const fn form(self, cluster: u128) -> Self {
        Self { cluster, formed: true, ..self }
    }
}

/// What a server must not forget (Figure 2, persistent state), without the log. Term and vote are saved together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HardState {
    /// Latest term the server has seen.
    pub term: u64,
    /// Who received this server's vote in `term`.
    pub voted_for: Option<u64>,
    /// Who this directory is.
    pub identity: Option<Identity>,
}

const HARD_STATE_VERSION: u8 = 1;

impl HardState {
    /// A hard state.
    pub const fn new(term: u64, voted_for: Option<u64>, identity: Option<Identity>) -> Self {
        Self { term, voted_for, identity }
    }

    /// Versioned, checksummed bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![0u8; 4];
        out.push(HARD_STATE_VERSION);
        out.push(u8::from(self.voted_for.is_some()) | (u8::from(self.identity.is_some()) << 1));
        out.extend_from_slice(&self.term.to_le_bytes());
        if let Some(node) = self.voted_for {
            out.extend_from_slice(&node.to_le_bytes());
        }
        if let Some(identity) = &self.identity {
            out.extend_from_slice(&identity.cluster.to_le_bytes());
            out.extend_from_slice(&identity.node.to_le_bytes());
            out.extend_from_slice(&identity.incarnation.to_le_bytes());
            out.push(u8::from(identity.formed));
        }
        seal(out)
    }

    /// Reads and verifies what [`HardState::encode`] wrote.
    ///
    /// # Errors
    /// `Corrupt` or `Unsupported`; an adaptor passes them on and never answers "no hard state" instead.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = unseal(bytes, "hard state", HARD_STATE_VERSION)?;
        let flags = reader.u8()?;
        let term = reader.u64()?;
        let voted_for = if flags & 1 != 0 { Some(reader.u64()?) } else { None };
        let identity = if flags & 2 != 0 {
            Some(Identity {
                cluster: reader.u128()?,
                node: reader.u64()?,
                incarnation: reader.u128()?,
                formed: reader.u8()? != 0,
            })
        } else {
            None
        };
        reader.finish()?;
        Ok(Self { term, voted_for, identity })
    }
}

/// Fills in the checksum at the front of `out`.
pub(crate) fn seal(mut out: Vec<u8>) -> Bytes {
    let sum = checksum(&[&out[4..]]);
    out[..4].copy_from_slice(&sum.to_le_bytes());
    out.into()
}

/// Checks what [`seal`] made, and its version; the reader stands behind the version.
pub(crate) fn unseal<'a>(bytes: &'a [u8], subject: &'static str, known: u8) -> Result<Reader<'a>> {
    let mut reader = Reader::new(bytes, subject);
    let sum = reader.u32()?;
    let found = checksum(&[reader.rest()]);
    if found != sum {
        return Err(Error::corrupt(format!("{subject}: checksum {found:08x}, expected {sum:08x}")));
    }
    let version = reader.u8()?;
    if version != known {
        return Err(Error::unsupported(format!("{subject} version {version}; this build reads version {known}")));
    }
    Ok(reader)
}

/// A member's part in the cluster. Joining, Leaving and Demoting exist in a joint configuration only (§4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberKind {
    /// Votes, in both halves if the configuration is joint.
    Voter,
    /// Receives the log and does not vote (§4.2.1).
    Learner,
    /// Votes in the new half only.
    Joining,
    /// Votes in the old half only, and is gone afterwards.
    Leaving,
    /// Votes in the old half only, and is a learner afterwards.
    Demoting,
}

/// One member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Node id.
    pub node: u64,
    /// The data directory that counts under this id; a vote of another one does not.
    pub incarnation: u128,
    /// Where peers and clients reach the member, as `host:port`.
    pub address: String,
    /// Its part.
    pub kind: MemberKind,
}

impl Member {
    /// A member.
    pub fn new(node: u64, incarnation: u128, address: impl Into<String>, kind: MemberKind) -> Self {
        Self { node, incarnation, address: address.into(), kind }
    }
}

/// Facts that every member of a cluster must share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ClusterSettings {
    /// Lower bound of the election timeout, in milliseconds: leases and stickiness depend on it (§6.4.1).
    pub election_timeout_min_ms: u64,
    /// Assumed bound of the difference between two clocks' rates, in parts per million.
    pub clock_drift_ppm: u32,
    /// The newest command, entry and snapshot versions that every member understands.
    pub feature_level: u32,
}

impl ClusterSettings {
    /// Settings.
    pub const fn new(election_timeout_min_ms: u64, clock_drift_ppm: u32, feature_level: u32) -> Self {
        Self { election_timeout_min_ms, clock_drift_ppm, feature_level }
    }
}

/// The cluster's configuration: its members, and the settings they share. Takes effect when appended (§4.1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Membership {
    /// Random id of the cluster.
    pub cluster: u128,
    /// The members in order of their node ids.
    pub members: Vec<Member>,
    /// Facts that every member must share.
    pub settings: ClusterSettings,
}

const MEMBERSHIP_VERSION: u8 = 1;

impl Membership {
    /// A configuration; the members are put in order.
    pub fn new(cluster: u128, mut members: Vec<Member>, settings: ClusterSettings) -> Self {
        members.sort_by_key(|member| member.node);
        Self { cluster, members, settings }
    }

    /// The member with this id.
    pub fn member(&self, node: u64) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }

    /// Whether two majorities are needed (§4.3).
    pub fn is_joint(&self) -> bool {
        use MemberKind::{Demoting, Joining, Leaving};
        self.members.iter().any(|member| matches!(member.kind, Joining | Leaving | Demoting))
    }

    /// Voters of the new half; of the only half if the configuration is not joint.
    pub fn voters(&self) -> impl Iterator<Item = u64> + '_ {
        use MemberKind::{Joining, Voter};
        self.members.iter().filter(|m| matches!(m.kind, Voter | Joining)).map(|m| m.node)
    }

    /// Voters of the old half; none if the configuration is not joint.
    pub fn old_voters(&self) -> impl Iterator<Item = u64> + '_ {
        use MemberKind::{Demoting, Leaving, Voter};
        let joint = self.is_joint();
        self.members.iter().filter(move |m| joint && matches!(m.kind, Voter | Leaving | Demoting)).map(|m| m.node)
    }

    /// Whether `node` votes in either half.
    pub fn is_voter(&self, node: u64) -> bool {
        self.member(node).is_some_and(|member| member.kind != MemberKind::Learner)
    }

    /// Versioned, checksummed bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![0u8; 4];
        out.push(MEMBERSHIP_VERSION);
        out.extend_from_slice(&self.cluster.to_le_bytes());
        out.extend_from_slice(&self.settings.election_timeout_min_ms.to_le_bytes());
        out.extend_from_slice(&self.settings.clock_drift_ppm.to_le_bytes());
        out.extend_from_slice(&self.settings.feature_level.to_le_bytes());
        out.extend_from_slice(&(self.members.len() as u32).to_le_bytes());
        for member in &self.members {
            out.extend_from_slice(&member.node.to_le_bytes());
            out.extend_from_slice(&member.incarnation.to_le_bytes());
            out.push(member.kind as u8);
            out.extend_from_slice(&(member.address.len() as u32).to_le_bytes());
            out.extend_from_slice(member.address.as_bytes());
        }
        seal(out)
    }

    /// Reads and verifies what [`Membership::encode`] wrote.
    ///
    /// # Errors
    /// `Corrupt` or `Unsupported`.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = unseal(bytes, "membership", MEMBERSHIP_VERSION)?;
        let cluster = reader.u128()?;
        let settings = ClusterSettings {
            election_timeout_min_ms: reader.u64()?,
            clock_drift_ppm: reader.u32()?,
            feature_level: reader.u32()?,
        };
        let count = reader.u32()?;
        let mut members = Vec::new();
        for _ in 0..count {
            members.push(decode_member(&mut reader)?);
        }
        reader.finish()?;
        if members.windows(2).any(|pair| pair[0].node >= pair[1].node) {
            return Err(Error::corrupt("membership: members are not in order"));
        }
        Ok(Self { cluster, members, settings })
    }
}

fn decode_member(reader: &mut Reader<'_>) -> Result<Member> {
    let node = reader.u64()?;
    let incarnation = reader.u128()?;
    let kind = match reader.u8()? {
        0 => MemberKind::Voter,
        1 => MemberKind::Learner,
        2 => MemberKind::Joining,
        3 => MemberKind::Leaving,
        4 => MemberKind::Demoting,
        other => {
            return Err(Error::unsupported(format!("member kind {other}; a newer version wrote it")));
        }
    };
    let address = std::str::from_utf8(reader.bytes()?)
        .map_err(|_| Error::corrupt(format!("membership: address of node {node} is not UTF-8")))?
        .to_owned();
    Ok(Member { node, incarnation, address, kind })
}

/// SHA-256 over every byte of a snapshot. Never zero for a real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SnapshotChecksum([u8; 32]);

impl SnapshotChecksum {
    /// A checksum from its bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Whether no checksum was ever computed.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 32]
    }
}

impl AsRef<[u8]> for SnapshotChecksum {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for SnapshotChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What applying one command produced, for the caller that proposed it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApplyResult {
    /// Index of the command's entry.
    pub index: u64,
    /// The state machine's answer.
    pub response: Bytes,
}

impl ApplyResult {
    /// The answer to the command at `index`.
    pub fn new(index: u64, response: impl Into<Bytes>) -> Self {
        Self { index, response: response.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { cluster: 7, node: 3, incarnation: 9, formed: true }
    }

    fn membership() -> Membership {
        let members = vec![
            Member::new(2, 20, "b:2", MemberKind::Leaving),
            Member::new(1, 10, "a:1", MemberKind::Voter),
            Member::new(3, 30, "c:3", MemberKind::Joining),
        ];
        Membership::new(42, members, ClusterSettings::new(300, 500, 1))
    }

    #[test]
    fn entry_bytes_of_version_1_stay_readable() {
        let golden: Vec<u8> = Entry::new(5, 2, EntryKind::Command, b"abc").encode().to_vec();
        assert_eq!(
            golden[4..],
            [1, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', b'c']
        );
        assert_eq!(golden[..4], crc32fast::hash(&golden[4..]).to_le_bytes());
        let entry = Entry::decode(golden.into()).unwrap();
        assert_eq!((entry.id(), &entry.data[..]), (LogId::new(2, 5), &b"abc"[..]));
    }

    #[test]
    fn every_changed_bit_of_an_entry_is_noticed() {
        let good = Entry::new(5, 2, EntryKind::Membership, b"some data").encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Entry::decode(bad.into()).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(Entry::decode(good.slice(..len)).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn hard_state_survives_its_encoding() {
        for state in [
            HardState::default(),
            HardState::new(u64::MAX, Some(0), None),
            HardState::new(4, None, Some(identity())),
            HardState::new(4, Some(2), Some(identity())),
        ] {
            assert_eq!(HardState::decode(&state.encode()).unwrap(), state);
        }
    }

    #[test]
    fn every_changed_bit_of_a_hard_state_is_noticed() {
        let good = HardState::new(4, Some(2), Some(identity())).encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(HardState::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn membership_survives_its_encoding_and_knows_both_halves() {
        let membership = membership();
        assert_eq!(Membership::decode(&membership.encode()).unwrap(), membership);
        assert!(membership.is_joint());
        assert_eq!(membership.voters().collect::<Vec<_>>(), [1, 3]);
        assert_eq!(membership.old_voters().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn log_ids_compare_by_term_first() {
        assert!(LogId::new(2, 1) > LogId::new(1, 9));
        assert!(LogId::new(2, 2) > LogId::new(2, 1));
    }
}
