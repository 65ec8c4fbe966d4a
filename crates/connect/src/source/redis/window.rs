//! What a scan has given lately, so that it is given once.
//!
//! `SCAN`, `HSCAN`, `SSCAN` and `ZSCAN` may give an element again when the server's table shrinks or grows between two
//! pages: those of the buckets that the smaller table joins, which the scan has just visited. Promise: an element that
//! comes again within the last [`WINDOW`] ones is known; memory stays below 20 MiB.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

/// Elements remembered at least; at most twice as many. A hash set of this many takes 9 MiB.
pub(super) const WINDOW: usize = 450_000;

/// The digests of the latest elements.
pub(super) struct Window {
    keys: [RandomState; 2],
    recent: HashSet<u128, BuildHasherDefault<Digest>>,
    older: HashSet<u128, BuildHasherDefault<Digest>>,
    capacity: usize,
}

/// A digest is a hash already.
#[derive(Default)]
pub(super) struct Digest(u64);

impl Hasher for Digest {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {}

    fn write_u128(&mut self, digest: u128) {
        self.0 = digest as u64;
    }
}

impl Default for Window {
    fn default() -> Self {
        Self::new(WINDOW)
    }
}

impl Window {
    fn new(capacity: usize) -> Self {
        let keys = [RandomState::new(), RandomState::new()];
        Self { keys, recent: HashSet::default(), older: HashSet::default(), capacity }
    }

    /// Whether the element is new; it is remembered. 128 bits keyed at random: no two elements are taken for one.
    pub(super) fn is_new(&mut self, element: &[u8]) -> bool {
        let [high, low] = [0, 1].map(|key: usize| u128::from(self.keys[key].hash_one(element)));
        let digest = high << 64 | low;
        if self.older.contains(&digest) || !self.recent.insert(digest) {
            return false;
        }
        if self.recent.len() >= self.capacity {
            std::mem::swap(&mut self.recent, &mut self.older);
            self.recent.clear();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_known_and_memory_ends() {
        let mut window = Window::new(100);
        let mut again = 0;
        for number in 0..10_000_u32 {
            assert!(window.is_new(&number.to_le_bytes()));
            if number >= 99 {
                again += u32::from(window.is_new(&(number - 99).to_le_bytes()));
            }
            assert!(window.recent.len() + window.older.len() <= 200);
        }
        assert_eq!(again, 0);
        assert!(window.is_new(&1_u32.to_le_bytes()), "what is old enough is forgotten");
    }
}
