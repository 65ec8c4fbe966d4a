//! The collects of one round: as many as the promise of their common moment takes.
//!
//! - `released` reads once more while the skew is larger than allowed;
//! - `double_collect` reads until two collects in a row agree, the second begun after the first has wholly ended: what did
//!   not change from its first reading to its second held at every instant between, for all sources at once, so all these
//!   values held together between the two collects (Afek et al., "Atomic snapshots of shared memory", J. ACM 40, 1993,
//!   section 3). A value that changed and changed back between its two readings is not seen: the one hole;
//! - `snapshot` reads once more, too, while sources of one server have not read one snapshot of it.
//!
//! Promise: bounded in number and by the round's deadline; what one collect staged is dropped whole before the next one's is
//! kept; a source that cannot be read twice is not.

use std::collections::BTreeMap;
use std::time::Duration;

use portolan_model::catalog::Staging;
use portolan_model::clock::Moment;
use portolan_model::config::{Consistency, ConsistencySpec, OnFailure, RoundSpec, SkewMeasure};
use portolan_model::round::{ConsistencyReached, Receipt, RoundConsistency, Skew};
use portolan_model::source::SnapshotGroup;
use portolan_model::{Error, Result, SourceName};

use crate::coordinator::{Shared, is_storage};
use crate::output::{MemoryRows, Receiver};
use crate::reading::{Patience, Reading, read_all};
use crate::slot::Slot;

/// What the collects of a round share.
pub(crate) struct Collector<'r> {
    pub(crate) spec: &'r RoundSpec,
    pub(crate) shared: &'r Shared,
    pub(crate) patience: Patience,
    /// Whether rows are also kept in memory, up to so many bytes a source.
    pub(crate) memory_bytes_max: Option<usize>,
    /// When the round began.
    pub(crate) start: Moment,
}

/// The collect that a round keeps.
pub(crate) struct Collected {
    pub(crate) staging: Box<dyn Staging>,
    /// One for each slot.
    pub(crate) readings: Vec<Reading>,
    pub(crate) consistency: RoundConsistency,
    /// The promise was not kept, and such rounds are not.
    pub(crate) is_refused: bool,
}

impl Collected {
    /// Why the lake could not take what was read.
    pub(crate) fn storage_error(&self) -> Option<&Error> {
        self.readings.iter().find_map(|reading| reading.outcome.as_ref().err().filter(|error| is_storage(error)))
    }

    fn has_required_failure(&self, due: &[&mut Slot]) -> bool {
        due.iter().zip(&self.readings).any(|(slot, reading)| slot.required && reading.outcome.is_err())
    }

    fn skew(&self, due: &[&mut Slot], start: &Moment) -> Skew {
        let receipts: Vec<Receipt> =
            due.iter().zip(&self.readings).map(|(slot, reading)| reading.receipt(slot, start)).collect();
        Skew::of(&receipts)
    }

    /// Which sources of one server have not read one snapshot, if any, for people. A source that failed is no part of it.
    fn split(&self, due: &[&mut Slot]) -> Option<String> {
        let mut first: BTreeMap<&SnapshotGroup, (&SourceName, &str)> = BTreeMap::new();
        let mut split = None;
        for (slot, reading) in due.iter().zip(&self.readings) {
            let (Some(group), Ok(outcome)) = (&slot.snapshot_group, &reading.outcome) else { continue };
            let Some(own) = outcome.end.snapshot.as_deref() else {
                return Some(format!("`{}` could not agree on a snapshot with the others of its server", slot.name));
            };
            let (other, snapshot) = *first.entry(group).or_insert((&slot.name, own));
            if snapshot != own {
                split.get_or_insert_with(|| format!("`{other}` and `{}` read different snapshots", slot.name));
            }
        }
        if first.is_empty() { Some("no source with snapshots was read".to_owned()) } else { split }
    }

    /// Whether no source was read.
    fn is_empty(&self) -> bool {
        self.readings.iter().all(|reading| reading.outcome.is_err())
    }

    /// Whether both have read the same, of every source.
    fn agrees(&self, other: &Self) -> bool {
        self.readings.iter().zip(&other.readings).all(|(one, other)| match (&one.outcome, &other.outcome) {
            (Ok(one), Ok(other)) => one.agrees(other),
            // A source that fails is no part of the round, in either.
            (Err(_), Err(_)) => true,
            _ => false,
        })
    }
}

