//! The replicated key-value state machine of d-engine, over any [`KvStore`](d_engine_core::KvStore).
//!
//! [`KvStateMachine::new`] turns an ordered map with atomic batches into a whole state machine. The commands, outcomes,
//! queries and answers that it speaks are core's [`command`](d_engine_core::command) module; here is what they do.
//!
//! Nothing here knows of consensus or networks, and the state is a function of the applied entries alone. The leader's count
//! of the time of leases stands beside it, and what it decides comes back through the log.

mod evaluate;
mod inspect;
mod layout;
mod lease_clock;
mod leases;
mod machine;
mod overlay;
mod query;
mod record;
mod run;
mod scan;
mod sessions;
mod shown_book;
mod snapshot;
mod tables;
mod watch;

pub use inspect::SnapshotContent;
pub use machine::KvStateMachine;
pub use snapshot::SNAPSHOT_FILE;
