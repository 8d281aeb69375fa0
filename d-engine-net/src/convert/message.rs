//! Hello and raft messages.

use d_engine_core::{Entry, LogId};
use d_engine_raft::{Append, AppendOutcome, AppendReply, Body, Message, VoteRequest};

use super::{Malformed, id_from_wire, id_to_wire};
use crate::Hello;
use crate::generated::v1;
use crate::generated::v1::raft_message as wire;

pub(crate) fn hello_to_wire(hello: &Hello, to: u64) -> v1::Hello {
    v1::Hello {
        protocol_min: hello.protocol_min,
        protocol_max: hello.protocol_max,
        feature_level: hello.feature_level,
        cluster: id_to_wire(hello.cluster),
        group: hello.group,
        node: hello.node,
        incarnation: id_to_wire(hello.incarnation),
        election_timeout_min_ms: hello.election_timeout_min_ms,
        clock_drift_ppm: hello.clock_drift_ppm,
        to,
        address: hello.address.clone(),
        is_advertised: hello.is_advertised,
    }
}

pub(crate) fn hello_from_wire(hello: &v1::Hello) -> Result<Hello, Malformed> {
    Ok(Hello {
        protocol_min: hello.protocol_min,
        protocol_max: hello.protocol_max,
        feature_level: hello.feature_level,
        cluster: id_from_wire(&hello.cluster, "the cluster of a Hello")?,
        group: hello.group,
        node: hello.node,
        incarnation: id_from_wire(&hello.incarnation, "the incarnation of a Hello")?,
        election_timeout_min_ms: hello.election_timeout_min_ms,
        clock_drift_ppm: hello.clock_drift_ppm,
        address: hello.address.clone(),
        is_advertised: hello.is_advertised,
    })
}

/// `incarnation` is the one of the stream's latest Hello; it is not repeated.
pub(crate) fn message_to_wire(message: Message, incarnation: u128) -> v1::RaftMessage {
    let sender = if message.incarnation == incarnation { Default::default() } else { id_to_wire(message.incarnation) };
    v1::RaftMessage { term: message.term, incarnation: sender, group: message.group, body: body_to_wire(message.body) }
}

fn body_to_wire(body: Body) -> Option<wire::Body> {
    Some(match body {
        Body::FormationProbe => wire::Body::FormationProbe(wire::Empty {}),
        Body::FormationEmpty => wire::Body::FormationEmpty(wire::Empty {}),
        Body::Formation(entry) => wire::Body::Formation(entry.encode()),
        Body::FormationRefused => wire::Body::FormationRefused(wire::Empty {}),
        Body::PreVote { next_term, round, last } => {
            wire::Body::PreVote(wire::PreVote { next_term, round, last: Some(log_id_to_wire(last)) })
        }
        Body::PreVoteReply { round, granted } => wire::Body::PreVoteReply(wire::PreVoteReply { round, granted }),
        Body::RequestVote(VoteRequest { last, transfer }) => {
            wire::Body::RequestVote(wire::RequestVote { last: Some(log_id_to_wire(last)), transfer })
        }
        Body::VoteReply { granted } => wire::Body::VoteReply(wire::VoteReply { granted }),
        Body::Append(append) => wire::Body::Append(append_to_wire(&append)),
        Body::AppendReply(reply) => wire::Body::AppendReply(append_reply_to_wire(reply)?),
        Body::ReadIndex { nonce, counter } => wire::Body::ReadIndex(wire::ReadIndex { nonce, counter }),
        Body::ReadIndexReply { nonce, counter, index } => {
            wire::Body::ReadIndexReply(wire::ReadIndexReply { nonce, counter, index })
        }
        Body::TimeoutNow { session } => wire::Body::TimeoutNow(wire::TimeoutNow { session }),
        Body::Welcome { cluster, receiver } => {
            wire::Body::Welcome(wire::Welcome { cluster: id_to_wire(cluster), receiver: id_to_wire(receiver) })
        }
        // A kind that this crate does not carry yet travels as a message without a body, which receivers drop.
        _ => return None,
    })
}

fn append_to_wire(append: &Append) -> wire::AppendEntries {
    wire::AppendEntries {
        session: append.session,
        prev: Some(log_id_to_wire(append.prev)),
        commit: append.commit,
        matched: append.matched,
        receiver: if append.receiver == 0 { Default::default() } else { id_to_wire(append.receiver) },
        round: append.round,
        entries: append.entries.iter().map(Entry::encode).collect(),
    }
}

fn append_reply_to_wire(reply: AppendReply) -> Option<wire::AppendReply> {
    use wire::append_reply::Outcome;
    let outcome = match reply.outcome {
        AppendOutcome::Pending => Outcome::Pending(wire::Empty {}),
        AppendOutcome::Accepted { matched } => Outcome::Accepted(matched),
        AppendOutcome::Rejected { prev, hint } => {
            Outcome::Rejected(wire::Rejected { prev, hint: Some(log_id_to_wire(hint)) })
        }
        AppendOutcome::Stale => Outcome::Stale(wire::Empty {}),
        _ => return None,
    };
    Some(wire::AppendReply { session: reply.session, round: reply.round, outcome: Some(outcome) })
}

