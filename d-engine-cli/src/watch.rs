//! watch: changes as they happen, until it is interrupted.

use std::time::Duration;

use clap::Args;
use d_engine_net::{ClientError, KvChange, Reason, Watch, Watched, Watcher};
use serde_json::{Map, Value};

use crate::kv::{Online, record_object, shown};
use crate::output::{Failure, Format, insert_bytes, print, print_bytes, print_error};

/// Between two attempts to find a node.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct WatchArguments {
    /// The key; without one, every key
    key: Option<String>,
    /// Every key that begins with KEY
    #[arg(long, requires = "key")]
    prefix: bool,
    /// From the changes of this revision on, as far as they are kept; else those from now on
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    from: Option<u64>,
    /// Shows the value before each change
    #[arg(long)]
    prev: bool,
    /// Ends after so many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    pub(crate) online: Online,
}

pub(crate) async fn watch(arguments: WatchArguments) -> Result<(), Failure> {
    tokio::select! {
        ended = follow(arguments) => ended,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(|error| Failure::new(format!("waiting for an interrupt: {error}")))
        }
    }
}

async fn follow(arguments: WatchArguments) -> Result<(), Failure> {
    let WatchArguments { key, prefix, from, prev, limit, online } = arguments;
    let watch = match key {
        None => Watch::all(),
        Some(key) if prefix => Watch::prefix(key),
        Some(key) => Watch::key(key),
    };
    let watch = watch.since(from.unwrap_or(0));
    let watch = if prev { watch.prev() } else { watch };
    let mut watcher = online.client()?.watch(watch).await.map_err(|error| failed(&error))?;
    if online.output == Format::Table {
        print_error(format_args!(
            "watching from revision {} on; interrupt to end",
            from.unwrap_or(watcher.revision() + 1)
        ));
    }
    let mut left = limit.unwrap_or(u64::MAX);
    while left > 0 {
        let Watched::Changes { revision, changes, .. } = next(&mut watcher).await? else { continue };
        for change in changes.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            show(revision, change, online.output);
            left -= 1;
        }
    }
    Ok(())
}

/// Goes on trying while no node can be reached, and says so.
async fn next(watcher: &mut Watcher) -> Result<Watched, Failure> {
    loop {
        match watcher.next().await {
            Ok(watched) => return Ok(watched),
            Err(error @ ClientError::Rejected { .. }) => return Err(failed(&error)),
            Err(error) => print_error(format_args!("{error}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn failed(error: &ClientError) -> Failure {
    match error {
        ClientError::Rejected { why: Reason::Compacted { first_revision } } => {
            Failure::new(error).next(format_args!("d-engine watch --from {first_revision}"))
        }
        error => Failure::of_request(error, "d-engine status"),
    }
}

fn show(revision: u64, change: &KvChange, format: Format) {
    let (name, value, before) = match change {
        KvChange::Put { record, prev } => ("put", Some(&record.value), prev.as_ref()),
        KvChange::Delete { prev, .. } => ("delete", None, prev.as_ref()),
        _ => return,
    };
    let key = change.key();
    match format {
        Format::Json => print(object(revision, name, change)),
        Format::Plain => {
            let value = value.map_or(&b""[..], |value| value);
            let line = [format!("{name}\t{revision}\t").as_bytes(), key, b"\t", value, b"\n"].concat();
            print_bytes(&line);
        }
        Format::Table => {
            let value = value.map(|value| format!(" = {}", shown(value))).unwrap_or_default();
            let before = before.map(|record| format!("  (before: {})", shown(&record.value))).unwrap_or_default();
            print(format_args!("{revision:>8}  {name:<6}  {}{value}{before}", shown(key)));
        }
    }
}

fn object(revision: u64, name: &str, change: &KvChange) -> Value {
    let mut object = Map::new();
    object.insert("event".to_owned(), name.into());
    object.insert("revision".to_owned(), revision.into());
    insert_bytes(&mut object, "key", change.key());
    let prev = match change {
        KvChange::Put { record, prev } => {
            object.insert("record".to_owned(), record_object(record, false));
            prev
        }
        KvChange::Delete { prev, .. } => prev,
        _ => &None,
    };
    if let Some(prev) = prev {
        object.insert("prev".to_owned(), record_object(prev, false));
    }
    Value::Object(object)
}
