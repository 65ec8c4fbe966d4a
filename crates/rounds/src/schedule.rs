//! When the next round starts: on a fixed grid from the first start, without piling up.
//!
//! A round that takes longer than its interval does not make the next ones late for ever: the ticks it missed are
//! counted and left out.

use std::time::Duration;

/// The grid of one round's starts, on the monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    every: Duration,
    next: Duration,
    missed: u64,
}

impl Schedule {
    /// Starts at `now` and then every `every` (at least one millisecond).
    pub fn new(now: Duration, every: Duration) -> Self {
        Self { every: every.max(Duration::from_millis(1)), next: now, missed: 0 }
    }

    /// When the next round starts.
    pub fn next(&self) -> Duration {
        self.next
    }

    /// Starts left out because the round before still ran.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// A round has started for the present tick: the next start is the first tick of the grid after `now`.
    pub fn advance(&mut self, now: Duration) {
        let behind = now.saturating_sub(self.next);
        let whole = behind.as_nanos() / self.every.as_nanos();
        let skipped = u32::try_from(whole).unwrap_or(u32::MAX);
        self.missed += u64::from(skipped);
        self.next += self.every.saturating_mul(skipped.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_long_round_skips_ticks_and_stays_on_the_grid() {
        let mut schedule = Schedule::new(ms(100), ms(10));
        assert_eq!(schedule.next(), ms(100));
        schedule.advance(ms(101));
        assert_eq!((schedule.next(), schedule.missed()), (ms(110), 0));
        schedule.advance(ms(145));
        assert_eq!((schedule.next(), schedule.missed()), (ms(150), 3));
    }

    proptest! {
        #[test]
        fn the_next_start_is_on_the_grid_and_not_in_the_past(
            start in 0u64..1_000_000, every in 1u64..10_000, steps in proptest::collection::vec(0u64..50_000, 1..50)
        ) {
            let mut schedule = Schedule::new(ms(start), ms(every));
            let mut now = start;
            for step in steps {
                now = (now + step).max(schedule.next().as_millis() as u64);
                let before = schedule.next();
                schedule.advance(ms(now));
                let next = schedule.next();
                prop_assert!(next > ms(now) && next > before);
                prop_assert!(next <= ms(now) + ms(every));
                prop_assert_eq!((next.as_millis() as u64 - start) % every, 0);
            }
        }
    }
}
