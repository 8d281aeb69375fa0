//! Sans-IO Raft: decides, never does.
//!
//! [`Raft`] is the consensus core. It takes [`Input`]s and hands out [`Action`]s; it keeps log ids, never payload bytes.
//! [`Driver`] wraps it with what else must be exactly right (filling messages, write order, applying) and is sans-IO as
//! well: a runtime performs its [`Command`]s and reports back with [`Event`]s. Neither has a clock, a thread, a source of
//! randomness other than its seed, or any I/O, so the same inputs always give the same outputs.
//!
//! Sections (§) refer to Ongaro's dissertation, figures to the Raft paper.

mod action;
mod change;
mod config;
mod driver;
mod election;
#[cfg(feature = "simulator")]
pub mod explorer;
mod follower;
mod formation;
mod input;
mod invariants;
mod leader;
mod lease;
mod log;
mod membership;
mod message;
mod mutants;
mod progress;
mod raft;
mod read;
mod reconfigure;
mod rejection;
mod replicate;
mod sickness;
#[cfg(feature = "simulator")]
pub mod simulator;
mod snapshot;
mod start;
mod status;
mod tail;
mod writes;

pub use action::{Action, Answer, SnapshotTask, Write};
pub use change::{Change, ChangeError};
pub use config::{Config, ConfigError, FEATURE_LEVEL};
pub use driver::{Command, Driver, Event};
pub use input::Input;
pub use membership::{has_quorum, quorum_value};
pub use message::{Append, AppendOutcome, AppendReply, Body, Message, VoteRequest};
pub use mutants::Mutant;
pub use raft::Raft;
pub use rejection::Rejection;
pub use start::{Boot, Restored, Resume, StartError};
pub use status::{BadMessages, PeerStatus, Role, Status};

/// Node id, chosen by the operator; unique in its cluster.
pub type NodeId = u64;
