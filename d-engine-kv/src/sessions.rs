//! Sessions: what makes a retried command one that is applied once. A table in memory of what the store holds.
//!
//! Opened, used, closed and evicted by the log alone, so that every replica agrees on what a session still knows.
//!
//! Short answers, which are nearly all, stand in the session's own record: it is written once in each chunk, while a
//! record for each answer would be one write when it is given and one more when it is no longer asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::{BufMut, Bytes, BytesMut};
use d_engine_core::command::{KvReject, SessionHeader};
use d_engine_core::{Error, Reader, Result, WriteBatch};

use crate::layout::{result_key, session_key};

/// How many numbers, from the lowest unanswered on, may be in use at once. A rule of the replicated state.
pub(crate) const WINDOW: u64 = 1_024;

const SUBJECT: &str = "session of the key-value state machine";
/// Version 1 had every answer in a record of its own.
const VERSION: u8 = 2;

/// Answers up to this length stand in the session's record. A rule of the replicated state.
const SHORT_BYTES: usize = 64;

#[derive(Debug, Default)]
struct Session {
    /// The lowest number whose result may still be asked for.
    lowest: u64,
    /// Index of the last entry that belonged to it.
    used: u64,
    /// The numbers from `lowest` on that were applied, with their answers.
    done: BTreeMap<u64, Kept>,
}

/// Where an answer is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kept {
    /// In the session's record.
    Here(Bytes),
    /// In a record of its own.
    Apart,
}

/// What to do with a command of a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Carry it out, and tell [`Sessions::done`].
    Fresh,
    /// It was applied; answer this.
    Known(Bytes),
    /// It was applied; the answer stands in the store.
    Stored,
}

/// All sessions, and what the present chunk has done to them.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    sessions: HashMap<u64, Session>,
    /// The sessions by their last entry. Two have the same one if one of them has opened the other.
    by_use: BTreeSet<(u64, u64)>,
    /// Sessions whose record differs from the store's.
    dirty: BTreeSet<u64>,
    /// Results with a record of their own that the store lacks, or (`None`) still has.
    results: BTreeMap<(u64, u64), Option<Bytes>>,
}

impl Sessions {
    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Opens the session of the entry `index`.
    pub(crate) fn open(&mut self, index: u64) {
        self.sessions.insert(index, Session { lowest: 1, used: index, done: BTreeMap::new() });
        self.by_use.insert((index, index));
        self.dirty.insert(index);
    }

    /// Ends a session; whether there was one.
    pub(crate) fn close(&mut self, id: u64) -> bool {
        let Some(session) = self.sessions.remove(&id) else { return false };
        self.by_use.remove(&(session.used, id));
        self.dirty.insert(id);
        self.forget(id, session.done);
        true
    }

    /// Removes the records of answers that have one.
    fn forget(&mut self, id: u64, answered: BTreeMap<u64, Kept>) {
        let apart = answered.into_iter().filter(|(_, kept)| *kept == Kept::Apart);
        self.results.extend(apart.map(|(sequence, _)| ((id, sequence), None)));
    }

    /// Ends those applied to least recently until there are at most `limit`; how many had to go.
    pub(crate) fn evict(&mut self, limit: u32) -> u64 {
        let mut evicted = 0;
        while self.sessions.len() > limit as usize {
            let Some((_, id)) = self.by_use.first() else { break };
            self.close(*id);
            evicted += 1;
        }
        evicted
    }

    /// Decides what the command with this header, in the entry `index`, is to its session.
    ///
    /// # Errors
    /// `SessionExpired`, `OutOfWindow`.
    pub(crate) fn admit(&mut self, header: SessionHeader, index: u64) -> Result<Admission, KvReject> {
        let SessionHeader { session: id, sequence, lowest } = header;
        let Some(session) = self.sessions.get_mut(&id) else {
            return Err(KvReject::SessionExpired { session: id });
        };
        self.by_use.remove(&(session.used, id));
        self.by_use.insert((index, id));
        session.used = index;
        self.dirty.insert(id);
        let mut answered = BTreeMap::new();
        if lowest > session.lowest {
            let kept = session.done.split_off(&lowest);
            answered = std::mem::replace(&mut session.done, kept);
            session.lowest = lowest;
        }
        let highest = session.lowest.saturating_add(WINDOW - 1);
        let admission = if (session.lowest..=highest).contains(&sequence) {
            Ok(match session.done.get(&sequence) {
                None => Admission::Fresh,
                Some(Kept::Here(response)) => Admission::Known(response.clone()),
                Some(Kept::Apart) => match self.results.get(&(id, sequence)) {
                    Some(Some(response)) => Admission::Known(response.clone()),
                    _ => Admission::Stored,
                },
            })
        } else {
            Err(KvReject::OutOfWindow { sequence, lowest: session.lowest, highest })
        };
        self.forget(id, answered);
        admission
    }

    /// Keeps the answer of a command that was carried out, unless it has ended its own session.
    pub(crate) fn done(&mut self, header: SessionHeader, response: &Bytes) {
        let SessionHeader { session: id, sequence, .. } = header;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if response.len() <= SHORT_BYTES {
            session.done.insert(sequence, Kept::Here(response.clone()));
        } else {
            session.done.insert(sequence, Kept::Apart);
            self.results.insert((id, sequence), Some(response.clone()));
        }
    }

