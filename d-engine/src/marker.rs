//! Files that say what a data directory is not: one that a node may start in.
//!
//! Each is durable before what it stands for begins, and goes, or stays, when that is done; so whatever interrupts the work,
//! the directory is told from a sound one by a name.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use d_engine_core::Result;

use crate::StartupError;
use crate::durable::{io_error, sync_dir};

/// The directory is being made from an archive or from another directory, and is not complete.
pub(crate) const RESTORING: &str = "RESTORING";
/// Another directory has been made from this one and takes its place.
pub(crate) const REPLACED: &str = "REPLACED";

/// Refuses a directory with a marker.
pub(crate) fn check(dir: &Path) -> Result<(), StartupError> {
    if is_set(dir, RESTORING) {
        return Err(StartupError::HalfMade { path: dir.display().to_string() });
    }
    if is_set(dir, REPLACED) {
        return Err(StartupError::Replaced { path: dir.display().to_string() });
    }
    Ok(())
}

pub(crate) fn is_set(dir: &Path, name: &str) -> bool {
    fs::symlink_metadata(dir.join(name)).is_ok()
}

/// Sets a marker, durably; false if it was set already.
pub(crate) fn set(dir: &Path, name: &str, why: &str) -> Result<bool> {
    let path = dir.join(name);
    let mut file = match File::create_new(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        file => file.map_err(io_error("creating", &path))?,
    };
    file.write_all(why.as_bytes()).and_then(|()| file.sync_all()).map_err(io_error("writing", &path))?;
    sync_dir(dir)?;
    Ok(true)
}

/// Takes a marker away, durably. Everything else in the directory has its name durably before.
pub(crate) fn clear(dir: &Path, name: &str) -> Result<()> {
    sync_dir(dir)?;
    let path = dir.join(name);
    fs::remove_file(&path).map_err(io_error("removing", &path))?;
    sync_dir(dir)
}
