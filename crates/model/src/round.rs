//! One read of a group of sources, and what is kept of it.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::catalog::WriteMode;
use crate::check::CheckResult;
use crate::config::Consistency;
use crate::error::{Error, ErrorKind};
use crate::name::{RoundName, SourceName};
use crate::position::Position;

/// The number of a round: positive, rising with each committed round, with gaps where rounds were given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RoundId(pub i64);

impl fmt::Display for RoundId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What became of a round as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundVerdict {
    /// Every source of the round yielded.
    Complete,
    /// At least one source that is not required is missing; the others are committed.
    Partial,
    /// A required source failed, or a promise or check was not kept that rejects: no rows of any source are committed, only this record.
    Rejected,
}

impl RoundVerdict {
    /// The stable name, as stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Rejected => "rejected",
        }
    }
}

/// What became of one source in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptVerdict {
    /// It yielded its rows.
    Ok,
    /// It proved that nothing changed since its last committed read.
    Unchanged,
    /// It failed; the receipt says why.
    Failed,
    /// It was not asked: it is down and is probed beside the rounds.
    Skipped,
}

impl ReceiptVerdict {
    /// The stable name, as stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unchanged => "unchanged",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// What is kept of one source in one round. Times are microseconds after the start of the round, monotonic.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    /// The source.
    pub source: SourceName,
    /// What became of it.
    pub verdict: ReceiptVerdict,
    /// How the rows stored meet those of earlier rounds; set by the lake.
    pub mode: Option<WriteMode>,
    /// When it was ready to be read (connected, authenticated).
    pub prepared_us: Option<i64>,
    /// When its request went out.
    pub released_us: Option<i64>,
    /// When its answer began.
    pub first_byte_us: Option<i64>,
    /// When the answer to its last request began: its server had acted by then.
    pub acted_us: Option<i64>,
    /// When its answer ended.
    pub last_byte_us: Option<i64>,
    /// Bytes received, as the protocol counts its payload.
    pub bytes: u64,
    /// Rows committed, after deduplication.
    pub rows: u64,
    /// Rows that had been committed before and were left out.
    pub duplicates: u64,
    /// Values and rows committed to quarantine.
    pub quarantined: u64,
    /// The earliest and the latest event time of the rows committed, where the source has one.
    pub event_times: Option<(Timestamp, Timestamp)>,
    /// Rows committed whose event time lay before the watermark that the source had.
    pub late: u64,
    /// Rows committed without a usable event time, where the source has one: it is NULL, or cannot be read.
    pub untimed: u64,
    /// Up to where the source is complete once this round is committed; never goes back. `None` as long as nothing can be
    /// said, and where this round says nothing.
    pub watermark: Option<Timestamp>,
    /// SHA-256 over the raw bytes as they arrived, lower-case hex, where the protocol shows them.
    pub payload_sha256: Option<String>,
    /// Canonical digest of the rows stored (see `docs/lake.md`), lower-case hex; set by the lake.
    pub rows_sha256: Option<String>,
    /// A strong validator the server gave.
    pub validator: Option<String>,
    /// The snapshot that was read, as its server names it: sources with the same one have read one state.
    pub snapshot: Option<String>,
    /// Where it continued from.
    pub position_before: Option<Position>,
    /// Where it continues.
    pub position_after: Option<Position>,
    /// The kind of failure.
    pub error_kind: Option<ErrorKind>,
    /// The failure in words, with its causes.
    pub error: Option<String>,
}

impl Receipt {
    /// A receipt of `source` with nothing noted yet.
    pub fn new(source: SourceName, verdict: ReceiptVerdict) -> Self {
        Self {
            source,
            verdict,
            mode: None,
            prepared_us: None,
            released_us: None,
            first_byte_us: None,
            acted_us: None,
            last_byte_us: None,
            bytes: 0,
            rows: 0,
            duplicates: 0,
            quarantined: 0,
            event_times: None,
            late: 0,
            untimed: 0,
            watermark: None,
            payload_sha256: None,
            rows_sha256: None,
            validator: None,
            snapshot: None,
            position_before: None,
            position_after: None,
            error_kind: None,
            error: None,
        }
    }

    /// Notes a failure.
    #[must_use]
    pub fn failed(mut self, error: &Error) -> Self {
        self.verdict = ReceiptVerdict::Failed;
        self.error_kind = Some(error.kind());
        self.error = Some(error.chain());
        self
    }
}

/// What a round has reached of the promise of its reads' common moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsistencyReached {
    /// Nothing was promised, or the sources that were read do not allow to say more.
    #[default]
    None,
    /// All were released at one instant, within the skew allowed.
    Released,
    /// All were released at one instant, and took effect further apart than allowed.
    SkewExceeded,
    /// Two reads in a row agreed.
    Proven,
    /// No two reads in a row agreed.
    Unproven,
    /// All were released at one instant, within the skew allowed, and the sources of each server read one snapshot.
    Snapshot,
    /// Sources of one server read different snapshots, or none did.
    NoSnapshot,
}

