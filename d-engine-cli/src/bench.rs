//! bench: load on a running cluster through one client, in closed or open loop, and what its callers see.
//!
//! Everything it writes is below one prefix, and goes at the end. It loads whatever cluster it is pointed at: not one that
//! others depend on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use d_engine_load::{Figures, Load};
use d_engine_net::{Client, ClientError, ClientOptions, Delete, ReadMode};
use d_engine_plot::{Bar, Group, Page, bars};
use serde_json::json;

use crate::kv::Online;
use crate::output::{Failure, Format, print, print_error};

/// Keys written at once before anything is measured.
const AT_ONCE: u32 = 200;

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// What callers do, one measurement each
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Work::Put, Work::Get])]
    works: Vec<Work>,
    /// Callers, each with one call under way; one measurement each
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 10, 100])]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: Vec<u32>,
    /// Calls that begin in each second, whether others were answered or not; without it a caller calls again once answered
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: Option<u64>,
    /// Bytes of each value
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    value_size: u32,
    /// Keys, written before anything is measured
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    keys: u32,
    /// Begins every key; all keys that begin with it are removed at the end
    #[arg(long, default_value = "d-engine-bench/", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    prefix: String,
    /// Seconds that one round lasts
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds)]
    duration: f64,
    /// Rounds of each measurement, after one that is not counted
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Writes a page with plots to this file as well, as HTML
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) online: Online,
}

/// One kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Work {
    /// Writes a key that exists
    Put,
    /// Reads a key, linearizable
    Get,
    /// Reads a key by the lease of the leader, where nodes offer that
    GetLease,
    /// Reads one node's own copy
    GetLocal,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::GetLease => "get-lease",
            Self::GetLocal => "get-local",
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "must be a number of seconds".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("must be between 0.1 and 3600".to_owned()) }
}

/// What is called, and with what.
struct Caller {
    client: Client,
    prefix: String,
    keys: u32,
    value: Bytes,
}

impl Caller {
    async fn call(&self, work: Work, random: u64) -> Result<(), ClientError> {
        let key = format!("{}{:08}", self.prefix, random % u64::from(self.keys));
        match work {
            Work::Put => self.client.put(key, self.value.clone()).await.map(drop),
            Work::Get => self.client.get(key).await.map(drop),
            Work::GetLease => self.client.get_in_mode(key, ReadMode::Lease).await.map(drop),
            Work::GetLocal => self.client.get_local(key).await.map(drop),
        }
    }

    async fn fill(self: &Arc<Self>) -> Result<(), ClientError> {
        for first in (0..self.keys).step_by(AT_ONCE as usize) {
            let last = self.keys.min(first.saturating_add(AT_ONCE));
            let mut puts = tokio::task::JoinSet::new();
            for key in first..last {
                let caller = Arc::clone(self);
                puts.spawn(async move { caller.call(Work::Put, key.into()).await });
            }
            while let Some(put) = puts.join_next().await {
                put.unwrap_or(Err(ClientError::Unknown))?;
            }
        }
        Ok(())
    }
}

/// Loads the cluster, and removes what it wrote, interrupted or not.
pub(crate) async fn bench(arguments: Bench) -> Result<(), Failure> {
    let timeout = Duration::from_secs_f64(arguments.online.timeout);
    let client = Client::with_options(&arguments.online.endpoints, ClientOptions::default().timeout(timeout)).map_err(
        |error| Failure::usage(format!("--endpoints: {error}")).next("d-engine bench --endpoints HOST:PORT"),
    )?;
    let caller = Arc::new(Caller {
        client: client.clone(),
        prefix: arguments.prefix.clone(),
        keys: arguments.keys,
        value: vec![b'v'; arguments.value_size as usize].into(),
    });
    let found = tokio::select! {
        found = measure(&arguments, &caller) => found,
        () = crate::serve::interrupted() => Err(Failure::new("interrupted").next("d-engine bench")),
    };
    let removed = client.delete_range(Delete::prefix(arguments.prefix.clone())).await;
    // A session less for the nodes to keep; without this it goes with time.
    let _ = client.close_session().await;
    // What was measured is shown whatever became of the keys.
    show(&arguments, &found?)?;
    removed.map(drop).map_err(|error| {
        let check = format!("d-engine delete --prefix {}", arguments.prefix);
        Failure::new(format!("the keys of the load could not be removed: {error}")).next(check)
    })
}

