//! Round trips, golden bytes and limits of commands.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::Error;

fn put(key: &[u8], value: &[u8]) -> KvCommand {
    KvCommand::Put { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) }
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn span() -> impl Strategy<Value = KeySpan> {
    (bytes(), option::of(bytes())).prop_map(|(start, end)| KeySpan::new(start, end))
}

fn any_put() -> impl Strategy<Value = KvPut> {
    let lease = prop_oneof![
        Just(LeaseChoice::None),
        Just(LeaseChoice::Keep),
        any::<u64>().prop_map(LeaseChoice::Attach),
        any::<u64>().prop_map(LeaseChoice::Ttl),
    ];
    (bytes(), option::of(bytes()), lease, any::<bool>()).prop_map(|(key, value, lease, prev)| KvPut {
        key,
        value,
        lease,
        prev,
    })
}

fn any_delete() -> impl Strategy<Value = KvDelete> {
    (span(), any::<bool>()).prop_map(|(span, prev)| KvDelete::new(span, prev))
}

fn txn() -> impl Strategy<Value = KvTxn> {
    let relation =
        || prop::sample::select(vec![Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater]);
    let test = prop_oneof![
        (relation(), bytes()).prop_map(|(relation, value)| KvTest::Value(relation, value)),
        (relation(), any::<u64>()).prop_map(|(relation, number)| KvTest::Version(relation, number)),
        (relation(), any::<u64>()).prop_map(|(relation, number)| KvTest::CreateRevision(relation, number)),
        (relation(), any::<u64>()).prop_map(|(relation, number)| KvTest::ModRevision(relation, number)),
        (relation(), any::<u64>()).prop_map(|(relation, number)| KvTest::Lease(relation, number)),
        any::<bool>().prop_map(KvTest::Exists),
    ];
    let compare = (bytes(), test).prop_map(|(key, test)| KvCompare::new(key, test));
    let range = (span(), option::of(bytes()), any::<(u32, bool, bool, bool)>()).prop_map(
        |(span, after, (limit, reverse, keys_only, count_only))| KvRange {
            span,
            after,
            limit,
            reverse,
            keys_only,
            count_only,
        },
    );
    let operation =
        prop_oneof![any_put().prop_map(KvOp::Put), any_delete().prop_map(KvOp::Delete), range.prop_map(KvOp::Range)];
    let operations = vec(operation, 0..4).boxed();
    (vec(compare, 0..4), operations.clone(), operations)
        .prop_map(|(compares, then, otherwise)| KvTxn::new(compares, then, otherwise))
}

fn of_tables() -> impl Strategy<Value = KvCommand> {
    let mark = || any::<(u64, u64)>().prop_map(|(id, began)| LeaseMark { id, began });
    let time = (mark(), any::<u64>()).prop_map(|(mark, remaining_ms)| LeaseTime { mark, remaining_ms });
    prop_oneof![
        any::<(u64, u64)>().prop_map(|(id, ttl_ms)| KvCommand::LeaseGrant { id, ttl_ms }),
        any::<u64>().prop_map(|id| KvCommand::LeaseRevoke { id }),
        vec(any::<u64>(), 0..4).prop_map(|ids| KvCommand::LeaseKeepAlive { ids }),
        vec(mark(), 0..4).prop_map(|leases| KvCommand::LeaseExpire { leases }),
        vec(time, 0..4).prop_map(|leases| KvCommand::LeaseCheckpoint { leases }),
        Just(KvCommand::SessionOpen),
        any::<u64>().prop_map(|session| KvCommand::SessionClose { session }),
        any::<u32>().prop_map(|limit| KvCommand::SessionLimit { limit }),
    ]
}

fn command() -> impl Strategy<Value = KvCommand> {
    prop_oneof![
        any_put().prop_map(KvCommand::PutWith),
        any_delete().prop_map(KvCommand::DeleteRange),
        txn().prop_map(KvCommand::Txn),
        of_tables(),
        (bytes(), bytes()).prop_map(|(key, value)| KvCommand::Put { key, value }),
        bytes().prop_map(|key| KvCommand::Delete { key }),
        (bytes(), option::of(bytes()), option::of(bytes())).prop_map(|(key, expected, value)| KvCommand::Cas {
            key,
            expected,
            value
        }),
    ]
}

#[test]
fn command_bytes_of_version_1_stay_readable() {
    let delete = KvCommand::Delete { key: Bytes::from_static(b"k") };
    let cas = KvCommand::Cas { key: Bytes::from_static(b"k"), expected: None, value: Some(Bytes::from_static(b"v")) };
    let golden: [(KvCommand, &[u8]); 3] = [
        (put(b"k", b"vv"), b"\x01\x00\x01\x01\x00\x00\x00k\x02\x00\x00\x00vv"),
        (delete, b"\x01\x00\x02\x01\x00\x00\x00k"),
        (cas, b"\x01\x00\x03\x01\x00\x00\x00k\x00\x01\x01\x00\x00\x00v"),
    ];
    for (command, bytes) in golden {
        assert_eq!(command.encode(), bytes);
        assert_eq!(KvCommand::decode(bytes).unwrap(), command);
    }
}

