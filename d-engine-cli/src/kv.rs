//! put, get, delete, cas, range: one request to a running cluster each.

use std::io::{IsTerminal, Read};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use d_engine::{KvCommand, KvRecord};
use d_engine_net::{Client, ClientError, ClientOptions, Range, ReadMode, Replaced};
use serde_json::{Map, Value, json};

use crate::output::{
    Exit, Failure, Format, insert_bytes, print, print_bytes, print_error, print_table, readable, shortened,
};

/// Where the cluster is, and how to print.
#[derive(Debug, Args)]
pub(crate) struct Online {
    /// Addresses of some or all nodes, separated by commas; any node accepts any request
    #[arg(long, env = "D_ENGINE_ENDPOINTS", value_name = "HOST:PORT,…", value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:9081")]
    pub(crate) endpoints: Vec<String>,
    /// Seconds for the whole request
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    pub(crate) timeout: f64,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

impl Online {
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        // One request for each program: a session would cost more than it gives, and push others out.
        let options = ClientOptions::default().timeout(Duration::from_secs_f64(self.timeout)).without_session();
        Client::with_options(&self.endpoints, options).map_err(|error| {
            Failure::usage(format!("--endpoints: {error}")).next("d-engine status --endpoints HOST:PORT")
        })
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "must be a number of seconds".to_owned())?;
    if (0.001..=86_400.0).contains(&seconds) { Ok(seconds) } else { Err("must be between 0.001 and 86400".to_owned()) }
}

#[derive(Debug, Args)]
pub(crate) struct Put {
    key: String,
    /// The value; without it, standard input is the value
    value: Option<String>,
    /// Attaches the key to a lease, with which it goes
    #[arg(long, value_name = "ID", conflicts_with_all = ["ttl", "keep_lease"])]
    lease: Option<u64>,
    /// Gives the key a lease of its own of so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = crate::lease::ttl, conflicts_with = "keep_lease")]
    ttl: Option<Duration>,
    /// Leaves the key with the lease that it has; without any of these, it is detached
    #[arg(long)]
    keep_lease: bool,
    /// Shows the value before
    #[arg(long)]
    prev: bool,
    #[command(flatten)]
    pub(crate) online: Online,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    key: String,
    #[command(flatten)]
    freshness: Freshness,
    #[command(flatten)]
    pub(crate) online: Online,
}

/// How fresh an answer must be; by default it is the newest.
#[derive(Debug, Args)]
struct Freshness {
    /// Asks one node's own copy, which may be old, instead of making sure that it is the newest
    #[arg(long)]
    local: bool,
    /// Lets the leader answer by its lease, without asking the others, which trusts that clocks run at nearly the same rate
    /// (needs raft.lease_reads on the nodes; without it the read is as without this flag)
    #[arg(long, alias = "by-lease", conflicts_with = "local")]
    lease: bool,
}

impl Freshness {
    fn mode(&self) -> ReadMode {
        match self {
            Self { local: true, .. } => ReadMode::Local,
            Self { lease: true, .. } => ReadMode::Lease,
            _ => ReadMode::Linearizable,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The key, or with --prefix or --to the beginning of a range
    key: String,
    /// Every key that begins with KEY; an empty one: all of them
    #[arg(long, conflicts_with = "to")]
    prefix: bool,
    /// Every key from KEY to before this one
    #[arg(long, value_name = "KEY")]
    to: Option<String>,
    /// Shows what is removed
    #[arg(long)]
    prev: bool,
    #[command(flatten)]
    pub(crate) online: Online,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("condition").required(true).args(["expect", "absent"])))]
#[command(group(clap::ArgGroup::new("change").required(true).args(["new", "delete"])))]
pub(crate) struct Cas {
    key: String,
    /// The value to set
    new: Option<String>,
    /// What the key must hold
    #[arg(long, value_name = "VALUE")]
    expect: Option<String>,
    /// The key must not exist
    #[arg(long)]
    absent: bool,
    /// Removes the key instead of setting it
    #[arg(long)]
    delete: bool,
    #[command(flatten)]
    pub(crate) online: Online,
}

