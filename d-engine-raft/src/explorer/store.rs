//! Everything that occurs in states, once each: a state is then a few small numbers.

use std::collections::{HashMap, HashSet};
use std::fmt::{Debug, Write};
use std::hash::{BuildHasherDefault, DefaultHasher, Hasher};

use super::forget::Numbering;

/// Something that names nodes.
pub(super) trait Renumber: Clone + Debug {
    /// The same under other names.
    fn renumber(&mut self, names: &Numbering);
}

/// 128 bits that stand for a value: two that differ share them about never.
pub(super) type Fingerprint = u128;

/// A set of fingerprints, and a map from them. They are random enough to be their own hashes.
pub(super) type Fingerprints = HashSet<Fingerprint, BuildHasherDefault<Itself>>;
pub(super) type ByFingerprint<T> = HashMap<Fingerprint, T, BuildHasherDefault<Itself>>;

/// A hasher for what is random already.
#[derive(Debug, Default)]
pub(super) struct Itself(u64);

impl Hasher for Itself {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    fn write_u128(&mut self, number: u128) {
        self.0 = number as u64;
    }
}

/// Values by number, each with its fingerprint under every numbering of the nodes.
#[derive(Debug)]
pub(super) struct Store<T> {
    values: Vec<T>,
    prints: Vec<Fingerprint>,
    numbers: ByFingerprint<u32>,
    text: String,
}

impl<T: Renumber> Store<T> {
    pub(super) fn new() -> Self {
        Self { values: Vec::new(), prints: Vec::new(), numbers: ByFingerprint::default(), text: String::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    pub(super) fn get(&self, number: u32) -> &T {
        &self.values[number as usize]
    }

    /// The fingerprints of a value, in the order of the numberings.
    pub(super) fn prints(&self, number: u32, numberings: usize) -> &[Fingerprint] {
        &self.prints[number as usize * numberings..][..numberings]
    }

    /// The number of a value. The first of `numberings` changes nothing.
    pub(super) fn number(&mut self, value: T, numberings: &[Numbering]) -> u32 {
        let own = self.fingerprint(&value);
        if let Some(number) = self.numbers.get(&own) {
            return *number;
        }
        let number = self.values.len() as u32;
        for names in numberings {
            let mut renamed = value.clone();
            renamed.renumber(names);
            let print = self.fingerprint(&renamed);
            self.prints.push(print);
        }
        self.values.push(value);
        self.numbers.insert(own, number);
        number
    }

    /// Derived formatting shows every field, so that a new one cannot be forgotten.
    fn fingerprint(&mut self, value: &T) -> Fingerprint {
        self.text.clear();
        // Writing to a string does not fail.
        let _ = write!(self.text, "{value:?}");
        let mut hasher = DefaultHasher::new();
        hasher.write(self.text.as_bytes());
        let low = hasher.finish();
        hasher.write_u8(1);
        u128::from(hasher.finish()) << 64 | u128::from(low)
    }
}
