//! What one run is made of, drawn from its seed.

use std::time::Duration;

use fastrand::Rng;
use portolan_model::config::{Consistency, ConsistencySpec, OnFailure, SkewMeasure};

/// The deadline of every round.
pub(crate) const DEADLINE: Duration = Duration::from_secs(4);
/// From here on nothing fails, grows or changes any more.
pub(crate) const CALM_AFTER: Duration = Duration::from_secs(60);
/// How long it stays calm: the longest pause of a probe, the longest wish to be left alone, and a few rounds.
pub(crate) const CALM: Duration = Duration::from_secs(150);

/// What kind of data a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Numbered items, which become more; read from a position, in pages.
    Log,
    /// One value that is replaced by the next; read whole, "unchanged" where it is the one stored.
    Value,
    /// Numbered items that are given again until they are acknowledged.
    Queue,
}

/// A part that is broken on purpose, to show that a check of the simulation finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// A source asks its server before the release.
    AsksEarly,
    /// A source acknowledges what it has read before it is committed.
    AcknowledgesEarly,
    /// The catalog leaves a table of a round out.
    LosesTable,
    /// The catalog keeps a position of a source that failed.
    MovesFailed,
    /// The catalog gives every content the same digest.
    BlindDigest,
    /// The catalog publishes the rows of a rejected round.
    KeepsRejected,
    /// A source marks the first byte before its server has acted.
    MarksEarly,
    /// A source reads a snapshot of its own under the name of the first one's.
    SplitsSnapshot,
    /// The catalog publishes a round though what its checks have read has changed.
    IgnoresGround,
    /// The catalog publishes rows that checks withhold.
    KeepsWithheld,
}

impl Break {
    pub(crate) const ALL: [Self; 10] = [
        Self::AsksEarly,
        Self::AcknowledgesEarly,
        Self::LosesTable,
        Self::MovesFailed,
        Self::BlindDigest,
        Self::KeepsRejected,
        Self::MarksEarly,
        Self::SplitsSnapshot,
        Self::IgnoresGround,
        Self::KeepsWithheld,
    ];
}

/// One server and the source that reads it.
#[derive(Clone, Debug)]
pub(crate) struct ServerPlan {
    pub(crate) kind: Kind,
    pub(crate) required: bool,
    /// How often something fails, of 1,000 steps.
    pub(crate) faults: u32,
    /// The longest way to it, in milliseconds.
    pub(crate) latency_ms: u64,
    /// A log or a queue has one item more each time; a value is replaced.
    pub(crate) grows_every_ms: u64,
    /// Which database it is part of; a queue is part of none.
    pub(crate) database: Option<u16>,
}

/// One group of sources.
#[derive(Clone, Debug)]
pub(crate) struct RoundPlan {
    pub(crate) servers: Vec<usize>,
    pub(crate) every: Duration,
    pub(crate) consistency: ConsistencySpec,
    /// Whether its rows are checked.
    pub(crate) is_checked: bool,
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) servers: Vec<ServerPlan>,
    pub(crate) rounds: Vec<RoundPlan>,
    /// Whether the values of all servers are replaced at the same instants.
    pub(crate) is_atomic: bool,
    /// How often the catalog fails, of 1,000 steps.
    pub(crate) catalog_faults: u32,
    /// When the process ends and starts again, and whether it was asked to.
    pub(crate) ends: Vec<(Duration, bool)>,
}

impl Plan {
    pub(crate) fn draw(random: &mut Rng) -> Self {
        let is_quiet = random.u8(..4) == 0;
        let faults = if is_quiet { 0 } else { random.u32(..120) };
        let values_only = random.bool();
        let servers: Vec<ServerPlan> = (0..random.usize(1..=5))
            .map(|_| {
                let kind = match random.u8(..4) {
                    _ if values_only => Kind::Value,
                    0 => Kind::Queue,
                    1 => Kind::Value,
                    _ => Kind::Log,
                };
                (kind, (kind != Kind::Queue).then(|| random.u16(..2)))
            })
            .collect::<Vec<_>>()
            .into_iter()
            .map(|(kind, database)| ServerPlan {
                kind,
                database,
                required: random.u8(..3) > 0,
                faults,
                latency_ms: random.u64(1..60),
                grows_every_ms: random.u64(20..400) * [1, 3, 10][random.usize(..3)],
            })
            .collect();
        let cut = if random.bool() { servers.len() } else { random.usize(1..=servers.len()) };
        let all: Vec<usize> = (0..servers.len()).collect();
        let rounds = all
            .split_at(cut)
            .0
            .chunks(servers.len())
            .chain(all[cut..].chunks(servers.len()))
            .map(|servers_of_round| RoundPlan {
                servers: servers_of_round.to_vec(),
                every: Duration::from_millis(random.u64(800..9_000)),
                consistency: consistency(
                    random,
                    servers_of_round.iter().all(|index| servers[*index].kind != Kind::Queue),
                    servers_of_round.iter().any(|index| servers[*index].database.is_some()),
                ),
                is_checked: random.bool(),
            })
            .collect();
        let mut ends: Vec<(Duration, bool)> = (0..random.usize(..4))
            .map(|_| (Duration::from_millis(random.u64(1..CALM_AFTER.as_millis() as u64)), random.bool()))
            .collect();
        ends.sort();
        ends.push((CALM_AFTER + CALM, true));
        let catalog_faults = if is_quiet { 0 } else { random.u32(..60) };
        Self { servers, rounds, is_atomic: random.bool(), catalog_faults, ends }
    }
}

fn consistency(random: &mut Rng, is_comparable: bool, has_snapshots: bool) -> ConsistencySpec {
    let mode = match random.u8(..4) {
        0 => Consistency::None,
        1 => Consistency::Released,
        2 if has_snapshots => Consistency::Snapshot,
        _ => Consistency::DoubleCollect,
    };
    // Two reads of a queue cannot be compared: to reject its rounds would be to have none.
    let can_be_kept = mode != Consistency::DoubleCollect || is_comparable;
    ConsistencySpec {
        mode,
        skew_max: (mode != Consistency::None && random.bool()).then(|| Duration::from_millis(random.u64(250..600))),
        skew_measure: if random.bool() { SkewMeasure::Bound } else { SkewMeasure::Release },
        attempts_max: random.u32(2..6),
        on_failure: if can_be_kept && random.bool() { OnFailure::Reject } else { OnFailure::Mark },
        ready_within: Duration::from_millis(random.u64(200..3_000)),
    }
}
