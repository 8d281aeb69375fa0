//! The deterministic simulator: drivers on simulated disks, networks and clocks, all in one seeded world.
//!
//! A seed decides everything: which faults are on and how hard, every delay, every crash. The same seed always gives the
//! same trace. After each step the laws of Raft are checked over all nodes at once ([`Simulation::run`]); at the end the
//! faults stop, and the cluster must agree and serve again. [`World`] can also be driven by hand, for scenarios.
#![doc = include_str!("README.md")]

mod checks;
mod clients;
mod devices;
mod disk;
mod faults;
mod injection;
mod lives;
mod network;
mod node;
mod operator;
mod quorum;
mod run;
mod script;
mod snapshots;
mod trace;
mod traffic;
mod world;

pub use clients::Outcome;
pub use faults::{FAULTS, Fault, FaultCounts};
pub use run::{Options, Report, Simulation, Summary, Violation, run_seeds};
pub use world::{Filter, World};

/// A law that does not hold, before it is known where and when.
#[derive(Debug)]
struct Breach {
    property: &'static str,
    detail: String,
}

impl Breach {
    fn new(property: &'static str, detail: impl Into<String>) -> Self {
        Self { property, detail: detail.into() }
    }
}
