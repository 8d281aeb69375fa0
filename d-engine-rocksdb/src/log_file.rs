//! RocksDB's two kinds of log files, the write-ahead log and the manifest, looked at before RocksDB opens them.
//!
//! RocksDB cannot tell a write that a crash interrupted from damage: a changed length near the end of such a file looks
//! to it like the end, and what follows is forgotten without an error. So this is decided here.
//!
//! * In the write-ahead log, each batch carries the sequence number up to which the log had been synced when it was
//!   written ([`Evidence`]). A bad record is damage if a later batch proves that it had been durable; else it is a torn
//!   tail and cut.
//! * In the manifest, whose every record is synced, a bad record is damage if a sound one follows, or if only its length
//!   is wrong.
//!
//! Format: blocks of 32 KiB; records in them of a masked CRC-32C of kind and payload, the payload's length (u16), the
//! kind, and the payload; a record that does not fit is split. Fewer than 7 bytes at the end of a block are left unused.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use d_engine_core::{Error, Result};

use crate::crc32c;

const BLOCK: usize = 32 << 10;
const HEADER: usize = 7;

const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;
/// Kinds that carry settings of the file.
const SETTINGS: [u8; 3] = [9, 10, 130];

/// In a batch, what stands only in the log: tag and length, then the evidence.
const LOG_DATA: [u8; 2] = [3, Evidence::LEN as u8];
/// A batch begins with its sequence number (u64) and the count of its steps (u32).
const BATCH_HEADER: usize = 12;

/// What a batch says about those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// The last sequence number before the file that holds the batch.
    pub(crate) base: u64,
    /// The last sequence number that was durable when the batch was made.
    pub(crate) durable: u64,
}

impl Evidence {
    const LEN: usize = 16;

    pub(crate) fn encode(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&self.base.to_le_bytes());
        out[8..].copy_from_slice(&self.durable.to_le_bytes());
        out
    }
}

/// One physical record.
struct Record<'a> {
    at: usize,
    kind: u8,
    payload: &'a [u8],
}

impl Record<'_> {
    fn end(&self) -> usize {
        self.at + HEADER + self.payload.len()
    }

    /// The sequence number and the count of steps of the batch that begins here, and what it says.
    fn batch(&self) -> Option<(u64, u32, Option<Evidence>)> {
        if !matches!(self.kind, FULL | FIRST) {
            return None;
        }
        let number = |at: usize| Some(u64::from_le_bytes(self.payload.get(at..at + 8)?.try_into().ok()?));
        let count = u32::from_le_bytes(self.payload.get(8..BATCH_HEADER)?.try_into().ok()?);
        let says = self.payload.get(BATCH_HEADER..BATCH_HEADER + 2) == Some(&LOG_DATA);
        let at = BATCH_HEADER + LOG_DATA.len();
        let evidence = if says { Some(Evidence { base: number(at)?, durable: number(at + 8)? }) } else { None };
        Some((number(0)?, count, evidence))
    }
}

/// The record at `at`, if there is a sound one.
fn record(bytes: &[u8], at: usize) -> Option<Record<'_>> {
    let left = BLOCK - at % BLOCK;
    let header = bytes.get(at..at + HEADER).filter(|_| left >= HEADER)?;
    let len = usize::from(u16::from_le_bytes([header[4], header[5]]));
    let kind = header[6];
    let is_known = matches!(kind, FULL | FIRST | MIDDLE | LAST) || SETTINGS.contains(&kind);
    if !is_known || HEADER + len > left {
        return None;
    }
    let summed = bytes.get(at + HEADER - 1..at + HEADER + len)?;
    let is_sound = header[..4] == crc32c::masked(summed).to_le_bytes();
    is_sound.then(|| Record { at, kind, payload: &summed[1..] })
}

/// Where the next record stands after one that ends at `end`.
fn next_place(end: usize) -> usize {
    let left = BLOCK - end % BLOCK;
    if left < HEADER { end + left } else { end }
}

/// The sound records from the beginning of a file.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Scan<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let record = record(self.bytes, self.at)?;
        self.at = next_place(record.end());
        Some(record)
    }
}

/// The sound records after a bad place: anywhere in its block, for the place of the next one is not known, and then from
/// the beginning of each later block.
fn later(bytes: &[u8], bad: usize) -> impl Iterator<Item = Record<'_>> {
    let block_end = (bad / BLOCK + 1) * BLOCK;
    let here = (bad + 1..block_end.min(bytes.len())).filter_map(move |at| record(bytes, at));
    let blocks = (block_end..bytes.len()).step_by(BLOCK);
    here.chain(blocks.flat_map(move |at| Scan { bytes, at }.take_while(move |found| found.at < at + BLOCK)))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::io(format!("reading {}", path.display()), error))
}

