//! A map that forgets the key that was written longest ago when it is full.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

#[derive(Debug)]
pub(crate) struct Lru<K, V> {
    capacity: usize,
    written: u64,
    entries: HashMap<K, (u64, V)>,
    by_age: BTreeMap<u64, K>,
}

impl<K: Clone + Eq + Hash, V> Lru<K, V> {
    /// An empty map for so many keys; at least one.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), written: 0, entries: HashMap::new(), by_age: BTreeMap::new() }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// Writes a key anew; the key that was written longest ago makes room.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.remove(&key);
        if self.entries.len() >= self.capacity
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.written += 1;
        self.by_age.insert(self.written, key.clone());
        self.entries.insert(key, (self.written, value));
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let (age, value) = self.entries.remove(key)?;
        self.by_age.remove(&age);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_written_longest_ago_makes_room() {
        let mut lru = Lru::new(2);
        lru.insert('a', 1);
        lru.insert('b', 2);
        lru.insert('a', 3);
        lru.insert('c', 4);
        assert_eq!([lru.get(&'a'), lru.get(&'b'), lru.get(&'c')], [Some(&3), None, Some(&4)]);
        assert_eq!((lru.entries.len(), lru.by_age.len()), (2, 2));
        assert_eq!(lru.remove(&'a'), Some(3));
        assert_eq!(lru.remove(&'a'), None);
        assert_eq!((lru.entries.len(), lru.by_age.len()), (1, 1));
    }
}
