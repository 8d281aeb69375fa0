#![doc = include_str!("../README.md")]

mod crash;
pub mod directory;
mod entries;
pub mod history;
pub mod kv_store_test;
mod law;
mod macros;
mod mount;
mod performance;
mod process;
mod snapshot_matrix;
pub mod state_machine_test;
pub mod storage_engine_test;
mod subject;

pub use crash::SimulatedDisk;
pub use entries::create_test_entry;
pub use law::{LawResult, Outcome, Violation, run_as_test};
pub use mount::Ext4;
pub use performance::time_appends;
pub use process::Child;
pub use snapshot_matrix::{content_digest, snapshot_matrix};
