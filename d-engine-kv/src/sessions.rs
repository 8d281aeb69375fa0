//! Sessions: what makes a retried command one that is applied once. A table in memory of what the store holds.
//!
//! Opened, used, closed and evicted by the log alone, so that every replica agrees on what a session still knows.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::{BufMut, Bytes, BytesMut};
use d_engine_core::command::{KvReject, SessionHeader};
use d_engine_core::{Error, Reader, Result, WriteBatch};

use crate::layout::{result_key, session_key};

/// How many numbers, from the lowest unanswered on, may be in use at once. A rule of the replicated state.
pub(crate) const WINDOW: u64 = 1_024;

const SUBJECT: &str = "session of the key-value state machine";
const VERSION: u8 = 1;

#[derive(Debug, Default)]
struct Session {
    /// The lowest number whose result may still be asked for.
    lowest: u64,
    /// Index of the last entry that belonged to it.
    used: u64,
    /// The numbers from `lowest` on that were applied.
    done: BTreeSet<u64>,
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
    /// Results that the store lacks, or (`None`) still has.
    results: BTreeMap<(u64, u64), Option<Bytes>>,
}

impl Sessions {
    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Opens the session of the entry `index`.
    pub(crate) fn open(&mut self, index: u64) {
        self.sessions.insert(index, Session { lowest: 1, used: index, done: BTreeSet::new() });
        self.by_use.insert((index, index));
        self.dirty.insert(index);
    }

    /// Ends a session; whether there was one.
    pub(crate) fn close(&mut self, id: u64) -> bool {
        let Some(session) = self.sessions.remove(&id) else { return false };
        self.by_use.remove(&(session.used, id));
        self.dirty.insert(id);
        self.results.extend(session.done.into_iter().map(|sequence| ((id, sequence), None)));
        true
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
        if lowest > session.lowest {
            let kept = session.done.split_off(&lowest);
            let answered = std::mem::replace(&mut session.done, kept);
            self.results.extend(answered.into_iter().map(|sequence| ((id, sequence), None)));
            session.lowest = lowest;
        }
        let highest = session.lowest.saturating_add(WINDOW - 1);
        if !(session.lowest..=highest).contains(&sequence) {
            return Err(KvReject::OutOfWindow { sequence, lowest: session.lowest, highest });
        }
        if !session.done.contains(&sequence) {
            return Ok(Admission::Fresh);
        }
        Ok(match self.results.get(&(id, sequence)) {
            Some(Some(response)) => Admission::Known(response.clone()),
            _ => Admission::Stored,
        })
    }

    /// Keeps the answer of a command that was carried out, unless it has ended its own session.
    pub(crate) fn done(&mut self, header: SessionHeader, response: &Bytes) {
        if let Some(session) = self.sessions.get_mut(&header.session) {
            session.done.insert(header.sequence);
            self.results.insert((header.session, header.sequence), Some(response.clone()));
        }
    }

    /// Takes in a session that the store holds. Results come before sessions in the store.
    pub(crate) fn load(&mut self, id: u64, record: &[u8]) -> Result<()> {
        let (lowest, used) = decode(record)?;
        let session = self.sessions.entry(id).or_default();
        (session.lowest, session.used) = (lowest, used);
        self.by_use.insert((used, id));
        Ok(())
    }

    /// Takes in that the store holds a result.
    pub(crate) fn load_result(&mut self, id: u64, sequence: u64) {
        self.sessions.entry(id).or_default().done.insert(sequence);
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
                Some(session) => batch.put(session_key(id), encode(session.lowest, session.used)),
                None => batch.delete(session_key(id)),
            }
        }
    }
}

/// `version u8 = 1 | lowest u64 | used u64`, little-endian.
fn encode(lowest: u64, used: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + 2 * 8);
    out.put_u8(VERSION);
    out.put_u64_le(lowest);
    out.put_u64_le(used);
    out.freeze()
}

/// Reads the record of a session: the lowest number, and the last entry.
pub(crate) fn decode(bytes: &[u8]) -> Result<(u64, u64)> {
    let mut reader = Reader::new(bytes, SUBJECT);
    let version = reader.u8()?;
    if version != VERSION {
        return Err(Error::unsupported(format!("{SUBJECT}, version {version}; this build reads version {VERSION}")));
    }
    let numbers = (reader.u64()?, reader.u64()?);
    reader.finish()?;
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_bytes_of_version_1_stay_readable() {
        let golden = [&[1u8][..], &[5, 0, 0, 0, 0, 0, 0, 0], &[6, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(encode(5, 6), golden);
        assert_eq!(decode(&golden).unwrap(), (5, 6));
        assert!(matches!(decode(&golden[..16]), Err(Error::Corrupt { .. })));
        assert!(matches!(decode(&[&[2][..], &golden[1..]].concat()), Err(Error::Unsupported { .. })));
    }
}
