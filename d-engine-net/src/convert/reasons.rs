//! What is wrong with a request, on the wire.

use super::operation::{membership_from_wire, membership_to_wire};
use crate::Reason;
use crate::generated::v1::error_detail as wire;

pub(super) fn reason_to_wire(why: Reason) -> wire::Rejected {
    let of = |reason: wire::Reason| wire::Rejected { reason: reason.into(), ..Default::default() };
    let about = |reason, len, limit| wire::Rejected { len, limit, ..of(reason) };
    let because = |reason, why| wire::Rejected { why, ..of(reason) };
    let named = |reason, id| wire::Rejected { id, ..of(reason) };
    let of_key = |reason, key| wire::Rejected { key, ..of(reason) };
    match why {
        Reason::EmptyKey => of(wire::Reason::EmptyKey),
        Reason::KeyTooLarge { len, limit } => about(wire::Reason::KeyTooLarge, len, limit),
        Reason::ValueTooLarge { len, limit } => about(wire::Reason::ValueTooLarge, len, limit),
        Reason::TooLarge { len, limit } => about(wire::Reason::TooLarge, len, limit),
        Reason::TxnTooLarge { len, limit } => about(wire::Reason::TxnTooLarge, len, limit),
        Reason::DuplicateKey { key } => of_key(wire::Reason::DuplicateKey, key),
        Reason::KeyNotFound { key } => of_key(wire::Reason::KeyNotFound, key),
        Reason::LeaseNotFound { id } => named(wire::Reason::LeaseNotFound, id),
        Reason::LeaseExists { id } => named(wire::Reason::LeaseExists, id),
        Reason::InvalidTtl { ttl_ms, limit_ms } => about(wire::Reason::InvalidTtl, ttl_ms, limit_ms),
        Reason::TooManyLeases { len, limit } => about(wire::Reason::TooManyLeases, len, limit),
        Reason::SessionExpired { session } => named(wire::Reason::SessionExpired, session),
        Reason::OutOfWindow { sequence, lowest, highest } => {
            wire::Rejected { sequence, lowest, highest, ..of(wire::Reason::OutOfWindow) }
        }
        Reason::ResultTooLarge { limit } => about(wire::Reason::ResultTooLarge, 0, limit),
        Reason::Compacted { first_revision } => wire::Rejected { first_revision, ..of(wire::Reason::Compacted) },
        Reason::Malformed { why } => because(wire::Reason::Malformed, why),
        Reason::Unsupported { why } => because(wire::Reason::Unsupported, why),
        Reason::Membership(error) => {
            wire::Rejected { membership: Some(membership_to_wire(error)), ..of(wire::Reason::Membership) }
        }
    }
}

pub(super) fn reason_from_wire(rejected: wire::Rejected) -> Reason {
    let wire::Rejected { reason, len, limit, why, id, key, first_revision, sequence, lowest, highest, membership } =
        rejected;
    match wire::Reason::try_from(reason) {
        Ok(wire::Reason::EmptyKey) => Reason::EmptyKey,
        Ok(wire::Reason::KeyTooLarge) => Reason::KeyTooLarge { len, limit },
        Ok(wire::Reason::ValueTooLarge) => Reason::ValueTooLarge { len, limit },
        Ok(wire::Reason::TooLarge) => Reason::TooLarge { len, limit },
        Ok(wire::Reason::TxnTooLarge) => Reason::TxnTooLarge { len, limit },
        Ok(wire::Reason::DuplicateKey) => Reason::DuplicateKey { key },
        Ok(wire::Reason::KeyNotFound) => Reason::KeyNotFound { key },
        Ok(wire::Reason::LeaseNotFound) => Reason::LeaseNotFound { id },
        Ok(wire::Reason::LeaseExists) => Reason::LeaseExists { id },
        Ok(wire::Reason::InvalidTtl) => Reason::InvalidTtl { ttl_ms: len, limit_ms: limit },
        Ok(wire::Reason::TooManyLeases) => Reason::TooManyLeases { len, limit },
        Ok(wire::Reason::SessionExpired) => Reason::SessionExpired { session: id },
        Ok(wire::Reason::OutOfWindow) => Reason::OutOfWindow { sequence, lowest, highest },
        Ok(wire::Reason::ResultTooLarge) => Reason::ResultTooLarge { limit },
        Ok(wire::Reason::Compacted) => Reason::Compacted { first_revision },
        Ok(wire::Reason::Malformed) => Reason::Malformed { why },
        Ok(wire::Reason::Unsupported) => Reason::Unsupported { why },
        Ok(wire::Reason::Membership) => membership_from_wire(membership.unwrap_or_default()),
        Ok(wire::Reason::Unspecified) | Err(_) => {
            Reason::Unsupported { why: format!("a newer node refused with reason {reason} {why}") }
        }
    }
}

/// One of each.
#[cfg(test)]
pub(super) fn examples() -> Vec<Reason> {
    let (len, limit, key) = (9, 8, bytes::Bytes::from_static(b"k"));
    vec![
        Reason::EmptyKey,
        Reason::KeyTooLarge { len, limit },
        Reason::ValueTooLarge { len, limit },
        Reason::TooLarge { len, limit },
        Reason::TxnTooLarge { len, limit },
        Reason::DuplicateKey { key: key.clone() },
        Reason::KeyNotFound { key },
        Reason::LeaseNotFound { id: 7 },
        Reason::LeaseExists { id: 7 },
        Reason::InvalidTtl { ttl_ms: 0, limit_ms: 5 },
        Reason::TooManyLeases { len, limit },
        Reason::SessionExpired { session: 6 },
        Reason::OutOfWindow { sequence: 1, lowest: 2, highest: 3 },
        Reason::ResultTooLarge { limit },
        Reason::Compacted { first_revision: 4 },
        Reason::Malformed { why: "bad".to_owned() },
        Reason::Unsupported { why: "new".to_owned() },
    ]
}