#[derive(Debug, Args)]
pub(crate) struct RangeArguments {
    /// The keys that begin with this
    #[arg(conflicts_with_all = ["from", "to"])]
    prefix: Option<String>,
    /// The first key
    #[arg(long, value_name = "KEY")]
    from: Option<String>,
    /// The end, which does not belong to the range
    #[arg(long, value_name = "KEY")]
    to: Option<String>,
    /// At most so many records
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Leaves the values out
    #[arg(long)]
    keys_only: bool,
    /// From the last key down
    #[arg(long)]
    reverse: bool,
    /// Only counts the keys
    #[arg(long, conflicts_with_all = ["keys_only", "reverse", "limit"])]
    count: bool,
    #[command(flatten)]
    freshness: Freshness,
    #[command(flatten)]
    pub(crate) online: Online,
}

pub(crate) async fn put(arguments: Put) -> Result<(), Failure> {
    let Put { key, value, lease, ttl, keep_lease, prev, online } = arguments;
    check_key(&key)?;
    let value = match value {
        Some(value) => Bytes::from(value),
        None => standard_input()?,
    };
    let check = format!("d-engine get {}", quoted(&key));
    let failed = |error| Failure::of_request(&error, &check);
    if lease.is_none() && ttl.is_none() && !keep_lease && !prev {
        let written = online.client()?.put(key, value).await.map_err(failed)?;
        match online.output {
            Format::Table => print(format_args!("ok, revision {}", written.revision)),
            Format::Plain => print(written.revision),
            Format::Json => print(json!({ "revision": written.revision, "index": written.index })),
        }
        return Ok(());
    }
    let mut put = d_engine_net::Put::new(key, value);
    put = match (lease, ttl) {
        (Some(id), _) => put.lease(id),
        (_, Some(ttl)) => put.ttl(ttl),
        _ if keep_lease => put.keep_lease(),
        _ => put,
    };
    let replaced = online.client()?.put_with(if prev { put.prev() } else { put }).await.map_err(failed)?;
    show_replaced(&replaced, online.output);
    Ok(())
}

fn show_replaced(replaced: &Replaced, format: Format) {
    let Replaced { prev, lease, index, revision } = replaced;
    match format {
        Format::Json => {
            let mut object = Map::new();
            if let Some(prev) = prev {
                object.insert("prev".to_owned(), record_object(prev, false));
            }
            object.insert("lease".to_owned(), (*lease).into());
            object.insert("revision".to_owned(), (*revision).into());
            object.insert("index".to_owned(), (*index).into());
            print(Value::Object(object));
        }
        Format::Plain => print(revision),
        Format::Table => {
            let lease = if *lease == 0 { String::new() } else { format!(", lease {lease}") };
            print(format_args!("ok, revision {revision}{lease}"));
            if let Some(prev) = prev {
                print(format_args!("before: {}", shown(&prev.value)));
            }
        }
    }
}

pub(crate) async fn get(arguments: Get) -> Result<(), Failure> {
    let Get { key, freshness, online } = arguments;
    check_key(&key)?;
    let check = format!("d-engine get {}", quoted(&key));
    let got = online.client()?.get_in_mode(key.clone(), freshness.mode()).await;
    let got = got.map_err(|error| Failure::of_request(&error, &check))?;
    if online.output == Format::Json {
        let mut object = Map::new();
        insert_bytes(&mut object, "key", key.as_bytes());
        object.insert("found".to_owned(), got.value.is_some().into());
        if let Some(record) = &got.record {
            insert_bytes(&mut object, "value", &record.value);
            object.insert("version".to_owned(), record.version.into());
            object.insert("create_revision".to_owned(), record.create_revision.into());
            object.insert("mod_revision".to_owned(), record.mod_revision.into());
            object.insert("lease".to_owned(), record.lease.into());
        }
        object.insert("revision".to_owned(), got.revision.into());
        object.insert("index".to_owned(), got.index.into());
        print(Value::Object(object));
    } else if let Some(value) = &got.value {
        print_value(value, online.output);
    }
    if got.value.is_some() {
        return Ok(());
    }
    let next = format!("d-engine range --keys-only --from {}", quoted(&key));
    let why = format!("the key {} does not exist", shown(key.as_bytes()));
    Err(Failure { exit: Exit::NoMatch, ..Failure::new(why) }.next(next))
}

