//! Time, injected: logic that depends on time takes a [`Clock`], so that a test or a simulation can own it.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// A source of time. Monotonic time measures durations; wall time labels them for people.
pub trait Clock: Send + Sync {
    /// Monotonic time since an arbitrary fixed origin of this clock.
    fn monotonic(&self) -> Duration;
    /// Wall-clock time, UTC.
    fn wall(&self) -> Timestamp;
    /// Both at once, read as close together as the clock can.
    fn moment(&self) -> Moment {
        Moment { monotonic_ns: self.monotonic().as_nanos() as u64, wall: self.wall() }
    }
}

/// One instant, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic nanoseconds since the clock's origin; comparable only within one process.
    pub monotonic_ns: u64,
    /// Wall-clock time, UTC.
    pub wall: Timestamp,
}

impl Moment {
    /// The monotonic part as a duration since the clock's origin.
    pub fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.monotonic_ns)
    }

    /// Microseconds from `earlier` to `self` on the monotonic clock; zero if `earlier` is later.
    pub fn since_us(&self, earlier: &Moment) -> i64 {
        (self.monotonic_ns.saturating_sub(earlier.monotonic_ns) / 1_000) as i64
    }
}

/// The machine's clocks.
#[derive(Clone, Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// A clock whose monotonic origin is now.
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }

    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }
}
