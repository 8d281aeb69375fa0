//! The one error type of the storage contract. It never carries what a *command* did wrong: that is a result.

use std::ops::RangeInclusive;

/// What a storage call returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a storage or state machine call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, and to what.
        doing: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The device was full before the first byte of the batch was written: nothing changed, the call may be repeated.
    /// Whether the caller does so is the caller's matter, so the text does not say it.
    #[error("no space left on the device while {doing}; nothing of it was written")]
    NoSpace {
        /// What was being done.
        doing: String,
    },
    /// Bytes that had been durable are damaged. The store is left as it is: evidence is never overwritten.
    #[error("damaged data{} at {place}", .indexes.as_ref().map(|r| format!(", entries {}..={},", r.start(), r.end())).unwrap_or_default())]
    Corrupt {
        /// File, offset and what did not match.
        place: String,
        /// The log indexes that are affected, where known.
        indexes: Option<RangeInclusive<u64>>,
    },
    /// An earlier write or sync failed; every later write fails until the store is reopened.
    #[error("the store refuses writes until it is reopened, because an earlier one failed: {why}")]
    Poisoned {
        /// The first failure.
        why: String,
    },
    /// The entries asked for were purged; the log now begins at `first`.
    #[error("the entries asked for were purged; the log begins at index {first}")]
    Compacted {
        /// The first index that may still be there.
        first: u64,
    },
    /// A batch does not continue the log: a hole, an overlap, or indexes that do not increase. Nothing changed.
    #[error("the batch does not continue the log: expected index {expected}, found {found}")]
    NotContiguous {
        /// The index that would have continued the log.
        expected: u64,
        /// The index that came.
        found: u64,
    },
    /// Another process (or another handle of this one) has the directory open.
    #[error("{path} is in use by another process; stop that one first")]
    Locked {
        /// The directory.
        path: String,
    },
    /// The code does not know this format, command or operation.
    #[error("not supported: {what}")]
    Unsupported {
        /// What is not supported, with versions where there are any.
        what: String,
    },
    /// The caller broke a rule of the contract. Nothing changed.
    #[error("invalid call: {why}")]
    Invalid {
        /// Which rule.
        why: String,
    },
    /// An error of the backend's own.
    #[error("storage backend: {0}")]
    Backend(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What follows from an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Nothing changed; the same call may succeed later.
    Retryable,
    /// The call was wrong or its subject is gone; the store is sound.
    Call,
    /// This replica's storage cannot be trusted further: it stops taking part until it is restarted.
    Fatal,
}

impl Error {
    /// An [`Error::Io`] for an operation described in words, `NoSpace` when that is what the system said.
    ///
    /// Use it where nothing has been written yet; after the first byte of a batch a full disk is a failed write and
    /// belongs in [`Error::Io`].
    pub fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { doing: doing.into(), source }
    }

    /// A [`Error::Corrupt`] without an index range.
    pub fn corrupt(place: impl Into<String>) -> Self {
        Self::Corrupt { place: place.into(), indexes: None }
    }

    /// A [`Error::Unsupported`].
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }

    /// A [`Error::Invalid`].
    pub fn invalid(why: impl Into<String>) -> Self {
        Self::Invalid { why: why.into() }
    }

    /// An [`Error::Backend`] around an error of the backend's library.
    pub fn backend(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Backend(source.into())
    }

    /// What follows from this error for the replica.
    pub fn severity(&self) -> Severity {
        match self {
            Self::NoSpace { .. } => Severity::Retryable,
            Self::Compacted { .. } | Self::NotContiguous { .. } | Self::Locked { .. } | Self::Invalid { .. } => {
                Severity::Call
            }
            Self::Io { .. }
            | Self::Corrupt { .. }
            | Self::Poisoned { .. }
            | Self::Unsupported { .. }
            | Self::Backend(_) => Severity::Fatal,
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(source: std::io::Error) -> Self {
        Self::Io { doing: "input or output".into(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entries_that_are_damaged_come_before_where_and_what_to_do() {
        let error = Error::Corrupt { place: "f offset 7: no batch; leave it".into(), indexes: Some(3..=9) };
        assert_eq!(error.to_string(), "damaged data, entries 3..=9, at f offset 7: no batch; leave it");
        assert_eq!(Error::corrupt("f").to_string(), "damaged data at f");
    }

    #[test]
    fn a_full_disk_promises_nothing() {
        let error = Error::NoSpace { doing: "appending to f".into() };
        assert_eq!(error.to_string(), "no space left on the device while appending to f; nothing of it was written");
    }
}
