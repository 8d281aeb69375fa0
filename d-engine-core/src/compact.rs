//! Short byte strings in one allocation.
//!
//! `Bytes` made from a vector keep their reference count in a second allocation as soon as they are cloned. A state of
//! millions of small records then has twice as many allocations as records, and each clone and each drop visits a cache line
//! that nothing else needs.

use bytes::Bytes;

/// A byte string of at most `N` bytes that lies beside the reference count which `Bytes` give their owner.
struct Inline<const N: usize> {
    len: u16,
    bytes: [u8; N],
}

impl<const N: usize> AsRef<[u8]> for Inline<N> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

fn inline<const N: usize>(parts: &[&[u8]], len: usize) -> Bytes {
    let mut owner = Inline { len: len as u16, bytes: [0; N] };
    let mut rest = &mut owner.bytes[..];
    for part in parts {
        let (here, behind) = rest.split_at_mut(part.len());
        here.copy_from_slice(part);
        rest = behind;
    }
    Bytes::from_owner(owner)
}

/// A copy of a pair, key and value in one allocation as of [`compact_bytes`]: for pairs that are kept long and share the memory
/// of something larger.
pub fn compact_pair(key: &[u8], value: &[u8]) -> (Bytes, Bytes) {
    let mut key_and_value = compact_bytes(&[key, value]);
    let value = key_and_value.split_off(key.len());
    (key_and_value, value)
}

/// A copy of the parts, one behind the other. Up to half a KiB it is one allocation however often it is cloned and sliced;
/// at most a fifth of it, or sixteen bytes, is unused.
pub fn compact_bytes(parts: &[&[u8]]) -> Bytes {
    let len = parts.iter().map(|part| part.len()).sum();
    // With the count and the length in front, each fills a size that allocators have.
    match len {
        0 => Bytes::new(),
        1..=30 => inline::<30>(parts, len),
        31..=46 => inline::<46>(parts, len),
        47..=62 => inline::<62>(parts, len),
        63..=78 => inline::<78>(parts, len),
        79..=94 => inline::<94>(parts, len),
        95..=110 => inline::<110>(parts, len),
        111..=126 => inline::<126>(parts, len),
        127..=158 => inline::<158>(parts, len),
        159..=190 => inline::<190>(parts, len),
        191..=222 => inline::<222>(parts, len),
        223..=254 => inline::<254>(parts, len),
        255..=286 => inline::<286>(parts, len),
        287..=318 => inline::<318>(parts, len),
        319..=382 => inline::<382>(parts, len),
        383..=446 => inline::<446>(parts, len),
        447..=510 => inline::<510>(parts, len),
        _ => parts.concat().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_every_length_come_back_as_one_string() {
        let text: Vec<u8> = (0..700u16).map(|n| n as u8).collect();
        for len in 0..text.len() {
            let (left, right) = text[..len].split_at(len / 3);
            let bytes = compact_bytes(&[left, &[], right]);
            assert_eq!(bytes, text[..len]);
            assert_eq!(bytes.slice(len / 2..), text[len / 2..len]);
        }
        assert!(compact_bytes(&[]).is_empty());
    }
}
