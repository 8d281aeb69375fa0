//! RocksDB's write-ahead log, looked at before RocksDB opens it.
//!
//! RocksDB cannot tell a write that a crash interrupted from damage: a changed length near the end of such a file looks
//! to it like the end, and what follows is forgotten without an error. So this is decided here: each batch carries the
//! sequence number up to which the log had been synced when it was written ([`Evidence`]). A bad record is damage if a
//! later batch proves that it had been durable; else it is a torn tail and cut.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use d_engine_core::{Error, Result};

use crate::log_format::{BLOCK, Fragment, Unsound, from_bad_place, whole_records};

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

/// The beginning of a batch.
struct BatchHead {
    sequence: u64,
    steps: u32,
    says: Option<Evidence>,
}

impl BatchHead {
    const LEN: usize = BATCH_HEADER + LOG_DATA.len() + Evidence::LEN;

    /// What the batch that begins with this fragment says; the ends of blocks may split it anywhere.
    fn read(first: Fragment<'_>) -> Option<Self> {
        let head = first.head(Self::LEN);
        let number = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
        let steps = u32::from_le_bytes(head.get(8..BATCH_HEADER)?.try_into().ok()?);
        let says = head.get(BATCH_HEADER..BATCH_HEADER + LOG_DATA.len()) == Some(&LOG_DATA);
        let at = BATCH_HEADER + LOG_DATA.len();
        let says = if says { Some(Evidence { base: number(at)?, durable: number(at + 8)? }) } else { None };
        Some(Self { sequence: number(0)?, steps, says })
    }
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
        let mut proof = from_bad_place(&bytes, torn.bad).filter_map(|fragment| BatchHead::read(fragment)?.says);
        let is_proven = |evidence: Evidence| evidence.durable >= next.max(evidence.base + 1);
        if proof.any(is_proven) || follows(&files[number + 1..])? {
            let (place, bad) = (path.display(), torn.bad);
            let what = "a record is damaged or missing that had been durable, as later ones show";
            return Err(Error::corrupt(format!(
                "{place} offset {bad}: {what}; remove this node, and let it rejoin empty"
            )));
        }
        let cutting =
            |error| Error::io(format!("cutting the torn end of {} at {}", path.display(), torn.record), error);
        let file = File::options().write(true).open(path).map_err(cutting)?;
        file.set_len(torn.record as u64).and_then(|()| file.sync_all()).map_err(cutting)?;
    }
    Ok(())
}

