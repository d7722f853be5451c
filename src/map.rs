//! A map and a set that are sorted vectors: few entries, looked at often, and as little code
//! as possible for each type of key and value. What [`std::collections::BTreeMap`] costs in the
//! program, several kilobytes for each pair of types, is several hundred bytes here.
//!
//! The interface is that of std's as far as it is used. Finding is by bisection; an insertion or
//! removal moves what is behind it: nothing at the end, where what is numbered upwards comes in,
//! and otherwise bytes that a thousand services can have a thousand times. **Not for** a queue
//! that is worked off from its front, nor for what grows with a service's connections and comes in
//! any order: that stays with std's, or is sorted once.
//!
//! A little long: the interface of two types.

use std::borrow::Borrow;
use std::fmt;
use std::iter::Zip;
use std::{slice, vec};

use crate::json::{ToJson, Writer};

/// From keys to values, in the order of the keys.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Map<K, V> {
    /// Ascending, each once. Apart from the values, so that a search is one function for all
    /// maps with such keys.
    keys: Vec<K>,
    /// As many, in the same order.
    values: Vec<V>,
}

/// Where the key is, or would be.
#[inline(never)]
fn find<K: Borrow<Q>, Q: Ord + ?Sized>(keys: &[K], key: &Q) -> Result<usize, usize> {
    match keys.last() {
        Some(last) if last.borrow() < key => Err(keys.len()),
        _ => keys.binary_search_by(|k| k.borrow().cmp(key)),
    }
}

impl<K, V> Map<K, V> {
    /// An empty one, which holds no memory.
    pub const fn new() -> Map<K, V> {
        Map {
            keys: Vec::new(),
            values: Vec::new(),
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Removes all.
    pub fn clear(&mut self) {
        *self = Map::new();
    }

    /// The keys, ascending.
    pub fn keys(&self) -> slice::Iter<'_, K> {
        self.keys.iter()
    }

    /// The values in the order of the keys.
    pub fn values(&self) -> slice::Iter<'_, V> {
        self.values.iter()
    }

    /// The values in the order of the keys.
    pub fn values_mut(&mut self) -> slice::IterMut<'_, V> {
        self.values.iter_mut()
    }

    /// The values alone, in the order of the keys.
    pub fn into_values(self) -> vec::IntoIter<V> {
        self.values.into_iter()
    }

    /// All entries in the order of the keys.
    pub fn iter(&self) -> Zip<slice::Iter<'_, K>, slice::Iter<'_, V>> {
        self.keys.iter().zip(&self.values)
    }

    /// All entries in the order of the keys.
    pub fn iter_mut(&mut self) -> Zip<slice::Iter<'_, K>, slice::IterMut<'_, V>> {
        self.keys.iter().zip(&mut self.values)
    }

    /// Leaves those of which it is said.
    pub fn retain(&mut self, mut wanted: impl FnMut(&K, &mut V) -> bool) {
        let mut at = 0;
        while let (Some(key), Some(value)) = (self.keys.get(at), self.values.get_mut(at)) {
            if wanted(key, value) {
                at += 1;
            } else {
                self.keys.remove(at);
                self.values.remove(at);
            }
        }
    }
}

impl<K: Ord, V> Map<K, V> {
    /// The value of this key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.values.get(find(&self.keys, key).ok()?)
    }

    /// The value of this key.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.values.get_mut(find(&self.keys, key).ok()?)
    }

    /// The key that equals this one.
    pub fn key<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&K>
    where
        K: Borrow<Q>,
    {
        self.keys.get(find(&self.keys, key).ok()?)
    }

    /// Whether it is there.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        find(&self.keys, key).is_ok()
    }

    /// Puts it there and returns what was in its place.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let entry = self.entry(key);
        match entry.found {
            Ok(at) => Some(std::mem::replace(entry.map.values.get_mut(at)?, value)),
            Err(_) => {
                entry.or_insert(value);
                None
            }
        }
    }

    /// Removes it and returns what it was.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = find(&self.keys, key).ok()?;
        self.keys.remove(at);
        Some(self.values.remove(at))
    }

    /// The place of this key, to be filled if it is not there.
    pub fn entry(&mut self, key: K) -> Entry<'_, K, V> {
        Entry {
            found: find(&self.keys, &key),
            map: self,
            key,
        }
    }
}

