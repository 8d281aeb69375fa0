//! Requests: commands, and the session that each may belong to.

use bytes::Bytes;

use super::envelope::{ENVELOPE_LEN, VERSION, begin, open_flagged, put_u64};
use super::{KvCommand, PUT, SUBJECT};
use crate::codec::Reader;
use crate::{Error, Result};

/// Makes a command one that is applied once, however often it is proposed.
///
/// The client numbers its commands from 1. A number may be used again only for the same command. The machine keeps results
/// from `lowest` on, within a window; what it has kept it answers again instead of applying the command again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionHeader {
    /// The session: the id that opening it gave.
    pub session: u64,
    /// The command's number in the session.
    pub sequence: u64,
    /// The lowest number whose result the client does not have yet; at most `sequence`.
    pub lowest: u64,
}

impl SessionHeader {
    const LEN: usize = 24;
    /// The flag that says that a header stands in front of the fields.
    const FLAG: u8 = 1;

    /// Puts this header into an encoded command, in place of the one that it may have.
    ///
    /// # Errors
    /// As [`KvRequest::decode_bytes`], for as much of the bytes as is looked at: version, flags and header.
    pub fn attach(self, command: &[u8]) -> Result<Bytes> {
        let (flags, tag, mut reader) = open_flagged(command, SUBJECT, Self::FLAG)?;
        if flags & Self::FLAG != 0 {
            Self::decode_from(&mut reader)?;
        }
        let mut out = begin(tag, Self::LEN + reader.rest().len());
        self.encode_into(&mut out);
        out.extend_from_slice(reader.rest());
        Ok(out.into())
    }

    /// `session u64 sequence u64 lowest u64`, and the flag in the envelope that `out` begins with.
    fn encode_into(self, out: &mut Vec<u8>) {
        debug_assert_eq!(out.len(), ENVELOPE_LEN, "the header comes first");
        out[1] |= Self::FLAG;
        for number in [self.session, self.sequence, self.lowest] {
            put_u64(out, number);
        }
    }

    fn decode_from(reader: &mut Reader<'_>) -> Result<Self> {
        let header = Self { session: reader.u64()?, sequence: reader.u64()?, lowest: reader.u64()? };
        if header.sequence == 0 || header.lowest == 0 || header.lowest > header.sequence {
            return Err(Error::corrupt(format!(
                "{SUBJECT}: number {} of a session, lowest unanswered {}; numbers begin at 1, and the lowest is not above",
                header.sequence, header.lowest
            )));
        }
        Ok(header)
    }
}

/// A command and the session that it belongs to, if any: what an entry of the log carries.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvRequest {
    /// Its place in a session.
    pub session: Option<SessionHeader>,
    /// What it does.
    pub command: KvCommand,
}

impl KvRequest {
    /// A request; without a session it is applied as often as it is proposed.
    pub const fn new(command: KvCommand, session: Option<SessionHeader>) -> Self {
        Self { session, command }
    }

    /// The bytes to propose: those of [`KvCommand::encode`], with flag bit 0 and `session u64 sequence u64 lowest u64` in
    /// front of the fields if there is a session.
    pub fn encode(&self) -> Bytes {
        let Some(header) = self.session else {
            return self.command.encode();
        };
        let mut out = begin(self.command.tag(), SessionHeader::LEN + self.command.fields_len());
        header.encode_into(&mut out);
        self.command.encode_fields(&mut out);
        out.into()
    }

    /// Reads what [`encode`](KvRequest::encode) or [`KvCommand::encode`] wrote; keys and values are slices of `bytes`.
    ///
    /// # Errors
    /// As [`KvCommand::decode_bytes`]; also `Corrupt` for numbers that cannot be.
    pub fn decode_bytes(bytes: Bytes) -> Result<Self> {
        let (flags, tag, mut reader) = open_flagged(&bytes, SUBJECT, SessionHeader::FLAG)?;
        let session =
            if flags & SessionHeader::FLAG != 0 { Some(SessionHeader::decode_from(&mut reader)?) } else { None };
        let command = KvCommand::decode_fields(tag, &bytes, &mut reader)?;
        reader.finish()?;
        Ok(Self { session, command })
    }
}

/// A [`KvCommand::Put`] as it lies in the bytes of its request: what is applied most often, read without a reference to
/// count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EncodedPut<'a> {
    /// Its place in a session.
    pub session: Option<SessionHeader>,
    /// The key.
    pub key: &'a [u8],
    /// Its new value.
    pub value: &'a [u8],
}

impl<'a> EncodedPut<'a> {
    /// Reads what [`KvRequest::encode`] wrote. `None`: another command, or bytes that are none; [`KvRequest::decode_bytes`]
    /// tells which.
    pub fn of(bytes: &'a [u8]) -> Option<Self> {
        const PLAIN: [u8; ENVELOPE_LEN] = [VERSION, 0, PUT];
        const IN_SESSION: [u8; ENVELOPE_LEN] = [VERSION, SessionHeader::FLAG, PUT];
        let (envelope, fields) = bytes.split_first_chunk()?;
        let mut reader = Reader::new(fields, SUBJECT);
        let session = match *envelope {
            PLAIN => None,
            IN_SESSION => Some(SessionHeader::decode_from(&mut reader).ok()?),
            _ => return None,
        };
        let put = Self { session, key: reader.bytes().ok()?, value: reader.bytes().ok()? };
        reader.finish().is_ok().then_some(put)
    }
}

impl From<KvCommand> for KvRequest {
    fn from(command: KvCommand) -> Self {
        Self::new(command, None)
    }
}
