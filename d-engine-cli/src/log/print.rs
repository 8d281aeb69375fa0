//! How what is in a directory is printed.

use d_engine::file::{SegmentPart, SegmentView};
use d_engine::storage::LogSummary;
use d_engine::{Error, HardState, LogId};
use serde_json::{Value, json};

use super::view::View;
use crate::output::{Format, print, print_table, thousands};

/// Runs of terms that a cell shows.
const RUNS_SHOWN: usize = 4;

/// Prints everything.
pub(super) fn view(view: &View, format: Format) {
    if format == Format::Json {
        return print(as_json(view));
    }
    let facts = facts(view);
    let segments: Vec<Vec<String>> = view.segments.iter().map(row).collect();
    let damage: Vec<String> = view.damage.iter().map(ToString::to_string).collect();
    if format == Format::Plain {
        facts.iter().for_each(|(name, fact)| print(format!("{name}\t{fact}")));
        segments.iter().for_each(|segment| print(format!("segment\t{}", segment.join("\t"))));
        damage.iter().for_each(|place| print(format!("damage\t{place}")));
        return;
    }
    let facts: Vec<Vec<String>> = facts.into_iter().map(|(name, fact)| vec![name.to_owned(), fact]).collect();
    print_table(&[&view.engine.to_uppercase(), &view.dir.display().to_string()], &facts);
    if !segments.is_empty() {
        print("");
        print_table(&["SEGMENT", "PART", "BYTES", "BASE", "ENTRIES", "END", "SYNCED", "TERMS"], &segments);
    }
    if !damage.is_empty() {
        print("");
        print("DAMAGE");
        damage.iter().for_each(print);
    }
}

/// Prints what was verified.
pub(super) fn check(view: &View, format: Format) {
    match format {
        Format::Json => print(json!({
            "directory": view.dir.display().to_string(),
            "engine": view.engine,
            "sound": view.damage.is_empty(),
            "entries": view.log.as_ref().map(range),
            "damage": view.damage.iter().map(damage).collect::<Vec<_>>(),
        })),
        Format::Plain => {
            let word = if view.damage.is_empty() { "sound" } else { "damaged" };
            print(format!("{word}\t{}", view.log.as_ref().map(range).unwrap_or_default()));
            view.damage.iter().for_each(|place| print(format!("damage\t{place}")));
        }
        Format::Table => {
            if let (true, Some(log)) = (view.damage.is_empty(), &view.log) {
                print(format!("every byte that counts was read and is sound; {}", extent(log)));
            } else if view.damage.is_empty() {
                print("nothing was ever stored here");
            }
            view.damage.iter().for_each(print);
        }
    }
}

/// Names and values, in the order of printing.
fn facts(view: &View) -> Vec<(&'static str, String)> {
    let mut facts = vec![("hard state", view.hard_state.as_ref().map_or("none".to_owned(), hard_state))];
    if let Some(identity) = view.hard_state.and_then(|state| state.identity) {
        let formed = if identity.formed { "formed" } else { "not formed yet" };
        facts.push(("node", format!("{} of cluster {:032x}, {formed}", identity.node, identity.cluster)));
        facts.push(("incarnation", format!("{:032x}", identity.incarnation)));
    }
    match &view.log {
        None => facts.push(("log", "none that could be opened".to_owned())),
        Some(log) => {
            facts.push(("log", extent(log)));
            facts.push(("purged", log.purged.to_string()));
            facts.push(("terms", runs(&log.runs)));
            for (index, membership) in &log.memberships {
                let members: Vec<String> = membership
                    .members
                    .iter()
                    .map(|member| format!("{}={} {:?}", member.node, member.address, member.kind))
                    .collect();
                facts.push(("membership", format!("at {index}: {}", members.join(", "))));
            }
        }
    }
    if let Some(state) = &view.state {
        facts.push(("log uuid", format!("{:032x}", state.uuid)));
        facts.push(("first segment", state.first_segment.to_string()));
        facts.push(("synced", format!("segment {} offset {}", state.synced.0, state.synced.1)));
    }
    facts
}

fn hard_state(state: &HardState) -> String {
    let vote = state.voted_for.map_or("nobody".to_owned(), |node| format!("node {node}"));
    format!("term {}, voted for {vote}", state.term)
}

