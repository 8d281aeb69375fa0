//! The laws that every storage backend and state machine of d-engine keeps, as tests.
//!
//! An adaptor implements a builder and writes one line; each law becomes a test of its own:
//!
//! ```
//! use std::sync::Arc;
//!
//! use d_engine_core::Error;
//! use d_engine_mem::MemStorageEngine;
//! use d_engine_test_suite::storage_engine_test::StorageEngineBuilder;
//!
//! struct MemBuilder;
//!
//! #[async_trait::async_trait]
//! impl StorageEngineBuilder for MemBuilder {
//!     type Engine = MemStorageEngine;
//!     async fn build(&self) -> Result<Arc<MemStorageEngine>, Error> {
//!         Ok(Arc::new(MemStorageEngine::new()))
//!     }
//!     async fn cleanup(&self) -> Result<(), Error> {
//!         Ok(())
//!     }
//! }
//!
//! d_engine_test_suite::storage_engine_tests!(MemBuilder);
//! # fn main() {}
//! ```
//!
//! or runs them together with `StorageEngineTestSuite::run_all_tests(builder).await`. Likewise for a
//! [`KvStore`](d_engine_core::KvStore) and a [`StateMachine`](d_engine_core::StateMachine).
//!
//! Each `build()` opens the same place; `cleanup()` empties it and runs before each law. A law that could not be checked
//! is printed as *not checked*, with the reason, and never counts as held.

mod crash;
mod entries;
pub mod kv_store_test;
mod law;
mod macros;
mod mount;
mod performance;
mod process;
pub mod state_machine_test;
pub mod storage_engine_test;
mod subject;

pub use crash::SimulatedDisk;
pub use entries::create_test_entry;
pub use law::{LawResult, Outcome, Violation, run_as_test};
pub use process::Child;
