//! A queue of places in the order of starts, worked off from its front: a bit for each.

/// Each place is in it once or not at all.
#[derive(Debug, Default)]
pub struct Places(Vec<u64>);

const BITS: usize = u64::BITS as usize;

impl Places {
    /// Puts one in.
    pub fn insert(&mut self, place: usize) {
        let (word, bit) = (place / BITS, place % BITS);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << bit;
        }
    }

    /// The first of them from this one on.
    pub fn next(&self, from: usize) -> Option<usize> {
        let words = self.0.iter().enumerate().skip(from / BITS);
        let mut mask = u64::MAX << (from % BITS);
        for (n, word) in words {
            let left = word & mask;
            if left != 0 {
                return Some(n * BITS + left.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }

    /// Takes the first one out.
    pub fn pop_first(&mut self) -> Option<usize> {
        let place = self.next(0)?;
        if let Some(word) = self.0.get_mut(place / BITS) {
            *word &= !(1 << (place % BITS));
        }
        Some(place)
    }
}

impl Extend<usize> for Places {
    fn extend<I: IntoIterator<Item = usize>>(&mut self, all: I) {
        for place in all {
            self.insert(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_out_in_their_order_each_once() {
        let mut places = Places::default();
        assert_eq!(places.pop_first(), None);
        places.extend([130, 0, 63, 64, 64, 4095, 0]);
        assert_eq!(
            (places.next(1), places.next(64), places.next(65)),
            (Some(63), Some(64), Some(130))
        );
        assert_eq!(places.next(4096), None);
        for place in [0, 63, 64, 130] {
            assert_eq!(places.pop_first(), Some(place));
        }
        places.insert(7);
        assert_eq!(
            (places.pop_first(), places.pop_first()),
            (Some(7), Some(4095))
        );
        assert_eq!((places.pop_first(), places.next(0)), (None, None));
    }
}
