//! Entrances for fuzzing: conversions of what comes from the wire, whose types this crate keeps to itself. Not a part of
//! the interface.

use bytes::Bytes;
use d_engine_raft::Message;
use prost::Message as _;

use crate::convert::{detail_to_error, hello_from_wire, message_from_wire, message_to_wire, status_from_wire};
use crate::generated::v1;
use crate::{ClientError, Hello, NodeStatus};

/// Of the stream that the messages come by.
const INCARNATION: u128 = 101;

fn decoded<T: prost::Message + Default>(bytes: &[u8]) -> Result<T, String> {
    T::decode(Bytes::copy_from_slice(bytes)).map_err(|error| error.to_string())
}

/// A message between nodes; `None` for a kind that this build does not know.
pub fn message(bytes: &[u8]) -> Result<Option<Message>, String> {
    message_from_wire(decoded::<v1::RaftMessage>(bytes)?, INCARNATION).map_err(|error| error.to_string())
}

/// The bytes of a message between nodes.
pub fn message_bytes(message: Message) -> Vec<u8> {
    message_to_wire(message, INCARNATION).encode_to_vec()
}

/// The greeting of a node.
pub fn hello(bytes: &[u8]) -> Result<Hello, String> {
    hello_from_wire(&decoded::<v1::Hello>(bytes)?).map_err(|error| error.to_string())
}

/// The status of a node.
pub fn status(bytes: &[u8]) -> Result<NodeStatus, String> {
    status_from_wire(decoded::<v1::NodeStatus>(bytes)?).map_err(|error| error.to_string())
}

/// Why a node refused.
pub fn error(bytes: &[u8]) -> Result<ClientError, String> {
    decoded::<v1::ErrorDetail>(bytes).map(detail_to_error)
}
