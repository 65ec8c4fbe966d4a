//! One release for all sources of a round.
//!
//! Every source readies its request up to what makes its server act and arrives at the [`Gate`]; once all have arrived,
//! failed, or run out of time, one call to the system hands everything over, or one tight loop where there is no such call.
//! Nothing else happens then: no allocation beyond two small vectors, no lock but those nobody else wants,
//! no waiting.
//!
//! Promise: the first instant of a release is taken before any byte leaves, so that no server can have acted earlier. In a
//! loop that holds for each source; one call takes the sources in their order, and its time is shared out evenly.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portolan_model::clock::{Clock, Moment};
use portolan_model::source::Held;
use tokio::sync::Notify;

/// Where the sources of one round wait for each other.
pub(crate) struct Gate {
    places: Mutex<Vec<Place>>,
    moved: Notify,
}

#[derive(Clone, Default)]
enum Place {
    /// Connecting, logging in, writing its request.
    #[default]
    Preparing,
    /// Ready, with what it holds back.
    Waiting(Option<Arc<dyn Held>>),
    /// Its read ended before the release.
    Gone,
    /// It was not ready in time.
    Late,
    /// It was released.
    Released(Moment),
}

impl Gate {
    /// A gate for so many sources.
    pub(crate) fn new(sources: usize) -> Self {
        Self { places: Mutex::new(vec![Place::Preparing; sources]), moved: Notify::new() }
    }

    /// The source `index` is ready: waits for the release. Dropped before it, the source is preparing again.
    pub(crate) async fn wait(&self, index: usize, held: Option<Arc<dyn Held>>) -> Moment {
        let is_late = {
            let place = &mut self.places()[index];
            let is_late = matches!(place, Place::Late);
            if !is_late {
                *place = Place::Waiting(held);
            }
            is_late
        };
        if is_late {
            // Ready a moment after the others have gone: who waits for `missed` ends this read.
            return std::future::pending().await;
        }
        let _waiting = Waiting { gate: self, index };
        loop {
            let moved = self.moved.notified();
            let released = match &self.places()[index] {
                Place::Released(moment) => Some(*moment),
                _ => None,
            };
            match released {
                Some(moment) => return moment,
                None => moved.await,
            }
        }
    }

    /// Ready once the source `index` has missed the release.
    pub(crate) async fn missed(&self, index: usize) {
        loop {
            let moved = self.moved.notified();
            if matches!(self.places()[index], Place::Late) {
                return;
            }
            moved.await;
        }
    }

    /// The read of the source `index` has ended: nobody waits for it.
    pub(crate) fn leave(&self, index: usize) {
        let place = &mut self.places()[index];
        if !matches!(place, Place::Released(_)) {
            *place = Place::Gone;
        }
    }

    /// Whether some source has been released.
    pub(crate) fn has_released(&self) -> bool {
        self.places().iter().any(|place| matches!(place, Place::Released(_)))
    }

    /// Releases all if nobody is preparing any more. Returns whether it did.
    pub(crate) fn try_open(&self, clock: &dyn Clock) -> bool {
        let places = self.places();
        let is_ready = !places.iter().any(|place| matches!(place, Place::Preparing));
        let has_waiting = places.iter().any(|place| matches!(place, Place::Waiting(_)));
        drop(places);
        if is_ready && has_waiting {
            self.open(clock);
        }
        is_ready && has_waiting
    }

