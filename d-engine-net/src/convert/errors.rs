//! Errors: as a detail in the pipeline, as a gRPC status in unary calls.

use bytes::Bytes;
use prost::Message as _;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Status};

use super::operation::{membership_from_wire, membership_to_wire};
use crate::generated::v1;
use crate::generated::v1::error_detail as wire;
use crate::{ClientError, LeaderHint, Reason};

const LEADER_KEY: &str = "d-engine-leader";
const DETAIL_TYPE: &str = "type.googleapis.com/d_engine.v1.ErrorDetail";

/// google.rpc.Status, in which gRPC libraries of all languages look for details.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<RpcAny>,
}

/// google.protobuf.Any.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcAny {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

pub(crate) fn error_to_detail(error: ClientError) -> v1::ErrorDetail {
    let error = match error {
        ClientError::NotLeader { leader } => wire::Error::NotLeader(wire::NotLeader {
            leader: leader.map(|LeaderHint { node, address }| v1::LeaderHint { node, address }),
        }),
        ClientError::Busy => wire::Error::Busy(wire::Busy {}),
        ClientError::Unknown => wire::Error::Unknown(wire::Unknown {}),
        ClientError::Rejected { why } => wire::Error::Rejected(reason_to_wire(why)),
        ClientError::Unavailable { why } => wire::Error::Unavailable(wire::Unavailable { why }),
        ClientError::ShuttingDown => wire::Error::ShuttingDown(wire::ShuttingDown {}),
    };
    v1::ErrorDetail { error: Some(error) }
}

/// A detail that this build does not know says nothing about the request's fate: `Unknown`.
pub(crate) fn detail_to_error(detail: v1::ErrorDetail) -> ClientError {
    match detail.error {
        Some(wire::Error::NotLeader(wire::NotLeader { leader })) => ClientError::NotLeader {
            leader: leader.map(|v1::LeaderHint { node, address }| LeaderHint { node, address }),
        },
        Some(wire::Error::Busy(_)) => ClientError::Busy,
        Some(wire::Error::Rejected(rejected)) => ClientError::Rejected { why: reason_from_wire(rejected) },
        Some(wire::Error::Unavailable(wire::Unavailable { why })) => ClientError::Unavailable { why },
        Some(wire::Error::ShuttingDown(_)) => ClientError::ShuttingDown,
        Some(wire::Error::Unknown(_)) | None => ClientError::Unknown,
    }
}

fn reason_to_wire(why: Reason) -> wire::Rejected {
    let about =
        |reason: wire::Reason, len, limit| wire::Rejected { reason: reason.into(), len, limit, ..Default::default() };
    let because = |reason: wire::Reason, why| wire::Rejected { reason: reason.into(), why, ..Default::default() };
    match why {
        Reason::EmptyKey => about(wire::Reason::EmptyKey, 0, 0),
        Reason::KeyTooLarge { len, limit } => about(wire::Reason::KeyTooLarge, len, limit),
        Reason::ValueTooLarge { len, limit } => about(wire::Reason::ValueTooLarge, len, limit),
        Reason::TooLarge { len, limit } => about(wire::Reason::TooLarge, len, limit),
        Reason::Malformed { why } => because(wire::Reason::Malformed, why),
        Reason::Unsupported { why } => because(wire::Reason::Unsupported, why),
        Reason::Membership(error) => wire::Rejected {
            membership: Some(membership_to_wire(error)),
            ..because(wire::Reason::Membership, String::new())
        },
    }
}

