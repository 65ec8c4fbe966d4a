//! One source with its state, its position and its counters, as the coordinator carries it from round to round.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use portolan_model::catalog::{SourceStatus, TableSpec, WriteMode};
use portolan_model::clock::Clock;
use portolan_model::config::{EventTimeSpec, SourceSpec};
use portolan_model::round::RoundId;
use portolan_model::source::{Connector, Environment, SnapshotGroup, Source};
use portolan_model::state::{State, StateMachine};
use portolan_model::{Error, Position, Result, SourceName};

/// The first pause of the probe beside the rounds; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause of the probe beside the rounds, unless the server asked for a longer one.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The longest that a server's own wish (`Retry-After`) is followed, as connectors report it.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3_600);

/// One source between and during rounds.
pub struct Slot {
    /// Its name.
    pub name: SourceName,
    /// Protocol and address, for people.
    pub address: String,
    /// Whether a round that holds it is rejected when it fails.
    pub required: bool,
    /// The open source.
    pub source: Box<dyn Source>,
    /// With which others it can read one snapshot.
    pub snapshot_group: Option<SnapshotGroup>,
    /// Where it stands.
    pub machine: StateMachine,
    /// Where it continues: the committed position.
    pub position: Option<Position>,
    /// Up to where it is complete: the committed watermark.
    pub(crate) watermark: Option<Timestamp>,
    pub(crate) event_time: Option<EventTimeSpec>,
    mode: WriteMode,
    key: Vec<String>,
    key_memory: u64,
    pause: Duration,
    not_before: Duration,
    /// The server could not be told of what is stored.
    is_unacknowledged: bool,
    last_round: Option<RoundId>,
    last_success: Option<Timestamp>,
    rows_total: u64,
    errors_total: u64,
}

impl Slot {
    /// Opens a source at its committed position. Touches no network.
    pub fn open(
        spec: &SourceSpec,
        connector: &dyn Connector,
        environment: &Environment,
        position: Option<Position>,
    ) -> Result<Self> {
        Ok(Self {
            name: spec.name.clone(),
            address: format!("{} {}", spec.protocol, spec.address()),
            required: spec.required,
            source: connector.open(spec, environment)?,
            snapshot_group: connector.snapshot_group(spec),
            machine: StateMachine::new(environment.clock.wall()),
            position,
            watermark: None,
            event_time: spec.event_time.clone(),
            mode: spec.mode.unwrap_or_else(|| connector.default_mode(spec)),
            key: connector.item_key(spec),
            key_memory: spec.key_memory,
            pause: PAUSE_MIN,
            not_before: Duration::ZERO,
            is_unacknowledged: false,
            last_round: None,
            last_success: None,
            rows_total: 0,
            errors_total: 0,
        })
    }

    /// Goes on from what is committed: the position, the watermark, the counters.
    pub fn restore(
        &mut self,
        position: Option<Position>,
        statuses: &BTreeMap<SourceName, SourceStatus>,
        watermarks: &BTreeMap<SourceName, Timestamp>,
    ) {
        self.position = position;
        self.watermark = watermarks.get(&self.name).copied();
        if let Some(status) = statuses.get(&self.name) {
            self.last_round = status.last_round;
            self.last_success = status.last_success;
            self.rows_total = status.rows_total;
            self.errors_total = self.errors_total.max(status.errors_total);
        }
    }

    /// How its rows meet those already in the table.
    pub fn mode(&self) -> WriteMode {
        self.mode
    }

    /// What the lake is told before rows of this source come.
    pub fn table_spec(&self, time: Timestamp) -> TableSpec {
        TableSpec {
            source: self.name.clone(),
            mode: self.mode,
            key: self.key.clone(),
            key_memory: self.key_memory,
            time,
            event_time: self.event_time.clone(),
            watermark: self.watermark,
        }
    }

    /// Whether a round reads it now: not while it is down or its server asked to be left alone.
    pub fn is_due(&self, now: Duration) -> bool {
        self.machine.state() != State::Down && now >= self.not_before
    }

    /// Notes a failed read or probe.
    pub fn failed(&mut self, error: &Error, clock: &dyn Clock) -> bool {
        self.errors_total += 1;
        if let Some(delay) = error.retry_after() {
            self.not_before = clock.monotonic() + delay.min(RETRY_AFTER_MAX);
        }
        self.machine.failed(error, clock.wall())
    }

    /// Notes a committed read, of a round that began at `start`, with the position and the watermark it reached.
    pub fn committed(
        &mut self,
        round: RoundId,
        start: Timestamp,
        rows: u64,
        reached: (Option<Position>, Option<Timestamp>),
    ) {
        (self.position, self.watermark) = reached;
        self.last_round = Some(round);
        self.last_success = Some(start);
        self.rows_total += rows;
    }

    /// Notes a read that succeeded, committed or not: the source is well, whatever becomes of its round, unless what was
    /// stored before could not be acknowledged, or it complains of something itself.
    pub fn succeeded(&mut self, clock: &dyn Clock) -> bool {
        self.pause = PAUSE_MIN;
        match self.source.complaint() {
            _ if self.is_unacknowledged => false,
            Some(error) => self.machine.complained(&error.with_source(&self.name), clock.wall()),
            None => self.machine.succeeded(clock.wall()),
        }
    }

    /// Notes whether the server could be told of what is stored. Returns whether the state changed.
    pub fn acknowledged(&mut self, told: &Result<()>, clock: &dyn Clock) -> bool {
        let was_unacknowledged = std::mem::replace(&mut self.is_unacknowledged, told.is_err());
        match told {
            Ok(()) => was_unacknowledged && self.machine.succeeded(clock.wall()),
            Err(error) => {
                self.errors_total += 1;
                self.machine.complained(error, clock.wall())
            }
        }
    }

    /// The pause before the next probe, with the next one doubled. `jitter` in 0 … 1 spreads many sources out.
    pub fn next_pause(&mut self, jitter: f64, now: Duration) -> Duration {
        let pause = self.pause.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0));
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        pause.max(self.not_before.saturating_sub(now))
    }

    /// What `status` shows of it.
    pub fn status(&self) -> SourceStatus {
        let cause = self.machine.cause();
        SourceStatus {
            source: self.name.clone(),
            address: self.address.clone(),
            state: self.machine.state(),
            since: self.machine.since(),
            cause_kind: cause.map(|cause| cause.kind.as_str().to_owned()),
            cause: cause.map(|cause| cause.message.clone()),
            hint: cause.and_then(|cause| cause.hint.clone()),
            last_round: self.last_round,
            last_success: self.last_success,
            rows_total: self.rows_total,
            errors_total: self.errors_total,
            failures: self.machine.failures(),
        }
    }
}
