//! Numbers that look random and follow from a seed (SplitMix64), so that a campaign can be run again.

use std::time::Duration;

/// The generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number from `low` to below `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.any() % (high - low).max(1)
    }

    /// True once in `times`, on average.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.between(0, times) == 0
    }

    /// A time from `low_ms` to below `high_ms` milliseconds, to the microsecond.
    pub fn moment(&mut self, low_ms: u64, high_ms: u64) -> Duration {
        Duration::from_micros(self.between(low_ms * 1_000, high_ms * 1_000))
    }
}