/// What [`Map::entry`] returns.
pub struct Entry<'a, K, V> {
    map: &'a mut Map<K, V>,
    key: K,
    found: Result<usize, usize>,
}

impl<'a, K, V> Entry<'a, K, V> {
    /// The value, this one if there was none.
    #[allow(clippy::indexing_slicing)] // found there, or just put there
    pub fn or_insert(self, value: V) -> &'a mut V {
        let at = match self.found {
            Ok(at) => at,
            Err(at) => {
                self.map.keys.insert(at, self.key);
                self.map.values.insert(at, value);
                at
            }
        };
        &mut self.map.values[at]
    }

    /// The value, what this returns if there was none.
    #[allow(clippy::indexing_slicing)] // found there
    pub fn or_insert_with(self, make: impl FnOnce() -> V) -> &'a mut V {
        match self.found {
            Ok(at) => &mut self.map.values[at],
            Err(_) => self.or_insert(make()),
        }
    }

    /// The value, its default if there was none.
    pub fn or_default(self) -> &'a mut V
    where
        V: Default,
    {
        self.or_insert_with(V::default)
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Map<K, V> {
        Map::new()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Map<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<K: Ord, V> Extend<(K, V)> for Map<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, all: I) {
        for (key, value) in all {
            self.insert(key, value);
        }
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Map<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(all: I) -> Map<K, V> {
        let mut map = Map::new();
        map.extend(all);
        map
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for Map<K, V> {
    fn from(all: [(K, V); N]) -> Map<K, V> {
        all.into_iter().collect()
    }
}

impl<K, V> IntoIterator for Map<K, V> {
    type Item = (K, V);
    type IntoIter = Zip<vec::IntoIter<K>, vec::IntoIter<V>>;

    fn into_iter(self) -> Self::IntoIter {
        self.keys.into_iter().zip(self.values)
    }
}

impl<'a, K, V> IntoIterator for &'a Map<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Zip<slice::Iter<'a, K>, slice::Iter<'a, V>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, K, V> IntoIterator for &'a mut Map<K, V> {
    type Item = (&'a K, &'a mut V);
    type IntoIter = Zip<slice::Iter<'a, K>, slice::IterMut<'a, V>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

/// Things of which each is there once, ascending.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Set<T>(Vec<T>);

impl<T> Set<T> {
    /// An empty one, which holds no memory.
    pub const fn new() -> Set<T> {
        Set(Vec::new())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes all, and keeps the memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// All, ascending.
    pub fn iter(&self) -> slice::Iter<'_, T> {
        self.0.iter()
    }

    /// The smallest.
    pub fn first(&self) -> Option<&T> {
        self.0.first()
    }

    /// Leaves those of which it is said.
    pub fn retain(&mut self, wanted: impl FnMut(&T) -> bool) {
        self.0.retain(wanted);
    }
}

impl<T: Ord> Set<T> {
    /// Whether it is there.
    pub fn contains<Q: Ord + ?Sized>(&self, one: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        find(&self.0, one).is_ok()
    }

    /// Puts it there; false: it was there.
    pub fn insert(&mut self, one: T) -> bool {
        match find(&self.0, &one) {
            Ok(_) => false,
            Err(at) => {
                self.0.insert(at, one);
                true
            }
        }
    }

    /// Puts all of them there, by sorting once: for as many as there are, or more.
    pub fn add_many(&mut self, all: impl IntoIterator<Item = T>) {
        self.0.extend(all);
        self.0.sort_unstable();
        self.0.dedup();
    }

    /// Removes it; false: it was not there.
    pub fn remove<Q: Ord + ?Sized>(&mut self, one: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        match find(&self.0, one) {
            Ok(at) => {
                self.0.remove(at);
                true
            }
            Err(_) => false,
        }
    }
}

impl<T> Default for Set<T> {
    fn default() -> Set<T> {
        Set::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for Set<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self).finish()
    }
}

impl<T: Ord> Extend<T> for Set<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, all: I) {
        for one in all {
            self.insert(one);
        }
    }
}