fn number(n: u8) -> [u8; 8] {
    [n, 0, 0, 0, 0, 0, 0, 0]
}

#[test]
fn command_bytes_with_choices_stay_readable() {
    let put = KvPut::new("k", "v").lease(LeaseChoice::Attach(7)).prev();
    let put_fields = [&b"\x01\0\0\0k\x01\x01\0\0\0v\x05"[..], &number(7)].concat();
    let ttl_fields = [&b"\x01\0\0\0k\0\x08"[..], &number(9)].concat();
    let delete_fields = b"\x01\0\0\0a\x01\x01\0\0\0b\x01";
    let delete = KvDelete::new(KeySpan::prefix("a"), true);
    let range = KvOp::Range(KvRange { limit: 2, ..KvRange::new(KeySpan::ALL) });
    let txn = KvTxn::new(
        vec![
            KvCompare::new("k", KvTest::Value(Relation::NotEqual, "x".into())),
            KvCompare::new("k", KvTest::ModRevision(Relation::Less, 6)),
            KvCompare::new("k", KvTest::Exists(true)),
        ],
        vec![KvOp::Put(put.clone()), KvOp::Delete(delete.clone())],
        vec![range],
    );
    let txn_fields = [
        &b"\x03\0\0\0"[..],
        b"\x01\0\0\0k\x01\x01\x01\0\0\0x",
        &[&b"\x01\0\0\0k\x04\x02"[..], &number(6)].concat(),
        b"\x01\0\0\0k\x06\x01",
        b"\x02\0\0\0\x01",
        &put_fields,
        b"\x02",
        delete_fields,
        b"\x01\0\0\0\x03\0\0\0\0\0\x02\0\0\0\0",
    ]
    .concat();
    let mark = LeaseMark { id: 3, began: 4 };
    let golden = [
        (KvCommand::PutWith(put), 4, put_fields),
        (KvCommand::PutWith(KvPut::keep_value("k").lease(LeaseChoice::Ttl(9))), 4, ttl_fields),
        (KvCommand::DeleteRange(delete), 5, delete_fields.to_vec()),
        (KvCommand::Txn(txn), 6, txn_fields),
        (KvCommand::LeaseGrant { id: 3, ttl_ms: 4 }, 7, [number(3), number(4)].concat()),
        (KvCommand::LeaseRevoke { id: 3 }, 8, number(3).to_vec()),
        (KvCommand::LeaseKeepAlive { ids: vec![3] }, 9, [&[1, 0, 0, 0][..], &number(3)].concat()),
        (KvCommand::LeaseExpire { leases: vec![mark] }, 10, [&[1, 0, 0, 0][..], &number(3), &number(4)].concat()),
        (
            KvCommand::LeaseCheckpoint { leases: vec![LeaseTime { mark, remaining_ms: 5 }] },
            11,
            [&[1, 0, 0, 0][..], &number(3), &number(4), &number(5)].concat(),
        ),
        (KvCommand::SessionOpen, 12, Vec::new()),
        (KvCommand::SessionClose { session: 3 }, 13, number(3).to_vec()),
        (KvCommand::SessionLimit { limit: 3 }, 14, vec![3, 0, 0, 0]),
    ];
    let header = SessionHeader { session: 1, sequence: 3, lowest: 2 };
    for (command, tag, fields) in golden {
        let plain = [&[1, 0, tag][..], &fields].concat();
        assert_eq!(command.encode(), plain, "{command:?}");
        assert_eq!(KvCommand::decode(&plain).unwrap(), command);
        let in_session = [&[1, 1, tag][..], &number(1), &number(3), &number(2), &fields].concat();
        let request = KvRequest::new(command, Some(header));
        assert_eq!(request.encode(), in_session);
        assert_eq!(header.attach(&plain).unwrap(), in_session);
        assert_eq!(KvRequest::decode_bytes(in_session.into()).unwrap(), request);
    }
}

#[test]
fn a_session_header_is_replaced_and_must_make_sense() {
    let first = SessionHeader { session: 1, sequence: 3, lowest: 2 };
    let second = SessionHeader { session: 1, sequence: 3, lowest: 3 };
    let command = put(b"k", b"v");
    let bytes = second.attach(&first.attach(&command.encode()).unwrap()).unwrap();
    assert_eq!(KvRequest::decode_bytes(bytes.clone()).unwrap(), KvRequest::new(command.clone(), Some(second)));
    assert!(matches!(KvCommand::decode_bytes(bytes), Err(Error::Unsupported { .. })), "a bare command has none");
    for (sequence, lowest) in [(0, 0), (1, 0), (1, 2)] {
        let wrong = SessionHeader { session: 1, sequence, lowest };
        let bytes = KvRequest::new(command.clone(), Some(wrong)).encode();
        assert!(matches!(KvRequest::decode_bytes(bytes), Err(Error::Corrupt { .. })), "{wrong:?}");
    }
}

