//! What the fuzz targets do: one function each, which takes any bytes and panics if a promise is broken.
//!
//! libFuzzer calls them in the workspace above; `tests/corpus.rs` calls them with the committed corpora. Checksums would
//! keep a fuzzer from everything behind them, so most targets also mend the checksums of what they are given.

mod codecs;
mod disk;
mod node;
mod seeds;
mod source;
mod wal;

pub use codecs::{command, config, entry, machine, slot, snapshot, wire};
pub use node::raft;
pub use seeds::seeds;
pub use wal::wal;

/// Takes any bytes, and panics if a promise is broken.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: &[(&str, Target)] = &[
    ("entry", entry),
    ("wal", wal),
    ("slot", slot),
    ("snapshot", snapshot),
    ("command", command),
    ("machine", machine),
    ("wire", wire),
    ("raft", raft),
    ("config", config),
];

/// The target of that name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
