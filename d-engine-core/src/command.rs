//! The built-in key-value commands and their outcomes, as versioned bytes.

/// A command.
#[derive(Debug)]
pub struct KvCommand;
/// An outcome.
#[derive(Debug)]
pub struct KvOutcome;
