use std::io::Cursor;

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::section::{FLAG_LZ4, SECTION_HEADER_LEN};
use super::*;

type Records = Vec<(Vec<u8>, Vec<u8>)>;

fn write(records: &Records) -> (Vec<u8>, SnapshotFooter) {
    write_with(SnapshotCompression::None, records)
}

fn write_with(compression: SnapshotCompression, records: &Records) -> (Vec<u8>, SnapshotFooter) {
    let header = SnapshotHeader::new(LogId::new(3, 70), 41);
    let mut writer = SnapshotWriter::new(Vec::new(), header).unwrap().with_compression(compression);
    for (key, value) in records {
        writer.push(key, value).unwrap();
    }
    writer.finish().unwrap()
}

fn read(bytes: &[u8]) -> Result<(SnapshotHeader, Records, SnapshotFooter)> {
    let mut reader = SnapshotReader::new(bytes)?;
    let mut records = Vec::new();
    for record in &mut reader {
        let (key, value) = record?;
        records.push((key.to_vec(), value.to_vec()));
    }
    Ok((reader.header(), records, reader.footer().unwrap().clone()))
}

fn small() -> Records {
    vec![(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), Vec::new()), (b"ba".to_vec(), b"xyz".to_vec())]
}

/// Puts a right checksum over a changed section.
fn reseal(bytes: &mut [u8], offset: usize, len: usize) {
    let sum = checksum(&[&bytes[offset + 4..offset + len]]);
    bytes[offset..offset + 4].copy_from_slice(&sum.to_le_bytes());
}

fn from_hex(hex: &[&str]) -> Vec<u8> {
    let hex = hex.concat();
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}

#[test]
fn bytes_of_version_1_stay_readable() {
    let (header, records, footer) = read(&from_hex(&GOLDEN)).unwrap();
    assert_eq!(header, SnapshotHeader::new(LogId::new(3, 70), 41));
    assert_eq!(records, small());
    assert_eq!((footer.records, footer.bytes, footer.blocks.len()), (3, 32, 1));
    let hex: String = write(&small()).0.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, GOLDEN.concat(), "what is written now");
}

#[test]
fn compressed_bytes_of_version_1_stay_readable() {
    let (_, records, footer) = read(&from_hex(&GOLDEN_LZ4)).unwrap();
    assert_eq!(records, alike(6));
    assert_eq!((footer.records, footer.bytes, footer.blocks[0].len), (6, 198, 71));
    assert_eq!(footer.digest, write(&records).1.digest, "the digest is of what was compressed");
}

// Made from the description above by other code.
const GOLDEN: [&str; 6] = [
    "64656e67736e61700100000003000000000000004600000000000000290000000000000086db4367",
    "26b27fba01000000200000002000000003000000010000000100000061310100000000000000620200000003000000626178",
    "797a",
    "bd08f7a602000000480000004800000000000000030000000000000020000000000000005583d1cdbb2fbeb3dfbe7c81dd7d",
    "8ba5d5fef4c4bfb655516acb3fad78e91d78010000002800000000000000340000000300000026b27fba",
    "5c00000000000000e039ab6764656e6773656e64",
];

// Made from the description by other code, with the LZ4 of the reference implementation.
const GOLDEN_LZ4: [&str; 5] = [
    "64656e67736e61700100000003000000000000004600000000000000290000000000000086db4367b02e9cac010100003300",
    "0000c600000006000000ef05000000140000006b65793030760100000821001f3121000d1f3221000d1f3321000d1f342100",
    "0d1b351c005076767676765df5ab66020000004800000048000000000000000600000000000000c600000000000000257cbd",
    "4409ddeb5e17b79d3cee7052dd87231adc7b143268dcdb32cebb58cd2a0100000028000000000000004700000006000000b0",
    "2e9cac6f000000000000007e6de96c64656e6773656e64",
];

/// Records that compress.
fn alike(count: u32) -> Records {
    (0..count).map(|n| (format!("key{n:02}").into_bytes(), vec![b'v'; 20])).collect()
}

#[test]
fn every_changed_bit_is_noticed() {
    for good in [write(&small()).0, write_with(SnapshotCompression::Lz4, &alike(20)).0] {
        every_changed_bit_of(&good);
    }
}

fn every_changed_bit_of(good: &[u8]) {
    for bit in 0..good.len() * 8 {
        let mut bad = good.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&bad).is_err(), "bit {} of byte {}", bit % 8, bit / 8);
    }
}

