//! txn: a transaction from a small text.

mod parse;

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use d_engine_net::{Decided, KvOpResult};
use serde_json::{Map, Value, json};

use crate::kv::{Online, record_object, shown};
use crate::output::{Exit, Failure, Format, print, print_bytes};

const FORM: &str = r#"The text has up to three parts, in this order; # begins a comment:

  if                              # all of these must hold; without this part, they do
    value  alice = "10"           # also != < >; of a key that does not exist, no value holds
    version alice > 0             # also create, mod (revisions) and lease; 0 if the key does not exist
    exists bob
    absent lock
  then
    put alice 7                   # and: lease ID, ttl SECONDS or keep-lease; prev prints the record before
    put bob 3 prev
    delete tmp                    # or: delete prefix tmp/, delete range a b; and: prev
  else
    get alice                     # or: range prefix user/, range a b; and: limit N

Keys and values are words, or stand in double quotes, where \n \t \\ \" and \xNN mean what they do elsewhere.

  d-engine txn transfer.txt
  printf 'if\n absent lock\nthen\n put lock me\nelse\n get lock\n' | d-engine txn"#;

#[derive(Debug, Args)]
#[command(after_help = FORM)]
pub(crate) struct TxnArguments {
    /// The file with the text; without it, or with -, standard input
    file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) online: Online,
}

pub(crate) async fn txn(arguments: TxnArguments) -> Result<(), Failure> {
    let TxnArguments { file, online } = arguments;
    let file = file.filter(|file| file != Path::new("-"));
    let (name, text) = read(file.as_deref())?;
    let txn =
        parse::parse(&text).map_err(|error| Failure::usage(error.shown(&name, &text)).next("d-engine help txn"))?;
    let decided = online.client()?.txn(txn).await.map_err(|error| Failure::of_request(&error, "d-engine range"))?;
    match online.output {
        Format::Json => print(object(&decided)),
        Format::Plain => decided.results.iter().for_each(print_plain),
        Format::Table => {
            let what = if decided.succeeded { "then" } else { "else" };
            print(format_args!("carried out `{what}`, revision {}", decided.revision));
            decided.results.iter().for_each(print_for_people);
        }
    }
    if decided.succeeded {
        return Ok(());
    }
    let why = "a comparison did not hold, so `else` was carried out";
    Err(Failure { exit: Exit::NoMatch, ..Failure::new(why) }.next("d-engine range"))
}

fn read(file: Option<&Path>) -> Result<(String, String), Failure> {
    let Some(file) = file else {
        let mut input = std::io::stdin();
        if input.is_terminal() {
            return Err(Failure::usage("the transaction is missing").next("d-engine help txn"));
        }
        let mut text = String::new();
        let failed = |error| Failure::usage(format!("reading the transaction from standard input: {error}"));
        input.read_to_string(&mut text).map_err(failed)?;
        return Ok(("standard input".to_owned(), text));
    };
    let name = file.display().to_string();
    let failed = |error| Failure::usage(format!("reading {name}: {error}")).next("d-engine help txn");
    let text = std::fs::read_to_string(file).map_err(failed)?;
    Ok((name, text))
}

fn object(decided: &Decided) -> Value {
    let records = |records: &[d_engine::KvRecord], keys_only| {
        records.iter().map(|record| record_object(record, keys_only)).collect::<Vec<_>>()
    };
    let results = decided.results.iter().map(|result| match result {
        KvOpResult::Put { lease, prev } => {
            let mut object = Map::new();
            object.insert("lease".to_owned(), (*lease).into());
            if let Some(prev) = prev {
                object.insert("prev".to_owned(), record_object(prev, false));
            }
            json!({ "put": object })
        }
        KvOpResult::Deleted { deleted, prev } => {
            json!({ "delete": { "deleted": deleted, "prev": records(prev, false) } })
        }
        KvOpResult::Range { records: found, more } => {
            json!({ "range": { "records": records(found, false), "more": more } })
        }
        KvOpResult::Count { count } => json!({ "count": count }),
        _ => Value::Null,
    });
    let results: Vec<Value> = results.collect();
    json!({
        "succeeded": decided.succeeded,
        "results": results,
        "revision": decided.revision,
        "index": decided.index,
    })
}

/// One line for each record, and for each number.
fn print_plain(result: &KvOpResult) {
    let records = |records: &[d_engine::KvRecord]| {
        for record in records {
            print_bytes(&[&record.key[..], b"\t", &record.value[..], b"\n"].concat());
        }
    };
    match result {
        KvOpResult::Put { prev, .. } => records(prev.as_slice()),
        KvOpResult::Deleted { deleted, prev } if prev.is_empty() => print(deleted),
        KvOpResult::Deleted { prev, .. } => records(prev),
        KvOpResult::Range { records: found, .. } => records(found),
        KvOpResult::Count { count } => print(count),
        _ => {}
    }
}

fn print_for_people(result: &KvOpResult) {
    let before = |record: &d_engine::KvRecord| {
        print(format_args!("  before: {} = {}", shown(&record.key), shown(&record.value)));
    };
    match result {
        KvOpResult::Put { lease, prev } => {
            match lease {
                0 => print("put"),
                lease => print(format_args!("put, lease {lease}")),
            }
            prev.iter().for_each(before);
        }
        KvOpResult::Deleted { deleted, prev } => {
            print(format_args!("deleted {deleted}"));
            prev.iter().for_each(before);
        }
        KvOpResult::Range { records, more } => {
            print(format_args!("found {}{}", records.len(), if *more { ", and there are more" } else { "" }));
            for record in records {
                print(format_args!("  {} = {}", shown(&record.key), shown(&record.value)));
            }
        }
        KvOpResult::Count { count } => print(format_args!("counted {count}")),
        _ => {}
    }
}
