//! snapshot inspect: what an archive is.

use d_engine::archive::Archive;
use d_engine::{Error, SnapshotContent};
use serde_json::{Value, json};

use super::of_archive;
use crate::output::{Failure, Format, print, print_table, thousands};

/// Prints what a verified archive is.
pub(super) fn show(archive: &mut Archive, format: Format) -> Result<(), Failure> {
    let content = read_content(archive)?;
    if format == Format::Json {
        print(as_json(archive, content.as_ref()));
        return Ok(());
    }
    let rows = rows(archive, content.as_ref());
    match format {
        Format::Plain => rows.iter().for_each(|row| print(row.join("\t"))),
        _ => print_table(&["WHAT", "VALUE"], &rows),
    }
    Ok(())
}

/// What the key-value machine has written; `None` for the snapshot of another machine, which only that one can read.
fn read_content(archive: &mut Archive) -> Result<Option<SnapshotContent>, Failure> {
    let path = archive.path().display().to_string();
    let snapshot = archive.snapshot().map_err(|error| of_archive(&error))?;
    match SnapshotContent::read(snapshot) {
        Ok(content) => Ok(Some(content)),
        // Every byte is as the machine wrote it: what does not read as key-value state is of another machine.
        Err(Error::Corrupt { .. }) => Ok(None),
        Err(Error::Unsupported { what }) => Err(of_archive(&Error::unsupported(format!("{path}: {what}")))),
        Err(error) => Err(of_archive(&error)),
    }
}

fn rows(archive: &Archive, content: Option<&SnapshotContent>) -> Vec<Vec<String>> {
    let (head, metadata) = (archive.head(), &archive.head().metadata);
    let row = |what: &str, value: String| vec![what.to_owned(), value];
    let mut rows = vec![
        row("file", archive.path().display().to_string()),
        row("checksum", archive.checksum().to_string()),
        row("saved", date(head.saved_ms)),
        row("cluster", format!("{:032x}", metadata.cluster)),
        row("from node", head.node.to_string()),
        row("last entry", format!("index {}, term {}", metadata.last_included.index, metadata.last_included.term)),
        row("snapshot", format!("{} bytes", thousands(metadata.size))),
    ];
    match content {
        Some(content) => rows.extend([
            row("machine", "key-value".to_owned()),
            row("revision", content.revision.to_string()),
            row("keys", thousands(content.keys)),
            row("leases", thousands(content.leases)),
            row("sessions", thousands(content.sessions)),
            row("records", format!("{} bytes", thousands(content.bytes))),
            row("digest", content.digest.to_string()),
        ]),
        None => rows.push(row("machine", "not the built-in one; only it can read what it has written".to_owned())),
    }
    rows.extend(metadata.membership.members.iter().map(|member| {
        let kind = format!("{:?}", member.kind).to_lowercase();
        row("member", format!("node {} at {}, {kind}", member.node, member.address))
    }));
    rows
}

fn as_json(archive: &Archive, content: Option<&SnapshotContent>) -> Value {
    let (head, metadata) = (archive.head(), &archive.head().metadata);
    let members = metadata.membership.members.iter().map(|member| {
        let kind = format!("{:?}", member.kind).to_lowercase();
        json!({ "node": member.node, "address": member.address, "kind": kind })
    });
    let content = content.map(|content| {
        json!({
            "revision": content.revision,
            "keys": content.keys,
            "leases": content.leases,
            "sessions": content.sessions,
            "bytes": content.bytes,
            "digest": content.digest.to_string(),
        })
    });
    json!({
        "file": archive.path().display().to_string(),
        "checksum": archive.checksum().to_string(),
        "saved_ms": head.saved_ms,
        "saved": date(head.saved_ms),
        "cluster": format!("{:032x}", metadata.cluster),
        "node": head.node,
        "index": metadata.last_included.index,
        "term": metadata.last_included.term,
        "snapshot_bytes": metadata.size,
        "members": members.collect::<Vec<_>>(),
        "key_value": content,
    })
}

/// A point in time for people, in UTC, of the days that there have been and will be for long.
fn date(unix_ms: u64) -> String {
    let (days, seconds) = (unix_ms / 86_400_000, unix_ms / 1000 % 86_400);
    // Civil from days, by eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(1_709_164_800_000), "2024-02-29 00:00:00 UTC");
        assert_eq!(date(1_735_689_599_999), "2024-12-31 23:59:59 UTC");
    }
}