impl Collector<'_> {
    /// Reads `due` until the promise is kept, or cannot be.
    ///
    /// # Errors
    /// What the lake says where nothing can be staged.
    pub(crate) async fn collect(&self, due: &mut [&mut Slot]) -> Result<Collected> {
        match self.spec.consistency.mode {
            Consistency::None => self.once(due, &[]).await,
            Consistency::Released | Consistency::Snapshot => self.released(due).await,
            Consistency::DoubleCollect => self.double(due).await,
        }
    }

    async fn released(&self, due: &mut [&mut Slot]) -> Result<Collected> {
        let mut attempts = 0;
        loop {
            let begun = self.elapsed();
            let mut collected = self.once(due, &[]).await?;
            attempts += 1;
            let missed = self.missed(due, &collected);
            let is_over =
                collected.is_empty() || collected.storage_error().is_some() || collected.has_required_failure(due);
            let (reached, reason) = match missed {
                None if self.spec.consistency.mode == Consistency::Snapshot => (ConsistencyReached::Snapshot, None),
                None => (ConsistencyReached::Released, None),
                Some((reached, reason)) if !is_over => match self.obstacle(due, &collected, begun, attempts) {
                    None => {
                        collected.staging.abort().await;
                        continue;
                    }
                    Some(obstacle) => (reached, Some(format!("{reason}, {obstacle}"))),
                },
                Some((reached, reason)) => (reached, Some(reason)),
            };
            self.conclude(&mut collected, reached, attempts, reason);
            return Ok(collected);
        }
    }

    async fn double(&self, due: &mut [&mut Slot]) -> Result<Collected> {
        let mut attempts = 0;
        let mut before: Option<Collected> = None;
        loop {
            let begun = self.elapsed();
            // Of what did not come to an end, as much again as came: only that can be compared.
            let rows_cut: Vec<Option<u64>> =
                before.iter().flat_map(|before| &before.readings).map(Reading::rows_cut).collect();
            let collected = self.once(due, &rows_cut).await?;
            attempts += 1;
            let is_empty = collected.is_empty();
            let is_over = is_empty || collected.storage_error().is_some() || collected.has_required_failure(due);
            let is_proven = before.as_ref().is_some_and(|before| before.agrees(&collected));
            let (mut kept, dropped) = match before.take() {
                // Both are the same; the first is kept, whose instants the proof is about, too.
                Some(before) if is_proven => (before, Some(collected)),
                before => (collected, before),
            };
            if let Some(dropped) = dropped {
                dropped.staging.abort().await;
            }
            let (reached, reason) = if is_proven {
                (ConsistencyReached::Proven, None)
            } else if is_over {
                let reason = if is_empty { "no source was read" } else { "a source failed" };
                (ConsistencyReached::Unproven, Some(reason.to_owned()))
            } else {
                match self.obstacle(due, &kept, begun, attempts) {
                    None => {
                        before = Some(kept);
                        continue;
                    }
                    Some(obstacle) => {
                        (ConsistencyReached::Unproven, Some(format!("no two reads in a row agreed, {obstacle}")))
                    }
                }
            };
            // A skew is asked for as well: of the collect that is kept.
            let exceeded = self.exceeded(kept.skew(due, &self.start));
            let (reached, reason) = match (reached, exceeded) {
                (ConsistencyReached::Proven, Some(reason)) => (ConsistencyReached::SkewExceeded, Some(reason)),
                unchanged => (unchanged.0, reason),
            };
            self.conclude(&mut kept, reached, attempts, reason);
            return Ok(kept);
        }
    }

    fn conclude(&self, collected: &mut Collected, reached: ConsistencyReached, attempts: u32, reason: Option<String>) {
        let ConsistencySpec { mode, on_failure, .. } = self.spec.consistency;
        collected.consistency = RoundConsistency { promised: mode, reached, attempts, reason };
        collected.is_refused = on_failure == OnFailure::Reject && !reached.keeps(mode);
    }

    /// Why there is no further attempt after `collected`, if there is none, for people.
    fn obstacle(&self, due: &[&mut Slot], collected: &Collected, begun: Duration, attempts: u32) -> Option<String> {
        // One that failed is no part of the round yet.
        let mut read = due.iter().zip(&collected.readings).filter(|(_, reading)| reading.outcome.is_ok());
        if let Some((slot, _)) = read.find(|(slot, _)| !slot.source.capabilities().is_comparable()) {
            return Some(format!("and `{}` cannot be read twice", slot.name));
        }
        if attempts >= self.spec.consistency.attempts_max {
            return Some(format!("in {attempts} attempts"));
        }
        let now = self.elapsed();
        let left = self.spec.deadline.saturating_sub(now);
        (left <= now.saturating_sub(begun))
            .then(|| format!("in {attempts} attempts, and the deadline allows no further one"))
    }

    /// What a collect that was released has missed of its promise, and why, for people.
    fn missed(&self, due: &[&mut Slot], collected: &Collected) -> Option<(ConsistencyReached, String)> {
        let split = (self.spec.consistency.mode == Consistency::Snapshot).then(|| collected.split(due)).flatten();
        let exceeded = || self.exceeded(collected.skew(due, &self.start));
        let is_released = self.spec.consistency.mode == Consistency::Released;
        if is_released && collected.is_empty() {
            return Some((ConsistencyReached::None, "no source was read".to_owned()));
        }
        split
            .map(|reason| (ConsistencyReached::NoSnapshot, reason))
            .or_else(|| exceeded().map(|reason| (ConsistencyReached::SkewExceeded, reason)))
    }

    /// What exceeds the skew allowed, if it does, for people.
    fn exceeded(&self, skew: Skew) -> Option<String> {
        let allowed = self.spec.consistency.skew_max?;
        let (name, measured) = match self.spec.consistency.skew_measure {
            SkewMeasure::Bound => ("skew bound", skew.bound_us),
            SkewMeasure::Release => ("release spread", skew.release_spread_us),
        };
        let measured = Duration::from_micros(u64::try_from(measured?).unwrap_or(0));
        (measured > allowed).then(|| format!("{name} of {measured:?} over max_skew of {allowed:?}"))
    }

    fn elapsed(&self) -> Duration {
        self.shared.clock.monotonic().saturating_sub(self.start.monotonic())
    }

    /// Reads `due` once, of each slot about as many rows as `rows_enough` says, where it does.
    async fn once(&self, due: &mut [&mut Slot], rows_enough: &[Option<u64>]) -> Result<Collected> {
        let mut staging = self.shared.catalog.begin().await?;
        let receivers = due
            .iter()
            .enumerate()
            .map(|(index, slot)| {
                Ok(Receiver {
                    table: Some(staging.table(slot.table_spec(self.start.wall))?),
                    memory: self.memory_bytes_max.map(MemoryRows::new),
                    rows_enough: rows_enough.get(index).copied().flatten(),
                })
            })
            .collect::<Result<Vec<Receiver>>>()?;
        let readings = read_all(due, receivers, &*self.shared.clock, self.patience_now(rows_enough.is_empty())).await;
        Ok(Collected { staging, readings, consistency: RoundConsistency::default(), is_refused: false })
    }

    fn patience_now(&self, is_first: bool) -> Patience {
        let ConsistencySpec { mode, ready_within, skew_max, skew_measure, .. } = self.spec.consistency;
        let mut patience = self.patience.after(self.elapsed());
        if mode != Consistency::None {
            patience.ready_within = Some(ready_within.min(patience.deadline / 2));
            patience.is_snapshot = mode == Consistency::Snapshot;
            // What takes many requests keeps within the skew by ending early: a backlog comes in several rounds, instead of
            // being refused for ever.
            patience.enough_after_release = match skew_measure {
                SkewMeasure::Bound => skew_max.map(|allowed| allowed / 2),
                SkewMeasure::Release => None,
            };
        }
        if is_first && mode == Consistency::DoubleCollect && patience.enough_after != Duration::MAX {
            // The same must be read again in what is left, and with time to spare.
            patience.enough_after = patience.enough_after.min(patience.deadline / 4);
        }
        patience
    }
}
