//! The inputs that fuzzing begins with: small, of every kind that the formats have, always the same.

use d_engine_core::snapshot::{SnapshotCompression, SnapshotHeader, SnapshotWriter};
use d_engine_core::{
    ClusterSettings, Entry, EntryKind, HardState, Identity, LogId, Member, MemberKind, Membership, slot,
};
use d_engine_net::fuzzing;
use d_engine_raft::{Append, AppendOutcome, AppendReply, Body, Message, VoteRequest};

/// The seeds of a target, in order; none for a name that is no target.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "entry" => entry(),
        "wal" => wal(),
        "slot" => slots(),
        "snapshot" => snapshot(),
        "command" => command(),
        "machine" => machine(),
        "wire" => wire(),
        "raft" => any(25, 40..400),
        "config" => config(),
        _ => Vec::new(),
    }
}

/// Byte strings without a meaning.
fn any(count: u64, len: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    (1..=count)
        .map(|seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            let len = random.usize(len.clone());
            std::iter::repeat_with(|| random.u8(..)).take(len).collect()
        })
        .collect()
}

fn membership(kinds: &[MemberKind]) -> Membership {
    let member =
        |(node, kind): (u64, &MemberKind)| Member::new(node, 100 + u128::from(node), format!("n{node}:1"), *kind);
    Membership::new(7, (1..).zip(kinds).map(member).collect(), ClusterSettings::new(500, 500, 1))
}

fn entry() -> Vec<Vec<u8>> {
    let identity = Identity::unformed(1, 101);
    let memberships = [
        membership(&[]),
        membership(&[MemberKind::Voter]),
        membership(&[MemberKind::Voter, MemberKind::Learner, MemberKind::Joining]),
        membership(&[MemberKind::Leaving, MemberKind::Demoting]),
    ];
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for kind in [EntryKind::Command, EntryKind::Noop, EntryKind::Membership] {
        for data in [&b""[..], b"x", b"a longer command"] {
            seeds.push(Entry::new(3, 2, kind, data).encode().to_vec());
        }
    }
    for state in [
        HardState::default(),
        HardState::new(3, Some(1), None),
        HardState::new(u64::MAX, None, Some(identity)),
        HardState::new(4, Some(2), Some(identity.form(7))),
    ] {
        seeds.push(state.encode().to_vec());
    }
    seeds.extend(memberships.map(|membership| membership.encode().to_vec()));
    seeds.push(vec![0; 28]);
    seeds
}

/// Programs of changes to the log of `sound_log`.
fn wal() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0], vec![1]];
    for mended in [0, 1] {
        for kind in [0, 1, 2, 20, 21, 22, 24, 25, 26, 28, 29, 30] {
            seeds.push(vec![mended, 0, kind, 12, 0, 3]);
            seeds.push(vec![mended, 1, kind, 24, 1, 0xff, 1, 2, 3, 4, 5, 6, 7]);
        }
    }
    seeds.extend(any(10, 6..40));
    seeds
}

fn slots() -> Vec<Vec<u8>> {
    let mut seeds = any(12, 0..120);
    seeds.push(slot::new_file(*b"fuzz", b"payload").expect("the payload is short")[..slot::SLOT_LEN].to_vec());
    seeds
}

fn snapshot() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for count in [0_u8, 1, 2, 5, 20] {
        for len in [0, 1, 30] {
            let header = SnapshotHeader::new(LogId::new(2, 9), 4);
            let mut writer = SnapshotWriter::new(Vec::new(), header).expect("memory takes it");
            for key in 0..count {
                writer.push(&[b'k', key], &vec![key; len]).expect("the keys ascend");
            }
            seeds.push(writer.finish().expect("memory takes it").0);
        }
    }
    let mut writer =
        SnapshotWriter::new(Vec::new(), SnapshotHeader::new(LogId::new(2, 9), 4)).expect("memory takes it");
    writer = writer.with_compression(SnapshotCompression::Lz4);
    for key in 0..40_u8 {
        writer.push(&[b'k', key], &[b'v'; 30]).expect("the keys ascend");
    }
    seeds.push(writer.finish().expect("memory takes it").0);
    let cut = seeds[7].len() / 2;
    seeds.push(seeds[7][..cut].to_vec());
    seeds
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Commands of version 1 by their format: versions that are to come will still read them.
fn commands() -> Vec<Vec<u8>> {
    let mut commands = Vec::new();
    for (key, value) in [(&b"k"[..], &b"v"[..]), (b"key", b""), (b"", b"v")] {
        let mut put = vec![1, 0, 1];
        field(&mut put, key);
        field(&mut put, value);
        let mut delete = vec![1, 0, 2];
        field(&mut delete, key);
        commands.extend([put, delete]);
        for (expected, new) in [(None, Some(value)), (Some(value), None), (Some(value), Some(value))] {
            let mut cas = vec![1, 0, 3];
            field(&mut cas, key);
            for option in [expected, new] {
                cas.push(u8::from(option.is_some()));
                if let Some(bytes) = option {
                    field(&mut cas, bytes);
                }
            }
            commands.push(cas);
        }
    }
    commands
}

