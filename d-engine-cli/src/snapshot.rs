//! snapshot: the state as one file that is kept elsewhere, what is in such a file, and a new cluster from it.

mod inspect;
mod restore;
mod save;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use d_engine::Error;
use d_engine::archive::Archive;

use crate::kv::Online;
use crate::member::{failure, said};
use crate::output::{Failure, Format};

#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Saves the state of a running cluster into an archive file, verified before it gets its name
    Save(save::Save),
    /// Reads an archive to its end, verifies it, and says what it is
    Inspect(Inspect),
    Restore(restore::Restore),
    /// Makes a snapshot on the first endpoint's own disk, and lets that node purge its log
    Make(Online),
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The archive
    file: PathBuf,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Snapshot {
    pub(crate) fn output(&self) -> Format {
        match self {
            Self::Save(save) => save.online.output,
            Self::Inspect(inspect) => inspect.output,
            Self::Restore(restore) => restore.output,
            Self::Make(online) => online.output,
        }
    }
}

pub(crate) async fn snapshot(command: Snapshot) -> Result<(), Failure> {
    match command {
        Snapshot::Save(arguments) => save::save(arguments).await,
        Snapshot::Inspect(Inspect { file, output }) => {
            let mut archive = open(&file)?;
            inspect::show(&mut archive, output)
        }
        Snapshot::Restore(arguments) => restore::restore(arguments).await,
        Snapshot::Make(online) => make(&online).await,
    }
}

async fn make(online: &Online) -> Result<(), Failure> {
    let client = online.client()?;
    let endpoint = online.endpoints.first().cloned().unwrap_or_default();
    let made = client.make_snapshot_of(&endpoint).await.map_err(|error| failure(&error))?;
    said(online.output, &format!("the node at {endpoint} has a snapshot up to entry {}", made.index), made.index);
    Ok(())
}

/// Opens and verifies an archive.
fn open(file: &Path) -> Result<Archive, Failure> {
    Archive::open(file).map_err(|error| of_archive(&error))
}

/// What is wrong with an archive, and what to do.
fn of_archive(error: &Error) -> Failure {
    let failure = Failure::new(error);
    match error {
        Error::Corrupt { .. } => {
            Failure::new(format!("{error}. The archive cannot be used; take another copy of it or another archive"))
                .next("d-engine snapshot inspect ANOTHER_FILE")
        }
        Error::Unsupported { .. } => failure.next("d-engine --version"),
        _ => failure.next("d-engine snapshot --help"),
    }
}
