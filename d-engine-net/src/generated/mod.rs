//! Code generated from `proto/d_engine/v1` by `cargo xtask codegen`; do not edit.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::all,
    rustdoc::all,
    reason = "generated code: its documentation is in the .proto files, and each side uses a part of it"
)]

#[rustfmt::skip]
#[path = "d_engine.v1.rs"]
pub(crate) mod v1;
