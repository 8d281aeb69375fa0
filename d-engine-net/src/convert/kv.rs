//! Key-value requests, answers and watches, as people of other languages see them. What a request asks for is made into the
//! command or query that [`KeyValue`](crate::KeyValue) would have made.

use d_engine_core::command::{
    KeySpan, KvChange, KvCompare, KvDelete, KvLease, KvOp, KvOpResult, KvPut, KvRange, KvTest, KvTxn, KvWatch,
    LeaseChoice, Relation, SessionHeader, WatchEnd, WatchMessage,
};
use d_engine_core::{KvCommand, KvRecord, LogId};

use super::Malformed;
use crate::generated::v1;
use crate::generated::v1::compare::Test;
use crate::generated::v1::put_request::LeaseChoice as WireLease;
use crate::generated::v1::txn_request::operation::Operation as WireOp;
use crate::generated::v1::txn_response::result::Result as WireResult;
use crate::generated::v1::watch_response::Event;
use crate::generated::v1::watch_response::ended::Why;
use crate::generated::v1::{change as wire_change, watch_response as wire_watch};

pub(crate) fn at_to_wire(id: LogId, revision: u64) -> Option<v1::At> {
    Some(v1::At { term: id.term, index: id.index, revision })
}

pub(crate) fn record_to_wire(record: KvRecord) -> v1::Record {
    v1::Record {
        key: record.key,
        value: record.value,
        create_revision: record.create_revision,
        mod_revision: record.mod_revision,
        version: record.version,
        lease: record.lease,
    }
}

fn record_from_wire(record: v1::Record) -> KvRecord {
    let v1::Record { key, value, create_revision, mod_revision, version, lease } = record;
    let mut record = KvRecord::new(key, value, create_revision, mod_revision, version);
    record.lease = lease;
    record
}

pub(crate) fn header_from_wire(header: v1::SessionHeader) -> SessionHeader {
    let v1::SessionHeader { session, sequence, lowest } = header;
    SessionHeader { session, sequence, lowest }
}

pub(crate) fn span_from_wire(span: Option<v1::KeySpan>) -> KeySpan {
    let v1::KeySpan { start, end } = span.unwrap_or_default();
    KeySpan::new(start, end)
}

fn put_from_wire(put: v1::PutRequest) -> Result<KvPut, Malformed> {
    let v1::PutRequest { key, value, lease_choice, keep_value, prev, session: _ } = put;
    if keep_value && !value.is_empty() {
        return Err(Malformed("a put keeps its value or has one, not both".to_owned()));
    }
    let mut put = if keep_value { KvPut::keep_value(key) } else { KvPut::new(key, value) };
    put.prev = prev;
    put.lease = match lease_choice {
        None | Some(WireLease::KeepLease(false)) => LeaseChoice::None,
        Some(WireLease::KeepLease(true)) => LeaseChoice::Keep,
        Some(WireLease::Lease(id)) => LeaseChoice::Attach(id),
        Some(WireLease::TtlMs(milliseconds)) => LeaseChoice::Ttl(milliseconds),
    };
    Ok(put)
}

/// A put without choices is the short command, which is answered faster.
pub(crate) fn put_command(put: v1::PutRequest) -> Result<KvCommand, Malformed> {
    let put = put_from_wire(put)?;
    Ok(match put {
        KvPut { key, value: Some(value), lease: LeaseChoice::None, prev: false, .. } => KvCommand::Put { key, value },
        put => KvCommand::PutWith(put),
    })
}

pub(crate) fn delete_from_wire(delete: v1::DeleteRangeRequest) -> Result<KvDelete, Malformed> {
    // To leave a field out must not remove every key.
    let span = delete.span.ok_or_else(|| Malformed::missing("the span of a delete"))?;
    Ok(KvDelete::new(span_from_wire(Some(span)), delete.prev))
}

