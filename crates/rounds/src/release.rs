//! One release for all sources of a round.
//!
//! Every source readies its request up to what makes its server act and arrives at the [`Gate`]; once all have arrived,
//! failed, or run out of time, one tight loop hands everything over. Nothing else happens in that loop: no allocation, no
//! lock but those nobody else wants, no waiting.
//!
//! Promise: a source's instant of release is taken before its bytes leave, so that its server cannot have acted earlier.

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
        self.places()[index] = Place::Waiting(held);
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
        let mut waiting = Vec::with_capacity(places.len());
        for (index, place) in places.iter_mut().enumerate() {
            match std::mem::take(place) {
                Place::Waiting(held) => waiting.push((index, held, Duration::ZERO)),
                Place::Preparing => *place = Place::Late,
                other => *place = other,
            }
        }
        let start = clock.moment();
        for (_, held, at) in &mut waiting {
            *at = clock.monotonic();
            if let Some(held) = held {
                held.release();
            }
        }
        for (index, _, at) in waiting {
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