fn command() -> Vec<Vec<u8>> {
    let mut seeds = commands();
    // Outcomes, queries and answers begin in the same way.
    for tag in 0..8 {
        seeds.push([&[1, 0, tag][..], &[0; 24]].concat());
        seeds.push([&[1, 0, tag][..], &[1, 0, 0, 0, b'k', 1, 1, 0, 0, 0, b'v', 2, 0, 0, 0, 0, 0, 0, 0, 1]].concat());
    }
    seeds
}

fn machine() -> Vec<Vec<u8>> {
    let commands = commands();
    let framed = |cut: u8, command: &Vec<u8>| [&[command.len() as u8 | cut][..], command].concat();
    let mut seeds: Vec<Vec<u8>> = commands.iter().map(|command| framed(0, command)).collect();
    seeds.push(commands.iter().flat_map(|command| framed(0, command)).collect());
    seeds.push(commands.iter().rev().flat_map(|command| framed(0x40, command)).collect());
    seeds.extend(any(5, 10..200));
    seeds
}

fn wire() -> Vec<Vec<u8>> {
    let last = LogId::new(2, 9);
    let entry = Entry::new(10, 2, EntryKind::Command, b"x");
    let append = |entries: Vec<Entry>| Append {
        session: 1,
        prev: last,
        commit: 8,
        matched: 3,
        receiver: 101,
        round: 4,
        entries,
    };
    let reply = |outcome| Body::AppendReply(AppendReply { session: 1, round: 4, outcome });
    let bodies = [
        Body::FormationProbe,
        Body::FormationEmpty,
        Body::FormationRefused,
        Body::Formation(entry.clone()),
        Body::PreVote { next_term: 3, round: 1, last },
        Body::PreVoteReply { round: 1, granted: true },
        Body::RequestVote(VoteRequest { last, transfer: true }),
        Body::VoteReply { granted: true },
        Body::Append(append(vec![])),
        Body::Append(append(vec![entry.clone(), Entry::new(11, 2, EntryKind::Noop, b"")])),
        reply(AppendOutcome::Pending),
        reply(AppendOutcome::Stale),
        reply(AppendOutcome::Accepted { matched: 9 }),
        reply(AppendOutcome::Rejected { prev: 9, hint: LogId::new(1, 4) }),
        Body::TimeoutNow { session: 1 },
        Body::Welcome { cluster: 7, receiver: 101 },
        Body::ReadIndex { nonce: 5, counter: 6 },
        Body::ReadIndexReply { nonce: 5, counter: 6, index: Some(9) },
    ];
    let mut seeds: Vec<Vec<u8>> = bodies
        .into_iter()
        .enumerate()
        .map(|(number, body)| {
            let incarnation = 101 + u128::from(number % 2 == 0);
            fuzzing::message_bytes(Message { term: 2, incarnation, group: 0, body })
        })
        .collect();
    seeds.extend(any(4, 4..60));
    seeds
}

fn config() -> Vec<Vec<u8>> {
    [
        "",
        "[node]\nid = 1\n",
        "[node]\nid = 2\nlisten = \"127.0.0.1:9081\"\ndata_dir = \"n2\"\n[cluster]\npeers = [\"1=a:1\", \"2=b:1\"]\n",
        "[cluster]\npeers = \"1=a:1,2=b:1\"\nallow_unsafe_voters = true\n",
        "[raft]\nelection_timeout_min_ms = 300\nelection_timeout_max_ms = 600\nheartbeat_interval_ms = 50\n",
        "[raft]\nelection_timeout_min_ms = 18446744073709551615\n",
        "[raft]\nelection_timeout_min_ms = -1\nheartbeat_interval_ms = 1.5\n",
        "[raft]\nelecton_timeout_min_ms = 300\n",
        "raft = 1\n[nod]\n",
        "[node\nid = ",
        "[node]\nid = 1\nid = 2\n",
        "[limits]\nrequest_timeout_ms = 0\n",
        "NODE__ID=3\nRAFT__HEARTBEAT_INTERVAL_MS=ten\nCLUSTER__PEERS=1=a:1\n",
        "[node]\nadvertise = \"\u{e4}\\u0000:99999\"\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}