pub(crate) fn range_from_wire(range: v1::RangeRequest) -> KvRange {
    let v1::RangeRequest { start, end, limit, reverse, keys_only, mode: _, after, count_only } = range;
    let mut range = KvRange::new(KeySpan::new(start, end));
    (range.after, range.limit, range.reverse) = (after, limit, reverse);
    (range.keys_only, range.count_only) = (keys_only, count_only);
    range
}

pub(crate) fn txn_from_wire(txn: v1::TxnRequest) -> Result<KvTxn, Malformed> {
    let v1::TxnRequest { compares, then, otherwise, session: _ } = txn;
    let operations = |list: Vec<v1::txn_request::Operation>| {
        list.into_iter().map(operation_from_wire).collect::<Result<Vec<_>, _>>()
    };
    let compares = compares.into_iter().map(compare_from_wire).collect::<Result<Vec<_>, _>>()?;
    Ok(KvTxn::new(compares, operations(then)?, operations(otherwise)?))
}

fn operation_from_wire(operation: v1::txn_request::Operation) -> Result<KvOp, Malformed> {
    match operation.operation {
        Some(WireOp::Put(put)) => put_from_wire(put).map(KvOp::Put),
        Some(WireOp::Delete(delete)) => delete_from_wire(delete).map(KvOp::Delete),
        Some(WireOp::Range(range)) => Ok(KvOp::Range(range_from_wire(range))),
        None => Err(Malformed::missing("what an operation of a transaction does")),
    }
}

fn compare_from_wire(compare: v1::Compare) -> Result<KvCompare, Malformed> {
    let v1::Compare { key, relation, test } = compare;
    let relation = match v1::compare::Relation::try_from(relation) {
        Ok(v1::compare::Relation::Equal) => Relation::Equal,
        Ok(v1::compare::Relation::NotEqual) => Relation::NotEqual,
        Ok(v1::compare::Relation::Less) => Relation::Less,
        Ok(v1::compare::Relation::Greater) => Relation::Greater,
        Err(_) => return Err(Malformed(format!("relation {relation} of a comparison is not known"))),
    };
    let test = match test {
        Some(Test::Value(value)) => KvTest::Value(relation, value),
        Some(Test::Version(number)) => KvTest::Version(relation, number),
        Some(Test::CreateRevision(number)) => KvTest::CreateRevision(relation, number),
        Some(Test::ModRevision(number)) => KvTest::ModRevision(relation, number),
        Some(Test::Lease(number)) => KvTest::Lease(relation, number),
        Some(Test::Exists(exists)) => KvTest::Exists(exists),
        None => return Err(Malformed::missing("what a comparison of a transaction tests")),
    };
    Ok(KvCompare::new(key, test))
}

/// `None`: a kind of result that this build does not know.
pub(crate) fn result_to_wire(result: KvOpResult) -> Option<v1::txn_response::Result> {
    let records = |records: Vec<KvRecord>| records.into_iter().map(record_to_wire).collect();
    let result = match result {
        KvOpResult::Put { lease, prev } => {
            WireResult::Put(v1::PutResponse { at: None, prev: prev.map(record_to_wire), lease })
        }
        KvOpResult::Deleted { deleted, prev } => {
            WireResult::Delete(v1::DeleteRangeResponse { at: None, deleted, prev: records(prev) })
        }
        KvOpResult::Range { records: found, more } => {
            WireResult::Range(v1::RangeResponse { at: None, records: records(found), more, count: 0 })
        }
        KvOpResult::Count { count } => {
            WireResult::Range(v1::RangeResponse { at: None, records: Vec::new(), more: false, count })
        }
        _ => return None,
    };
    Some(v1::txn_response::Result { result: Some(result) })
}

pub(crate) fn lease_to_wire(lease: KvLease) -> v1::LeaseInfo {
    v1::LeaseInfo {
        id: lease.id,
        ttl_ms: lease.ttl_ms,
        remaining_ms: lease.remaining_ms,
        renewals: lease.renewals,
        key_count: lease.key_count,
        keys: lease.keys,
    }
}

