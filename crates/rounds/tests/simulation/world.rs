//! What all parts of one run share: time, chance, the servers' data, what was done, and what went against a promise.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use jiff::Timestamp;
use portolan_model::clock::Clock;

use crate::catalog::Store;
use crate::plan::{Break, CALM_AFTER, Kind, Plan};

/// Rows are numbers; those of a value carry its server, so that no two servers' values are the same.
pub(crate) const VALUE_BASE: i64 = 1_000_000;

/// Simulated time: what has passed in the lives before, the paused clock of this one, and a microsecond each time that
/// somebody looks, so that no two instants are the same.
pub(crate) struct SimulatedClock {
    before: Mutex<Duration>,
    origin: Mutex<Option<tokio::time::Instant>>,
    looks: AtomicU64,
}

impl SimulatedClock {
    /// A life begins; called within its runtime.
    pub(crate) fn begin_life(&self) {
        *self.origin.lock().unwrap() = Some(tokio::time::Instant::now());
    }

    /// A life ends; called within its runtime.
    pub(crate) fn end_life(&self) {
        let origin = self.origin.lock().unwrap().take().unwrap();
        *self.before.lock().unwrap() += origin.elapsed();
    }

    /// Time, without a look being counted.
    pub(crate) fn now(&self) -> Duration {
        let lived = self.origin.lock().unwrap().map_or(Duration::ZERO, |origin| origin.elapsed());
        *self.before.lock().unwrap() + lived + Duration::from_micros(self.looks.load(Ordering::Relaxed))
    }
}

impl Clock for SimulatedClock {
    fn monotonic(&self) -> Duration {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.now()
    }
    fn wall(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + self.now()
    }
}

/// What one read did, under the number that its payload carries.
#[derive(Clone, Debug)]
pub(crate) struct ReadLog {
    pub(crate) server: usize,
    /// When its server acted, for each of its requests.
    pub(crate) acts: Vec<Duration>,
    /// The instant whose data it showed, where it had a snapshot.
    pub(crate) snapshot: Option<Duration>,
}

/// What is known of what happened.
#[derive(Default)]
pub(crate) struct Known {
    /// Reads by the SHA-256 of their payload.
    pub(crate) reads: BTreeMap<String, ReadLog>,
    pub(crate) reads_begun: u64,
    /// Up to where each queue was acknowledged.
    pub(crate) acknowledged: BTreeMap<usize, i64>,
    pub(crate) violations: Vec<String>,
    pub(crate) counts: Counts,
}

/// How much a run has covered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) rounds: u64,
    pub(crate) rejected: u64,
    pub(crate) partial: u64,
    pub(crate) released: u64,
    pub(crate) proven: u64,
    pub(crate) unproven: u64,
    pub(crate) snapshots: u64,
    pub(crate) no_snapshots: u64,
    pub(crate) faults: u64,
    pub(crate) deaths: u64,
    /// Rounds that a check rejects.
    pub(crate) refused: u64,
    /// Rows that checks withhold.
    pub(crate) withheld: u64,
    /// Rounds whose ground had moved.
    pub(crate) moved: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.rejected += other.rejected;
        self.partial += other.partial;
        self.released += other.released;
        self.proven += other.proven;
        self.unproven += other.unproven;
        self.snapshots += other.snapshots;
        self.no_snapshots += other.no_snapshots;
        self.faults += other.faults;
        self.deaths += other.deaths;
        self.refused += other.refused;
        self.withheld += other.withheld;
        self.moved += other.moved;
    }
}

/// One run's world.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) broken: Option<Break>,
    pub(crate) clock: Arc<SimulatedClock>,
    random: Mutex<Rng>,
    pub(crate) known: Mutex<Known>,
    pub(crate) store: Mutex<Store>,
}

impl World {
    pub(crate) fn new(seed: u64, broken: Option<Break>) -> Arc<Self> {
        let mut random = Rng::with_seed(seed);
        let plan = Plan::draw(&mut random);
        // Wall clocks begin long before the first round: no instant is the origin itself.
        let clock = SimulatedClock {
            before: Mutex::new(Duration::from_secs(1)),
            origin: Mutex::default(),
            looks: AtomicU64::new(0),
        };
        Arc::new(Self {
            plan,
            broken,
            clock: Arc::new(clock),
            random: Mutex::new(random),
            known: Mutex::default(),
            store: Mutex::default(),
        })
    }

    pub(crate) fn is_broken(&self, how: Break) -> bool {
        self.broken == Some(how)
    }

    pub(crate) fn below(&self, end: u64) -> u64 {
        self.random.lock().unwrap().u64(..end.max(1))
    }

    /// Whether a step fails that fails `per_thousand` times of a thousand.
    pub(crate) fn fails(&self, per_thousand: u32) -> bool {
        if self.clock.now() >= CALM_AFTER || self.below(1_000) >= u64::from(per_thousand) {
            return false;
        }
        self.known.lock().unwrap().counts.faults += 1;
        true
    }

    /// Waits up to so many milliseconds, by chance.
    pub(crate) async fn pause(&self, most_ms: u64) {
        let pause = self.below(most_ms + 1);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    /// Something went against a promise.
    pub(crate) fn violated(&self, what: String) {
        let at = self.clock.now();
        self.known.lock().unwrap().violations.push(format!("{at:?}: {what}"));
    }

    /// The highest item, or the number of the value, that a server has at an instant.
    pub(crate) fn content(&self, server: usize, at: Duration) -> i64 {
        let plan = &self.plan.servers[server];
        let leader = if plan.kind == Kind::Value && self.plan.is_atomic { &self.plan.servers[0] } else { plan };
        (at.min(CALM_AFTER).as_millis() as u64 / leader.grows_every_ms) as i64
    }

    /// From when until when a server held the value of a number.
    pub(crate) fn value_held(&self, server: usize, number: i64) -> (Duration, Duration) {
        let plan = if self.plan.is_atomic { &self.plan.servers[0] } else { &self.plan.servers[server] };
        let start = Duration::from_millis(plan.grows_every_ms * number as u64);
        let end = Duration::from_millis(plan.grows_every_ms * (number as u64 + 1));
        (start, if end > CALM_AFTER { Duration::MAX } else { end })
    }
}
