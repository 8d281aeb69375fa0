//! What every encoded command, outcome, query and answer begins with, and the fields they share. Little-endian.
//!
//! `version u8 | flags u8 | tag u8 | fields`. A byte string is a `u32` length and the bytes; an optional one has a
//! presence byte (0 or 1) in front; truth values are one byte, 0 or 1.

use bytes::Bytes;

use crate::codec::Reader;
use crate::{Error, Result};

/// The version this code writes, and the newest it reads.
pub(super) const VERSION: u8 = 1;
/// Bytes before the fields.
pub(super) const ENVELOPE_LEN: usize = 3;
/// Bytes of a byte string's length.
pub(super) const LEN: usize = 4;

/// Starts an encoding whose fields take `fields` bytes, so that the buffer is allocated once.
pub(super) fn begin(tag: u8, fields: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(ENVELOPE_LEN + fields);
    out.extend_from_slice(&[VERSION, 0, tag]);
    out
}

/// Reads the envelope and returns the tag; the reader stands before the fields. No flag is known here; commands have one,
/// see [`open_flagged`].
pub(super) fn open<'a>(bytes: &'a [u8], subject: &'static str) -> Result<(u8, Reader<'a>)> {
    let (flags, tag, reader) = open_flagged(bytes, subject, 0)?;
    debug_assert_eq!(flags, 0, "no flag was allowed");
    Ok((tag, reader))
}

/// [`open`] with flags, of which those in `known` may be set.
pub(super) fn open_flagged<'a>(bytes: &'a [u8], subject: &'static str, known: u8) -> Result<(u8, u8, Reader<'a>)> {
    let mut reader = Reader::new(bytes, subject);
    let version = reader.u8()?;
    if version == 0 {
        return Err(Error::corrupt(format!("{subject}: version 0 was never written")));
    }
    if version > VERSION {
        return Err(Error::unsupported(format!("{subject} version {version}; this build reads version {VERSION}")));
    }
    let flags = reader.u8()?;
    if flags & !known != 0 {
        return Err(Error::unsupported(format!("{subject} with flags {flags:#04x}; a newer version wrote it")));
    }
    let tag = reader.u8()?;
    Ok((flags, tag, reader))
}

/// The error for a tag that this version does not know.
pub(super) fn unknown_tag(subject: &'static str, tag: u8) -> Error {
    Error::unsupported(format!("{subject} of kind {tag}; a newer version wrote it"))
}

pub(super) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// The number of items in front of a list.
pub(super) fn put_count(out: &mut Vec<u8>, items: usize) {
    put_u32(out, u32::try_from(items).expect("a list of a command or answer is far below 4 G items"));
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len =
        u32::try_from(bytes.len()).expect("fields are far below 4 GiB: commands are checked before they are sent");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(super) fn put_option(out: &mut Vec<u8>, bytes: Option<&Bytes>) {
    out.push(u8::from(bytes.is_some()));
    if let Some(bytes) = bytes {
        put_bytes(out, bytes);
    }
}

/// Bytes that [`put_option`] adds.
pub(super) fn option_len(bytes: Option<&Bytes>) -> usize {
    1 + bytes.map_or(0, |bytes| LEN + bytes.len())
}

/// The next byte string as a slice of `source`, which `reader` reads.
pub(super) fn take_bytes(source: &Bytes, reader: &mut Reader<'_>) -> Result<Bytes> {
    Ok(source.slice_ref(reader.bytes()?))
}

pub(super) fn take_option(source: &Bytes, reader: &mut Reader<'_>, subject: &'static str) -> Result<Option<Bytes>> {
    if take_bool(reader, subject)? { take_bytes(source, reader).map(Some) } else { Ok(None) }
}

pub(super) fn take_bool(reader: &mut Reader<'_>, subject: &'static str) -> Result<bool> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Error::corrupt(format!("{subject}: {other} where 0 or 1 must stand"))),
    }
}

/// The byte of options, of which those in `known` may be set.
pub(super) fn take_options(reader: &mut Reader<'_>, subject: &'static str, known: u8) -> Result<u8> {
    let options = reader.u8()?;
    if options & !known != 0 {
        return Err(Error::unsupported(format!("{subject} with options {options:#04x}; a newer version wrote it")));
    }
    Ok(options)
}

/// A list: a `u32` count and the items, each at least `item_len_min` bytes long. Nothing is allocated for a count that
/// cannot be.
pub(super) fn take_list<'a, T>(
    reader: &mut Reader<'a>,
    subject: &'static str,
    item_len_min: usize,
    mut item: impl FnMut(&mut Reader<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = reader.u32()? as usize;
    let left = reader.rest().len();
    if count > left / item_len_min {
        return Err(Error::corrupt(format!("{subject}: {count} items cannot stand in {left} bytes")));
    }
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        items.push(item(reader)?);
    }
    Ok(items)
}

/// Bits for truth values: `bits(&[(true, 1), (false, 2)])` is 1.
pub(super) fn bits(options: &[(bool, u8)]) -> u8 {
    options.iter().filter(|(set, _)| *set).fold(0, |bits, (_, bit)| bits | bit)
}
