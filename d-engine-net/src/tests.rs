//! Whole conversations over real sockets on 127.0.0.1, with a fake node behind the server.

mod calls;
mod fake;
mod frames;
mod links;
mod sessions;
mod snapshots;
mod throughput;
mod unary;
