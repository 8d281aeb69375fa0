//! The deterministic simulator: drivers on simulated disks, networks and clocks, all in one seeded world.
//!
//! A seed decides everything: which faults are on and how hard, every delay, every crash. The same seed always gives the
//! same trace. After each step the laws of Raft are checked over all nodes at once ([`Simulation::run`]); at the end the
//! faults stop, and the cluster must agree and serve again. [`World`] can also be driven by hand, for scenarios.
#![doc = include_str!("README.md")]

mod agenda;
mod checks;
mod clients;
mod devices;
mod disk;
mod duties;
mod faults;
mod injection;
mod lives;
mod mask;
mod network;
mod node;
mod operator;
mod quorum;
mod relevance;
mod report;
mod run;
mod script;
mod shrink;
mod snapshots;
mod trace;
mod traffic;
mod world;

pub use clients::Outcome;
pub use faults::{FAULTS, Fault, FaultCounts};
pub use mask::{Disturbance, Kept, Millis, Occurrence};
pub use network::MAX_NODES;
pub use run::{Options, Report, Simulation, Summary, Violation, run_seeds};
pub use shrink::{Shrunk, replay, shrink};
pub(crate) use trace::in_words;
pub use world::{Filter, World};

/// A law that does not hold, before it is known where and when.
#[derive(Debug, Clone)]
pub(crate) struct Breach {
    pub(crate) property: &'static str,
    pub(crate) detail: String,
}

impl Breach {
    pub(crate) fn new(property: &'static str, detail: impl Into<String>) -> Self {
        Self { property, detail: detail.into() }
    }
}
