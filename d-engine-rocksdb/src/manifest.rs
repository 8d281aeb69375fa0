//! RocksDB's manifest, the list of its files, looked at before RocksDB opens it.
//!
//! RocksDB writes the records of all who change the list at the time, and then syncs once; a new manifest is synced before
//! `CURRENT` names it. It promises no more, so a loss of power may leave any of the records after the last sync, and a bad
//! record with sound ones behind it need not be damage. RocksDB itself forgets without an error what follows a changed
//! length, and refuses a page of zeros. So this is decided here:
//!
//! * After each open and flush the manifest is synced and its length noted beside it ([`note_synced`]). A bad record before
//!   that place is damage, as is one in a manifest without such a note: it was synced whole when it got its name.
//! * A bad record after it is a torn end and cut. What followed it then either never happened, or RocksDB finds that files
//!   are missing, or the write-ahead log begins after what the manifest knows ([`Manifest::last_sequence`]).

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use d_engine_core::{Error, Result, checksum};

use crate::crc32c;
use crate::directory::{replace_file, sync_dir};
use crate::log_file::read;
use crate::log_format::{HEADER, from_bad_place, whole_records};

/// The note: the manifest's name, the bytes of it that are synced, and a checksum.
const NOTE: &str = "manifest-synced";

/// Bytes of a record in which the numbers of interest stand.
const RECORD_HEAD: usize = 256;

/// A manifest in which nothing is damaged.
#[derive(Debug)]
pub(crate) struct Manifest {
    path: PathBuf,
    /// The highest sequence number whose data it knows to be in files.
    pub(crate) last_sequence: u64,
    /// Where its torn end begins.
    torn: Option<u64>,
}

impl Manifest {
    /// Looks at the manifest that counts. `dir` is RocksDB's own directory; `None` if there is no database yet, or
    /// `CURRENT` leads nowhere, of which RocksDB will complain.
    ///
    /// # Errors
    /// `Corrupt` if a record is damaged that had been synced. Nothing is changed.
    pub(crate) fn check(dir: &Path) -> Result<Option<Self>> {
        let Some(path) = current(dir) else { return Ok(None) };
        let bytes = read(&path)?;
        let mut last_sequence = 0;
        let unsound = whole_records(&bytes, |first| {
            last_sequence = last_sequence.max(sequence_of(&first.head(RECORD_HEAD)).unwrap_or(0));
        });
        let synced = synced_length(dir, &path);
        let sound = unsound.map_or(bytes.len(), |unsound| unsound.record) as u64;
        let what = if synced.is_some_and(|synced| sound < synced) {
            "a record is damaged or missing that had been synced"
        } else if unsound.is_some_and(|unsound| has_changed_length(&bytes, unsound.bad)) {
            "the length of a record is damaged"
        } else if synced.is_none() && unsound.is_some_and(|unsound| goes_on(&bytes, unsound.bad)) {
            "a record is damaged, and sound ones follow"
        } else {
            // Without a note a bad last record is left to RocksDB.
            let torn = unsound.and(synced).map(|_| sound);
            return Ok(Some(Self { path, last_sequence, torn }));
        };
        Err(Error::corrupt(format!("{} offset {sound}: {what}", path.display())))
    }

    /// Cuts the torn end, if there is one.
    pub(crate) fn cut(&self) -> Result<()> {
        let Some(torn) = self.torn else { return Ok(()) };
        let cutting = |error| Error::io(format!("cutting the torn end of {} at {torn}", self.path.display()), error);
        let file = File::options().write(true).open(&self.path).map_err(cutting)?;
        file.set_len(torn).and_then(|()| file.sync_all()).map_err(cutting)
    }
}

/// Syncs the manifest that counts and notes how much of it is durable. If that fails, less can be proven, no more: an older
/// note stays true.
pub(crate) fn note_synced(dir: &Path) {
    let _ = try_note_synced(dir);
}

fn try_note_synced(dir: &Path) -> Result<()> {
    let Some(path) = current(dir) else { return Ok(()) };
    let bytes = read(&path)?;
    // RocksDB may be in the middle of a record.
    let length = whole_records(&bytes, |_| {}).map_or(bytes.len(), |unsound| unsound.record);
    let syncing = |error| Error::io(format!("syncing {}", path.display()), error);
    File::open(&path).and_then(|file| file.sync_all()).map_err(syncing)?;
    replace_file(dir, NOTE, note(&path, length as u64).as_bytes())?;
    sync_dir(dir)
}

fn note(manifest: &Path, length: u64) -> String {
    let name = manifest.file_name().unwrap_or_default().to_string_lossy();
    let said = format!("{name} {length}");
    let sum = checksum(&[said.as_bytes()]);
    format!("{said} {sum:08x}\n")
}

/// What the note says of this manifest. One that is unreadable, or of an older manifest, says nothing.
fn synced_length(dir: &Path, manifest: &Path) -> Option<u64> {
    let found = fs::read_to_string(dir.join(NOTE)).ok()?;
    let length = found.split(' ').nth(1)?.parse().ok()?;
    (found == note(manifest, length)).then_some(length)
}