    /// Releases those who wait; those who still prepare have missed it.
    pub(crate) fn open(&self, clock: &dyn Clock) {
        let mut places = self.places();
        let (mut indexes, mut all) = (Vec::with_capacity(places.len()), Vec::with_capacity(places.len()));
        let mut unheld = Vec::new();
        for (index, place) in places.iter_mut().enumerate() {
            match std::mem::take(place) {
                Place::Waiting(Some(held)) => {
                    indexes.push(index);
                    all.push(held);
                }
                Place::Waiting(None) => unheld.push(index),
                Place::Preparing => *place = Place::Late,
                other => *place = other,
            }
        }
        let start = clock.moment();
        let instants = release(&all, clock);
        let first = instants.first().copied().unwrap_or(start.monotonic());
        let released = indexes.into_iter().zip(instants).chain(unheld.into_iter().map(|index| (index, first)));
        for (index, at) in released {
            let since = at.saturating_sub(start.monotonic());
            let wall = jiff::SignedDuration::try_from(since)
                .map_or(start.wall, |since| start.wall.checked_add(since).unwrap_or(start.wall));
            places[index] = Place::Released(Moment { monotonic_ns: at.as_nanos() as u64, wall });
        }
        drop(places);
        self.moved.notify_waiters();
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Releases all, in one call if the system has one. Returns the instant of each.
fn release(all: &[Arc<dyn Held>], clock: &dyn Clock) -> Vec<Duration> {
    let mut instants = Vec::with_capacity(all.len());
    match all.first().and_then(|first| first.together(all)) {
        Some(together) => {
            let begin = clock.monotonic();
            let each = together.release(clock) / all.len() as u32;
            instants.extend((0..all.len() as u32).map(|place| begin + each * place));
        }
        None => {
            for held in all {
                instants.push(clock.monotonic());
                held.release();
            }
        }
    }
    instants
}

/// Takes a source out of those who wait when its wait is given up.
struct Waiting<'g> {
    gate: &'g Gate,
    index: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let place = &mut self.gate.places()[self.index];
        if matches!(place, Place::Waiting(_)) {
            *place = Place::Preparing;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use jiff::Timestamp;
    use portolan_model::source::HeldTogether;

    use super::*;

    /// A clock that only moves when it is told to.
    #[derive(Default)]
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn monotonic(&self) -> Duration {
            Duration::from_micros(self.0.load(Ordering::Relaxed))
        }

        fn wall(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
    }

    /// To hand it over takes 10 µs, together with others 4 µs each.
    struct Slow {
        clock: Arc<Hand>,
        is_together: bool,
    }

    struct SlowTogether(Arc<Hand>, usize);

    impl Held for Slow {
        fn release(&self) {
            self.clock.0.fetch_add(10, Ordering::Relaxed);
        }

        fn together<'h>(&self, all: &'h [Arc<dyn Held>]) -> Option<Box<dyn HeldTogether + 'h>> {
            // Readying it is no part of the release.
            self.clock.0.fetch_add(1_000, Ordering::Relaxed);
            self.is_together.then(|| Box::new(SlowTogether(Arc::clone(&self.clock), all.len())) as _)
        }
    }

    impl HeldTogether for SlowTogether {
        fn release(self: Box<Self>, _: &dyn Clock) -> Duration {
            self.0.0.fetch_add(1_000, Ordering::Relaxed);
            Duration::from_micros(4 * self.1 as u64)
        }
    }

    /// The instants of a gate whose places 0 and 2 hold something, whose place 1 does not, and whose place 3 is late.
    fn released_us(is_together: bool) -> Vec<Option<u64>> {
        let clock = Arc::new(Hand::default());
        let gate = Gate::new(4);
        for (index, place) in gate.places().iter_mut().enumerate() {
            let held = || Arc::new(Slow { clock: Arc::clone(&clock), is_together }) as Arc<dyn Held>;
            *place = match index {
                3 => Place::Preparing,
                _ => Place::Waiting((index != 1).then(held)),
            };
        }
        gate.open(&*clock);
        let places = gate.places();
        let instant = |place: &Place| match place {
            Place::Released(moment) => Some(moment.monotonic_ns / 1_000),
            _ => None,
        };
        places.iter().map(instant).collect()
    }

    #[test]
    fn in_a_loop_each_instant_is_taken_before_the_bytes_leave() {
        assert_eq!(released_us(false), [Some(1_000), Some(1_000), Some(1_010), None]);
    }

    #[test]
    fn one_call_begins_at_the_first_instant_and_its_time_is_shared_out() {
        assert_eq!(released_us(true), [Some(1_000), Some(1_000), Some(1_004), None]);
    }

    /// Its task may go on before the others are told that it has missed the release.
    #[tokio::test(start_paused = true)]
    async fn who_is_ready_after_the_release_has_missed_it_all_the_same() {
        let gate = Gate::new(2);
        gate.open(&Hand::default());
        let late = tokio::time::timeout(Duration::from_secs(1), gate.wait(1, None)).await;
        assert!(late.is_err(), "released by nobody");
        assert!(tokio::time::timeout(Duration::from_secs(1), gate.missed(1)).await.is_ok(), "nobody ends it");
    }
}
