//! In-memory storage for d-engine: volatile, for tests and for state that may be lost.
//!
//! * [`MemStorageEngine`]: the Raft log in a deque and the hard state beside it.
//! * [`MemKvStore`]: a key-value store with views that cost nothing to take.
//! * [`OrderedMap`] and [`SharedMap`]: the map under it, and its locks, which other backends use as well.
//!
//! Nothing here does I/O, starts threads or survives the process.

mod engine;
mod kv_store;
mod log_store;
mod ordered_map;
mod shared_map;

pub use engine::{MemMetaStore, MemStorageEngine};
pub use kv_store::MemKvStore;
pub use log_store::MemLogStore;
pub use ordered_map::{OrderedMap, Range};
pub use shared_map::SharedMap;