    /// Takes in a session that the store holds. Results come before sessions in the store.
    pub(crate) fn load(&mut self, id: u64, record: &[u8]) -> Result<()> {
        let Stored { lowest, used, short } = decode(record)?;
        let session = self.sessions.entry(id).or_default();
        (session.lowest, session.used) = (lowest, used);
        for (sequence, response) in short {
            if session.done.insert(sequence, Kept::Here(response)).is_some() {
                return Err(Error::corrupt(format!("{SUBJECT} {id}: two answers to number {sequence}")));
            }
        }
        self.by_use.insert((used, id));
        Ok(())
    }

    /// Takes in that the store holds a result.
    pub(crate) fn load_result(&mut self, id: u64, sequence: u64) {
        self.sessions.entry(id).or_default().done.insert(sequence, Kept::Apart);
    }

    /// That no result has come without its session.
    pub(crate) fn loaded(&self) -> Result<()> {
        if self.sessions.len() == self.by_use.len() {
            return Ok(());
        }
        Err(Error::corrupt("the key-value state: results of a session, and no such session"))
    }

    /// Adds what has changed to the chunk's batch.
    pub(crate) fn write(&mut self, batch: &mut WriteBatch) {
        for ((id, sequence), response) in std::mem::take(&mut self.results) {
            match response {
                Some(response) => batch.put(result_key(id, sequence), response),
                None => batch.delete(result_key(id, sequence)),
            }
        }
        for id in std::mem::take(&mut self.dirty) {
            match self.sessions.get(&id) {
                Some(session) => batch.put(session_key(id), encode(session)),
                None => batch.delete(session_key(id)),
            }
        }
    }
}

/// A session as the store has it.
#[derive(Debug, PartialEq, Eq)]
struct Stored {
    lowest: u64,
    used: u64,
    /// Short answers, by ascending number.
    short: Vec<(u64, Bytes)>,
}

/// `version u8 = 2 | lowest u64 | used u64 | short answers`, little-endian; a short answer is `number - lowest u16 | len u8 |
/// bytes`, by ascending number.
fn encode(session: &Session) -> Bytes {
    let short = || {
        session.done.iter().filter_map(|(sequence, kept)| match kept {
            Kept::Here(response) => Some((sequence - session.lowest, response)),
            Kept::Apart => None,
        })
    };
    let len: usize = short().map(|(_, response)| 3 + response.len()).sum();
    let mut out = BytesMut::with_capacity(1 + 2 * 8 + len);
    out.put_u8(VERSION);
    out.put_u64_le(session.lowest);
    out.put_u64_le(session.used);
    for (offset, response) in short() {
        // Both fit: see WINDOW and SHORT_BYTES.
        out.put_u16_le(offset as u16);
        out.put_u8(response.len() as u8);
        out.put_slice(response);
    }
    out.freeze()
}

/// Reads the record of a session.
fn decode(bytes: &[u8]) -> Result<Stored> {
    let mut reader = Reader::new(bytes, SUBJECT);
    let version = reader.u8()?;
    if !(1..=VERSION).contains(&version) {
        return Err(Error::unsupported(format!(
            "{SUBJECT}, version {version}; this build reads versions 1 to {VERSION}"
        )));
    }
    let (lowest, used) = (reader.u64()?, reader.u64()?);
    let mut short = Vec::new();
    let mut next = 0;
    while version >= 2 && !reader.rest().is_empty() {
        let offset = u64::from(reader.u16()?);
        let len = usize::from(reader.u8()?);
        if !(next..WINDOW).contains(&offset) || len > SHORT_BYTES {
            return Err(Error::corrupt(format!("{SUBJECT}: an answer of {len} bytes to number {lowest} + {offset}")));
        }
        next = offset + 1;
        // Copied, so that it does not keep the whole record.
        short.push((lowest.saturating_add(offset), Bytes::copy_from_slice(reader.take(len)?)));
    }
    reader.finish()?;
    Ok(Stored { lowest, used, short })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN_1: &[u8] = &[1, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn session_bytes_of_version_1_stay_readable() {
        assert_eq!(decode(GOLDEN_1).unwrap(), Stored { lowest: 5, used: 6, short: Vec::new() });
        assert!(matches!(decode(&GOLDEN_1[..16]), Err(Error::Corrupt { .. })));
        assert!(matches!(decode(&[GOLDEN_1, &[0]].concat()), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn session_bytes_of_version_2_stay_readable() {
        let golden = [&[2], &GOLDEN_1[1..], &[0, 0, 1, 7], &[0xff, 3, 2, 8, 9]].concat();
        let here = |bytes: &'static [u8]| Kept::Here(Bytes::from_static(bytes));
        let done = BTreeMap::from([(5, here(&[7])), (6, Kept::Apart), (5 + WINDOW - 1, here(&[8, 9]))]);
        assert_eq!(encode(&Session { lowest: 5, used: 6, done }), golden);
        let short = vec![(5, Bytes::from_static(&[7])), (5 + WINDOW - 1, Bytes::from_static(&[8, 9]))];
        assert_eq!(decode(&golden).unwrap(), Stored { lowest: 5, used: 6, short });
        for cut in [18, 19, 20, 22, 25] {
            assert!(matches!(decode(&golden[..cut]), Err(Error::Corrupt { .. })), "cut after {cut} bytes");
        }
        let with = |answers: &[u8]| decode(&[&golden[..17], answers].concat());
        assert!(matches!(with(&[0, 4, 0]), Err(Error::Corrupt { .. })), "beyond the window");
        assert!(matches!(with(&[1, 0, 0, 1, 0, 0]), Err(Error::Corrupt { .. })), "a number twice");
        assert!(matches!(with(&[&[0, 0, 65][..], &[0; 65]].concat()), Err(Error::Corrupt { .. })), "too long");
        assert!(matches!(decode(&[&[3], &golden[1..]].concat()), Err(Error::Unsupported { .. })));
    }
}