fn reason_from_wire(rejected: wire::Rejected) -> Reason {
    let wire::Rejected { reason, len, limit, why, membership } = rejected;
    match wire::Reason::try_from(reason) {
        Ok(wire::Reason::EmptyKey) => Reason::EmptyKey,
        Ok(wire::Reason::KeyTooLarge) => Reason::KeyTooLarge { len, limit },
        Ok(wire::Reason::ValueTooLarge) => Reason::ValueTooLarge { len, limit },
        Ok(wire::Reason::TooLarge) => Reason::TooLarge { len, limit },
        Ok(wire::Reason::Malformed) => Reason::Malformed { why },
        Ok(wire::Reason::Unsupported) => Reason::Unsupported { why },
        Ok(wire::Reason::Membership) => membership_from_wire(membership.unwrap_or_default()),
        Ok(wire::Reason::Unspecified) | Err(_) => {
            Reason::Unsupported { why: format!("a newer node refused with reason {reason} {why}") }
        }
    }
}

pub(crate) fn error_to_status(error: ClientError) -> Status {
    let code = match &error {
        ClientError::NotLeader { .. } => Code::FailedPrecondition,
        ClientError::Busy => Code::ResourceExhausted,
        ClientError::Unknown => Code::DeadlineExceeded,
        ClientError::Rejected { .. } => Code::InvalidArgument,
        ClientError::Unavailable { .. } | ClientError::ShuttingDown => Code::Unavailable,
    };
    let message = error.to_string();
    let mut metadata = MetadataMap::new();
    if let ClientError::NotLeader { leader: Some(hint) } = &error
        && let Ok(address) = AsciiMetadataValue::try_from(hint.address.as_str())
    {
        metadata.insert(LEADER_KEY, address);
    }
    let detail = RpcAny { type_url: DETAIL_TYPE.to_owned(), value: error_to_detail(error).encode_to_vec().into() };
    let details = RpcStatus { code: code.into(), message: message.clone(), details: vec![detail] };
    Status::with_details_and_metadata(code, message, details.encode_to_vec().into(), metadata)
}

#[cfg(test)]
/// The error behind a status; `None` if it does not come from a d-engine node.
pub(crate) fn status_to_error(status: &Status) -> Option<ClientError> {
    let rpc = RpcStatus::decode(status.details()).ok()?;
    let detail = rpc.details.into_iter().find(|detail| detail.type_url == DETAIL_TYPE)?;
    v1::ErrorDetail::decode(detail.value).ok().map(detail_to_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors() -> Vec<ClientError> {
        let hint = LeaderHint { node: 2, address: "b:2".to_owned() };
        let (len, limit) = (9, 8);
        let mut errors = vec![
            ClientError::NotLeader { leader: Some(hint) },
            ClientError::NotLeader { leader: None },
            ClientError::Busy,
            ClientError::Unknown,
            ClientError::unavailable("no quorum"),
            ClientError::ShuttingDown,
        ];
        errors.extend(
            [
                Reason::EmptyKey,
                Reason::KeyTooLarge { len, limit },
                Reason::ValueTooLarge { len, limit },
                Reason::TooLarge { len, limit },
                Reason::Malformed { why: "bad".to_owned() },
                Reason::Unsupported { why: "new".to_owned() },
            ]
            .map(ClientError::from),
        );
        errors
    }

    #[test]
    fn every_error_survives_the_pipeline_and_a_status() {
        for error in errors() {
            let detail = v1::ErrorDetail::decode(&error_to_detail(error.clone()).encode_to_vec()[..]).unwrap();
            assert_eq!(detail_to_error(detail), error);
            let status = error_to_status(error.clone());
            assert_eq!(status_to_error(&status), Some(error.clone()));
            assert_eq!(status.message(), error.to_string());
        }
    }

    #[test]
    fn a_status_names_the_leader_for_people_of_other_languages() {
        let leader = Some(LeaderHint { node: 2, address: "b:2".to_owned() });
        let status = error_to_status(ClientError::NotLeader { leader });
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.metadata().get(LEADER_KEY).unwrap(), "b:2");
    }

    #[test]
    fn an_error_of_a_newer_node_leaves_the_fate_open() {
        assert_eq!(detail_to_error(v1::ErrorDetail::default()), ClientError::Unknown);
        let newer = wire::Rejected { reason: 99, ..Default::default() };
        assert!(matches!(reason_from_wire(newer), Reason::Unsupported { .. }));
    }
}