/// Refuses a damaged manifest. `dir` is RocksDB's own directory; nothing is checked if there is no database yet.
pub(crate) fn check_manifest(dir: &Path) -> Result<()> {
    let Ok(current) = fs::read_to_string(dir.join("CURRENT")) else { return Ok(()) };
    let path = dir.join(current.trim_end());
    // RocksDB says what it thinks of a name that leads nowhere.
    if !current.starts_with("MANIFEST-") || !path.is_file() {
        return Ok(());
    }
    let bytes = read(&path)?;
    let mut scan = Scan { bytes: &bytes, at: 0 };
    scan.by_ref().for_each(drop);
    let bad = scan.at;
    if bad >= bytes.len() {
        return Ok(());
    }
    let damage = |what: &str| Err(Error::corrupt(format!("{} offset {bad}: {what}", path.display())));
    if later(&bytes, bad).next().is_some() {
        return damage("a record is damaged, and sound ones follow");
    }
    if let Some(rest) = bytes.get(bad..).filter(|rest| rest.len() >= HEADER)
        && rest[..4] == crc32c::masked(&rest[HEADER - 1..]).to_le_bytes()
    {
        return damage("the length of a record is damaged");
    }
    Ok(())
}

/// Cuts what a crash left unfinished at the end of the write-ahead log, refuses damage, and makes the rest durable: RocksDB
/// removes these files once their content is elsewhere, and a loss of power could bring back parts of them. `dir` is
/// RocksDB's own directory.
///
/// # Errors
/// `Corrupt` if something is missing that had been durable; nothing is changed then.
pub(crate) fn cut_torn_tail(dir: &Path) -> Result<()> {
    remove_empty(dir)?;
    let files = log_files(dir)?;
    // The sequence number that comes next.
    let mut next = 0;
    for (number, path) in files.iter().enumerate() {
        let bytes = read(path)?;
        let Some(torn) = torn_at(&bytes, &mut next) else {
            let syncing = |error| Error::io(format!("syncing {}", path.display()), error);
            File::open(path).and_then(|file| file.sync_all()).map_err(syncing)?;
            continue;
        };
        let mut proof = later(&bytes, torn.bad).filter_map(|record| record.batch()?.2);
        let is_proven = |evidence: Evidence| evidence.durable >= next.max(evidence.base + 1);
        if proof.any(is_proven) || follows(&files[number + 1..])? {
            let (place, bad) = (path.display(), torn.bad);
            let what = "a record is damaged or missing that had been durable, as later ones show";
            return Err(Error::corrupt(format!(
                "{place} offset {bad}: {what}; remove this node, and let it rejoin empty"
            )));
        }
        let cutting = |error| Error::io(format!("cutting the torn end of {} at {}", path.display(), torn.batch), error);
        let file = File::options().write(true).open(path).map_err(cutting)?;
        file.set_len(torn.batch as u64).and_then(|()| file.sync_all()).map_err(cutting)?;
    }
    Ok(())
}

/// Removes files of the write-ahead log in which nothing is. RocksDB would open them again only to give their space back,
/// and asks in passing, with a call whose answer it does not need, what the file system can do.
pub(crate) fn remove_empty(dir: &Path) -> Result<()> {
    for path in log_files(dir)? {
        let removing = |error| Error::io(format!("removing the empty {}", path.display()), error);
        if path.metadata().map_err(removing)?.len() == 0 {
            fs::remove_file(&path).map_err(removing)?;
        }
    }
    Ok(())
}

/// The files of the write-ahead log, oldest first; none if there is no directory yet.
fn log_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let listing = |error| Error::io(format!("listing {}", dir.display()), error);
    let mut files = Vec::new();
    if !dir.exists() {
        return Ok(Vec::new());
    }
    for entry in fs::read_dir(dir).map_err(listing)? {
        let path = entry.map_err(listing)?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|extension| extension == "log")) {
            files.push((number, path));
        }
    }
    files.sort_unstable();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// Whether any of the files holds a record. A file is synced before the next one gets its first.
