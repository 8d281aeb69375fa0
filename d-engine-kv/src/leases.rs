//! The leases as the log has made them: a table in memory of what the store holds.
//!
//! Nothing here counts time; that is the leader's clock (`lease_clock.rs`), and what it decides comes back through the log.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use d_engine_core::command::{KvReject, LeaseTime};
use d_engine_core::{Error, Reader, Result, WriteBatch};

use crate::layout::lease_key;

const SUBJECT: &str = "lease of the key-value state machine";
const VERSION: u8 = 2;
const OWNED: u8 = 1;

/// One lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    /// How long it lasts without a keep-alive.
    pub(crate) ttl_ms: u64,
    /// How much of that was left when the log last said so.
    pub(crate) remaining_ms: u64,
    /// How often it was kept alive.
    pub(crate) renewals: u64,
    /// Index of the entry that began its time last, which nothing else has: what a leader's proposal names, so that it does
    /// nothing to a lease that was kept alive or granted anew since. A count of renewals would come again with the id.
    pub(crate) began: u64,
    /// It was made by a put, for its key, and ends with the last of its keys.
    pub(crate) owned: bool,
    /// How many keys it has; not in its record, because the keys themselves are.
    pub(crate) keys: u64,
}

impl Lease {
    fn new(ttl_ms: u64, owned: bool, began: u64) -> Self {
        Self { ttl_ms, remaining_ms: ttl_ms, renewals: 0, began, owned, keys: 0 }
    }

    /// `version u8 = 2 | ttl u64 | remaining u64 | renewals u64 | began u64 | flags u8`, little-endian; flag bit 0: made by a
    /// put. Version 1 has no `began`.
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(2 + 4 * 8);
        out.put_u8(VERSION);
        for number in [self.ttl_ms, self.remaining_ms, self.renewals, self.began] {
            out.put_u64_le(number);
        }
        out.put_u8(if self.owned { OWNED } else { 0 });
        out.freeze()
    }

    /// Reads the record of a lease; its keys are not counted.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes, SUBJECT);
        let version = reader.u8()?;
        if !(1..=VERSION).contains(&version) {
            return Err(Error::unsupported(format!(
                "{SUBJECT}, version {version}; this build reads versions 1 to {VERSION}"
            )));
        }
        let (ttl_ms, remaining_ms, renewals) = (reader.u64()?, reader.u64()?, reader.u64()?);
        // No entry has the index 0.
        let began = if version == 1 { 0 } else { reader.u64()? };
        let flags = reader.u8()?;
        reader.finish()?;
        if flags & !OWNED != 0 {
            return Err(Error::unsupported(format!("{SUBJECT} with flags {flags:#04x}; a newer version wrote it")));
        }
        Ok(Self { ttl_ms, remaining_ms, renewals, began, owned: flags & OWNED != 0, keys: 0 })
    }
}

/// A lease to be begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Granted {
    pub(crate) ttl_ms: u64,
    pub(crate) owned: bool,
    /// Index of the entry that begins it.
    pub(crate) index: u64,
}

/// All leases, and what the present chunk has done to them.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    leases: BTreeMap<u64, Lease>,
    /// Those whose record differs from the store's.
    dirty: BTreeSet<u64>,
    /// Those whose time began anew, or that ended, since it was last asked; for the leader's clock.
    restarted: Vec<u64>,
    /// Owned ones that have lost their last key.
    emptied: Vec<u64>,
}

