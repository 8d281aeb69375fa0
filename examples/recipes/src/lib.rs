//! Recipes over the key-value store: a lock with fencing tokens, leader election, a service registry.
//!
//! Each takes a [`KeyValue`]: that of a node in process or of a client. All of them live on leases, so what a process held
//! goes to others when it dies, and all of them wait by watches, so nobody polls. None of them trusts a clock for
//! correctness: that a lease still runs is a hint, and the [fencing token](lock::Lock::token) is the proof.
//!
//! A write that a recipe makes for itself is one that may be repeated; it is, until its fate is known. A write of the
//! application under a lock goes out once, and may answer [`ClientError::Unknown`] as any other.

pub mod election;
pub mod lock;
pub mod registry;
pub mod view;

mod lease;
mod queue;

use std::time::Duration;

use d_engine::ClientError;
use tokio::time::sleep;

#[cfg(doc)]
use d_engine::KeyValue;

/// Before something that the store did not answer is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// What a recipe returns.
pub type Result<T> = std::result::Result<T, RecipeError>;

/// Why a recipe could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The lease has ended, because nobody kept it alive in time or somebody revoked it.
    #[error("{what} is lost: its lease has ended, and another process may have it now; stop what depends on it")]
    Lost {
        /// What was held.
        what: String,
    },
    /// Names become parts of keys.
    #[error("{name:?} is no name here; a name has at least one character and no slash")]
    Name {
        /// What was given.
        name: String,
    },
    /// The store answered something else than was asked for.
    #[error(transparent)]
    Store(#[from] ClientError),
}

/// Whether the same request may be answered later.
fn passes(error: &ClientError) -> bool {
    !matches!(error, ClientError::Rejected { .. } | ClientError::ShuttingDown)
}

/// Repeats what may be carried out twice without harm until the store answers it.
async fn insist<T, F>(attempt: impl Fn() -> F) -> std::result::Result<T, ClientError>
where
    F: Future<Output = std::result::Result<T, ClientError>>,
{
    loop {
        match attempt().await {
            Err(error) if passes(&error) => sleep(PAUSE).await,
            answer => return answer,
        }
    }
}

/// The prefix of the keys of one lock, election or service.
fn directory(kind: &str, name: &str) -> Result<String> {
    if name.is_empty() || name.contains('/') {
        return Err(RecipeError::Name { name: name.to_owned() });
    }
    Ok(format!("{kind}/{name}/"))
}