async fn measure(arguments: &Bench, caller: &Arc<Caller>) -> Result<Vec<Figures>, Failure> {
    let filled = caller.fill().await;
    filled.map_err(|error| Failure::new(format!("writing the keys of the load: {error}")).next("d-engine status"))?;
    if arguments.online.output == Format::Table {
        print(Figures::HEADINGS);
    }
    let mut all = Vec::new();
    for &work in &arguments.works {
        for &clients in &arguments.clients {
            let load = Load {
                clients: clients as usize,
                rate: arguments.rate,
                round: Duration::from_secs_f64(arguments.duration),
                rounds: arguments.rounds as usize,
            };
            let caller = Arc::clone(caller);
            let run = load.run(move |random| {
                let caller = Arc::clone(&caller);
                async move { caller.call(work, random).await }
            });
            let figures = run.await.map_err(Failure::new)?.named("client", work.name());
            if arguments.online.output == Format::Table {
                print(figures.line());
            }
            all.push(figures);
        }
    }
    Ok(all)
}

fn show(arguments: &Bench, found: &[Figures]) -> Result<(), Failure> {
    match arguments.online.output {
        // Printed as it was measured.
        Format::Table => {}
        Format::Json => print(json!({ "bench": found.iter().map(Figures::json).collect::<Vec<_>>() })),
        Format::Plain => {
            for figures in found {
                let (p50, p99) = figures.latencies_ns();
                let (work, clients) = (figures.work(), figures.clients());
                print(format_args!("{work}\t{clients}\t{:.0}\t{p50}\t{p99}", figures.median()));
            }
        }
    }
    if let Some(path) = &arguments.report {
        std::fs::write(path, page(arguments, found))
            .map_err(|error| Failure::new(format!("could not write the report {}: {error}", path.display())))?;
    }
    if let Some(error) = found.iter().find_map(Figures::first_error) {
        print_error(format_args!("some calls failed; the first one: {error}"));
    }
    Ok(())
}

fn page(arguments: &Bench, found: &[Figures]) -> String {
    let mut page = Page::new("Load on a d-engine cluster");
    page.paragraph(&format!(
        "{} keys, values of {} bytes, {} rounds of {} s each, through one client of {}.",
        arguments.keys,
        arguments.value_size,
        arguments.rounds,
        arguments.duration,
        arguments.online.endpoints.join(", ")
    ));
    let groups = |bar: &dyn Fn(&Figures, &str) -> Bar| -> Vec<Group> {
        let of_work = |work: &Work| {
            let mine = found.iter().filter(|figures| figures.work() == work.name());
            let bars = mine.map(|figures| bar(figures, &format!("{} callers", figures.clients())));
            Group { name: work.name().to_owned(), bars: bars.collect() }
        };
        arguments.works.iter().map(of_work).collect()
    };
    let rates = groups(&|figures, label| {
        let (min, max) = figures.extremes();
        Bar::new(label, figures.median()).range(min, max)
    });
    page.plot(&bars("Rate; thin lines: spread of the rounds", "calls per second", &rates));
    let latencies = groups(&|figures, label| {
        let (p50, p99) = figures.latencies_ns();
        #[allow(clippy::cast_precision_loss, reason = "a bar for people")]
        let micros = |nanos: u64| nanos as f64 / 1e3;
        Bar::new(label, micros(p50)).range(micros(p50), micros(p99))
    });
    page.plot(&bars("Latency; thin lines: to the 99th percentile", "µs, median", &latencies));
    page.html()
}
