//! One pipelined connection to one node.

use bytes::Bytes;
use tokio::time::Instant;

use crate::{NodeStatus, ReadMode, Reply, Result};

/// One pipelined connection to one node: connects when first used and again after it broke. Cheap to clone.
#[derive(Clone)]
pub struct Connection {}

impl Connection {
    /// A connection to `address`, as `host:port` or `http://host:port`. Nothing is dialled yet.
    pub fn new(address: impl Into<String>) -> Self {
        let _ = address.into();
        unimplemented!("follows")
    }

    /// The address as `host:port`.
    pub fn address(&self) -> &str {
        unimplemented!("follows")
    }

    /// Proposes a command; with `forwarded` the node does not pass it on.
    pub async fn propose(&self, command: Bytes, forwarded: bool, deadline: Instant) -> Result<Reply> {
        let _ = (command, forwarded, deadline);
        unimplemented!("follows")
    }

    /// Asks the state machine.
    pub async fn read(&self, query: Bytes, mode: ReadMode, deadline: Instant) -> Result<Reply> {
        let _ = (query, mode, deadline);
        unimplemented!("follows")
    }

    /// What the node knows about itself.
    pub async fn status(&self, deadline: Instant) -> Result<NodeStatus> {
        let _ = deadline;
        unimplemented!("follows")
    }
}
