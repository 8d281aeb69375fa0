//! The replicated key-value state machine of d-engine, over any KvStore
