//! The d-engine binary.
fn main() {}