impl ConsistencyReached {
    /// The stable name, as stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Released => "released",
            Self::SkewExceeded => "skew_exceeded",
            Self::Proven => "proven",
            Self::Unproven => "unproven",
            Self::Snapshot => "snapshot",
            Self::NoSnapshot => "no_snapshot",
        }
    }

    /// Whether it is what `promised` promises.
    pub fn keeps(self, promised: Consistency) -> bool {
        match promised {
            Consistency::None => true,
            Consistency::Released => self == Self::Released,
            Consistency::DoubleCollect => self == Self::Proven,
            Consistency::Snapshot => self == Self::Snapshot,
        }
    }
}

/// The promise of a round, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoundConsistency {
    /// What was promised.
    pub promised: Consistency,
    /// What was reached.
    pub reached: ConsistencyReached,
    /// How many times the sources were read for it.
    pub attempts: u32,
    /// Why it is not what was promised, for people.
    pub reason: Option<String>,
}

/// What is kept of a round as a whole; becomes one row of `portolan.rounds` and one row of `portolan.receipts` for
/// each source, in the transaction that publishes the rows.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundRecord {
    /// The group that was read.
    pub name: RoundName,
    /// What became of it.
    pub verdict: RoundVerdict,
    /// The wall-clock instant of the start.
    pub started_at: Timestamp,
    /// From start to the last source's end, in microseconds, monotonic.
    pub duration_us: i64,
    /// max(released) − min(released) over its sources, in microseconds.
    pub release_spread_us: Option<i64>,
    /// max(acted) − min(released), where a server has acted when its answer begins: no two reads took effect further apart
    /// than this.
    pub skew_bound_us: Option<i64>,
    /// What was promised of the reads' common moment, and what became of it.
    pub consistency: RoundConsistency,
    /// One receipt a source.
    pub receipts: Vec<Receipt>,
    /// One result a check that was asked, in the order of the configuration.
    pub checks: Vec<CheckResult>,
}

impl RoundRecord {
    /// The source that took longest and when its answer ended, in microseconds.
    pub fn slowest(&self) -> Option<(&SourceName, i64)> {
        self.receipts.iter().filter_map(|r| Some((&r.source, r.last_byte_us?))).max_by_key(|(_, end_us)| *end_us)
    }

    /// Sets release spread and skew bound from the receipts.
    pub fn measure(&mut self) {
        let skew = Skew::of(&self.receipts);
        self.release_spread_us = skew.release_spread_us;
        self.skew_bound_us = skew.bound_us;
    }
}

/// How far apart the reads of one round took effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skew {
    /// max(released) − min(released), in microseconds.
    pub release_spread_us: Option<i64>,
    /// max(acted) − min(released), in microseconds.
    pub bound_us: Option<i64>,
}

impl Skew {
    /// The skew of the reads that `receipts` are of.
    pub fn of(receipts: &[Receipt]) -> Self {
        let released = || receipts.iter().filter_map(|receipt| receipt.released_us);
        let acted = receipts.iter().filter_map(|receipt| receipt.acted_us);
        let first_release = released().min();
        Self {
            release_spread_us: first_release.and_then(|first| Some(released().max()? - first)),
            bound_us: first_release.and_then(|first| Some(acted.max()? - first)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_and_bound_follow_their_definitions() {
        let mut receipts = Vec::new();
        for (name, released, first_byte) in [("a", 10, 500), ("b", 14, 90), ("c", 12, 300)] {
            let mut receipt = Receipt::new(SourceName::new(name).unwrap(), ReceiptVerdict::Ok);
            receipt.released_us = Some(released);
            receipt.first_byte_us = Some(first_byte);
            receipt.acted_us = Some(first_byte);
            receipt.last_byte_us = Some(first_byte + 1);
            receipts.push(receipt);
        }
        receipts.push(Receipt::new(SourceName::new("d").unwrap(), ReceiptVerdict::Skipped));
        let mut record = RoundRecord {
            name: RoundName::new("r").unwrap(),
            verdict: RoundVerdict::Partial,
            started_at: Timestamp::UNIX_EPOCH,
            duration_us: 501,
            release_spread_us: None,
            skew_bound_us: None,
            consistency: RoundConsistency::default(),
            receipts,
            checks: Vec::new(),
        };
        record.measure();
        assert_eq!(record.release_spread_us, Some(4));
        assert_eq!(record.skew_bound_us, Some(490));
        assert_eq!(record.slowest().map(|(name, end)| (name.as_str(), end)), Some(("a", 501)));
    }
}
