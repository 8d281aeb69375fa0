//! The unary services, as people of other languages use them.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use tonic::Code;
use tonic::transport::Channel;

use super::fake::{FakeServer, VALUE_LEN_MAX};
use crate::channel::dial;
use crate::convert::{status_from_wire, status_to_error};
use crate::generated::v1::cluster_client::ClusterClient;
use crate::generated::v1::kv_client::KvClient;
use crate::generated::v1::{self, GetRequest, PutRequest};
use crate::peer::lock;
use crate::{ClientError, LeaderHint, NodeService as _, Reason};

async fn start() -> (FakeServer, Channel) {
    let server = FakeServer::start().await;
    let channel = dial(&server.address).await.unwrap();
    (server, channel)
}

fn put(key: &'static str, value: impl Into<Bytes>) -> PutRequest {
    PutRequest { key: Bytes::from_static(key.as_bytes()), value: value.into(), ..Default::default() }
}

#[tokio::test]
async fn every_operation_goes_there_and_back() {
    let (server, channel) = start().await;
    let mut kv = KvClient::new(channel.clone());
    let at = kv.put(put("k", "v")).await.unwrap().into_inner().at.unwrap();
    assert_eq!((at.term, at.index, at.revision), (7, 1, 1));
    let key = Bytes::from_static(b"k");
    let got = kv.get(GetRequest { key: key.clone(), mode: 0 }).await.unwrap().into_inner();
    assert_eq!((&got.record.unwrap().value[..], got.at.unwrap().revision), (&b"v"[..], 1));
    let value = Some(Bytes::from_static(b"w"));
    let swap = v1::CompareAndSwapRequest { key: key.clone(), expected: None, value, session: None };
    let swapped = kv.compare_and_swap(swap).await.unwrap().into_inner();
    assert_eq!((swapped.succeeded, swapped.current), (false, Some(Bytes::from_static(b"v"))));
    let listed = kv.range(v1::RangeRequest::default()).await.unwrap().into_inner();
    assert_eq!((listed.records.len(), listed.more), (1, false));
    let deleted = kv.delete(v1::DeleteRequest { key: key.clone(), session: None }).await.unwrap().into_inner();
    assert!(deleted.existed);
    let got = kv.get(GetRequest { key, mode: 1 }).await.unwrap().into_inner();
    assert_eq!(got.record, None);
    let status = ClusterClient::new(channel).status(v1::StatusRequest {}).await.unwrap().into_inner().status;
    assert_eq!(status_from_wire(status.unwrap()).unwrap(), server.node.status());
    server.stop().await;
}

