//! Figure 2 of the Raft paper and the sections of the dissertation, rule by rule: one replica, driven by hand.
//!
//! `D_ENGINE_MUTANT=CommitOldTermByCounting` breaks a rule on purpose and shows which tests notice.

#![allow(clippy::unwrap_used, reason = "tests")]

mod any_input;
mod append_entries;
mod bad_input;
mod elections;
mod figure_7;
mod membership;
mod node;
mod reads;
mod request_vote;
mod servers;
mod snapshots;
mod state;
mod transfer;
