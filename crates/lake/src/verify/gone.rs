//! Tells rounds of which no row is stored: replaced and expired, or lost.

use std::collections::{BTreeMap, BTreeSet};

use portolan_model::Result;
use portolan_model::catalog::WriteMode;

use super::expected::{self, Digest, Expected};
use super::prove::{Found, Prover, unproved};
use super::segments::Layout;
use super::{Known, OPERATION, VerifyReport, VerifyScope};
use crate::digest::RowDigest;
use crate::error::sqlite;
use crate::scan::Place;

impl Prover<'_> {
    /// Rounds of which no row is stored: gone with the snapshots that saw them, where a later round has replaced the
    /// table; lost, otherwise.
    pub(super) fn tell_gone(&self, gone: &[Expected], report: &mut VerifyReport) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        let oldest: i64 = self.snapshot.with(|connection| {
            connection
                .query_row("SELECT min(snapshot_id) FROM ducklake_snapshot", [], |row| row.get(0))
                .map_err(|error| sqlite(OPERATION, error))
        })?;
        let whole = match self.sorter.scope.is_whole() {
            true => None,
            false => Some(expected::receipts(self.snapshot, self.name, &VerifyScope::default())?),
        };
        let receipts = whole.as_ref().unwrap_or(self.sorter.receipts);
        let last = |mode: Option<WriteMode>| {
            let stored = receipts.list.iter().filter(|one| one.digest != Digest::None && one.snapshot <= oldest);
            stored.filter(|one| one.mode == mode && one.snapshot >= self.since).map(|one| one.snapshot).max()
        };
        let mut replaced_before = last(Some(WriteMode::Replace));
        // Receipts of an earlier version do not say whether their round replaced the table: a row stored before the last
        // of them shows that they did not.
        if let Some(shown) = last(None).filter(|shown| replaced_before.is_none_or(|before| before < *shown))
            && !self.holds_rows_before(shown)?
        {
            replaced_before = Some(shown);
        }
        let (replaced, lost): (Vec<Expected>, Vec<Expected>) =
            gone.iter().copied().partition(|expected| replaced_before.is_some_and(|before| expected.snapshot < before));
        let reason = "a later round has replaced its rows, and the snapshots that showed them have expired";
        unproved(report, self.name, &replaced, reason);
        for expected in lost {
            let nothing = Found { rows: 0, sha256: Some(RowDigest::new().finish()) };
            let mismatch = self.mismatch(&expected, Some(&nothing), Vec::new(), false);
            report.mismatch(mismatch);
        }
        Ok(())
    }

    /// Whether a row is stored that a snapshot before `snapshot` added.
    fn holds_rows_before(&self, snapshot: i64) -> Result<bool> {
        let Known::Here { id, places, columns, .. } = super::look_up(self.snapshot, self.name)? else {
            return Ok(false);
        };
        let Some(mark) = columns.get(self.mark) else { return Ok(false) };
        let mut holds = false;
        for place in &places {
            // A place that cannot be read has been reported.
            let _ = self.snapshot.scan_stored(id, place, std::slice::from_ref(mark), &mut |rows| {
                holds |= rows.begins.values().iter().any(|begin| *begin < snapshot);
                Ok(!holds)
            });
        }
        Ok(holds)
    }

    /// Adds the damaged places that can be read and hold rows that no receipt explains: what else they held before their
    /// bytes were changed cannot be told. One whose rows are all where they belong hides none.
    pub(super) fn suspect_misfits(&mut self, layouts: &[Layout], report: &VerifyReport) {
        let receipts = self.sorter.receipts;
        let has_more = |round: &i64, rows: u64| receipts.of(*round).is_some_and(|expected| expected.rows < rows);
        let misfits = |layout: &Layout| {
            let mut rows: BTreeMap<i64, u64> = BTreeMap::new();
            layout.segments.iter().for_each(|segment| *rows.entry(segment.round).or_default() += segment.rows);
            layout.foreign > 0
                || !layout.unreceipted.is_empty()
                || rows.iter().any(|(round, rows)| has_more(round, *rows))
        };
        for (index, place) in self.places.iter().enumerate() {
            if report.is_damaged(self.name, &place.name()) && misfits(&layouts[index]) {
                self.suspects.insert(index);
            }
        }
    }

    /// Notes a round whose rows are not all there with the damaged files that may hold them: the one whose reading broke
    /// off at it, or those whose bounds leave room for it. False if there is none.
    pub(super) fn hide(&self, round: i64, report: &mut VerifyReport) -> bool {
        let suspects: BTreeSet<String> = match self.unread.get(&round) {
            Some(index) => [self.places[*index].name()].into(),
            None => {
                let places = self.suspects.iter().map(|index| &self.places[*index]);
                places.filter(|place| self.may_hold(place, round)).map(Place::name).collect()
            }
        };
        // Each of them takes note.
        suspects.iter().filter(|path| report.hide(self.name, path, round)).count() > 0
    }
}