#[test]
fn every_cut_and_every_extra_byte_is_noticed() {
    for good in [write(&small()).0, write_with(SnapshotCompression::Lz4, &alike(20)).0] {
        every_cut_of(&good);
    }
}

fn every_cut_of(good: &[u8]) {
    for len in 0..good.len() {
        assert!(matches!(read(&good[..len]), Err(Error::Corrupt { .. })), "cut to {len}");
        assert!(SnapshotFooter::read(&mut Cursor::new(&good[..len])).is_err(), "footer of {len} bytes");
    }
    assert!(matches!(read(&[good, b"x"].concat()), Err(Error::Corrupt { .. })));
}

#[test]
fn the_footer_is_found_from_the_end() {
    for records in [Vec::new(), small()] {
        let (bytes, footer) = write(&records);
        assert_eq!(SnapshotFooter::read(&mut Cursor::new(&bytes)).unwrap(), footer);
    }
}

#[test]
fn newer_versions_and_flags_are_unsupported_not_corrupt() {
    let (good, footer) = write(&small());
    for (at, len) in [(footer.blocks[0].offset as usize, footer.blocks[0].len as usize), (HEADER_LEN + 52, 92)] {
        let mut flagged = good.clone();
        // Of the footer, LZ4 is an unknown flag too.
        flagged[at + 5] = if at == HEADER_LEN { 2 } else { FLAG_LZ4 };
        reseal(&mut flagged, at, len);
        assert!(matches!(read(&flagged), Err(Error::Unsupported { .. })), "part at byte {at}");
    }
    let mut newer = good;
    newer[8] = 2;
    let sum = checksum(&[&newer[..36]]);
    newer[36..40].copy_from_slice(&sum.to_le_bytes());
    assert!(matches!(read(&newer), Err(Error::Unsupported { .. })));
}

#[test]
fn compressed_blocks_are_no_larger_and_what_does_not_shrink_stays_as_it_is() {
    let mut random = fastrand::Rng::with_seed(1);
    let noise: Records = (0..30u8).map(|n| (vec![n], (0..100_000).map(|_| random.u8(..)).collect())).collect();
    let (plain, plain_footer) = write(&noise);
    let (packed, footer) = write_with(SnapshotCompression::Lz4, &noise);
    assert_eq!((packed, footer), (plain, plain_footer), "nothing of it shrinks");

    let mut records: Records = (0..30u8).map(|n| (vec![n], vec![n; 100_000])).collect();
    records.push((vec![30], vec![30; 3 * BLOCK_LEN_MAX]));
    let (plain, plain_footer) = write(&records);
    let (packed, footer) = write_with(SnapshotCompression::Lz4, &records);
    assert!(packed.len() < plain.len() / 50, "{} of {} bytes", packed.len(), plain.len());
    let blocks = |footer: &SnapshotFooter| footer.blocks.iter().map(|block| block.records).collect::<Vec<_>>();
    assert_eq!(blocks(&footer), blocks(&plain_footer), "the limit counts before compression");
    assert_eq!((footer.records, footer.bytes, footer.digest), (31, plain_footer.bytes, plain_footer.digest));
    assert_eq!(SnapshotFooter::read(&mut Cursor::new(&packed)).unwrap(), footer);
    let (_, found, found_footer) = read(&packed).unwrap();
    assert_eq!((found, found_footer), (records, footer));
}

#[test]
fn compressed_blocks_that_claim_another_length_are_corrupt_and_allocate_nothing_large() {
    let (good, footer) = write_with(SnapshotCompression::Lz4, &alike(20));
    let block = footer.blocks[0];
    let (at, len) = (block.offset as usize, block.len as usize);
    let raw_len = u32::from_le_bytes(good[at + 12..at + 16].try_into().unwrap());
    let stored_len = block.len - SECTION_HEADER_LEN as u32;
    let claims = [0, stored_len, raw_len - 1, raw_len + 1, stored_len * 255 + 1, BLOCK_LEN_MAX as u32, u32::MAX];
    for claimed in claims {
        for records in [1, block.records] {
            let mut bad = good.clone();
            bad[at + 12..at + 16].copy_from_slice(&claimed.to_le_bytes());
            bad[at + 16..at + 20].copy_from_slice(&records.to_le_bytes());
            reseal(&mut bad, at, len);
            assert!(matches!(read(&bad), Err(Error::Corrupt { .. })), "{records} records of {claimed} bytes");
        }
    }
    let mut not_lz4 = good;
    not_lz4[at + SECTION_HEADER_LEN..at + len].fill(0xff);
    reseal(&mut not_lz4, at, len);
    assert!(matches!(read(&not_lz4), Err(Error::Corrupt { .. })));
}

