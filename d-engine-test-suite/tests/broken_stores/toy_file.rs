//! One append-only file of records: length, checksum, payload. Simple, correct, and the base of the toys' faults.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use d_engine_core::{Error, Result, checksum};

use crate::fault::{Fault, is};
use crate::toy_disk::Power;

const MAGIC: &[u8; 8] = b"TOYFILE1";

/// The file, and where its next record goes.
pub(crate) struct ToyFile {
    dir: PathBuf,
    file: File,
    end: u64,
    poisoned: Option<String>,
    /// What a fault keeps from the file.
    held_back: Vec<u8>,
    syncs: u64,
    power: Option<Arc<Power>>,
    _lock: Option<File>,
}

impl ToyFile {
    /// Opens the file and reads its records; what is shown is durable.
    pub(crate) fn open(dir: &Path, power: Option<Arc<Power>>) -> Result<(Self, Vec<Vec<u8>>)> {
        std::fs::create_dir_all(dir)?;
        let lock = lock(dir)?;
        let path = dir.join("records");
        if !path.exists() {
            replace(dir, "records", MAGIC)?;
        }
        let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (records, good) = parse(&bytes, &path)?;
        let mut end = good as u64;
        if is(Fault::TornTailIsKept) {
            end = bytes.len() as u64;
        } else if good < bytes.len() {
            file.set_len(end)?;
        }
        if !is(Fault::OpenShowsWhatIsNotDurable) {
            file.sync_all()?;
        }
        if let Some(power) = &power {
            power.synced(end);
        }
        let dir = dir.to_owned();
        Ok((Self { dir, file, end, poisoned: None, held_back: Vec::new(), syncs: 0, power, _lock: lock }, records))
    }

    /// Appends records with one write. A full disk leaves the file as it was.
    pub(crate) fn append(&mut self, records: &[Vec<u8>]) -> Result<()> {
        self.check()?;
        let bytes: Vec<u8> = records.iter().flat_map(|record| frame(record)).collect();
        if is(Fault::FlushKeepsSomeInMemory) {
            self.held_back.extend(bytes);
            return Ok(());
        }
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self.spend().and_then(|()| self.file.write_all_at(bytes, self.end)) {
            Ok(()) => {
                self.end += bytes.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::StorageFull && !is(Fault::FullDiskPoisons) => {
                self.file.set_len(self.end).map_err(|error| self.poison("cutting a part of a record off", error))?;
                Err(Error::NoSpace { doing: "appending a record".into() })
            }
            Err(error) => Err(self.poison("appending a record", error)),
        }
    }

    /// Makes everything durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.check()?;
        self.syncs += 1;
        if is(Fault::FlushKeepsSomeInMemory) && self.syncs.is_multiple_of(3) {
            return Ok(());
        }
        let held_back = std::mem::take(&mut self.held_back);
        self.write(&held_back)?;
        if is(Fault::FlushDoesNotSync) {
            return Ok(());
        }
        match self.spend().and_then(|()| self.file.sync_data()) {
            Err(_) if is(Fault::FailedSyncIsRetried) => Ok(self.file.sync_data()?),
            Err(error) => Err(self.poison("syncing the records", error)),
            Ok(()) => {
                self.note_synced();
                Ok(())
            }
        }
    }

    fn spend(&self) -> std::io::Result<()> {
        self.power.as_ref().map_or(Ok(()), |power| power.spend())
    }

    fn note_synced(&self) {
        if let Some(power) = &self.power {
            power.synced(self.end);
        }
    }

    /// Replaces all records, atomically and durably.
    pub(crate) fn rewrite(&mut self, records: &[Vec<u8>]) -> Result<()> {
        self.check()?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(records.iter().flat_map(|record| frame(record)));
        match self.spend().and_then(|()| replace(&self.dir, "records", &bytes)) {
            Ok(file) => {
                self.file = file;
                self.end = bytes.len() as u64;
                self.held_back.clear();
                self.note_synced();
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                Err(Error::NoSpace { doing: "writing the records anew".into() })
            }
            Err(error) => Err(self.poison("writing the records anew", error)),
        }
    }

    /// Replaces all records, one after the other in the same file.
    pub(crate) fn rewrite_in_place(&mut self, records: &[Vec<u8>]) -> Result<()> {
        self.file.set_len(MAGIC.len() as u64)?;
        self.end = MAGIC.len() as u64;
        for record in records {
            self.append(std::slice::from_ref(record))?;
            self.sync()?;
        }
        self.sync()
    }

    fn check(&self) -> Result<()> {
        match &self.poisoned {
            Some(why) => Err(Error::Poisoned { why: why.clone() }),
            None => Ok(()),
        }
    }

    fn poison(&mut self, doing: &str, error: std::io::Error) -> Error {
        let error = Error::io(doing, error);
        if !is(Fault::FailureIsForgotten) {
            self.poisoned = Some(error.to_string());
        }
        error
    }
}

impl Drop for ToyFile {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let held_back = std::mem::take(&mut self.held_back);
        let _ = self.write(&held_back);
        let _ = self.sync();
    }
}

fn lock(dir: &Path) -> Result<Option<File>> {
    if is(Fault::SecondOpenIsAllowed) {
        return Ok(None);
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(dir.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(_) => Err(Error::Locked { path: dir.display().to_string() }),
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_le_bytes();
    let sum = checksum(&[&len, payload]).to_le_bytes();
    [&len, &sum, payload].concat()
}

/// The payload of the record that begins there, if it is one.
fn record(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let payload = rest.get(..u32::from_le_bytes(*len) as usize)?;
    (!payload.is_empty() && checksum(&[len, payload]) == u32::from_le_bytes(*sum)).then_some(payload)
}

/// The records, and where the last good one ends. What follows is a torn write if no record begins in it.
fn parse(bytes: &[u8], path: &Path) -> Result<(Vec<Vec<u8>>, usize)> {
    if !bytes.starts_with(MAGIC) {
        return Err(Error::corrupt(format!("{}: the beginning is not that of a toy file", path.display())));
    }
    let mut records = Vec::new();
    let mut at = MAGIC.len();
    while let Some(payload) = record(&bytes[at..]) {
        records.push(payload.to_vec());
        at += 8 + payload.len();
    }
    let follows = (at + 1..bytes.len()).any(|at| record(&bytes[at..]).is_some());
    if follows && !is(Fault::DamageIsTakenForATornTail) {
        return Err(Error::corrupt(format!("{} at {at}, with a record behind it", path.display())));
    }
    if is(Fault::TornTailIsRefused) && at < bytes.len() {
        return Err(Error::corrupt(format!("{} at {at}", path.display())));
    }
    Ok((records, at))
}

/// Puts a file in place of another, durably. A failure leaves the old one.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> std::io::Result<File> {
    let temporary = dir.join(format!("{name}.tmp"));
    let written = (|| {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all_at(bytes, 0)?;
        if !is(Fault::VoteIsNotSynced) || name != "vote" {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, dir.join(name))?;
        if !is(Fault::VoteIsNotSynced) || name != "vote" {
            File::open(dir)?.sync_all()?;
        }
        Ok(file)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