/// `Ok(None)`: a kind that this build does not know; the sender is newer.
pub(crate) fn message_from_wire(message: v1::RaftMessage, incarnation: u128) -> Result<Option<Message>, Malformed> {
    let incarnation = if message.incarnation.is_empty() {
        incarnation
    } else {
        id_from_wire(&message.incarnation, "the incarnation of a message")?
    };
    let Some(body) = message.body else { return Ok(None) };
    Ok(Some(Message { term: message.term, incarnation, group: message.group, body: body_from_wire(body)? }))
}

fn body_from_wire(body: wire::Body) -> Result<Body, Malformed> {
    Ok(match body {
        wire::Body::FormationProbe(_) => Body::FormationProbe,
        wire::Body::FormationEmpty(_) => Body::FormationEmpty,
        wire::Body::Formation(entry) => Body::Formation(entry_from_wire(entry)?),
        wire::Body::FormationRefused(_) => Body::FormationRefused,
        wire::Body::PreVote(wire::PreVote { next_term, round, last }) => {
            Body::PreVote { next_term, round, last: log_id_from_wire(last) }
        }
        wire::Body::PreVoteReply(wire::PreVoteReply { round, granted }) => Body::PreVoteReply { round, granted },
        wire::Body::RequestVote(wire::RequestVote { last, transfer }) => {
            Body::RequestVote(VoteRequest { last: log_id_from_wire(last), transfer })
        }
        wire::Body::VoteReply(wire::VoteReply { granted }) => Body::VoteReply { granted },
        wire::Body::Append(append) => Body::Append(append_from_wire(append)?),
        wire::Body::AppendReply(reply) => Body::AppendReply(append_reply_from_wire(reply)?),
        wire::Body::ReadIndex(wire::ReadIndex { nonce, counter }) => Body::ReadIndex { nonce, counter },
        wire::Body::ReadIndexReply(wire::ReadIndexReply { nonce, counter, index }) => {
            Body::ReadIndexReply { nonce, counter, index }
        }
        wire::Body::TimeoutNow(wire::TimeoutNow { session }) => Body::TimeoutNow { session },
        wire::Body::Welcome(wire::Welcome { cluster, receiver }) => {
            let cluster = id_from_wire(&cluster, "the cluster of a welcome")?;
            Body::Welcome { cluster, receiver: id_from_wire(&receiver, "the receiver of a welcome")? }
        }
    })
}

fn append_from_wire(append: wire::AppendEntries) -> Result<Append, Malformed> {
    let receiver = match &append.receiver[..] {
        [] => 0,
        bytes => id_from_wire(bytes, "the receiver of an append")?,
    };
    let entries = append.entries.into_iter().map(entry_from_wire).collect::<Result<_, _>>()?;
    Ok(Append {
        session: append.session,
        prev: log_id_from_wire(append.prev),
        commit: append.commit,
        matched: append.matched,
        receiver,
        round: append.round,
        entries,
    })
}

fn append_reply_from_wire(reply: wire::AppendReply) -> Result<AppendReply, Malformed> {
    use wire::append_reply::Outcome;
    let outcome = match reply.outcome.ok_or_else(|| Malformed::missing("the outcome of an AppendReply"))? {
        Outcome::Pending(_) => AppendOutcome::Pending,
        Outcome::Accepted(matched) => AppendOutcome::Accepted { matched },
        Outcome::Rejected(wire::Rejected { prev, hint }) => {
            AppendOutcome::Rejected { prev, hint: log_id_from_wire(hint) }
        }
        Outcome::Stale(_) => AppendOutcome::Stale,
    };
    Ok(AppendReply { session: reply.session, round: reply.round, outcome })
}

fn entry_from_wire(bytes: bytes::Bytes) -> Result<Entry, Malformed> {
    Entry::decode(bytes).map_err(|error| Malformed(error.to_string()))
}

fn log_id_to_wire(id: LogId) -> v1::LogId {
    v1::LogId { term: id.term, index: id.index }
}

