//! recover: a cluster of one from the directory of a node that has survived its quorum. Offline.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use clap::Args;
use d_engine::{RebuildError, Recovered, StartupError, Survivor};
use serde_json::json;

use crate::output::{Failure, Format, print, print_error};

/// Makes a new cluster of one from a stopped node's directory, when a majority of the old one is lost for good
///
/// Writes that the lost nodes had acknowledged without this one are lost. As long as a majority of the voters can be started,
/// start them instead. The old directory is kept.
#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// The data directory of the stopped node
    #[arg(long, value_name = "DIR", required = true)]
    force_new_cluster: PathBuf,
    /// Does not ask
    #[arg(long)]
    yes: bool,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

pub(crate) async fn recover(arguments: Recover) -> Result<(), Failure> {
    let Recover { force_new_cluster: dir, yes, output } = arguments;
    let survivor = Survivor::open(&dir, d_engine::file_stores).await.map_err(|error| refusal(&error))?;
    warning(&survivor).iter().for_each(print_error);
    if !yes && !is_confirmed(&survivor)? {
        return Err(Failure::new("nothing was recovered").next("d-engine status --endpoints ANOTHER_NODE"));
    }
    let node = survivor.node();
    let recovered = survivor.force_new_cluster().await.map_err(|error| refusal(&error))?;
    say(node, &dir.display().to_string(), &recovered, output);
    Ok(())
}

/// What may be lost, what may come to be, and what else there is to do.
fn warning(survivor: &Survivor) -> Vec<String> {
    let (node, applied, last) = (survivor.node(), survivor.applied().index, survivor.last().index);
    let membership = survivor.membership();
    let others: Vec<String> =
        membership.members.iter().filter(|m| m.node != node).map(|m| format!("{} at {}", m.node, m.address)).collect();
    let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
    let mut lines = vec![
        format!(
            "WARNING: node {node} becomes the only member of a NEW cluster; cluster {:032x} ends here. Other members: {others}",
            membership.cluster
        ),
        format!(
            "  - LOST: every write after entry {last} that the other members have acknowledged. How many there were, this \
             directory cannot know."
        ),
    ];
    if last > applied {
        lines.push(format!(
            "  - COMMITTED NOW: entries {} to {last}, which this node holds and does not know to be committed; writers may have \
             been told nothing of them, or that their fate is not known.",
            applied + 1
        ));
    }
    if !membership.is_voter(node) {
        lines.push(format!(
            "  - Node {node} is a learner: it may be far behind the voters. Recover a voter if one is left."
        ));
    }
    lines.push(
        "  - The other members are refused by the new cluster; they come in with empty directories (serve --join). As long as \
         a majority of the voters can be started, start them instead: then nothing is lost."
            .to_owned(),
    );
    lines.push(format!("  - The old directory is kept beside {}.", survivor.dir().display()));
    lines
}

fn is_confirmed(survivor: &Survivor) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        let again = format!("d-engine recover --force-new-cluster {} --yes", survivor.dir().display());
        return Err(
            Failure::usage("nobody confirms this: standard input is no terminal. Nothing was recovered").next(again)
        );
    }
    print_error("Type `yes` to go on:");
    let mut answer = String::new();
    // Without an answer there is no consent.
    let _ = std::io::stdin().lock().read_line(&mut answer);
    Ok(answer.trim() == "yes")
}

fn say(node: u64, dir: &str, recovered: &Recovered, format: Format) {
    let Recovered { cluster, at, applied, old, .. } = recovered;
    let old = old.display();
    match format {
        Format::Json => print(json!({
            "node": node,
            "dir": dir,
            "cluster": format!("{cluster:032x}"),
            "index": at.index,
            "applied": applied,
            "old": old.to_string(),
        })),
        Format::Plain => print(format_args!("{node}\t{dir}\t{cluster:032x}\t{}\t{old}", at.index)),
        Format::Table => {
            print(format_args!(
                "{dir} is now node {node}, the only member of the new cluster {cluster:032x}, with the state up to entry {}",
                at.index
            ));
            print(format_args!("the old directory is {old}"));
            print_error(format_args!("start it: d-engine serve --data {dir} --id {node} --listen IP:PORT"));
        }
    }
}

/// Why a stopped node's directory is not read or changed, and what to do.
pub(crate) fn refusal(error: &RebuildError) -> Failure {
    match error {
        RebuildError::Startup(StartupError::Locked { .. }) => Failure::new(error).next("d-engine status"),
        RebuildError::NotInPlace { made, .. } => Failure::new(error).next(format!("d-engine serve --data {made} …")),
        RebuildError::Startup(StartupError::HalfMade { .. }) => {
            Failure::new(error).next("d-engine snapshot restore --help")
        }
        _ => Failure::new(error).next("d-engine log inspect DIR"),
    }
}