fn follows(files: &[PathBuf]) -> Result<bool> {
    for path in files {
        let bytes = read(path)?;
        if record(&bytes, 0).is_some() || later(&bytes, 0).next().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The unsound end of a file.
struct Torn {
    /// Where the first record is that is not sound or not there.
    bad: usize,
    /// Where its batch begins.
    batch: usize,
}

/// Where the file stops being sound, if before its end. `next` becomes the sequence number that comes next.
fn torn_at(bytes: &[u8], next: &mut u64) -> Option<Torn> {
    let mut scan = Scan { bytes, at: 0 };
    let mut batch = None;
    let mut after = *next;
    for record in scan.by_ref() {
        match record.kind {
            FULL | FIRST if batch.is_some() => return Some(Torn { bad: record.at, batch: batch? }),
            MIDDLE | LAST if batch.is_none() => return Some(Torn { bad: record.at, batch: record.at }),
            _ => {}
        }
        if let Some((sequence, count, _)) = record.batch() {
            after = sequence + u64::from(count);
        }
        match record.kind {
            FIRST => batch = Some(record.at),
            FULL | LAST => (batch, *next) = (None, after),
            _ => {}
        }
    }
    let bad = scan.at;
    (bad < bytes.len() || batch.is_some()).then(|| Torn { bad, batch: batch.unwrap_or(bad) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as RocksDB writes it.
    #[derive(Default)]
    struct Written(Vec<u8>);

    impl Written {
        fn physical(&mut self, kind: u8, payload: &[u8]) {
            let summed = [&[kind], payload].concat();
            self.0.extend_from_slice(&crc32c::masked(&summed).to_le_bytes());
            self.0.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_le_bytes());
            self.0.extend_from_slice(&summed);
        }

        fn record(&mut self, mut payload: &[u8]) {
            let mut is_first = true;
            loop {
                let left = BLOCK - self.0.len() % BLOCK;
                if left < HEADER {
                    self.0.resize(self.0.len() + left, 0);
                    continue;
                }
                let part = payload.len().min(left - HEADER);
                let is_last = part == payload.len();
                let kind = match (is_first, is_last) {
                    (true, true) => FULL,
                    (true, false) => FIRST,
                    (false, false) => MIDDLE,
                    (false, true) => LAST,
                };
                self.physical(kind, &payload[..part]);
                payload = &payload[part..];
                is_first = false;
                if is_last {
                    return;
                }
            }
        }

        fn batch(&mut self, sequence: u64, durable: u64, len: usize) {
            let mut payload = sequence.to_le_bytes().to_vec();
            payload.extend_from_slice(&1u32.to_le_bytes());
            payload.extend_from_slice(&LOG_DATA);
            payload.extend_from_slice(&Evidence { base: 0, durable }.encode());
            payload.resize(payload.len() + len, sequence as u8);
            self.record(&payload);
        }
    }

    /// What is left of a log with this content, or why it is refused.
    fn cut(files: &[(&str, &[u8])]) -> Result<Vec<Vec<u8>>> {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        cut_torn_tail(dir.path())?;
        Ok(files.iter().map(|(name, _)| fs::read(dir.path().join(name)).unwrap()).collect())
    }

    #[test]
    fn a_sound_log_stays_as_it_is() {
        let mut log = Written::default();
        for sequence in 1..30 {
            log.batch(sequence, 0, sequence as usize * 999);
        }
        assert!(log.0.len() > 5 * BLOCK);
        assert_eq!(cut(&[("000004.log", &log.0)]).unwrap(), [log.0]);
    }

    #[test]
    fn a_record_torn_anywhere_is_cut_with_its_batch() {
        let mut log = Written::default();
        log.batch(1, 0, 100);
        let kept = log.0.clone();
        log.batch(2, 1, 40_000);
        for at in (kept.len()..log.0.len()).step_by(1009) {
            let mut zeros = log.0.clone();
            zeros[at..].fill(0);
            assert_eq!(cut(&[("000004.log", &log.0[..at])]).unwrap(), std::slice::from_ref(&kept), "cut at {at}");
            assert_eq!(cut(&[("000004.log", &zeros)]).unwrap(), std::slice::from_ref(&kept), "zeros from {at}");
        }
    }

    #[test]
    fn what_a_later_batch_proves_durable_is_damage() {
        let mut log = Written::default();
        log.batch(1, 0, 100);
        let second = log.0.len();
        log.batch(2, 1, 100);
        log.batch(3, 2, 100);
        for at in second..second + 100 {
            let mut damaged = log.0.clone();
            damaged[at] ^= 1;
            assert!(matches!(cut(&[("000004.log", &damaged)]), Err(Error::Corrupt { .. })), "byte {at}");
        }
    }

    #[test]
    fn a_batch_that_was_lost_before_it_was_durable_takes_the_later_ones_with_it() {
        let mut log = Written::default();
        log.batch(1, 0, 100);
        let kept = log.0.clone();
        log.batch(2, 1, 100);
        log.batch(3, 1, 100);
        let mut damaged = log.0.clone();
        damaged[kept.len() + 20] ^= 1;
        assert_eq!(cut(&[("000004.log", &damaged)]).unwrap(), [kept]);
    }

    #[test]
    fn a_file_that_ends_early_before_one_with_records_is_damage() {
        let (mut one, mut two) = (Written::default(), Written::default());
        one.batch(1, 0, 100);
        one.batch(2, 0, 100);
        two.batch(3, 2, 100);
        let short = &one.0[..one.0.len() - 1];
        assert!(matches!(cut(&[("000004.log", short), ("000009.log", &two.0)]), Err(Error::Corrupt { .. })));
        assert!(cut(&[("000004.log", short)]).is_ok());
    }

    #[test]
    fn a_manifest_with_a_changed_byte_is_damaged_unless_its_last_record_is_merely_unreadable() {
        let mut manifest = Written::default();
        manifest.record(&[1; 50]);
        let last = manifest.0.len();
        manifest.record(&[2; 60]);
        let check = |bytes: &[u8]| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("CURRENT"), "MANIFEST-000005\n").unwrap();
            fs::write(dir.path().join("MANIFEST-000005"), bytes).unwrap();
            check_manifest(dir.path())
        };
        check(&manifest.0).unwrap();
        // The payload and the sum of the last record are RocksDB's to check; of its length only this knows.
        for at in (0..last).chain([last + 4, last + 5]) {
            let mut damaged = manifest.0.clone();
            damaged[at] ^= 0x80;
            assert!(matches!(check(&damaged), Err(Error::Corrupt { .. })), "byte {at}");
        }
    }
}
