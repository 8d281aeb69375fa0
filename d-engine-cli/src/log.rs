//! log inspect, log check: what is in a directory of a stopped node. Offline, and nothing in it is changed.

#[cfg(any(feature = "rocksdb", feature = "sled", test))]
mod copy;
mod print;
mod view;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use d_engine::Error;

use crate::output::{Failure, Format, print_error, thousands};
use view::View;

/// Looks at the log and the hard state of a stopped node, damage included
#[derive(Debug, Args)]
pub(crate) struct Log {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Shows segments, index ranges, terms, the purge boundary, the hard state, and what is damaged
    Inspect(Target),
    /// Reads and verifies every entry; the exit code is 1 if anything is damaged
    Check(Target),
}

/// What to look at, and how to print.
#[derive(Debug, Args)]
struct Target {
    /// The data directory of a node, or the directory of its log
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// What has written the directory
    #[arg(long, value_enum, default_value_t)]
    engine: Engine,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// A storage engine whose directories can be read. To add one: a variant here, and its line in `View::read`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Engine {
    /// Segments and slot files
    #[default]
    File,
    /// RocksDB; read from a copy in the temporary directory, which RocksDB may change
    #[cfg(feature = "rocksdb")]
    Rocksdb,
    /// sled, experimental; read from a copy in the temporary directory, which sled may change
    #[cfg(feature = "sled")]
    Sled,
}

impl Log {
    /// How its errors are printed.
    pub(crate) fn format(&self) -> Format {
        match &self.command {
            LogCommand::Inspect(target) | LogCommand::Check(target) => target.output,
        }
    }
}

pub(crate) async fn log(arguments: Log) -> Result<(), Failure> {
    match arguments.command {
        LogCommand::Inspect(target) => {
            let view = read(&target).await?;
            print::view(&view, target.output);
            if let Some(damage) = verdict(&view) {
                print_error(damage);
            }
            Ok(())
        }
        LogCommand::Check(target) => {
            let view = read(&target).await?;
            print::check(&view, target.output);
            match verdict(&view) {
                None => Ok(()),
                Some(damage) => {
                    Err(Failure::new(damage).next(format!("d-engine log inspect {}", target.dir.display())))
                }
            }
        }
    }
}

/// What is wrong, and what follows from it.
fn verdict(view: &View) -> Option<String> {
    let first = view.damage.first()?;
    let places = match view.damage.len() {
        1 => "in one place".to_owned(),
        places => format!("in {} places, of which the first is", thousands(places as u64)),
    };
    Some(format!("{} is damaged {places}: {first}", view.dir.display()))
}

async fn read(target: &Target) -> Result<View, Failure> {
    let dir = log_dir(&target.dir);
    View::read(target.engine, &dir).await.map_err(|error| {
        let failure = Failure::new(&error);
        match error {
            Error::Locked { .. } => Failure::new(format!(
                "{} belongs to a node that runs: what it is writing would look like damage; stop it, or look at a copy",
                dir.display()
            ))
            .next("d-engine status"),
            _ => failure.next("d-engine log inspect --help"),
        }
    })
}

/// A node keeps its log in `log` of its data directory.
fn log_dir(dir: &Path) -> PathBuf {
    let inside = dir.join("log");
    if inside.is_dir() && !dir.join("wal").exists() { inside } else { dir.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_means_the_log_in_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(log_dir(dir.path()), dir.path());
        std::fs::create_dir(dir.path().join("log")).expect("a directory");
        assert_eq!(log_dir(dir.path()), dir.path().join("log"));
        std::fs::create_dir(dir.path().join("wal")).expect("a directory");
        assert_eq!(log_dir(dir.path()), dir.path());
    }
}