impl Leases {
    pub(crate) fn get(&self, id: u64) -> Option<&Lease> {
        self.leases.get(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    pub(crate) fn expect(&self, id: u64) -> Result<(), KvReject> {
        if self.leases.contains_key(&id) { Ok(()) } else { Err(KvReject::LeaseNotFound { id }) }
    }

    /// Begins a lease. `id` 0: the next free one, which `next` names and is moved behind.
    pub(crate) fn grant(&mut self, id: u64, lease: Granted, next: &mut u64) -> Result<u64, KvReject> {
        let chosen = if id == 0 { self.choose(next) } else { id };
        if self.leases.contains_key(&chosen) {
            return Err(KvReject::LeaseExists { id });
        }
        self.leases.insert(chosen, Lease::new(lease.ttl_ms, lease.owned, lease.index));
        self.touch(chosen);
        Ok(chosen)
    }

    fn choose(&self, next: &mut u64) -> u64 {
        // Ids that clients have chosen are stepped over; 0 means none.
        while *next == 0 || self.leases.contains_key(next) {
            *next = next.wrapping_add(1);
        }
        let chosen = *next;
        *next = next.wrapping_add(1);
        chosen
    }

    /// Begins the time of a lease anew by the entry `index`, and says how long it is.
    pub(crate) fn keep_alive(&mut self, id: u64, index: u64) -> Option<u64> {
        let lease = self.leases.get_mut(&id)?;
        lease.renewals += 1;
        lease.began = index;
        lease.remaining_ms = lease.ttl_ms;
        let ttl_ms = lease.ttl_ms;
        self.touch(id);
        Some(ttl_ms)
    }

    /// Notes what is left, unless the lease was renewed since.
    pub(crate) fn note(&mut self, time: LeaseTime) -> bool {
        let Some(lease) = self.leases.get_mut(&time.mark.id).filter(|lease| lease.began == time.mark.began) else {
            return false;
        };
        // It only runs out: a note that came late does not give time back.
        lease.remaining_ms = lease.remaining_ms.min(time.remaining_ms);
        self.dirty.insert(time.mark.id);
        true
    }

    /// Ends a lease; its keys are the caller's business.
    pub(crate) fn remove(&mut self, id: u64) {
        if self.leases.remove(&id).is_some() {
            self.touch(id);
        }
    }

    /// A key changes from one lease to another; 0: none.
    pub(crate) fn move_key(&mut self, from: u64, to: u64) {
        if from == to {
            return;
        }
        if let Some(lease) = self.leases.get_mut(&to) {
            lease.keys += 1;
        }
        if let Some(lease) = self.leases.get_mut(&from) {
            lease.keys -= 1;
            if lease.keys == 0 && lease.owned {
                self.emptied.push(from);
            }
        }
    }

    /// Ends the owned leases that have lost their last key. Called behind each command.
    pub(crate) fn remove_emptied(&mut self) {
        while let Some(id) = self.emptied.pop() {
            if self.leases.get(&id).is_some_and(|lease| lease.keys == 0) {
                self.remove(id);
            }
        }
    }

    fn touch(&mut self, id: u64) {
        self.dirty.insert(id);
        self.restarted.push(id);
    }

    /// Takes in a lease that the store holds.
    pub(crate) fn load(&mut self, id: u64, record: &[u8]) -> Result<()> {
        let keys = self.leases.get(&id).map_or(0, |lease| lease.keys);
        self.leases.insert(id, Lease { keys, ..Lease::decode(record)? });
        Ok(())
    }

    /// Takes in a key of a lease. Keys come before leases in the store.
    pub(crate) fn load_key(&mut self, id: u64) {
        self.leases.entry(id).or_insert(Lease::new(0, false, 0)).keys += 1;
    }

    /// That no key has come without its lease.
    pub(crate) fn loaded(&self) -> Result<()> {
        match self.leases.iter().find(|(_, lease)| lease.ttl_ms == 0) {
            Some((id, _)) => Err(Error::corrupt(format!("the key-value state: keys of lease {id}, and no such lease"))),
            None => Ok(()),
        }
    }

    /// Adds what has changed to the chunk's batch.
    pub(crate) fn write(&mut self, batch: &mut WriteBatch) {
        for id in std::mem::take(&mut self.dirty) {
            match self.leases.get(&id) {
                Some(lease) => batch.put(lease_key(id), lease.encode()),
                None => batch.delete(lease_key(id)),
            }
        }
    }

    /// Which leases the leader's clock must look at again.
    pub(crate) fn take_restarted(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.restarted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_bytes_of_both_versions_stay_readable() {
        let lease = Lease { ttl_ms: 5, remaining_ms: 4, renewals: 3, began: 9, owned: true, keys: 0 };
        let number = |n: u8| [n, 0, 0, 0, 0, 0, 0, 0];
        let first = [&[1][..], &number(5), &number(4), &number(3), &[1]].concat();
        assert_eq!(Lease::decode(&first).unwrap(), Lease { began: 0, ..lease });
        let mut golden = [&[2][..], &number(5), &number(4), &number(3), &number(9), &[1]].concat();
        assert_eq!(lease.encode(), golden);
        assert_eq!(Lease::decode(&golden).unwrap(), lease);
        for cut in [&first[..25], &golden[..33]] {
            assert!(matches!(Lease::decode(cut), Err(Error::Corrupt { .. })));
        }
        golden[33] = 2;
        assert!(matches!(Lease::decode(&golden), Err(Error::Unsupported { .. })));
        for version in [0, 3] {
            golden[0] = version;
            assert!(matches!(Lease::decode(&golden), Err(Error::Unsupported { .. })));
        }
    }

    #[test]
    fn chosen_ids_step_over_those_that_are_taken() {
        let (mut leases, mut next) = (Leases::default(), 1);
        let lease = Granted { ttl_ms: 10, owned: false, index: 1 };
        assert_eq!(leases.grant(2, lease, &mut next), Ok(2));
        assert_eq!(leases.grant(0, lease, &mut next), Ok(1));
        assert_eq!(leases.grant(0, lease, &mut next), Ok(3));
        assert_eq!(leases.grant(3, lease, &mut next), Err(KvReject::LeaseExists { id: 3 }));
        assert_eq!(next, 4);
    }
}