pub(crate) async fn delete(arguments: Delete) -> Result<(), Failure> {
    let Delete { key, prefix, to, prev, online } = arguments;
    if prefix || to.is_some() || prev {
        let delete = match to {
            _ if prefix => d_engine_net::Delete::prefix(key),
            Some(to) => d_engine_net::Delete::between(key, to),
            None => d_engine_net::Delete::key(key),
        };
        return delete_range(if prev { delete.prev() } else { delete }, &online).await;
    }
    check_key(&key)?;
    let check = format!("d-engine get {}", quoted(&key));
    let deleted = online.client()?.delete(key).await.map_err(|error| Failure::of_request(&error, &check))?;
    match online.output {
        Format::Table if deleted.existed => print(format_args!("deleted, revision {}", deleted.revision)),
        Format::Table => print("nothing to delete: the key does not exist"),
        Format::Plain => print(deleted.existed),
        Format::Json => {
            print(json!({ "existed": deleted.existed, "revision": deleted.revision, "index": deleted.index }));
        }
    }
    Ok(())
}

async fn delete_range(delete: d_engine_net::Delete, online: &Online) -> Result<(), Failure> {
    let removed = online.client()?.delete_range(delete).await;
    let removed = removed.map_err(|error| Failure::of_request(&error, "d-engine range"))?;
    match online.output {
        Format::Json => {
            let prev: Vec<Value> = removed.prev.iter().map(|record| record_object(record, false)).collect();
            let (revision, index) = (removed.revision, removed.index);
            print(json!({ "deleted": removed.deleted, "prev": prev, "revision": revision, "index": index }));
        }
        Format::Plain if removed.prev.is_empty() => print(removed.deleted),
        Format::Plain => removed.prev.iter().for_each(|record| print_plain(record, false)),
        Format::Table => {
            print(format_args!("deleted {}, revision {}", removed.deleted, removed.revision));
            if !removed.prev.is_empty() {
                print_records(&removed.prev, false);
            }
        }
    }
    Ok(())
}

pub(crate) async fn cas(arguments: Cas) -> Result<(), Failure> {
    let Cas { key, new, expect, online, .. } = arguments;
    check_key(&key)?;
    let check = format!("d-engine get {}", quoted(&key));
    // Clap has seen to it that exactly one of each pair is given.
    let swapped = online.client()?.cas(key, expect.map(Bytes::from), new.map(Bytes::from)).await;
    let swapped = swapped.map_err(|error| Failure::of_request(&error, &check))?;
    if online.output == Format::Json {
        let mut object = Map::new();
        object.insert("succeeded".to_owned(), swapped.succeeded.into());
        if let Some(current) = &swapped.current {
            insert_bytes(&mut object, "current", current);
        }
        object.insert("revision".to_owned(), swapped.revision.into());
        object.insert("index".to_owned(), swapped.index.into());
        print(Value::Object(object));
    } else if online.output == Format::Plain {
        print(swapped.succeeded);
    } else if swapped.succeeded {
        print(format_args!("changed, revision {}", swapped.revision));
    }
    if swapped.succeeded {
        return Ok(());
    }
    let why = match &swapped.current {
        Some(current) => format!("not changed: the key holds {}", shown(current)),
        None => "not changed: the key does not exist".to_owned(),
    };
    Err(Failure { exit: Exit::NoMatch, ..Failure::new(why) }.next(check))
}

pub(crate) async fn range(arguments: RangeArguments) -> Result<(), Failure> {
    let RangeArguments { prefix, from, to, limit, keys_only, reverse, count, freshness, online } = arguments;
    let mut range = match prefix {
        Some(prefix) => Range::prefix(prefix),
        None => Range { start: from.unwrap_or_default().into(), end: to.map(Bytes::from), ..Range::all() },
    };
    range.keys_only = keys_only;
    range.reverse = reverse;
    range.mode = freshness.mode();
    if count {
        return count_keys(range, &online).await;
    }
    let (records, more, revision) = all_pages(&online.client()?, range, limit).await?;
    match online.output {
        Format::Table => print_records(&records, keys_only),
        Format::Plain => records.iter().for_each(|record| print_plain(record, keys_only)),
        Format::Json => {
            let records: Vec<Value> = records.iter().map(|record| record_object(record, keys_only)).collect();
            print(json!({ "records": records, "more": more, "revision": revision }));
        }
    }
    if more && online.output != Format::Json {
        print_error(format_args!("there are more than {limit}; ask for the rest with --from, or raise --limit"));
    }
    Ok(())
}

