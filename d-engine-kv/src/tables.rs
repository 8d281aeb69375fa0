//! What the machine keeps in memory beside the records: leases, sessions, settings.

use bytes::{BufMut, Bytes, BytesMut};
use d_engine_core::{Direction, Error, KvView, Reader, Result, WriteBatch};

use crate::layout::{BOOKKEEPING_KEY, Place, SETTINGS_KEY, StoreRange};
use crate::leases::Leases;
use crate::scan::Scan;
use crate::sessions::Sessions;

/// How many sessions there may be until a command says otherwise. A rule of the replicated state.
const SESSION_LIMIT: u32 = 10_000;
const SUBJECT: &str = "settings of the key-value state machine";
const VERSION: u8 = 1;

/// What commands have set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    /// How many sessions there may be.
    pub(crate) session_limit: u32,
    /// Where the choice of an id for a lease begins.
    pub(crate) next_lease: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { session_limit: SESSION_LIMIT, next_lease: 1 }
    }
}

impl Settings {
    /// `version u8 = 1 | limit of sessions u32 | next lease u64`, little-endian.
    fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(1 + 4 + 8);
        out.put_u8(VERSION);
        out.put_u32_le(self.session_limit);
        out.put_u64_le(self.next_lease);
        out.freeze()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes, SUBJECT);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(Error::unsupported(format!(
                "{SUBJECT}, version {version}; this build reads version {VERSION}"
            )));
        }
        let settings = Self { session_limit: reader.u32()?, next_lease: reader.u64()? };
        reader.finish()?;
        Ok(settings)
    }
}

/// Changed while a chunk is evaluated; true again only once its batch is written, else to be loaded anew.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) leases: Leases,
    pub(crate) sessions: Sessions,
    pub(crate) settings: Settings,
    /// What the store holds.
    stored: Settings,
}

impl Tables {
    /// The tables as the store holds them at one point in time.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported` for what a newer version wrote, and what the store says.
    pub(crate) fn load(view: &dyn KvView) -> Result<Self> {
        let mut tables = Self::default();
        let mut scan = Scan::new(view, StoreRange::internal(), Direction::Forward, usize::MAX);
        while let Some((key, value)) = scan.next_pair()? {
            if key != BOOKKEEPING_KEY {
                tables.take_in(&key, &value)?;
            }
        }
        tables.loaded()?;
        Ok(tables)
    }

    /// Takes in what the store holds under `key`, which is no user's; ascending.
    pub(crate) fn take_in(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        match Place::of(key) {
            Some(Place::Leased { lease, .. }) => self.leases.load_key(lease),
            Some(Place::Lease(id)) => self.leases.load(id, value)?,
            Some(Place::Result { session, sequence }) => self.sessions.load_result(session, sequence),
            Some(Place::Session(id)) => self.sessions.load(id, value)?,
            Some(Place::Settings) => {
                self.settings = Settings::decode(value)?;
                self.stored = self.settings;
            }
            Some(Place::User) | None => {
                let key = key.escape_ascii();
                return Err(Error::unsupported(format!("the key {key} of the store; a newer version wrote it")));
            }
        }
        Ok(())
    }

    /// That everything belongs to something, once all has been taken in.
    pub(crate) fn loaded(&self) -> Result<()> {
        self.leases.loaded()?;
        self.sessions.loaded()
    }

    /// Adds what has changed to the chunk's batch.
    pub(crate) fn write(&mut self, batch: &mut WriteBatch) {
        self.leases.write(batch);
        self.sessions.write(batch);
        if self.settings != self.stored {
            batch.put(Bytes::from_static(SETTINGS_KEY), self.settings.encode());
            self.stored = self.settings;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_version_1_stay_readable() {
        let golden = [1, 5, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0];
        let settings = Settings { session_limit: 5, next_lease: 6 };
        assert_eq!(settings.encode(), golden[..]);
        assert_eq!(Settings::decode(&golden).unwrap(), settings);
        assert!(matches!(Settings::decode(&golden[..12]), Err(Error::Corrupt { .. })));
        assert!(matches!(Settings::decode(&[2]), Err(Error::Unsupported { .. })));
    }
}