/// An absent id is the default one, as protobuf leaves out what is empty.
fn log_id_from_wire(id: Option<v1::LogId>) -> LogId {
    id.map_or_else(LogId::default, |id| LogId::new(id.term, id.index))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use d_engine_core::EntryKind;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn log_id() -> impl Strategy<Value = LogId> {
        any::<(u64, u64)>().prop_map(|(term, index)| LogId::new(term, index))
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let kind = prop_oneof![Just(EntryKind::Command), Just(EntryKind::Noop), Just(EntryKind::Membership)];
        (any::<(u64, u64)>(), kind, vec(any::<u8>(), 0..50))
            .prop_map(|((index, term), kind, data)| Entry::new(index, term, kind, data))
    }

    fn append() -> impl Strategy<Value = Append> {
        (any::<[u64; 4]>(), any::<u128>(), log_id(), vec(entry(), 0..4)).prop_map(
            |([session, commit, matched, round], receiver, prev, entries)| Append {
                session,
                prev,
                commit,
                matched,
                receiver,
                round,
                entries,
            },
        )
    }

    fn append_reply() -> impl Strategy<Value = AppendReply> {
        let outcome = prop_oneof![
            Just(AppendOutcome::Pending),
            any::<u64>().prop_map(|matched| AppendOutcome::Accepted { matched }),
            (any::<u64>(), log_id()).prop_map(|(prev, hint)| AppendOutcome::Rejected { prev, hint }),
            Just(AppendOutcome::Stale),
        ];
        (any::<[u64; 2]>(), outcome).prop_map(|([session, round], outcome)| AppendReply { session, round, outcome })
    }

    fn body() -> impl Strategy<Value = Body> {
        prop_oneof![
            Just(Body::FormationProbe),
            Just(Body::FormationEmpty),
            entry().prop_map(Body::Formation),
            Just(Body::FormationRefused),
            (any::<[u64; 2]>(), log_id()).prop_map(|([next_term, round], last)| Body::PreVote {
                next_term,
                round,
                last
            }),
            any::<(u64, bool)>().prop_map(|(round, granted)| Body::PreVoteReply { round, granted }),
            (log_id(), any::<bool>()).prop_map(|(last, transfer)| Body::RequestVote(VoteRequest { last, transfer })),
            any::<bool>().prop_map(|granted| Body::VoteReply { granted }),
            append().prop_map(Body::Append),
            append_reply().prop_map(Body::AppendReply),
            any::<u64>().prop_map(|session| Body::TimeoutNow { session }),
            (1..u128::MAX, 1..u128::MAX).prop_map(|(cluster, receiver)| Body::Welcome { cluster, receiver }),
            any::<[u64; 2]>().prop_map(|[nonce, counter]| Body::ReadIndex { nonce, counter }),
            (any::<[u64; 2]>(), option::of(any::<u64>())).prop_map(|([nonce, counter], index)| Body::ReadIndexReply {
                nonce,
                counter,
                index
            }),
        ]
    }

    fn message() -> impl Strategy<Value = Message> {
        (any::<[u64; 2]>(), prop_oneof![Just(5u128), any::<u128>()], body())
            .prop_map(|([term, group], incarnation, body)| Message { term, incarnation, group, body })
    }

    #[test]
    fn a_message_of_an_unknown_kind_is_dropped_and_not_an_error() {
        assert_eq!(message_from_wire(v1::RaftMessage::default(), 5), Ok(None));
    }

    #[test]
    fn wrong_lengths_and_damaged_entries_are_malformed() {
        let bad_id = v1::RaftMessage { incarnation: Bytes::from_static(b"short"), ..Default::default() };
        assert!(message_from_wire(bad_id, 5).unwrap_err().to_string().contains("5 bytes instead of 16"));
        let mut bytes = Entry::new(1, 1, EntryKind::Command, b"data").encode().to_vec();
        bytes[30] ^= 1;
        let body = Some(wire::Body::Formation(bytes.into()));
        let damaged = v1::RaftMessage { body, ..Default::default() };
        assert!(message_from_wire(damaged, 5).unwrap_err().to_string().contains("checksum"));
        let body = Some(wire::Body::AppendReply(wire::AppendReply::default()));
        let no_outcome = v1::RaftMessage { body, ..Default::default() };
        assert!(message_from_wire(no_outcome, 5).unwrap_err().to_string().contains("outcome"));
    }

    #[test]
    fn hello_survives_the_wire() {
        let hello = Hello { cluster: 1 << 100, feature_level: 3, ..Hello::new(2, u128::MAX) };
        let bytes = hello_to_wire(&hello, 9).encode_to_vec();
        let wire = v1::Hello::decode(&bytes[..]).unwrap();
        assert_eq!((hello_from_wire(&wire).unwrap(), wire.to), (hello, 9));
    }

    proptest! {
        #[test]
        fn every_message_survives_the_wire(message in message()) {
            let bytes = Bytes::from(message_to_wire(message.clone(), 5).encode_to_vec());
            let wire = v1::RaftMessage::decode(bytes).unwrap();
            prop_assert_eq!(message_from_wire(wire, 5).unwrap(), Some(message));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
            if let Ok(wire) = v1::RaftMessage::decode(&bytes[..]) {
                let _ = message_from_wire(wire, 5);
            }
        }

        #[test]
        fn a_changed_byte_never_panics(message in message(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = message_to_wire(message, 5).encode_to_vec();
            if bytes.is_empty() { return Ok(()); }
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(wire) = v1::RaftMessage::decode(&bytes[..]) {
                let _ = message_from_wire(wire, 5);
            }
        }
    }
}