/// Checks that nothing is missing between what RocksDB's files hold, which is all up to `in_files`, and the oldest file of
/// the write-ahead log.
///
/// # Errors
/// `Corrupt` if something is.
pub(crate) fn check_beginning(dir: &Path, in_files: u64) -> Result<()> {
    let Some(path) = log_files(dir)?.into_iter().next() else { return Ok(()) };
    let mut bytes = Vec::new();
    let reading = |error| Error::io(format!("reading the beginning of {}", path.display()), error);
    File::open(&path).and_then(|file| file.take(BLOCK as u64).read_to_end(&mut bytes)).map_err(reading)?;
    let says = Fragment::read(&bytes, 0).and_then(BatchHead::read).and_then(|batch| batch.says);
    match says {
        Some(Evidence { base, .. }) if base > in_files => Err(Error::corrupt(format!(
            "{} follows write {base}, and the files before it end at {in_files}; remove this node, and let it rejoin empty",
            path.display()
        ))),
        _ => Ok(()),
    }
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
        if from_bad_place(&bytes, 0).next().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where the file stops being sound, if before its end. `next` becomes the sequence number that comes next.
fn torn_at(bytes: &[u8], next: &mut u64) -> Option<Unsound> {
    whole_records(bytes, |first| {
        if let Some(batch) = BatchHead::read(first) {
            *next = batch.sequence + u64::from(batch.steps);
        }
    })
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::io(format!("reading {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_format::HEADER;
    use crate::log_format::written::Written;

    impl Written {
        fn batch(&mut self, sequence: u64, durable: u64, len: usize) {
            self.steps(1, sequence, durable, len);
        }

        fn witness(&mut self, sequence: u64, durable: u64) {
            self.steps(0, sequence, durable, 0);
        }

        fn steps(&mut self, steps: u32, sequence: u64, durable: u64, len: usize) {
            let mut payload = sequence.to_le_bytes().to_vec();
            payload.extend_from_slice(&steps.to_le_bytes());
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

    /// A log in which the second batch begins with so many bytes left in the block.
    fn second_batch_at(left: usize) -> Written {
        let mut log = Written::default();
        log.batch(1, 0, BLOCK - left - HEADER - BatchHead::LEN);
        assert_eq!(log.0.len(), BLOCK - left);
        log
    }

    #[test]
    fn a_batch_that_begins_anywhere_before_the_end_of_a_block_is_counted() {
        for left in 0..45 {
            let mut log = second_batch_at(left);
            log.batch(2, 1, 100);
            let kept = log.0.clone();
            log.batch(3, 2, 100);
            let lost = kept.len() + HEADER + 20;
            log.batch(4, 2, 100);
            assert_eq!(cut(&[("000004.log", &log.0)]).unwrap(), std::slice::from_ref(&log.0), "{left} left");
            log.0[lost] ^= 1;
            assert_eq!(cut(&[("000004.log", &log.0)]).unwrap(), [kept], "{left} left");
        }
    }

    #[test]
    fn a_batch_that_begins_anywhere_before_the_end_of_a_block_bears_witness() {
        for left in 0..45 {
            let mut log = second_batch_at(left);
            let first = log.0.len();
            log.batch(2, 1, 100);
            for at in [0, HEADER, HEADER + BatchHead::LEN, first - 1] {
                let mut damaged = log.0.clone();
                damaged[at] ^= 1;
                let refused = cut(&[("000004.log", &damaged)]);
                assert!(matches!(refused, Err(Error::Corrupt { .. })), "{left} left, byte {at}: {refused:?}");
            }
        }
    }

    #[test]
    fn a_batch_torn_anywhere_around_the_end_of_a_block_is_cut_whole() {
        for left in 0..45 {
            let mut log = second_batch_at(left);
            let kept = log.0.clone();
            log.batch(2, 1, 100);
            for end in (kept.len() + 1..log.0.len()).step_by(7) {
                let [cut] = &cut(&[("000004.log", &log.0[..end])]).unwrap()[..] else { panic!("one file") };
                // The unused end of a block may stay.
                assert!(cut.len() >= kept.len() && cut.len() < kept.len() + HEADER, "{left} left, torn at {end}");
            }
        }
    }

    #[test]
    fn a_witness_proves_what_had_been_synced_before_it_and_nothing_else() {
        let mut log = Written::default();
        log.batch(1, 0, 100);
        let second = log.0.len();
        log.batch(2, 1, 100);
        let end = log.0.len();
        let damaged = |bytes: &[u8], at: usize| {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            cut(&[("000004.log", &damaged)])
        };
        assert_eq!(damaged(&log.0, second + 50).unwrap(), [&log.0[..second]]);
        log.witness(3, 2);
        assert!(matches!(damaged(&log.0, second + 50), Err(Error::Corrupt { .. })));
        // The witness itself is no loss, and what follows it is only if it had been synced.
        assert_eq!(damaged(&log.0, end + 20).unwrap(), [&log.0[..end]]);
        log.batch(3, 2, 100);
        assert_eq!(damaged(&log.0, end + 20).unwrap(), [&log.0[..end]]);
        log.witness(4, 3);
        assert!(matches!(damaged(&log.0, end + 20), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn a_log_that_begins_after_what_the_files_hold_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Written::default();
        log.record(&[&6u64.to_le_bytes()[..], &[0; 4], &LOG_DATA, &Evidence { base: 5, durable: 5 }.encode()].concat());
        fs::write(dir.path().join("000004.log"), &log.0).unwrap();
        check_beginning(dir.path(), 5).unwrap();
        assert!(matches!(check_beginning(dir.path(), 4), Err(Error::Corrupt { .. })));
    }
}
