//! What is kept of a round, and of the sources in it, once it has been read and checked.

use portolan_model::RoundId;
use portolan_model::RoundName;
use portolan_model::catalog::SourceStatus;
use portolan_model::clock::Moment;
use portolan_model::round::{Receipt, RoundConsistency, RoundRecord, RoundVerdict};

use crate::checks::Verified;
use crate::reading::{Reading, discard};
use crate::slot::Slot;

/// What its reads have made of a round.
pub(crate) struct Frame {
    pub(crate) name: RoundName,
    pub(crate) start: Moment,
    pub(crate) duration_us: i64,
    pub(crate) verdict: RoundVerdict,
    pub(crate) consistency: RoundConsistency,
    /// The required sources that it lacks, for people.
    pub(crate) missing: Option<String>,
    /// Of the sources that were not read.
    pub(crate) skipped: Vec<Receipt>,
}

impl Frame {
    /// The record of the round, and the states of the sources that were read, as they are once it is published.
    pub(crate) fn record(
        &self,
        round: RoundId,
        due: &[&mut Slot],
        readings: &[Reading],
        verified: &Verified,
    ) -> (RoundRecord, Vec<SourceStatus>) {
        let read = due.iter().zip(readings).map(|(slot, reading)| reading.receipt(slot, &self.start));
        let mut record = RoundRecord {
            name: self.name.clone(),
            verdict: self.verdict,
            started_at: self.start.wall,
            duration_us: self.duration_us,
            release_spread_us: None,
            skew_bound_us: None,
            consistency: self.consistency.clone(),
            receipts: read.chain(self.skipped.iter().cloned()).collect(),
            checks: verified.results.clone(),
        };
        record.measure();
        if verified.rejected.is_some() {
            record.verdict = RoundVerdict::Rejected;
        }
        let reasons = [record.consistency.reason.take(), self.missing.clone(), verified.rejected.clone()];
        let reasons: Vec<String> = reasons.into_iter().flatten().collect();
        record.consistency.reason = (!reasons.is_empty()).then(|| reasons.join("; "));
        let is_published = record.verdict != RoundVerdict::Rejected;
        if !is_published {
            record.receipts.iter_mut().for_each(discard);
        }
        let statuses = due.iter().zip(readings).map(|(slot, reading)| {
            let mut status = slot.status();
            if let (true, Ok(outcome)) = (is_published, &reading.outcome) {
                status.last_round = Some(round);
                status.last_success = Some(self.start.wall);
                status.rows_total += outcome.staged.as_ref().map_or(0, |staged| staged.rows);
            }
            status
        });
        let statuses = statuses.collect();
        (record, statuses)
    }
}
