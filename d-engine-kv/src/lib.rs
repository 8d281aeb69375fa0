//! The replicated key-value state machine of d-engine, over any [`KvStore`](d_engine_core::KvStore).
//!
//! [`KvStateMachine::new`] turns an ordered map with atomic batches into a whole state machine. The commands, outcomes,
//! queries and answers that it speaks are core's [`command`](d_engine_core::command) module; here is what they do.
//!
//! Nothing here knows of consensus, networks or clocks: the state is a function of the applied entries alone.

mod evaluate;
mod layout;
mod machine;
mod query;
mod record;
mod scan;
mod snapshot;

pub use machine::KvStateMachine;
pub use snapshot::SNAPSHOT_FILE;
