//! The `d-engine` binary: runs a node, talks to a cluster, and shows both at work.
//!
//! Everything it can do, a program can do through the `d-engine` crate; nothing is decided here.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks on its standard streams")]

mod bench;
mod cluster;
mod demo;
mod kv;
mod lease;
mod log;
mod member;
mod output;
mod processes;
mod recover;
mod serve;
mod snapshot;
mod txn;
mod up;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use output::{Failure, Format};

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  failed, without effect; for `demo`: something was wrong; for `status`: the nodes belong to different clusters;
     for `log check`: something is damaged
  2  wrong flags or configuration
  3  the key or lease does not exist, or does not hold what was expected; for `txn`: `else` was carried out
  4  nobody knows whether the write was applied; read before writing again

Three nodes on one machine:
  d-engine serve --data n1 --id 1 --listen 127.0.0.1:9081 --peers 1=127.0.0.1:9081,2=127.0.0.1:9082,3=127.0.0.1:9083
  d-engine serve --data n2 --id 2 --listen 127.0.0.1:9082 --peers 1=127.0.0.1:9081,2=127.0.0.1:9082,3=127.0.0.1:9083
  d-engine serve --data n3 --id 3 --listen 127.0.0.1:9083 --peers 1=127.0.0.1:9081,2=127.0.0.1:9082,3=127.0.0.1:9083";

/// A replicated, durable key-value store: one node of it, or a client
#[derive(Debug, Parser)]
#[command(name = "d-engine", version, after_help = AFTER_HELP, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a node until it is interrupted
    Serve(serve::Serve),
    /// Sets a key
    Put(kv::Put),
    /// Reads a key
    Get(kv::Get),
    /// Removes a key
    #[command(visible_alias = "del")]
    Delete(kv::Delete),
    /// Changes a key if it holds what is expected
    Cas(kv::Cas),
    /// Lists keys in order
    Range(kv::RangeArguments),
    /// Carries out a transaction: comparisons, and what to do if they hold or not
    Txn(txn::TxnArguments),
    /// Shows changes as they happen
    Watch(watch::WatchArguments),
    /// Grants, ends, renews and shows leases: keys that go away unless they are kept alive
    #[command(subcommand)]
    Lease(lease::Lease),
    /// Says who leads, who is behind, and how many more nodes may fail
    Status(kv::Online),
    Log(log::Log),
    /// Lists, adds, promotes, removes and replaces members
    #[command(subcommand)]
    Member(member::Member),
    /// Says who leads, or hands leadership over
    #[command(subcommand)]
    Leader(member::Leader),
    /// Saves the state into an archive, looks into one, and restores one into a new cluster
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    Recover(recover::Recover),
    Up(up::Up),
    /// Shows a self-checking cluster of three processes: load, watches, kill -9 of the leader, failover, catch-up
    Demo(demo::Demo),
    /// Loads a running cluster and says what rate it sustains and what latency callers see
    Bench(bench::Bench),
}

impl Command {
    /// How its errors are printed.
    fn format(&self) -> Format {
        match self {
            Self::Serve(_) | Self::Up(_) | Self::Demo(_) => Format::Table,
            Self::Bench(bench) => bench.online.output,
            Self::Put(put) => put.online.output,
            Self::Get(get) => get.online.output,
            Self::Delete(delete) => delete.online.output,
            Self::Cas(cas) => cas.online.output,
            Self::Range(range) => range.online.output,
            Self::Txn(txn) => txn.online.output,
            Self::Watch(watch) => watch.online.output,
            Self::Lease(lease) => lease.output(),
            Self::Status(online) => online.output,
            Self::Log(log) => log.format(),
            Self::Member(member) => member.output(),
            Self::Leader(leader) => leader.output(),
            Self::Snapshot(snapshot) => snapshot.output(),
            Self::Recover(recover) => recover.output,
        }
    }
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let format = command.format();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::new(format!("the system gives no threads: {error}")).next("ulimit -u");
            failure.report(format);
            return failure.exit.into();
        }
    };
    match runtime.block_on(run(command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(format);
            failure.exit.into()
        }
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(arguments) => serve::serve(arguments).await,
        Command::Put(arguments) => kv::put(arguments).await,
        Command::Get(arguments) => kv::get(arguments).await,
        Command::Delete(arguments) => kv::delete(arguments).await,
        Command::Cas(arguments) => kv::cas(arguments).await,
        Command::Range(arguments) => kv::range(arguments).await,
        Command::Txn(arguments) => txn::txn(arguments).await,
        Command::Watch(arguments) => watch::watch(arguments).await,
        Command::Lease(command) => lease::lease(command).await,
        Command::Status(online) => cluster::status(online).await,
        Command::Log(arguments) => log::log(arguments).await,
        Command::Member(command) => member::member(command).await,
        Command::Leader(command) => member::leader(command).await,
        Command::Snapshot(command) => snapshot::snapshot(command).await,
        Command::Recover(arguments) => recover::recover(arguments).await,
        Command::Up(arguments) => up::up(arguments).await,
        Command::Demo(arguments) => demo::demo(arguments).await,
        Command::Bench(arguments) => bench::bench(arguments).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        super::Arguments::command().debug_assert();
    }
}