impl<T: Ord> FromIterator<T> for Set<T> {
    fn from_iter<I: IntoIterator<Item = T>>(all: I) -> Set<T> {
        let mut set = Set::new();
        set.add_many(all);
        set
    }
}

impl<T: Ord, const N: usize> From<[T; N]> for Set<T> {
    fn from(all: [T; N]) -> Set<T> {
        all.into_iter().collect()
    }
}

impl<T> IntoIterator for Set<T> {
    type Item = T;
    type IntoIter = vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Set<T> {
    type Item = &'a T;
    type IntoIter = slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: ToJson> ToJson for Set<T> {
    fn write(&self, to: &mut Writer<'_>) {
        self.0.write(to);
    }
}

/// For tests alone: it panics where there is no such key.
#[cfg(test)]
impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> std::ops::Index<&Q> for Map<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// xorshift64: the same sequence every time.
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % n
        }
    }

    #[test]
    fn a_map_does_what_the_one_of_std_does() {
        let mut random = Random(7);
        let (mut ours, mut theirs) = (Map::new(), BTreeMap::new());
        for turn in 0..20_000_u64 {
            let key = random.below(40);
            match random.below(8) {
                0 | 1 => assert_eq!(ours.insert(key, turn), theirs.insert(key, turn)),
                2 => assert_eq!(ours.remove(&key), theirs.remove(&key)),
                3 => assert_eq!(ours.get(&key), theirs.get(&key)),
                4 => {
                    *ours.entry(key).or_default() += turn;
                    *theirs.entry(key).or_default() += turn;
                }
                5 => assert_eq!(
                    ours.entry(key).or_insert_with(|| turn),
                    theirs.entry(key).or_insert_with(|| turn)
                ),
                6 => assert_eq!(ours.get_mut(&key), theirs.get_mut(&key)),
                _ if random.below(20) == 0 => {
                    ours.retain(|k, v| (*k + *v) % 3 > 0);
                    theirs.retain(|k, v| (*k + *v) % 3 > 0);
                }
                _ => assert_eq!(ours.contains_key(&key), theirs.contains_key(&key)),
            }
            assert!(ours.iter().eq(theirs.iter()));
            assert_eq!(ours.len(), theirs.len());
        }
        let text = crate::json::to_string(&ours).unwrap();
        assert_eq!(text, serde_json::to_string(&theirs).unwrap());
        assert_eq!(crate::json::from_str::<Map<u64, u64>>(&text).unwrap(), ours);
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
        assert!(ours.into_iter().eq(theirs));
    }

    #[test]
    fn a_set_does_what_the_one_of_std_does() {
        let mut random = Random(9);
        let (mut ours, mut theirs) = (Set::new(), BTreeSet::new());
        for _ in 0..20_000 {
            let one = random.below(40);
            match random.below(9) {
                0 | 1 => assert_eq!(ours.insert(one), theirs.insert(one)),
                2 | 5 | 6 | 7 => assert_eq!(ours.remove(&one), theirs.remove(&one)),
                3 => {
                    ours.extend([one, one + 1]);
                    theirs.extend([one, one + 1]);
                }
                4 => {
                    ours.add_many([one, 3]);
                    theirs.extend([one, 3]);
                }
                _ => assert_eq!(ours.contains(&one), theirs.contains(&one)),
            }
            assert!(ours.iter().eq(theirs.iter()));
        }
        let some = [5_u64, 3, 5, 1];
        assert!(Set::from(some).into_iter().eq(BTreeSet::from(some)));
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }

    #[test]
    fn of_two_entries_with_one_key_the_later_counts() {
        let map = Map::from([("b", 1), ("a", 2), ("b", 3)]);
        assert!(map.into_iter().eq([("a", 2), ("b", 3)]));
    }
}