#[test]
fn a_record_swapped_for_another_with_a_right_checksum_is_noticed_by_the_digest() {
    let (mut bytes, footer) = write(&small());
    let block = footer.blocks[0];
    let value_at = block.offset as usize + SECTION_HEADER_LEN + RECORD_HEADER_LEN + 1;
    assert_eq!(bytes[value_at], b'1');
    bytes[value_at] = b'2';
    reseal(&mut bytes, block.offset as usize, block.len as usize);
    assert!(matches!(read(&bytes), Err(Error::Corrupt { .. })));
}

#[test]
fn a_damaged_length_neither_allocates_nor_reads_on() {
    let (mut bytes, footer) = write(&small());
    let at = footer.blocks[0].offset as usize + 8;
    bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(read(&bytes), Err(Error::Corrupt { .. })));
}

#[test]
fn keys_out_of_order_are_refused_in_both_directions() {
    let mut writer = SnapshotWriter::new(Vec::new(), SnapshotHeader::default()).unwrap();
    writer.push(b"b", b"").unwrap();
    assert!(matches!(writer.push(b"b", b""), Err(Error::Invalid { .. })));
    assert!(matches!(writer.push(b"a", b""), Err(Error::Invalid { .. })));
    writer.push(b"c", b"").unwrap();
    let (mut bytes, footer) = writer.finish().unwrap();
    assert_eq!(footer.records, 2);

    let block = footer.blocks[0];
    let second_key = block.offset as usize + SECTION_HEADER_LEN + 2 * RECORD_HEADER_LEN + 1;
    assert_eq!(bytes[second_key], b'c');
    bytes[second_key] = b'a';
    reseal(&mut bytes, block.offset as usize, block.len as usize);
    let found = SnapshotReader::new(&bytes[..]).unwrap().find_map(Result::err);
    assert!(matches!(found, Some(Error::Corrupt { place, .. }) if place.contains("not above")));
}

#[test]
fn blocks_stay_within_a_mebibyte_and_a_larger_record_stands_alone() {
    let mut records: Records = (0..40u8).map(|n| (vec![n], vec![n; 100_000])).collect();
    records.push((vec![40], vec![40; 3 * BLOCK_LEN_MAX]));
    records.push((vec![41], Vec::new()));
    let (bytes, footer) = write(&records);
    for block in &footer.blocks {
        assert!(block.len as usize <= BLOCK_LEN_MAX || block.records == 1);
    }
    assert_eq!(footer.blocks.iter().map(|block| block.records).collect::<Vec<_>>(), [10, 10, 10, 10, 1, 1]);
    let (_, found, found_footer) = read(&bytes).unwrap();
    assert_eq!((found, found_footer), (records, footer));
}

#[test]
fn the_checksum_writer_hashes_what_arrives() {
    let (bytes, _) = write(&small());
    let mut writer = ChecksumWriter::new(Vec::new());
    writer.write_all(&bytes).unwrap();
    let (out, checksum) = writer.finish();
    assert_eq!(out, bytes);
    assert_eq!(checksum.as_ref(), Sha256::digest(&bytes).as_slice());
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        map in prop::collection::btree_map(
            prop::collection::vec(any::<u8>(), 0..20),
            prop::collection::vec(any::<u8>(), 0..50),
            0..50,
        ),
        is_compressed: bool,
    ) {
        let records: Records = map.into_iter().collect();
        let compression = if is_compressed { SnapshotCompression::Lz4 } else { SnapshotCompression::None };
        let (bytes, footer) = write_with(compression, &records);
        let (_, found, found_footer) = read(&bytes).unwrap();
        prop_assert_eq!(&found, &records);
        prop_assert_eq!(&found_footer, &footer);
        prop_assert_eq!(footer.digest, write(&records).1.digest);
    }

    #[test]
    fn garbage_is_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read(&bytes).is_err());
        prop_assert!(SnapshotFooter::read(&mut Cursor::new(&bytes)).is_err());
    }
}
