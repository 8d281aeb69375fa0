//! Archives are whole or refused.

use std::fs;

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{ClusterSettings, LogId, Member, MemberKind, Membership};
use d_engine_net::{SnapshotHead, SnapshotSource};

use super::*;

/// A snapshot of a few bytes, which may be other ones than announced.
struct Given {
    announced: &'static [u8],
    chunks: Vec<&'static [u8]>,
}

#[async_trait]
impl SnapshotSource for Given {
    fn head(&self) -> SnapshotHead {
        let member = Member::new(1, 10, "a:1", MemberKind::Voter);
        let membership = Membership::new(7, vec![member], ClusterSettings::new(500, 500, 1));
        let mut sum = ChecksumWriter::new(std::io::sink());
        std::io::Write::write_all(&mut sum, self.announced).unwrap();
        let digest = sum.finish().1;
        let metadata = SnapshotMetadata::new(LogId::new(3, 9), membership, digest, self.announced.len() as u64);
        SnapshotHead { node: 1, metadata, digest }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        if self.chunks.is_empty() { Ok(None) } else { Ok(Some(Bytes::from_static(self.chunks.remove(0)))) }
    }
}

async fn save_to(path: &Path, chunks: Vec<&'static [u8]>, options: SaveOptions) -> Result<Archive> {
    save(Box::new(Given { announced: b"snapshot", chunks }), path, options, |_, _| {}).await
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn what_is_saved_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let saved = save_to(&path, vec![b"snap", b"shot"], SaveOptions::default()).await.unwrap();
    let mut found = Archive::open(&path).unwrap();
    assert_eq!((saved.checksum(), saved.head(), saved.path()), (found.checksum(), found.head(), &*path));
    assert_eq!(found.head().metadata.last_included, LogId::new(3, 9));
    let mut bytes = Vec::new();
    found.snapshot().unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"snapshot");
    assert_eq!(names(dir.path()), ["a"]);
}

#[tokio::test]
async fn an_existing_file_stays_unless_it_is_to_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, b"mine").unwrap();
    let error = save_to(&path, vec![b"snapshot"], SaveOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("a file of this name already"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    save_to(&path, vec![b"snapshot"], SaveOptions::default().replacing()).await.unwrap();
    assert!(Archive::open(&path).is_ok());
    assert!(save_to(dir.path(), vec![], SaveOptions::default().replacing()).await.is_err(), "a directory");
}

#[tokio::test]
async fn what_is_not_what_was_announced_gets_no_name() {
    let dir = tempfile::tempdir().unwrap();
    for chunks in [vec![&b"snapshoT"[..]], vec![b"snap"], vec![b"snapshot", b"s"]] {
        let error = save_to(&dir.path().join("a"), chunks, SaveOptions::default()).await.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        assert_eq!(names(dir.path()), [""; 0]);
    }
}

#[tokio::test]
async fn every_changed_bit_and_every_cut_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    save_to(&path, vec![b"snapshot"], SaveOptions::default()).await.unwrap();
    let good = fs::read(&path).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        let error = Archive::open(&path).expect_err(what);
        assert!(error.to_string().contains(&*path.to_string_lossy()), "{what}: {error}");
        error
    };
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let error = refused(&bad, &format!("bit {bit}"));
        let expected =
            if bit < 64 { matches!(error, Error::Invalid { .. }) } else { matches!(error, Error::Corrupt { .. }) };
        assert!(expected, "bit {bit}: {error}");
    }
    for len in 0..good.len() {
        refused(&good[..len], &format!("cut to {len} bytes"));
    }
    refused(&[&good[..], b"x"].concat(), "a byte more");
    assert!(Archive::open(dir.path()).is_err(), "a directory");
}

#[tokio::test]
async fn a_newer_version_is_not_called_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    save_to(&path, vec![b"snapshot"], SaveOptions::default()).await.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    bytes[8] = 2;
    let sum = checksum(&[&bytes[..16], &bytes[PREFIX_LEN..PREFIX_LEN + len]]);
    bytes[16..20].copy_from_slice(&sum.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    assert!(matches!(Archive::open(&path), Err(Error::Unsupported { what }) if what.contains("archive version 2")));
}

#[test]
fn bytes_of_version_1_stay_readable() {
    let bytes = include_bytes!("../../tests/golden/archive-1.bin");
    let path = tempfile::NamedTempFile::new().unwrap();
    fs::write(path.path(), bytes).unwrap();
    let archive = Archive::open(path.path()).unwrap();
    let head = archive.head();
    assert_eq!((head.saved_ms, head.node, head.metadata.cluster, head.metadata.size), (1_700_000_000_000, 1, 7, 8));
}
