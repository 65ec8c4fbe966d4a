//! The checks of one round, between its reads and its commit.
//!
//! Promises:
//! - a round is stored only with the answers of all its checks, and what follows from them;
//! - a check that cannot be evaluated is never taken for passed: what its `on_failure` says follows;
//! - what rejects, rejects the whole round; what the quarantine cannot take whole rejects it, too;
//! - bounded by the round's deadline, counted anew for the checks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use portolan_model::catalog::{Commit, Grounded, Staging, WriteMode};
use portolan_model::check::{CheckInput, CheckResult, Checked, CheckedRows, Ground};
use portolan_model::config::{OnCheckFailure, RoundSpec};
use portolan_model::round::{RoundRecord, RoundVerdict};
use portolan_model::{Error, ErrorKind, Result};

use crate::coordinator::Shared;
use crate::reading::{Outcome, Reading};
use crate::record::Frame;
use crate::slot::Slot;

/// The most times that a round is checked whose ground moves before it is committed.
const ATTEMPTS_MAX: u32 = 4;

/// What the checks of a round have come to.
#[derive(Default)]
pub(crate) struct Verified {
    pub(crate) results: Vec<CheckResult>,
    pub(crate) ground: Option<Ground>,
    /// Why the round is rejected, if it is, for people.
    pub(crate) rejected: Option<String>,
    /// What reads had come to before rows were withheld, by their places.
    whole: Vec<(usize, Outcome)>,
}

impl Verified {
    /// The ground has moved, and nothing is withheld any more.
    pub(crate) fn undo(self, readings: &mut [Reading]) {
        for (place, whole) in self.whole {
            readings[place].outcome = Ok(whole);
        }
    }
}

/// Checks and commits a round, again where other rounds have changed meanwhile what its checks had read.
pub(crate) async fn publish(
    spec: &RoundSpec,
    shared: &Shared,
    frame: &Frame,
    mut staging: Box<dyn Staging>,
    due: &mut [&mut Slot],
    readings: &mut [Reading],
) -> (Result<Commit>, Option<Arc<RoundRecord>>) {
    let begun = shared.clock.monotonic();
    for _ in 0..ATTEMPTS_MAX {
        // A round that is rejected already is asked nothing.
        let verified = match frame.verdict {
            RoundVerdict::Rejected => Ok(Verified::default()),
            _ => {
                let left = spec.deadline.saturating_sub(shared.clock.monotonic().saturating_sub(begun));
                verify(spec, shared, frame, left, &mut *staging, due, readings).await
            }
        };
        let mut verified = match verified {
            Ok(verified) => verified,
            Err(error) => {
                staging.abort().await;
                return (Err(error), None);
            }
        };
        let (record, statuses) = frame.record(staging.round(), due, readings, &verified);
        let kept = Arc::new(record.clone());
        match staging.commit_on(verified.ground.take(), record, &statuses).await {
            Ok(Grounded::Committed(commit)) => return (Ok(commit), Some(kept)),
            Ok(Grounded::Moved(again)) => staging = again,
            Err(error) => return (Err(error), Some(kept)),
        }
        verified.undo(readings);
    }
    staging.abort().await;
    (Err(moved()), None)
}

/// Asks the checks of `spec` about what was read, for at most `deadline`, and withholds the rows that they say.
///
/// # Errors
/// What the lake says where it cannot be read, or rows cannot be withheld for another reason than that they are too many.
async fn verify(
    spec: &RoundSpec,
    shared: &Shared,
    frame: &Frame,
    deadline: Duration,
    staging: &mut dyn Staging,
    due: &mut [&mut Slot],
    readings: &mut [Reading],
) -> Result<Verified> {
    if spec.checks.is_empty() {
        return Ok(Verified::default());
    }
    let Some(checker) = &shared.checker else {
        return Err(Error::new(ErrorKind::Internal, "check round", "there is nobody to evaluate its checks"));
    };
    let mut sources: BTreeMap<_, _> = spec.sources.iter().map(|name| (name.clone(), CheckedRows::Missing)).collect();
    for (slot, reading) in due.iter().zip(readings.iter()) {
        if reading.outcome.as_ref().is_ok_and(|outcome| outcome.staged.is_none()) {
            sources.insert(slot.name.clone(), CheckedRows::Unchanged { mode: slot.mode() });
        }
    }
    for (source, mode, rows) in staging.staged() {
        sources.insert(source, CheckedRows::Staged { rows, mode });
    }
    let input = CheckInput {
        checks: &spec.checks,
        sources,
        started_at: frame.start.wall,
        deadline,
        timeout: (spec.deadline / 4).max(Duration::from_millis(1)),
    };
    let Checked { results, ground, withheld } = checker.check(input).await?;
    let failures = || results.iter().filter(|result| result.outcome.is_failure());
    let mut rejected = failures().find(|result| result.on_failure == OnCheckFailure::Reject).map(CheckResult::words);
    let mut whole = Vec::new();
    if rejected.is_none() {
        for (source, rows) in withheld {
            let staged = match staging.withhold(&source, rows).await {
                Ok(staged) => staged,
                Err(error) if error.kind() == ErrorKind::Limit => {
                    rejected = Some(error.chain());
                    break;
                }
                Err(error) => return Err(error),
            };
            let Some(place) = due.iter().position(|slot| slot.name == source) else { continue };
            if let Ok(outcome) = &mut readings[place].outcome {
                whole.push((place, outcome.clone()));
                outcome.staged = Some(staged);
                // "Not changed" would leave out for good what is withheld now.
                if due[place].mode() == WriteMode::Replace {
                    let position = outcome.end.position.take();
                    outcome.end.position = position.map(|position| due[place].source.without_validator(position));
                }
            }
        }
    }
    Ok(Verified { results, ground, rejected, whole })
}

/// The error of a round whose ground has moved each time that it was checked.
fn moved() -> Error {
    let message = format!("other rounds changed what its checks had read, {ATTEMPTS_MAX} times in a row");
    Error::new(ErrorKind::Conflict, "check round", message)
        .with_hint("it is read again; read the ports that the check compares in one [[round]], or each less often")
}
