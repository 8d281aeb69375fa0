//! A process that is killed at any moment has lost nothing that it acknowledged.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{long_entry, now, open};
use d_engine_core::{LogId, LogStore};

const CHILD: &str = "D_ENGINE_FILE_KILLED_CHILD";

/// The bytes of an entry follow from its index, so that the parent can check them.
fn written(index: u64) -> d_engine_core::Entry {
    long_entry(index, 1 + index / 1000, (index as usize * 131) % 5000)
}

/// The child: appends and flushes for ever, prints what is durable. A test like any other, idle unless it is the child.
#[test]
fn child_that_is_killed() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let log = open(Path::new(&dir));
    let mut out = std::io::stdout();
    writeln!(out, "\nopen").unwrap();
    loop {
        let first = log.last_index() + 1;
        let batch: Vec<_> = (first..first + 1 + first % 5).map(written).collect();
        now(log.persist_entries(batch)).unwrap();
        if first.is_multiple_of(3) {
            now(log.flush()).unwrap();
            writeln!(out, "flushed {}", log.last_index()).unwrap();
        }
        if first.is_multiple_of(50) {
            let up_to = log.last_index() - 40;
            if up_to > log.purged().index {
                now(log.purge(LogId::new(written(up_to).term, up_to))).unwrap();
                writeln!(out, "purged {up_to}").unwrap();
            }
        }
    }
}

fn start(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child_that_is_killed", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn kill_9_at_random_moments_loses_no_acknowledged_entry() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = fastrand::Rng::with_seed(9);
    let (mut flushed, mut purged) = (0, 0);
    for round in 0..12 {
        let mut child = start(dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledgements = rng.u32(1..150);
        let mut note = |line: &str| match line.split_once(' ') {
            Some(("flushed", index)) => flushed = index.parse().unwrap(),
            Some(("purged", index)) => purged = index.parse().unwrap(),
            _ => {}
        };
        for line in lines.by_ref() {
            note(&line.unwrap());
            acknowledgements -= 1;
            if acknowledgements == 0 {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had still said before it died counts as well; a line cut in the middle does not parse as a whole one.
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        for line in &rest[..rest.len().saturating_sub(1)] {
            note(line);
        }

        let log = open(dir.path());
        assert!(log.last_index() >= flushed, "round {round}: {} of {flushed} acknowledged", log.last_index());
        assert!(log.purged().index >= purged, "round {round}");
        let entries = now(log.get_entries(log.purged().index + 1..=u64::MAX)).unwrap();
        assert_eq!(entries.last().map_or(log.purged().index, |entry| entry.index), log.last_index());
        for entry in entries {
            assert_eq!(entry, written(entry.index), "round {round}");
        }
    }
    assert!(flushed > 100, "the child made progress: {flushed}");
}
