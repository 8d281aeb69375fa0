//! lease: keys that go away unless somebody keeps them alive.

use std::time::Duration;

use clap::{Args, Subcommand};
use d_engine_net::{Client, ClientError, KeptAlive, Reason};
use serde_json::{Value, json};

use crate::kv::Online;
use crate::output::{Exit, Failure, Format, print, print_table, readable};

#[derive(Debug, Subcommand)]
pub(crate) enum Lease {
    /// Begins a lease
    Grant(Grant),
    /// Ends a lease and removes its keys
    Revoke(OfLease),
    /// Begins the time of a lease anew
    KeepAlive(KeepAlive),
    /// Shows how much time a lease has left
    Ttl(TimeToLive),
    /// Lists the leases
    List(List),
}

#[derive(Debug, Args)]
pub(crate) struct Grant {
    /// Seconds that the lease lasts without a keep-alive
    #[arg(value_name = "SECONDS", value_parser = ttl)]
    ttl: Duration,
    /// The lease's id; without it, one is chosen
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    id: Option<u64>,
    #[command(flatten)]
    online: Online,
}

#[derive(Debug, Args)]
pub(crate) struct OfLease {
    id: u64,
    #[command(flatten)]
    online: Online,
}

#[derive(Debug, Args)]
pub(crate) struct KeepAlive {
    id: u64,
    /// Does it again and again, until it is interrupted or the lease has ended
    #[arg(long)]
    forever: bool,
    #[command(flatten)]
    online: Online,
}

#[derive(Debug, Args)]
pub(crate) struct TimeToLive {
    id: u64,
    /// Shows its keys
    #[arg(long)]
    keys: bool,
    #[command(flatten)]
    online: Online,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    online: Online,
}

impl Lease {
    pub(crate) fn output(&self) -> Format {
        match self {
            Self::Grant(Grant { online, .. })
            | Self::Revoke(OfLease { online, .. })
            | Self::KeepAlive(KeepAlive { online, .. })
            | Self::Ttl(TimeToLive { online, .. })
            | Self::List(List { online }) => online.output,
        }
    }
}

/// A time in seconds, up to ten years.
pub(crate) fn ttl(text: &str) -> Result<Duration, String> {
    const SECONDS_MAX: f64 = 10.0 * 365.0 * 24.0 * 3_600.0;
    let seconds: f64 = text.parse().map_err(|_| "must be a number of seconds".to_owned())?;
    if (0.001..=SECONDS_MAX).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("must be between 0.001 seconds and ten years".to_owned())
    }
}

pub(crate) async fn lease(command: Lease) -> Result<(), Failure> {
    match command {
        Lease::Grant(arguments) => grant(arguments).await,
        Lease::Revoke(arguments) => revoke(arguments).await,
        Lease::KeepAlive(arguments) => keep_alive(arguments).await,
        Lease::Ttl(arguments) => time_to_live(arguments).await,
        Lease::List(arguments) => list(arguments).await,
    }
}

async fn grant(Grant { ttl, id, online }: Grant) -> Result<(), Failure> {
    let granted = online.client()?.lease_grant_as(id.unwrap_or(0), ttl).await.map_err(|error| failed(&error))?;
    match online.output {
        Format::Table => print(format_args!("lease {}, {} s", granted.id, granted.ttl.as_secs_f64())),
        Format::Plain => print(granted.id),
        Format::Json => {
            let (revision, index) = (granted.revision, granted.index);
            print(json!({ "id": granted.id, "ttl_ms": ms(granted.ttl), "revision": revision, "index": index }));
        }
    }
    Ok(())
}

async fn revoke(OfLease { id, online }: OfLease) -> Result<(), Failure> {
    let revoked = online.client()?.lease_revoke(id).await.map_err(|error| failed(&error))?;
    match online.output {
        Format::Table => print(format_args!("ended, {} keys removed, revision {}", revoked.keys, revoked.revision)),
        Format::Plain => print(revoked.keys),
        Format::Json => {
            print(json!({ "keys": revoked.keys, "revision": revoked.revision, "index": revoked.index }));
        }
    }
    Ok(())
}

async fn keep_alive(KeepAlive { id, forever, online }: KeepAlive) -> Result<(), Failure> {
    let client = online.client()?;
    loop {
        let kept = client.lease_keep_alive(id).await.map_err(|error| failed(&error))?;
        show_kept(id, &kept, online.output);
        if !forever {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(kept.ttl / 3) => {}
            interrupted = tokio::signal::ctrl_c() => {
                return interrupted.map_err(|error| Failure::new(format!("waiting for an interrupt: {error}")));
            }
        }
    }
}

fn show_kept(id: u64, kept: &KeptAlive, format: Format) {
    match format {
        Format::Table => print(format_args!("lease {id} lasts {} s from now on", kept.ttl.as_secs_f64())),
        Format::Plain => print(kept.ttl.as_secs_f64()),
        Format::Json => {
            print(json!({ "id": id, "ttl_ms": ms(kept.ttl), "revision": kept.revision, "index": kept.index }));
        }
    }
}

async fn time_to_live(TimeToLive { id, keys, online }: TimeToLive) -> Result<(), Failure> {
    let leased = online.client()?.lease_time_to_live(id, keys).await.map_err(|error| failed(&error))?;
    let Some(lease) = leased.lease else {
        return Err(failed(&Reason::LeaseNotFound { id }.into()));
    };
    let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
    match online.output {
        Format::Table => {
            let (left, of) = (seconds(lease.remaining_ms), seconds(lease.ttl_ms));
            print(format_args!(
                "{left} s of {of} s left, {} keys, kept alive {} times",
                lease.key_count, lease.renewals
            ));
            lease.keys.iter().for_each(|key| print(format_args!("  {}", readable(key))));
        }
        Format::Plain => {
            print(seconds(lease.remaining_ms));
            lease.keys.iter().for_each(|key| print(readable(key)));
        }
        Format::Json => {
            let keys: Vec<Value> = lease.keys.iter().map(|key| readable(key).into()).collect();
            print(json!({
                "id": lease.id, "ttl_ms": lease.ttl_ms, "remaining_ms": lease.remaining_ms,
                "renewals": lease.renewals, "key_count": lease.key_count, "keys": keys,
                "revision": leased.revision, "index": leased.index,
            }));
        }
    }
    Ok(())
}

async fn list(List { online }: List) -> Result<(), Failure> {
    let ids = all_ids(&online.client()?).await.map_err(|error| failed(&error))?;
    match online.output {
        Format::Table => print_table(&["LEASE"], &ids.iter().map(|id| vec![id.to_string()]).collect::<Vec<_>>()),
        Format::Plain => ids.iter().for_each(print),
        Format::Json => print(json!({ "ids": ids })),
    }
    Ok(())
}

async fn all_ids(client: &Client) -> Result<Vec<u64>, ClientError> {
    let mut ids = Vec::new();
    loop {
        let page = client.lease_list(ids.last().copied().unwrap_or(0), 0).await?;
        let is_last = !page.more || page.ids.is_empty();
        ids.extend(page.ids);
        if is_last {
            return Ok(ids);
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn failed(error: &ClientError) -> Failure {
    match error {
        ClientError::Rejected { why: Reason::LeaseNotFound { .. } | Reason::LeaseExists { .. } } => {
            Failure { exit: Exit::NoMatch, ..Failure::new(error) }.next("d-engine lease list")
        }
        error => Failure::of_request(error, "d-engine lease list"),
    }
}