#[tokio::test]
async fn leases_sessions_and_transactions_go_there_and_back() {
    let (server, channel) = start().await;
    let mut kv = KvClient::new(channel.clone());
    let key = Bytes::from_static(b"k");
    let with_ttl =
        PutRequest { lease_choice: Some(v1::put_request::LeaseChoice::TtlMs(5)), prev: true, ..put("k", "v") };
    let answer = kv.put(with_ttl).await.unwrap().into_inner();
    assert_eq!((answer.lease, &answer.prev.unwrap().value[..]), (5, &b"before"[..]));
    let span = Some(v1::KeySpan { start: key.clone(), end: None });
    let removed =
        kv.delete_range(v1::DeleteRangeRequest { span, prev: true, session: None }).await.unwrap().into_inner();
    assert_eq!((removed.deleted, removed.prev.len()), (1, 1));
    let counted = kv.range(v1::RangeRequest { count_only: true, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!(counted.count, 0);
    let operation = v1::txn_request::operation::Operation::Put(put("k", "v"));
    let then = vec![v1::txn_request::Operation { operation: Some(operation) }];
    let decided = kv.txn(v1::TxnRequest { then, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!((decided.succeeded, decided.results.len()), (true, 1));

    let mut lease = v1::lease_client::LeaseClient::new(channel.clone());
    let granted = lease.grant(v1::LeaseGrantRequest { ttl_ms: 10, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!((granted.id, granted.ttl_ms), (1, 10));
    let kept = lease.keep_alive(v1::LeaseKeepAliveRequest { ids: vec![1, 2_000] }).await.unwrap().into_inner();
    assert_eq!(kept.ttls_ms, [10, 0]);
    let shown =
        lease.time_to_live(v1::LeaseTimeToLiveRequest { id: 1, keys: false, mode: 0 }).await.unwrap().into_inner();
    assert_eq!(shown.lease.unwrap().remaining_ms, 9);
    assert_eq!(lease.list(v1::LeaseListRequest::default()).await.unwrap().into_inner().ids, [1]);
    assert_eq!(lease.revoke(v1::LeaseRevokeRequest { id: 1, session: None }).await.unwrap().into_inner().keys, 2);
    let gone = lease.revoke(v1::LeaseRevokeRequest { id: 2_000, session: None }).await.unwrap_err();
    assert_eq!(status_to_error(&gone), Some(Reason::LeaseNotFound { id: 2_000 }.into()));

    let mut sessions = v1::session_client::SessionClient::new(channel);
    let opened = sessions.open(v1::SessionOpenRequest {}).await.unwrap().into_inner();
    let header = v1::SessionHeader { session: opened.session, sequence: 1, lowest: 1 };
    let write = PutRequest { session: Some(header), ..put("s", "v") };
    let first = kv.put(write.clone()).await.unwrap().into_inner().at.unwrap();
    let again = kv.put(write).await.unwrap().into_inner().at.unwrap();
    assert_eq!((first.revision, again.revision), (1, 1), "applied once");
    let closed = sessions.close(v1::SessionCloseRequest { session: opened.session }).await.unwrap().into_inner();
    assert!(closed.existed);
    server.stop().await;
}

#[tokio::test]
async fn every_error_has_its_code_and_its_detail() {
    let (server, channel) = start().await;
    let mut kv = KvClient::new(channel);
    let leader = Some(LeaderHint { node: 2, address: "b:2".to_owned() });
    let errors = [
        (ClientError::NotLeader { leader }, Code::FailedPrecondition),
        (ClientError::Busy, Code::ResourceExhausted),
        (ClientError::Unknown, Code::DeadlineExceeded),
        (ClientError::unavailable("no quorum"), Code::Unavailable),
        (ClientError::ShuttingDown, Code::Unavailable),
    ];
    for (error, code) in errors {
        server.node.fail_with(error.clone());
        let status = kv.put(put("k", "v")).await.unwrap_err();
        assert_eq!((status.code(), status_to_error(&status)), (code, Some(error.clone())));
        if matches!(error, ClientError::NotLeader { .. }) {
            assert_eq!(status.metadata().get("d-engine-leader").unwrap(), "b:2");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn wrong_requests_are_invalid_arguments_that_name_the_limit() {
    let (server, channel) = start().await;
    let mut kv = KvClient::new(channel);
    let status = kv.put(put("", "v")).await.unwrap_err();
    assert_eq!(status_to_error(&status), Some(Reason::EmptyKey.into()));
    let status = kv.put(put("k", vec![0; VALUE_LEN_MAX + 1])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("1048577 bytes; this server accepts at most 1048576"), "{status}");
    let status = kv.get(GetRequest { key: Bytes::from_static(b"k"), mode: 9 }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn a_command_that_was_applied_is_never_reported_as_rejected() {
    let (server, channel) = start().await;
    *lock(&server.node.garbled) = true;
    let mut kv = KvClient::new(channel);
    let status = kv.put(put("k", "v")).await.unwrap_err();
    assert_eq!(status_to_error(&status), Some(ClientError::Unknown));
    server.stop().await;
}

#[tokio::test]
async fn a_machine_of_another_language_is_given_no_key_value_commands() {
    let (server, channel) = start().await;
    *lock(&server.node.foreign) = true;
    let mut kv = KvClient::new(channel);
    let status = kv.put(put("k", "v")).await.unwrap_err();
    assert!(matches!(status_to_error(&status), Some(ClientError::Rejected { why: Reason::Unsupported { .. } })));
    assert_eq!(server.node.proposals.load(Ordering::Relaxed), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_call_under_way_ends_with_the_server() {
    let (server, channel) = start().await;
    *lock(&server.node.silent) = true;
    let call = tokio::spawn(async move { KvClient::new(channel).put(put("k", "v")).await });
    server.node.arrived.notified().await;
    server.stop().await;
    assert_eq!(status_to_error(&call.await.unwrap().unwrap_err()), Some(ClientError::Unknown));
}
