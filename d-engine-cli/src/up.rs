//! up: a cluster on this machine that stays until it is interrupted.
//!
//! The directory says who its nodes are and where they listen, so that the same cluster comes up the next time. A node that
//! ends is not started again: whoever looks into a failure wants to find it as it was.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use d_engine_net::{Client, ClientOptions};
use tokio::time::sleep;

use crate::output::{Failure, print, print_error};
use crate::processes::{Description, Processes};
use crate::serve::{Engine, interrupted};

const DEFAULT_NODES: u16 = 3;
const DEFAULT_PORT: u16 = 9081;
/// How often the processes are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Runs a cluster on this machine, each node a process, until it is interrupted
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Number of nodes of a new cluster; 3 if nothing says otherwise
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: Option<u16>,
    /// Directory of everything the nodes store, and of their logs; a cluster that is there already is started again
    #[arg(long, value_name = "DIR", default_value = "d-engine-cluster")]
    data: PathBuf,
    /// Where a new cluster keeps its data; `file` if nothing says otherwise
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// Port of the first node of a new cluster; the others have the next ones. 9081 if nothing says otherwise
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=65_000))]
    port: Option<u16>,
}

pub(crate) async fn up(arguments: Up) -> Result<(), Failure> {
    let (description, is_new) = arguments.description()?;
    let data = arguments.data.display();
    let running = |why| Failure::new(why).next("d-engine status, or another directory: d-engine up --data DIR");
    let mut processes = Processes::in_directory(&arguments.data, &description).map_err(running)?;
    processes.ports_are_free().map_err(|why| {
        let next = if is_new {
            format!("d-engine up --data {data} --port PORT")
        } else {
            format!("d-engine up --data {data}, once the port is free")
        };
        Failure::new(why).next(next)
    })?;
    let ended = tokio::select! {
        ended = run(&mut processes, is_new) => ended,
        () = interrupted() => Ok(()),
    };
    let wrong = processes.end().await;
    let logs = if ended.is_err() { processes.log_tails() } else { String::new() };
    if let Err(why) = ended {
        return Err(Failure::new(format!("{why}{logs}")).next(format!("d-engine log check {data}/n1")));
    }
    if !wrong.is_empty() {
        return Err(Failure::new(wrong.join("; ")).next(format!("d-engine up --data {data}")));
    }
    print(format_args!("all nodes have ended; to start them again: d-engine up --data {data}"));
    Ok(())
}

impl Up {
    /// What the directory holds, or is to hold, and whether that is new.
    fn description(&self) -> Result<(Description, bool), Failure> {
        let data = self.data.display();
        let found = Description::read(&self.data).map_err(|why| Failure::new(why).next("d-engine up --data DIR"))?;
        let Some(found) = found else {
            let is_empty = std::fs::read_dir(&self.data).map_or(true, |mut entries| entries.next().is_none());
            if !is_empty {
                let why =
                    format!("{data} holds something else than a cluster of `d-engine up`; nothing in it was touched");
                return Err(Failure::new(why).next("d-engine up --data ANOTHER_DIR"));
            }
            let first = self.port.unwrap_or(DEFAULT_PORT);
            let ports = first..first + self.nodes.unwrap_or(DEFAULT_NODES);
            return Ok((Description::new(self.engine.unwrap_or_default(), ports), true));
        };
        let first = found.nodes.values().next().map_or("", String::as_str);
        let other = [
            self.nodes
                .filter(|nodes| usize::from(*nodes) != found.nodes.len())
                .map(|_| format!("{} nodes", found.nodes.len())),
            self.engine.filter(|engine| *engine != found.engine).map(|_| format!("the engine {}", found.engine.name())),
            self.port
                .filter(|port| !first.ends_with(&format!(":{port}")))
                .map(|_| format!("its first node on {first}")),
        ];
        match other.into_iter().flatten().next() {
            Some(what) => {
                let why = format!("the cluster in {data} has {what}, which stays as it is");
                Err(Failure::usage(why).next(format!("d-engine up --data {data}")))
            }
            None => Ok((found, false)),
        }
    }
}

async fn run(processes: &mut Processes, is_new: bool) -> Result<(), String> {
    processes.start_all().await?;
    let options = ClientOptions::default().timeout(Duration::from_secs(5));
    let client = Client::with_options(processes.addresses(), options).map_err(|error| error.to_string())?;
    let leader = processes.leader(&client).await?;
    drop(client);
    let what = if is_new { "a new cluster" } else { "the cluster" };
    let directory = processes.directory().display();
    print(format_args!("{what} of {} in {directory}; node {leader} leads", nodes(processes.addresses().len())));
    print(format_args!("\n  export D_ENGINE_ENDPOINTS={}", processes.addresses().join(",")));
    print("  d-engine status\n  d-engine put colour blue\n  d-engine get colour\n  d-engine watch\n");
    print(format_args!("Logs are {directory}/n*.log. Ctrl-C ends the nodes; the files stay."));
    while !processes.pids().is_empty() {
        for (id, how) in processes.ended() {
            let log = processes.log(id);
            print_error(format_args!(
                "node {id} has ended by itself, {how}, and is not started again; see {}",
                log.display()
            ));
        }
        sleep(LOOK).await;
    }
    Err("no node runs any more".to_owned())
}

fn nodes(count: usize) -> String {
    if count == 1 { "one node".to_owned() } else { format!("{count} nodes") }
}