pub(crate) fn watch_to_wire(watch: KvWatch) -> v1::WatchRequest {
    let KvWatch { span: KeySpan { start, end }, from_revision, prev, progress, .. } = watch;
    v1::WatchRequest { span: Some(v1::KeySpan { start, end }), from_revision, prev, progress }
}

pub(crate) fn watch_from_wire(watch: v1::WatchRequest) -> KvWatch {
    let mut request = KvWatch::new(span_from_wire(watch.span));
    (request.from_revision, request.prev, request.progress) = (watch.from_revision, watch.prev, watch.progress);
    request
}

/// `None`: a message of a kind that this build does not know.
pub(crate) fn watch_message_to_wire(message: WatchMessage) -> Option<v1::WatchResponse> {
    let event = match message {
        WatchMessage::Created { revision } => Event::Created(wire_watch::Created { revision }),
        WatchMessage::Changes { revision, changes, more } => {
            let changes = changes.into_iter().map(change_to_wire).collect::<Option<Vec<_>>>()?;
            Event::Changes(wire_watch::Changes { revision, changes, more })
        }
        WatchMessage::Progress { revision } => Event::Progress(wire_watch::Progress { revision }),
        WatchMessage::Ended(end) => Event::Ended(wire_watch::Ended { why: Some(end_to_wire(end)?) }),
        _ => return None,
    };
    Some(v1::WatchResponse { event: Some(event) })
}

fn end_to_wire(end: WatchEnd) -> Option<Why> {
    Some(match end {
        WatchEnd::Compacted { first_revision } => Why::Compacted(wire_watch::Compacted { first_revision }),
        WatchEnd::Slow { next_revision } => Why::TooSlow(wire_watch::TooSlow { next_revision }),
        WatchEnd::Stopped => Why::Stopping(wire_watch::Stopping {}),
        _ => return None,
    })
}

fn change_to_wire(change: KvChange) -> Option<v1::Change> {
    let change = match change {
        KvChange::Put { record, prev } => wire_change::Change::Put(wire_change::Put {
            record: Some(record_to_wire(record)),
            prev: prev.map(record_to_wire),
        }),
        KvChange::Delete { key, prev } => {
            wire_change::Change::Delete(wire_change::Delete { key, prev: prev.map(record_to_wire) })
        }
        _ => return None,
    };
    Some(v1::Change { change: Some(change) })
}

pub(crate) fn watch_message_from_wire(response: v1::WatchResponse) -> Result<WatchMessage, Malformed> {
    match response.event {
        Some(Event::Created(wire_watch::Created { revision })) => Ok(WatchMessage::Created { revision }),
        Some(Event::Changes(wire_watch::Changes { revision, changes, more })) => {
            let changes = changes.into_iter().map(change_from_wire).collect::<Result<Vec<_>, _>>()?;
            Ok(WatchMessage::Changes { revision, changes, more })
        }
        Some(Event::Progress(wire_watch::Progress { revision })) => Ok(WatchMessage::Progress { revision }),
        Some(Event::Ended(wire_watch::Ended { why })) => Ok(WatchMessage::Ended(match why {
            Some(Why::Compacted(wire_watch::Compacted { first_revision })) => WatchEnd::Compacted { first_revision },
            Some(Why::TooSlow(wire_watch::TooSlow { next_revision })) => WatchEnd::Slow { next_revision },
            // A reason that this build does not know: another node may go on.
            Some(Why::Stopping(_)) | None => WatchEnd::Stopped,
        })),
        None => Err(Malformed::missing("what a watch is told")),
    }
}

