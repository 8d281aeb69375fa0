//! The state as a file: a snapshot, and the bank's own copy of its state, which is a snapshot and its checksum.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use d_engine_core::snapshot::ChecksumWriter;
use d_engine_core::{Error, LogId, SnapshotChecksum, SnapshotMetadata};

use crate::State;

const MAGIC: &[u8] = b"bank 1\n";
const STATE: &str = "state";
const CHECKSUM_LEN: usize = 32;

/// `magic | term u64 | index u64 | number of accounts u64 | (length u64 | name | balance u64) …`, in the order of names: equal
/// states are equal bytes.
fn encode(state: &State) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    let number = |out: &mut Vec<u8>, number: u64| out.extend_from_slice(&number.to_le_bytes());
    number(&mut out, state.applied.term);
    number(&mut out, state.applied.index);
    number(&mut out, state.accounts.len() as u64);
    for (name, balance) in &state.accounts {
        number(&mut out, name.len() as u64);
        out.extend_from_slice(name.as_bytes());
        number(&mut out, *balance);
    }
    out
}

fn decode(bytes: &[u8]) -> Result<State, Error> {
    let corrupt = || Error::corrupt("the bytes are no state of a bank");
    let mut rest = bytes.strip_prefix(MAGIC).ok_or_else(corrupt)?;
    let number = |rest: &mut &[u8]| {
        let (number, behind) = rest.split_first_chunk().ok_or_else(corrupt)?;
        *rest = behind;
        Ok::<_, Error>(u64::from_le_bytes(*number))
    };
    let applied = LogId::new(number(&mut rest)?, number(&mut rest)?);
    let mut accounts = BTreeMap::new();
    for _ in 0..number(&mut rest)? {
        let len = usize::try_from(number(&mut rest)?).map_err(|_| corrupt())?;
        let (name, behind) = rest.split_at_checked(len).ok_or_else(corrupt)?;
        rest = behind;
        let name = std::str::from_utf8(name).map_err(|_| corrupt())?;
        accounts.insert(name.to_owned(), number(&mut rest)?);
    }
    if rest.is_empty() { Ok(State { accounts, applied }) } else { Err(corrupt()) }
}

fn checksum(bytes: &[u8]) -> Result<SnapshotChecksum, Error> {
    let mut writer = ChecksumWriter::new(std::io::sink());
    writer.write_all(bytes)?;
    Ok(writer.finish().1)
}

pub(crate) fn write_snapshot(dir: &Path, state: &State) -> Result<SnapshotChecksum, Error> {
    let bytes = encode(state);
    let mut file = File::create(dir.join("snapshot"))?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    checksum(&bytes)
}

/// Reads a snapshot that has come from somewhere else, and believes nothing of it that its metadata does not confirm.
pub(crate) fn read_snapshot(path: &Path, metadata: &SnapshotMetadata) -> Result<State, Error> {
    let bytes = fs::read(path)?;
    if bytes.len() as u64 != metadata.size || checksum(&bytes)? != metadata.checksum {
        return Err(Error::corrupt("the snapshot has another length or checksum than its metadata says"));
    }
    let state = decode(&bytes)?;
    if state.applied != metadata.last_included {
        return Err(Error::corrupt(format!("the snapshot holds the state after {}", state.applied)));
    }
    Ok(state)
}

/// Writes the state beside the old one, and puts it in its place when it is durable: a crash leaves one or the other.
pub(crate) fn save(dir: &Path, state: &State) -> Result<(), Error> {
    let mut bytes = encode(state);
    let sum = checksum(&bytes)?;
    bytes.extend_from_slice(sum.as_ref());
    write_beside(dir, &bytes).map_err(refused)?;
    File::open(dir)?.sync_all()?;
    Ok(())
}

fn write_beside(dir: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = dir.join("state.new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, dir.join(STATE))
}

/// Until the new file is in its place the old one counts, so a full disk has changed nothing, and the call may come again.
fn refused(error: std::io::Error) -> Error {
    let doing = "writing the bank's state";
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            Error::NoSpace { doing: doing.to_owned() }
        }
        _ => Error::io(doing, error),
    }
}

/// The state that was saved last; `None`: none was.
pub(crate) fn load(dir: &Path) -> Result<Option<State>, Error> {
    let bytes = match fs::read(dir.join(STATE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let damaged = || Error::corrupt("the bank's file is damaged; take the replica out and let it join anew");
    let (state, sum) = bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or_else(damaged)?;
    if checksum(state)?.as_ref() != sum {
        return Err(damaged());
    }
    decode(state).map(Some)
}
