//! The laws of the test suite, on the file backend. Nothing else is tested here: while a law starts a process, that process holds
//! every lock of this one for a moment.

mod builder;
mod common;

use builder::File;

d_engine_test_suite::storage_engine_tests!(File::new());
d_engine_test_suite::kv_store_tests!(File::new());
d_engine_test_suite::state_machine_tests!(File::new());
