//! Snapshots from one node to another, and to whoever keeps them.

use bytes::Bytes;
use d_engine_core::{ClusterSettings, LogId, Member, MemberKind, Membership, SnapshotChecksum, SnapshotMetadata};

use super::fake::{FakeServer, facts};
use crate::peer::lock;
use crate::{Client, Download, Hello, SnapshotAnswer, SnapshotOffer, SnapshotSink, offer_snapshot};

const AT: LogId = LogId { term: 3, index: 9 };

pub(super) fn offer() -> SnapshotOffer {
    let members = vec![Member::new(1, 1001, "a:1", MemberKind::Voter)];
    let membership = Membership::new(facts(2).cluster, members, ClusterSettings::new(500, 500, 1));
    let metadata = SnapshotMetadata::new(AT, membership, SnapshotChecksum::new([1; 32]), 6);
    SnapshotOffer { from: 2, term: 3, metadata, digest: SnapshotChecksum::new([2; 32]) }
}

async fn accepted(server: &FakeServer) -> Box<dyn SnapshotSink> {
    match offer_snapshot(&server.address, &facts(2), 1, offer()).await.unwrap() {
        SnapshotAnswer::Accepted(sink) => sink,
        SnapshotAnswer::Held(at) => panic!("holds {at}"),
    }
}

async fn refusal(server: &FakeServer, hello: Hello, to: u64) -> String {
    match offer_snapshot(&server.address, &hello, to, offer()).await {
        Err(why) => why,
        Ok(_) => panic!("it is taken"),
    }
}

#[tokio::test]
async fn a_transfer_that_broke_off_goes_on_where_it_ended() {
    let server = FakeServer::start().await;
    *lock(&server.node.snapshot) = Some(Vec::new());
    let mut first = accepted(&server).await;
    first.write(0, Bytes::from_static(b"abc")).await.unwrap();
    while lock(&server.node.snapshot).as_ref().is_some_and(Vec::is_empty) {
        tokio::task::yield_now().await;
    }
    drop(first);
    let mut second = accepted(&server).await;
    assert_eq!(second.offset(), 3);
    second.write(3, Bytes::from_static(b"def")).await.unwrap();
    assert_eq!(second.finish().await, Ok(Some(AT)));
    assert_eq!(lock(&server.node.snapshot).as_deref(), Some(&b"abcdef"[..]));
    server.stop().await;
}

#[tokio::test]
async fn whoever_does_not_take_a_snapshot_says_why() {
    let server = FakeServer::start().await;
    assert_eq!(refusal(&server, facts(2), 1).await, "no place for it");
    *lock(&server.node.snapshot) = Some(Vec::new());
    let foreign = Hello { cluster: 8, ..facts(2) };
    assert!(refusal(&server, foreign, 1).await.contains("belongs to cluster"));
    assert!(refusal(&server, facts(2), 7).await.contains("meant node 7 and reached node 1"));

    let mut sink = accepted(&server).await;
    sink.write(2, Bytes::from_static(b"hole")).await.unwrap();
    let why = sink.finish().await.unwrap_err();
    assert!(why.contains("a chunk at 2, expected one at 0"), "{why}");
    let address = server.address.clone();
    server.stop().await;
    assert!(offer_snapshot(&address, &facts(2), 1, offer()).await.is_err(), "nobody is there");
}

#[tokio::test]
async fn a_snapshot_is_fetched_from_the_first_endpoint_that_gives_it() {
    let server = FakeServer::start().await;
    let fetch = async |local| Client::new(["127.0.0.1:1", &server.address]).unwrap().download_snapshot(local).await;
    assert!(fetch(true).await.unwrap_err().to_string().contains("nothing to give"));
    *lock(&server.node.snapshot) = Some(b"abcdef".to_vec());
    assert!(fetch(false).await.unwrap_err().to_string().contains("no leader is known"));
    let mut download = fetch(true).await.unwrap();
    assert_eq!((download.head().node, &download.head().metadata), (1, &offer().metadata));
    let mut bytes = Vec::new();
    while let Some(chunk) = download.next().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(bytes, b"abcdef");
    server.stop().await;
}

#[tokio::test]
async fn a_fetch_of_the_wrong_length_or_that_breaks_off_never_ends_well() {
    let server = FakeServer::start().await;
    for (bytes, why) in [
        (&b"abcd"[..], "ends after 4 of 6 bytes"),
        (b"abcdefgh", "bytes 6 to 8 of a snapshot of 6 bytes"),
        (b"abc", "the disk is broken"),
    ] {
        *lock(&server.node.snapshot) = Some(bytes.to_vec());
        let mut download = Download::open(&server.address, true).await.unwrap();
        let error = loop {
            match download.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{why}: it ended well"),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains(why), "{error}");
    }
    server.stop().await;
}