fn range(log: &LogSummary) -> String {
    if log.last == log.purged { String::new() } else { format!("{}..={}", log.purged.index + 1, log.last.index) }
}

fn extent(log: &LogSummary) -> String {
    if log.last == log.purged {
        return format!("no entries behind {}", log.purged);
    }
    let count = thousands(log.last.index - log.purged.index);
    format!("{count} entries, {}, the last {}", range(log), log.last)
}

fn runs(runs: &[LogId]) -> String {
    let mut shown: Vec<String> =
        runs.iter().take(RUNS_SHOWN).map(|run| format!("{} from {}", run.term, run.index)).collect();
    if runs.len() > RUNS_SHOWN {
        shown.push(format!("… {} runs", runs.len()));
    }
    if shown.is_empty() { "-".to_owned() } else { shown.join(", ") }
}

fn part(segment: &SegmentView) -> &'static str {
    match segment.part {
        SegmentPart::Purged => "purged",
        SegmentPart::Sealed => "sealed",
        SegmentPart::Active if segment.torn => "active, torn",
        SegmentPart::Active => "active",
        _ => "unknown",
    }
}

fn row(segment: &SegmentView) -> Vec<String> {
    let number = |number: Option<u64>| number.map_or("?".to_owned(), |number| number.to_string());
    let entries = segment.entries.as_ref().map_or("-".to_owned(), |all| format!("{}..={}", all.start(), all.end()));
    vec![
        segment.sequence.to_string(),
        part(segment).to_owned(),
        segment.bytes.to_string(),
        number(segment.base),
        entries,
        number(segment.end),
        number(segment.synced),
        runs(&segment.runs),
    ]
}

fn as_json(view: &View) -> Value {
    let id = |id: &LogId| json!({ "term": id.term, "index": id.index });
    let runs = |runs: &[LogId]| runs.iter().map(id).collect::<Vec<_>>();
    json!({
        "directory": view.dir.display().to_string(),
        "engine": view.engine,
        "hard_state": view.hard_state.map(|state| json!({
            "term": state.term,
            "voted_for": state.voted_for,
            "identity": state.identity.map(|identity| json!({
                "cluster": format!("{:032x}", identity.cluster),
                "node": identity.node,
                "incarnation": format!("{:032x}", identity.incarnation),
                "formed": identity.formed,
            })),
        })),
        "log": view.log.as_ref().map(|log| json!({
            "purged": id(&log.purged),
            "last": id(&log.last),
            "runs": runs(&log.runs),
            "memberships": log.memberships.iter().map(|(index, membership)| json!({
                "index": index,
                "members": membership.members.iter().map(|member| json!({
                    "node": member.node,
                    "address": member.address,
                    "kind": format!("{:?}", member.kind).to_lowercase(),
                })).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
        })),
        "state": view.state.map(|state| json!({
            "uuid": format!("{:032x}", state.uuid),
            "first_segment": state.first_segment,
            "purged": id(&state.purged),
            "synced": { "segment": state.synced.0, "offset": state.synced.1 },
        })),
        "segments": view.segments.iter().map(|segment| json!({
            "sequence": segment.sequence,
            "path": segment.path.display().to_string(),
            "part": part(segment),
            "bytes": segment.bytes,
            "base": segment.base,
            "first": segment.entries.as_ref().map(|entries| *entries.start()),
            "last": segment.entries.as_ref().map(|entries| *entries.end()),
            "runs": runs(&segment.runs),
            "end": segment.end,
            "synced": segment.synced,
        })).collect::<Vec<_>>(),
        "damage": view.damage.iter().map(damage).collect::<Vec<_>>(),
    })
}

fn damage(error: &Error) -> Value {
    match error {
        Error::Corrupt { place, indexes } => json!({
            "kind": "corrupt",
            "place": place,
            "first": indexes.as_ref().map(|indexes| *indexes.start()),
            "last": indexes.as_ref().map(|indexes| *indexes.end()),
        }),
        Error::Unsupported { what } => json!({ "kind": "unsupported", "place": what }),
        other => json!({ "kind": "unreadable", "place": other.to_string() }),
    }
}