#[test]
fn leases_and_sessions_have_limits() {
    let grant = |ttl_ms| KvCommand::LeaseGrant { id: 0, ttl_ms }.check(0);
    let invalid = |ttl_ms| Err(KvReject::InvalidTtl { ttl_ms, limit_ms: MAX_TTL_MS });
    assert_eq!((grant(1), grant(MAX_TTL_MS)), (Ok(()), Ok(())));
    assert_eq!((grant(0), grant(MAX_TTL_MS + 1)), (invalid(0), invalid(MAX_TTL_MS + 1)));
    let keep = |len| KvCommand::LeaseKeepAlive { ids: vec![1; len] }.check(0);
    let too_many = KvReject::TooManyLeases { len: MAX_LEASES as u64 + 1, limit: MAX_LEASES as u64 };
    assert_eq!((keep(MAX_LEASES), keep(MAX_LEASES + 1)), (Ok(()), Err(too_many)));
    assert!(KvCommand::SessionLimit { limit: 0 }.check(0).is_err());
}

#[test]
fn what_a_newer_version_writes_is_unsupported_and_what_none_writes_is_corrupt() {
    let good = put(b"key", b"value").encode();
    for (place, byte) in [(0, 2), (0, 255), (1, 1), (1, 0x80), (2, 0), (2, 99)] {
        let mut newer = good.to_vec();
        newer[place] = byte;
        let error = KvCommand::decode(&newer).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "byte {place} = {byte}: {error}");
    }
    let mut never = good.to_vec();
    never[0] = 0;
    assert!(matches!(KvCommand::decode(&never), Err(Error::Corrupt { .. })));
    for len in 0..good.len() {
        assert!(matches!(KvCommand::decode(&good[..len]), Err(Error::Corrupt { .. })), "cut to {len}");
    }
    never = good.to_vec();
    never.push(0);
    assert!(matches!(KvCommand::decode(&never), Err(Error::Corrupt { .. })));
}

#[test]
fn a_huge_length_is_refused_without_an_allocation() {
    let bytes = b"\x01\x00\x01\xff\xff\xff\xffk";
    assert!(matches!(KvCommand::decode(bytes), Err(Error::Corrupt { .. })));
}

#[test]
fn limits_of_keys_and_values_are_exact() {
    assert_eq!(put(&[1; MAX_KEY_LEN], b"12").check(2), Ok(()));
    assert_eq!(put(b"", b"").check(2), Err(KvReject::EmptyKey));
    let too_long = MAX_KEY_LEN as u64 + 1;
    assert_eq!(
        put(&[1; MAX_KEY_LEN + 1], b"").check(2),
        Err(KvReject::KeyTooLarge { len: too_long, limit: too_long - 1 })
    );
    let value_too_large = Err(KvReject::ValueTooLarge { len: 3, limit: 2 });
    assert_eq!(put(b"k", b"123").check(2), value_too_large);
    let cas = |expected, value| KvCommand::Cas { key: Bytes::from_static(b"k"), expected, value }.check(2);
    assert_eq!(cas(Some(Bytes::from_static(b"123")), None), value_too_large);
    assert_eq!(cas(None, Some(Bytes::from_static(b"123"))), value_too_large);
    assert_eq!(cas(None, None), Ok(()));
}

proptest! {
    #[test]
    fn commands_survive_their_encoding(command in command()) {
        let bytes = command.encode();
        prop_assert_eq!(&KvCommand::decode_bytes(bytes.clone()).unwrap(), &command);
        prop_assert_eq!(&KvCommand::decode(&bytes).unwrap(), &command);
        prop_assert!((0..bytes.len()).all(|len| KvCommand::decode(&bytes[..len]).is_err()));
        prop_assert_eq!(KvRequest::decode_bytes(bytes).unwrap(), KvRequest::from(command));
    }

    #[test]
    fn an_encoded_put_is_read_in_place_as_it_is_decoded(
        session in option::of((0u64..3, 0u64..3, 0u64..3)), put in any::<bool>(), command in command(),
        cut in 0usize..4, more in vec(any::<u8>(), 0..2)
    ) {
        let header = session.map(|(session, sequence, lowest)| SessionHeader { session, sequence, lowest });
        let a_put = KvCommand::Put { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"value") };
        let whole = KvRequest::new(if put { a_put } else { command }, header).encode();
        let bytes = [&whole[..whole.len() - cut.min(whole.len())], &more].concat();
        let decoded = match KvRequest::decode_bytes(bytes.clone().into()) {
            Ok(KvRequest { session, command: KvCommand::Put { key, value } }) => Some((session, key, value)),
            _ => None,
        };
        let read = EncodedPut::of(&bytes).map(|EncodedPut { session, key, value }| {
            (session, Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
        });
        prop_assert_eq!(read, decoded);
    }

    #[test]
    fn arbitrary_bytes_never_panic(tag in 0u8..16, flags in 0u8..2, tail in vec(any::<u8>(), 0..64), raw in vec(any::<u8>(), 0..64)) {
        let mut framed = std::vec![1, flags, tag];
        framed.extend_from_slice(&tail);
        if let Ok(request) = KvRequest::decode_bytes(framed.clone().into()) {
            prop_assert_eq!(request.encode(), framed, "one request has one encoding");
            let _ = request.command.check(5);
        }
        let _ = KvRequest::decode_bytes(raw.into());
    }
}