fn change_from_wire(change: v1::Change) -> Result<KvChange, Malformed> {
    match change.change {
        Some(wire_change::Change::Put(wire_change::Put { record, prev })) => Ok(KvChange::Put {
            record: record_from_wire(record.ok_or_else(|| Malformed::missing("the record of a change"))?),
            prev: prev.map(record_from_wire),
        }),
        Some(wire_change::Change::Delete(wire_change::Delete { key, prev })) => {
            Ok(KvChange::Delete { key, prev: prev.map(record_from_wire) })
        }
        None => Err(Malformed::missing("what a change is")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_and_what_they_are_told_go_there_and_back() {
        let mut watch = KvWatch::new(KeySpan::prefix("k"));
        (watch.from_revision, watch.prev, watch.progress) = (7, true, true);
        assert_eq!(watch_from_wire(watch_to_wire(watch.clone())), watch);
        let mut record = KvRecord::new("k", "v", 1, 2, 3);
        record.lease = 4;
        let changes = vec![
            KvChange::Put { record: record.clone(), prev: Some(record.clone()) },
            KvChange::Delete { key: "k".into(), prev: Some(record) },
        ];
        let messages = [
            WatchMessage::Created { revision: 1 },
            WatchMessage::Changes { revision: 2, changes, more: true },
            WatchMessage::Progress { revision: 3 },
            WatchMessage::Ended(WatchEnd::Compacted { first_revision: 4 }),
            WatchMessage::Ended(WatchEnd::Slow { next_revision: 5 }),
            WatchMessage::Ended(WatchEnd::Stopped),
        ];
        for message in messages {
            let there = watch_message_to_wire(message.clone()).unwrap();
            assert_eq!(watch_message_from_wire(there).unwrap(), message);
        }
        assert!(watch_message_from_wire(v1::WatchResponse::default()).is_err());
    }

    #[test]
    fn a_transaction_is_the_one_that_the_typed_call_makes() {
        use crate::{Delete, Put, Range, Txn};
        let expected = Txn::new()
            .if_version("a", Relation::Greater, 2)
            .if_exists("b")
            .then(Put::new("a", "1").lease(5).prev())
            .then(Delete::key("b"))
            .otherwise(Range::key("a").keys_only());
        let key = |text: &'static str| bytes::Bytes::from_static(text.as_bytes());
        let compare = |name, relation, test| v1::Compare { key: key(name), relation, test: Some(test) };
        let operation = |operation| v1::txn_request::Operation { operation: Some(operation) };
        let put = v1::PutRequest {
            key: key("a"),
            value: key("1"),
            lease_choice: Some(WireLease::Lease(5)),
            prev: true,
            ..Default::default()
        };
        let span = |name: &'static str| v1::KeySpan { start: key(name), end: KeySpan::key(name).end };
        let delete = v1::DeleteRangeRequest { span: Some(span("b")), ..Default::default() };
        let v1::KeySpan { start, end } = span("a");
        let range = v1::RangeRequest { start, end, keys_only: true, ..Default::default() };
        let txn = v1::TxnRequest {
            compares: vec![compare("a", 3, Test::Version(2)), compare("b", 0, Test::Exists(true))],
            then: vec![operation(WireOp::Put(put)), operation(WireOp::Delete(delete))],
            otherwise: vec![operation(WireOp::Range(range))],
            session: None,
        };
        assert_eq!(txn_from_wire(txn).unwrap(), KvTxn::from(expected));
    }

    #[test]
    fn what_is_left_out_is_refused_and_not_guessed() {
        assert!(delete_from_wire(v1::DeleteRangeRequest::default()).is_err(), "to remove everything must be said");
        assert!(compare_from_wire(v1::Compare::default()).is_err());
        assert!(compare_from_wire(v1::Compare { relation: 9, ..Default::default() }).is_err());
        assert!(operation_from_wire(v1::txn_request::Operation::default()).is_err());
        let both = v1::PutRequest { value: "v".into(), keep_value: true, ..Default::default() };
        assert!(put_command(both).is_err());
    }
}