async fn count_keys(range: Range, online: &Online) -> Result<(), Failure> {
    let counted = online.client()?.count(range).await;
    let counted = counted.map_err(|error| Failure::of_request(&error, "d-engine status"))?;
    match online.output {
        Format::Table | Format::Plain => print(counted.count),
        Format::Json => {
            print(json!({ "count": counted.count, "revision": counted.revision, "index": counted.index }));
        }
    }
    Ok(())
}

/// Asks for pages until `limit` records are there or the range ends. Every page is of its own point in time.
async fn all_pages(client: &Client, mut range: Range, limit: u32) -> Result<(Vec<KvRecord>, bool, u64), Failure> {
    let mut records: Vec<KvRecord> = Vec::new();
    loop {
        range.limit = limit.saturating_sub(u32::try_from(records.len()).unwrap_or(u32::MAX));
        let listed =
            client.range(range.clone()).await.map_err(|error| Failure::of_request(&error, "d-engine status"))?;
        let last = listed.records.last().map(|record| record.key.clone());
        records.extend(listed.records);
        let Some(last) = last.filter(|_| listed.more && records.len() < limit as usize) else {
            return Ok((records, listed.more, listed.revision));
        };
        if range.reverse {
            range.end = Some(last);
        } else {
            // The first key behind the last one: itself and a zero byte.
            range.start = [&last[..], &[0]].concat().into();
        }
    }
}

fn print_records(records: &[KvRecord], keys_only: bool) {
    let heading = ["KEY", "REVISION", "VALUE"];
    let columns = if keys_only { 2 } else { 3 };
    let row = |record: &KvRecord| {
        let cells = [shown(&record.key), record.mod_revision.to_string(), shown(&record.value)];
        cells.into_iter().take(columns).collect::<Vec<_>>()
    };
    let rows: Vec<_> = records.iter().map(row).collect();
    print_table(&heading[..columns], &rows);
    if rows.iter().flatten().any(|cell| cell.ends_with('…')) {
        print_error("long keys and values are cut; -o json and -o plain show them whole");
    }
}

pub(crate) fn record_object(record: &KvRecord, keys_only: bool) -> Value {
    let mut object = Map::new();
    insert_bytes(&mut object, "key", &record.key);
    if !keys_only {
        insert_bytes(&mut object, "value", &record.value);
    }
    object.insert("version".to_owned(), record.version.into());
    object.insert("mod_revision".to_owned(), record.mod_revision.into());
    if record.lease != 0 {
        object.insert("lease".to_owned(), record.lease.into());
    }
    Value::Object(object)
}

fn print_plain(record: &KvRecord, keys_only: bool) {
    let value: &[u8] = if keys_only { b"" } else { &record.value };
    let separator: &[u8] = if keys_only { b"" } else { b"\t" };
    print_bytes(&[&record.key[..], separator, value, b"\n"].concat());
}

fn print_value(value: &[u8], format: Format) {
    if format == Format::Plain {
        print_bytes(&[value, b"\n"].concat());
    } else {
        print(readable(value));
    }
}

/// Bytes for people, the beginning if there are many.
pub(crate) fn shown(bytes: &[u8]) -> String {
    shortened(&readable(bytes))
}

/// Refuses a key that cannot exist before anybody is asked.
fn check_key(key: &str) -> Result<(), Failure> {
    let command = KvCommand::Delete { key: Bytes::copy_from_slice(key.as_bytes()) };
    command.check(usize::MAX).map_err(|reject| Failure::of_request(&ClientError::from(reject), ""))
}

fn standard_input() -> Result<Bytes, Failure> {
    let mut input = std::io::stdin();
    if input.is_terminal() {
        return Err(Failure::usage("the value is missing").next("d-engine put KEY VALUE"));
    }
    let mut value = Vec::new();
    input
        .read_to_end(&mut value)
        .map_err(|error| Failure::new(format!("reading the value from standard input: {error}")))?;
    Ok(value.into())
}

/// An argument as a shell reads it.
fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if argument.len() > 100 {
        return "KEY".to_owned();
    }
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggested_commands_can_be_pasted_into_a_shell() {
        assert_eq!(quoted("a/b-1"), "a/b-1");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn timeouts_are_numbers_within_reason() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "NaN", "inf", "soon"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
