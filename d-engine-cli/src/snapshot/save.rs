//! snapshot save: an archive of a running cluster's state.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;
use d_engine::archive::{Archive, SaveOptions};
use d_engine::{Error, SnapshotSource, Survivor};
use d_engine_net::{Client, ClientError, Download};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::of_archive;
use crate::kv::Online;
use crate::member::failure;
use crate::output::{Failure, Format, print, print_error, thousands};
use crate::recover::refusal;

#[derive(Debug, Args)]
pub(crate) struct Save {
    /// The archive to be written
    file: PathBuf,
    /// Replaces a file of this name
    #[arg(long)]
    force: bool,
    /// Takes the first endpoint's state as it is, without asking the leader: it may lack writes that have been answered, but
    /// needs no quorum
    #[arg(long)]
    local: bool,
    /// Takes the state from the data directory of a stopped node instead, as far as the node had applied it
    #[arg(long, value_name = "DIR", conflicts_with = "local")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) online: Online,
}

pub(super) async fn save(arguments: Save) -> Result<(), Failure> {
    let Save { file, force, local, dir, online } = arguments;
    let options = if force { SaveOptions::default().replacing() } else { SaveOptions::default() };
    if !force && file.symlink_metadata().is_ok() {
        let why = format!("{} is there already, and is left as it is", file.display());
        return Err(Failure::new(why).next(format!("d-engine snapshot save --force {}", file.display())));
    }
    let source: Box<dyn SnapshotSource> = match dir {
        Some(dir) => of_directory(&dir).await?,
        None => Box::new(download(&online.client()?, local).await?),
    };
    let bar = bar(source.head().metadata.size);
    let saved = d_engine::archive::save(source, &file, options, |done, _| {
        if let Some(bar) = &bar {
            bar.set_position(done);
        }
    });
    let saved = saved.await;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    match saved {
        Ok(archive) => {
            say(&archive, online.output);
            Ok(())
        }
        Err(error @ Error::Backend(_)) => Err(Failure::new(format!("the archive was not saved: {error}"))
            .next(format!("d-engine snapshot save {}", file.display()))),
        Err(error) => Err(of_archive(&error)),
    }
}

async fn download(client: &Client, local: bool) -> Result<Download, Failure> {
    client.download_snapshot(local).await.map_err(|error| match error {
        ClientError::Unavailable { .. } if !local => {
            let why = format!("{error}. With --local an endpoint's own state is taken, which needs no quorum");
            Failure::new(why).next("d-engine status")
        }
        error => failure(&error),
    })
}

/// The state of a stopped node.
async fn of_directory(dir: &Path) -> Result<Box<dyn SnapshotSource>, Failure> {
    let stopped = Survivor::open(dir, d_engine::file_stores).await.map_err(|error| refusal(&error))?;
    let (applied, last) = (stopped.applied().index, stopped.last().index);
    let source = stopped.into_snapshot().await.map_err(|error| refusal(&error))?;
    if last > applied {
        print_error(format_args!(
            "note: entries {} to {last} of the log are not in the archive: a stopped node does not know which of them are \
             committed. Those that were, the running members have, or this node once it runs again",
            applied + 1
        ));
    }
    Ok(source)
}

/// On a terminal, for what takes a moment.
fn bar(total: u64) -> Option<ProgressBar> {
    const SHORT: u64 = 8 << 20;
    (total > SHORT && std::io::stderr().is_terminal()).then(|| {
        let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes}  {bytes_per_sec}");
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar
    })
}

fn say(archive: &Archive, format: Format) {
    let (path, head) = (archive.path().display(), archive.head());
    let (at, size) = (head.metadata.last_included, head.metadata.size);
    match format {
        Format::Json => print(json!({
            "file": path.to_string(),
            "checksum": archive.checksum().to_string(),
            "node": head.node,
            "index": at.index,
            "term": at.term,
            "snapshot_bytes": size,
        })),
        Format::Plain => print(format_args!("{path}\t{}\t{}\t{size}", archive.checksum(), at.index)),
        Format::Table => print(format_args!(
            "{path} holds the state of node {} up to entry {}, {} bytes; verified, SHA-256 {}",
            head.node,
            at.index,
            thousands(size),
            archive.checksum()
        )),
    }
}
