//! Every committed input goes through its target, as an ordinary test.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use fuzz_targets::{TARGETS, seeds, target};

fn corpus(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("corpus").join(name)
}

/// Runs every file of a corpus; the message of a failure names the file.
fn replay(name: &str) {
    let target = target(name).unwrap();
    let mut count = 0;
    for entry in fs::read_dir(corpus(name)).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        if let Err(panic) = std::panic::catch_unwind(|| target(&bytes)) {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or(panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
            panic!("{}: {said}", path.display());
        }
        count += 1;
    }
    assert!(count >= 10, "{count} files in {}", corpus(name).display());
}

macro_rules! replays {
    ($($name:ident)*) => {
        $(#[test] fn $name() { replay(stringify!($name)); })*

        #[test]
        fn every_target_has_a_corpus_a_test_and_a_program() {
            let names: BTreeSet<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, BTreeSet::from([$(stringify!($name)),*]));
            let programs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fuzz_targets");
            for name in names {
                assert!(programs.join(format!("{name}.rs")).exists(), "{name} has no program");
            }
        }
    };
}

replays! { entry wal slot snapshot command machine wire raft config }

/// `cargo run -p fuzz-targets -- fuzz/corpus` writes them.
#[test]
fn the_committed_seeds_are_what_the_generator_makes() {
    for (name, _) in TARGETS {
        for (number, seed) in seeds(name).iter().enumerate() {
            let path = corpus(name).join(format!("seed-{number:03}"));
            assert!(fs::read(&path).ok().as_ref() == Some(seed), "{} is not what the generator makes", path.display());
        }
    }
}
