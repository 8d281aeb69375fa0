//! What is called, in the process that calls it.

use async_trait::async_trait;
use d_engine_load::{Load, Round};

use crate::log::Result;

/// One kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Writes a key that exists.
    Put,
    /// Reads a key, linearizable.
    Get,
    /// Reads a key by the lease of the leader, which trusts clocks.
    GetLease,
    /// Reads the copy of one node, which may be old.
    GetLocal,
}

impl Work {
    pub const ALL: [Self; 4] = [Self::Put, Self::Get, Self::GetLease, Self::GetLocal];

    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::GetLease => "get-lease",
            Self::GetLocal => "get-local",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|work| work.name() == name)
    }
}

/// The ceiling of unary calls, and what it is one of.
pub const UNARY_ALONE: &str = "unary gRPC alone";
pub const BY_UNARY_CALLS: &str = "d-engine by unary calls";

/// One way to call a system. Several of one process have the system in common.
#[async_trait(?Send)]
pub trait Subject {
    /// Ours begin with `d-engine `.
    fn name(&self) -> &'static str;

    /// The version, and what an acknowledged write is worth.
    fn about(&self) -> String;

    fn can(&self, work: Work) -> bool;

    /// Writes every key. The first subject of a system is asked, for all.
    async fn fill(&mut self) -> Result<()> {
        Ok(())
    }

    /// Finds out who leads, has calls go there, and makes one of each kind that matters. Says who it is; an error if none
    /// answers now.
    async fn answers(&mut self) -> Result<u64>;

    /// One round of this load.
    async fn round(&self, work: Work, load: &Load) -> Result<Round>;
}
