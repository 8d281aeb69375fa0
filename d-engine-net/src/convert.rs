//! Between the plain types and the wire's. What comes from the wire is checked here and never panics.

mod errors;
mod kv;
mod message;
mod operation;
mod reasons;
mod status;

use bytes::Bytes;
use d_engine_core::LogId;

use crate::generated::v1;
use crate::{ReadMode, Reply};

pub(crate) use errors::{detail_to_error, error_to_detail, error_to_status, status_to_error};
pub(crate) use kv::{
    at_to_wire, delete_from_wire, header_from_wire, lease_to_wire, put_command, range_from_wire, record_to_wire,
    result_to_wire, txn_from_wire, watch_from_wire, watch_message_from_wire, watch_message_to_wire, watch_to_wire,
};
pub(crate) use message::{hello_from_wire, hello_to_wire, message_from_wire, message_to_wire};
pub(crate) use operation::{operation_from_wire, operation_to_wire};
pub(crate) use status::{status_from_wire, status_to_wire};

/// Something on the wire that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed frame: {0}")]
pub(crate) struct Malformed(pub(crate) String);

impl Malformed {
    pub(crate) fn missing(what: &str) -> Self {
        Self(format!("{what} is missing"))
    }
}

pub(crate) fn id_to_wire(id: u128) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

pub(crate) fn id_from_wire(bytes: &[u8], what: &str) -> Result<u128, Malformed> {
    let bytes: [u8; 16] =
        bytes.try_into().map_err(|_| Malformed(format!("{what} has {} bytes instead of 16", bytes.len())))?;
    Ok(u128::from_be_bytes(bytes))
}

pub(crate) fn reply_to_wire(reply: Reply) -> v1::Reply {
    v1::Reply { term: reply.at.term, index: reply.at.index, response: reply.response }
}

pub(crate) fn reply_from_wire(reply: v1::Reply) -> Reply {
    Reply { at: LogId::new(reply.term, reply.index), response: reply.response }
}

pub(crate) fn mode_to_wire(mode: ReadMode) -> i32 {
    match mode {
        ReadMode::Linearizable => v1::ReadMode::Linearizable,
        ReadMode::Local => v1::ReadMode::Local,
        ReadMode::Lease => v1::ReadMode::Lease,
    }
    .into()
}

pub(crate) fn mode_from_wire(mode: i32) -> Result<ReadMode, Malformed> {
    match v1::ReadMode::try_from(mode) {
        Ok(v1::ReadMode::Linearizable) => Ok(ReadMode::Linearizable),
        Ok(v1::ReadMode::Local) => Ok(ReadMode::Local),
        Ok(v1::ReadMode::Lease) => Ok(ReadMode::Lease),
        Err(_) => Err(Malformed(format!("read mode {mode} is not known"))),
    }
}
