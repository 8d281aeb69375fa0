//! snapshot restore: one node of a new cluster from an archive.

use std::path::PathBuf;

use clap::Args;
use d_engine::{Error, NewCluster, RebuildError, StartupError};
use serde_json::json;

use super::{of_archive, open};
use crate::output::{Failure, Format, print, print_error};

/// Makes the directory of one node of a new cluster from an archive
///
/// Run it once for each member, with the same archive, members and name; the directories then form one cluster with an id of
/// its own, which no node of the old one can mix with. A member that later loses its directory is replaced (`member replace`)
/// and never restored a second time: it has voted and acknowledged since.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The archive
    file: PathBuf,
    /// The node whose directory is made
    #[arg(long, value_name = "N")]
    node_id: u64,
    /// All members of the new cluster, this node too
    #[arg(long, value_name = "1=HOST:PORT,…", value_delimiter = ',', required = true, value_parser = member)]
    members: Vec<(u64, String)>,
    /// The data directory; empty or not there yet
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Tells this cluster from others that are restored from the same archive with the same members
    #[arg(long, value_name = "NAME", default_value = "")]
    cluster_name: String,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
}

fn member(text: &str) -> Result<(u64, String), String> {
    let (node, address) = text.split_once('=').ok_or("write ID=HOST:PORT, such as 1=h1:9081")?;
    let node = node.trim().parse().map_err(|_| format!("{node:?} is no node id"))?;
    Ok((node, address.trim().to_owned()))
}

pub(super) async fn restore(arguments: Restore) -> Result<(), Failure> {
    let Restore { file, node_id, members, dir, cluster_name, output } = arguments;
    let archive = open(&file)?;
    let listen = members.iter().find(|(node, _)| *node == node_id).map(|(_, address)| address.clone());
    let request = d_engine::Restore::new(node_id, members).cluster_name(cluster_name);
    let made =
        d_engine::restore(archive, &dir, request, d_engine::file_stores).await.map_err(|error| refusal(&error))?;
    let NewCluster { cluster, at, .. } = made;
    match output {
        Format::Json => print(json!({
            "node": node_id,
            "dir": dir.display().to_string(),
            "cluster": format!("{cluster:032x}"),
            "index": at.index,
            "term": at.term,
        })),
        Format::Plain => print(format_args!("{node_id}\t{}\t{cluster:032x}\t{}", dir.display(), at.index)),
        Format::Table => {
            print(format_args!(
                "{} is the directory of node {node_id} of the new cluster {cluster:032x}, with the state up to entry {}",
                dir.display(),
                at.index
            ));
            let listen = listen.unwrap_or_default();
            print_error(format_args!(
                "start it: d-engine serve --data {} --id {node_id} --listen {listen}",
                dir.display()
            ));
        }
    }
    Ok(())
}

fn refusal(error: &RebuildError) -> Failure {
    match error {
        RebuildError::Members { .. } => Failure::usage(error).next("d-engine snapshot restore --help"),
        RebuildError::NotEmpty { .. } | RebuildError::Startup(StartupError::HalfMade { .. }) => {
            Failure::new(error).next("d-engine snapshot restore FILE --dir EMPTY_DIR …")
        }
        RebuildError::Startup(StartupError::Storage { source: source @ Error::Corrupt { .. }, .. }) => {
            of_archive(source)
        }
        RebuildError::TooNew { .. } => Failure::new(error).next("d-engine --version"),
        _ => Failure::new(error).next("d-engine snapshot restore, once the cause is repaired"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_ids_with_addresses() {
        assert_eq!(member("1=h1:9081"), Ok((1, "h1:9081".to_owned())));
        assert!(member("h1:9081").unwrap_err().contains("ID=HOST:PORT"));
        assert!(member("one=h1:9081").unwrap_err().contains("no node id"));
    }
}
