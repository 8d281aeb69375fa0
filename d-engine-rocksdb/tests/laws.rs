//! The laws of the test suite, on the RocksDB backend. Nothing else is tested here: while a law starts a process, that process holds
//! every lock of this one for a moment.

mod builder;

use builder::Rocks;

d_engine_test_suite::storage_engine_tests!(Rocks::new());
d_engine_test_suite::kv_store_tests!(Rocks::new());
d_engine_test_suite::state_machine_tests!(Rocks::new());
