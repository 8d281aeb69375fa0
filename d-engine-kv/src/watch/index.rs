//! Which watchers a key concerns.

use std::collections::BTreeMap;

use bytes::Bytes;
use d_engine_core::command::KeySpan;
use hashbrown::HashMap;

use crate::layout::store_key;

/// Finds watchers of single keys and of prefixes by hashing; those of other ranges one after the other.
#[derive(Debug, Default)]
pub(crate) struct Index {
    keys: HashMap<Bytes, Vec<u64>>,
    /// By the length of the prefix in the store; there are few lengths.
    prefixes: BTreeMap<usize, HashMap<Bytes, Vec<u64>>>,
    ranges: BTreeMap<u64, KeySpan>,
}

impl Index {
    pub(crate) fn insert(&mut self, id: u64, span: &KeySpan) {
        if let Some(key) = span.single_key() {
            self.keys.entry(store_key(key)).or_default().push(id);
        } else if let Some(prefix) = span.as_prefix() {
            let prefix = store_key(prefix);
            self.prefixes.entry(prefix.len()).or_default().entry(prefix).or_default().push(id);
        } else {
            self.ranges.insert(id, span.clone());
        }
    }

    pub(crate) fn remove(&mut self, id: u64, span: &KeySpan) {
        if let Some(key) = span.single_key() {
            remove_from(&mut self.keys, &store_key(key), id);
        } else if let Some(prefix) = span.as_prefix() {
            let prefix = store_key(prefix);
            if let Some(of_length) = self.prefixes.get_mut(&prefix.len()) {
                remove_from(of_length, &prefix, id);
                if of_length.is_empty() {
                    self.prefixes.remove(&prefix.len());
                }
            }
        } else {
            self.ranges.remove(&id);
        }
    }

    /// Calls `f` with each watcher of a key of the store.
    pub(crate) fn each(&self, key: &[u8], mut f: impl FnMut(u64)) {
        let mut found = |ids: Option<&Vec<u64>>| ids.into_iter().flatten().for_each(|id| f(*id));
        found(self.keys.get(key));
        for (len, prefixes) in self.prefixes.range(..=key.len()) {
            found(prefixes.get(&key[..*len]));
        }
        for (id, span) in &self.ranges {
            if span.contains(&key[1..]) {
                f(*id);
            }
        }
    }
}

fn remove_from(map: &mut HashMap<Bytes, Vec<u64>>, key: &[u8], id: u64) {
    if let Some(ids) = map.get_mut(key) {
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_span_is_found_until_it_is_removed() {
        let spans = [
            KeySpan::key("ab"),
            KeySpan::prefix("a"),
            KeySpan::ALL,
            KeySpan::new("aa", Some("b".into())),
            KeySpan::new("b", None),
            KeySpan::key("a"),
        ];
        let mut index = Index::default();
        for (id, span) in (0..).zip(&spans) {
            index.insert(id, span);
        }
        let found = |index: &Index, key: &str| {
            let mut ids = Vec::new();
            index.each(&store_key(key.as_bytes()), |id| ids.push(id));
            ids.sort_unstable();
            ids
        };
        assert_eq!(found(&index, "ab"), [0, 1, 2, 3]);
        assert_eq!(found(&index, "a"), [1, 2, 5]);
        assert_eq!(found(&index, "c"), [2, 4]);
        for (id, span) in (0..).zip(&spans) {
            index.remove(id, span);
        }
        assert_eq!(found(&index, "ab"), []);
        assert!(index.keys.is_empty() && index.prefixes.is_empty() && index.ranges.is_empty());
    }
}