fn current(dir: &Path) -> Option<PathBuf> {
    let name = fs::read_to_string(dir.join("CURRENT")).ok()?;
    let path = dir.join(name.trim_end());
    (name.starts_with("MANIFEST-") && path.is_file()).then_some(path)
}

/// Whether there is anything sound behind a bad place.
fn goes_on(bytes: &[u8], bad: usize) -> bool {
    from_bad_place(bytes, bad).next().is_some()
}

/// Whether the bad record would be sound if it ended with the file. A write that was interrupted does not look so.
fn has_changed_length(bytes: &[u8], bad: usize) -> bool {
    let rest = bytes.get(bad..).filter(|rest| rest.len() >= HEADER);
    rest.is_some_and(|rest| rest[..4] == crc32c::masked(&rest[HEADER - 1..]).to_le_bytes())
}

/// The last sequence number that a record states, which stands before everything of variable form but a name.
fn sequence_of(mut record: &[u8]) -> Option<u64> {
    const COMPARATOR: u64 = 1;
    const DATABASE_ID: u64 = 2001;
    loop {
        match varint(&mut record)? {
            COMPARATOR | DATABASE_ID => {
                let len = usize::try_from(varint(&mut record)?).ok()?;
                record = record.get(len..)?;
            }
            // Numbers of log files, of the next file, and of the highest column family.
            2 | 3 | 9 | 10 | 203 => _ = varint(&mut record)?,
            4 => return varint(&mut record),
            _ => return None,
        }
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_format::written::Written;

    /// What checking a manifest of these bytes says, of which so many are noted as synced; the length that is left.
    fn check(bytes: &[u8], synced: Option<usize>) -> Result<u64> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("MANIFEST-000005");
        fs::write(dir.path().join("CURRENT"), "MANIFEST-000005\n").unwrap();
        fs::write(&path, bytes).unwrap();
        if let Some(synced) = synced {
            fs::write(dir.path().join(NOTE), note(&path, synced as u64)).unwrap();
        }
        Manifest::check(dir.path())?.unwrap().cut()?;
        Ok(path.metadata().unwrap().len())
    }

    fn is_refused(checked: &Result<u64>) -> bool {
        matches!(checked, Err(Error::Corrupt { .. }))
    }

    #[test]
    fn a_changed_byte_of_a_manifest_without_a_note_is_damage_unless_its_last_record_is_merely_unreadable() {
        let mut manifest = Written::default();
        manifest.record(&[1; 50]);
        let last = manifest.0.len();
        manifest.record(&[2; 60]);
        assert_eq!(check(&manifest.0, None).unwrap(), manifest.0.len() as u64);
        // The payload and the sum of the last record are RocksDB's to check; of its length only this knows.
        for at in (0..last).chain([last + 4, last + 5]) {
            let mut damaged = manifest.0.clone();
            damaged[at] ^= 0x80;
            assert!(is_refused(&check(&damaged, None)), "byte {at}");
        }
    }

    #[test]
    fn what_is_noted_as_synced_is_damaged_and_what_is_not_is_torn() {
        let mut manifest = Written::default();
        manifest.record(&[1; 50]);
        manifest.record(&[2; 60]);
        let synced = manifest.0.len();
        for record in 3..7 {
            manifest.record(&[record; 40]);
        }
        for at in 0..manifest.0.len() {
            // A page of which the disk got nothing, and what follows it.
            let mut torn = manifest.0.clone();
            let end = torn.len().min(at + 30);
            torn[at..end].fill(0);
            let checked = check(&torn, Some(synced));
            if at < synced {
                assert!(is_refused(&checked), "zeros at {at}: {checked:?}");
                assert!(is_refused(&check(&manifest.0[..at], Some(synced))), "ends at {at}");
            } else {
                let begin = synced + (at - synced) / 47 * 47;
                assert_eq!(checked.unwrap(), begin as u64, "zeros at {at}");
                assert_eq!(check(&manifest.0[..at], Some(synced)).unwrap(), begin as u64, "ends at {at}");
            }
        }
    }

    #[test]
    fn a_note_of_another_manifest_or_a_damaged_one_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (this, other) = (dir.path().join("MANIFEST-000005"), dir.path().join("MANIFEST-000004"));
        fs::write(dir.path().join(NOTE), note(&other, 7)).unwrap();
        assert_eq!(synced_length(dir.path(), &this), None);
        assert_eq!(synced_length(dir.path(), &other), Some(7));
        fs::write(dir.path().join(NOTE), note(&this, 7).replace(" 7 ", " 8 ")).unwrap();
        assert_eq!(synced_length(dir.path(), &this), None);
    }

    #[test]
    fn the_last_sequence_number_is_found_in_a_record() {
        let record = [&[1, 3, b'a', b'b', b'c', 2, 5, 9, 0, 3, 0x80, 1, 4, 0xac, 2][..], &[7; 9]].concat();
        assert_eq!(sequence_of(&record), Some(300));
        assert_eq!(sequence_of(&[203, 1, 1, 200, 1, 1]), None);
        assert_eq!(sequence_of(&[2]), None);
    }
}
