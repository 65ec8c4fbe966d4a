//! Proves one table: the bytes of its files, where the rows of each round lie, their digests, what the receipts say.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use portolan_model::{ErrorKind, Result};

use super::bytes::{self, Digests, Proof};
use super::expected::{self, Digest, Expected, Receipts};
use super::segments::{self, Belongs, Layout, Plan, Sorter, damaged};
use super::{Known, Mismatch, NAMED_MAX, Unproved, VerifiedTable, VerifyProgress, VerifyReport, VerifyScope};
use crate::digest::RowDigest;
use crate::reader::{DataFile, Snapshot};
use crate::scan::Place;
use crate::types::Column;

/// Digests that are open at once: rounds whose rows lie apart.
const OPEN_MAX: usize = 256;
/// Places named in a mismatch.
const PLACES_MAX: usize = 8;

/// What was computed of a round's rows.
pub(super) struct Found {
    pub(super) rows: u64,
    /// `None` where the bytes of its files are proved and their rows were counted.
    pub(super) sha256: Option<String>,
}

pub(super) struct Prover<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) table: i64,
    /// The first snapshot whose rounds have stored their rows in this table, and not in a dropped one of its name.
    pub(super) since: i64,
    pub(super) name: &'a str,
    pub(super) columns: Vec<Column>,
    pub(super) mark: usize,
    pub(super) places: Vec<Place>,
    pub(super) sorter: Sorter<'a>,
    pub(super) found: HashMap<i64, Found>,
    /// Rounds with rows in a place that cannot be read to its end, by the place.
    pub(super) unread: HashMap<i64, usize>,
    /// Damaged places that may hold rows that were not found.
    pub(super) suspects: BTreeSet<usize>,
    verified: VerifiedTable,
    bytes_total: u64,
}

/// Verifies one table into `report`. Returns the files that are not there: the caller finds out whether they had to be.
pub(super) fn table(
    snapshot: &Snapshot,
    name: &str,
    scope: &VerifyScope,
    report: &mut VerifyReport,
    progress: &mut dyn FnMut(VerifyProgress<'_>),
) -> Result<Vec<i64>> {
    let mut receipts = expected::receipts(snapshot, name, scope)?;
    // Maintenance may have removed them meanwhile: they are among those that the caller asks about.
    let unreadable = std::mem::take(&mut receipts.unreadable);
    let mut missing: Vec<i64> = unreadable.iter().filter_map(|(id, _)| *id).collect();
    unreadable.into_iter().for_each(|(_, file)| report.damaged(file));
    missing.extend(with_receipts(snapshot, name, scope, &receipts, report, progress)?);
    Ok(missing)
}

fn with_receipts(
    snapshot: &Snapshot,
    name: &str,
    scope: &VerifyScope,
    receipts: &Receipts,
    report: &mut VerifyReport,
    progress: &mut dyn FnMut(VerifyProgress<'_>),
) -> Result<Vec<i64>> {
    let verified =
        VerifiedTable { table: name.to_owned(), payload_digests: receipts.payload_digests, ..VerifiedTable::default() };
    let known = match super::look_up(snapshot, name) {
        Ok(known) => known,
        Err(error) if error.kind() == ErrorKind::Data => {
            unproved(report, name, &receipts.list, &format!("another program has changed it: {}", error.chain()));
            report.tables.push(verified);
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let (id, mut places, columns, since) = match known {
        Known::Here { id, places, columns, since } => (id, places, columns, since.unwrap_or(0)),
        Known::Dropped => {
            unproved(report, name, &receipts.list, "another program has dropped the table");
            report.tables.push(verified);
            return Ok(Vec::new());
        }
        Known::Never => (0, Vec::new(), Vec::new(), 0),
    };
    let has_time = columns.iter().any(|column| column.name == "_time");
    let mark = columns.iter().position(|column| column.name == "_round" && has_time);
    let Some(mark) = mark.or(columns.is_empty().then_some(0)) else {
        if receipts.list.is_empty() {
            // Another program's table: nobody has promised anything of its rows.
            return Ok(Vec::new());
        }
        unproved(report, name, &receipts.list, "another program has taken its column `_round` or `_time` away");
        report.tables.push(verified);
        return Ok(Vec::new());
    };
    if let Some(column) = columns.get(mark) {
        let (low, high) = scope.rounds();
        places.retain(|place| !matches!(place, Place::File(file) if !file.may_hold(column.id, low, high)));
        // What has been verified before is not read again.
        let is_new = |id: i64| scope.verified.as_ref().is_none_or(|head| id >= head.next_file);
        places.retain(|place| !matches!(place, Place::File(file) if !is_new(file.id)));
    }
    let bytes_total = files(&places).map(|file| file.size_bytes).sum();
    let mut prover = Prover {
        snapshot,
        table: id,
        since,
        name,
        columns,
        mark,
        bytes_total,
        places,
        sorter: Sorter { receipts, scope },
        found: HashMap::new(),
        unread: HashMap::new(),
        suspects: BTreeSet::new(),
        verified,
    };
    prover.run(report, progress)
}

impl Prover<'_> {
    fn run(&mut self, report: &mut VerifyReport, progress: &mut dyn FnMut(VerifyProgress<'_>)) -> Result<Vec<i64>> {
        let proofs = self.prove_bytes(report, progress)?;
        let mut layouts = Vec::with_capacity(self.places.len());
        let time = self.columns.iter().find(|column| column.name == "_time");
        let marks = self.columns.get(self.mark).zip(time).map(|(mark, time)| [mark.clone(), time.clone()]);
        let mut unreceipted: BTreeMap<i64, (u64, BTreeSet<usize>)> = BTreeMap::new();
        for (index, place) in self.places.iter().enumerate() {
            progress(VerifyProgress { table: self.name, bytes: 0, bytes_total: self.bytes_total });
            let mut layout = match &marks {
                Some(marks) => {
                    let is_proved = proofs[index] == Proof::Proved && !self.sorter.scope.full;
                    let known = is_proved.then(|| segments::layout_of_groups(place, marks, &self.sorter)).flatten();
                    known.unwrap_or_else(|| segments::layout(self.snapshot, self.table, place, marks, &self.sorter))
                }
                None => Layout::default(),
            };
            if let Some(error) = &layout.error {
                report.damaged(damaged(self.name, place, error.chain()));
                self.suspects.insert(index);
                self.unread.extend(layout.segments.iter().map(|segment| (segment.round, index)));
                layout.segments.clear();
            }
            if let Some(damage) = layout.damage.take() {
                report.damaged(damaged(self.name, place, damage));
                self.suspects.insert(index);
            }
            self.verified.foreign_rows += layout.foreign;
            for (round, rows) in &layout.unreceipted {
                let entry = unreceipted.entry(*round).or_default();
                entry.0 += rows;
                entry.1.insert(index);
            }
            layouts.push(layout);
        }
        let mut order: Vec<usize> = (0..layouts.len()).collect();
        order.sort_by_key(|place| layouts[*place].segments.iter().map(|segment| segment.first).min());
        let (mut plans, passes) = segments::plan(&layouts, &order, OPEN_MAX);
        if !self.sorter.scope.full {
            self.count(&layouts, &proofs, &mut plans);
        }
        for pass in 0..passes {
            self.digest(pass, &layouts, &order, &plans, report, progress);
        }
        let mut unordered = Vec::new();
        for (round, plan) in plans.iter().filter(|(_, plan)| !plan.ordered) {
            let is_known = self.unread.contains_key(round) || self.found.contains_key(round);
            if !is_known && !self.digest_unordered(*round, plan, &layouts, report)? {
                unordered.extend(self.sorter.receipts.of(*round).copied());
            }
        }
        let reason = "another program has stored its rows in another order, and they are too many to be put in order";
        unproved(report, self.name, &unordered, reason);
        let unordered: BTreeSet<i64> = unordered.iter().map(|expected| expected.round).collect();
        self.suspect_misfits(&layouts, report);
        self.compare(&layouts, &plans, &unordered, report)?;
        for (round, (rows, places)) in unreceipted {
            report.mismatch(Mismatch {
                round,
                table: self.name.to_owned(),
                places: self.names(places),
                found_rows: Some(rows),
                detail: "there are rows of the round and no receipt".to_owned(),
                ..Mismatch::default()
            });
        }
        for file in files(&self.places).filter(|file| !report.is_damaged(self.name, &file.path.display().to_string())) {
            self.verified.files += 1;
            self.verified.bytes += file.size_bytes;
        }
        report.tables.push(std::mem::take(&mut self.verified));
        Ok(files(&self.places).filter(|file| !file.path.exists()).map(|file| file.id).collect())
    }

    /// Proves the files' bytes: what is known of each place.
    fn prove_bytes(
        &self,
        report: &mut VerifyReport,
        progress: &mut dyn FnMut(VerifyProgress<'_>),
    ) -> Result<Vec<Proof>> {
        let digests = self.snapshot.with(|connection| Digests::of(connection, self.table))?;
        let (mut indices, mut files) = (Vec::new(), Vec::new());
        for (index, place) in self.places.iter().enumerate() {
            if let Place::File(file) = place {
                indices.push(index);
                files.push(file.as_ref());
            }
        }
        let (mut bytes, bytes_total) = (0, self.bytes_total);
        progress(VerifyProgress { table: self.name, bytes, bytes_total });
        let known = bytes::prove(self.name, &files, &digests, report, &mut |read| {
            bytes += read;
            progress(VerifyProgress { table: self.name, bytes, bytes_total });
        });
        let mut proofs = vec![Proof::Unknown; self.places.len()];
        for (index, proof) in indices.into_iter().zip(known) {
            proofs[index] = proof;
        }
        Ok(proofs)
    }

    /// Takes the rounds all of whose rows are in files whose bytes are proved as found: they have been counted.
    fn count(&mut self, layouts: &[Layout], proofs: &[Proof], plans: &mut HashMap<i64, Plan>) {
        let unproved: BTreeSet<i64> = layouts
            .iter()
            .zip(proofs)
            .filter(|(_, proof)| **proof != Proof::Proved)
            .flat_map(|(layout, _)| layout.segments.iter().map(|segment| segment.round))
            .collect();
        for (round, plan) in plans.iter_mut().filter(|(round, _)| !unproved.contains(round)) {
            plan.pass = u32::MAX;
            self.found.insert(*round, Found { rows: plan.rows, sha256: None });
        }
    }

    /// Reads every place once and digests the rounds of one pass.
    fn digest(
        &mut self,
        pass: u32,
        layouts: &[Layout],
        order: &[usize],
        plans: &HashMap<i64, Plan>,
        report: &mut VerifyReport,
        progress: &mut dyn FnMut(VerifyProgress<'_>),
    ) {
        let wanted = |round: &i64| plans.get(round).filter(|plan| plan.ordered && plan.pass == pass);
        let mut open: HashMap<i64, (RowDigest, u64)> = HashMap::new();
        let mut bytes = 0;
        for index in order {
            let place = &self.places[*index];
            if layouts[*index].segments.iter().any(|segment| wanted(&segment.round).is_some()) {
                let mut found: Vec<(i64, Found)> = Vec::new();
                let outcome = self.snapshot.scan_stored(self.table, place, &self.columns, &mut |rows| {
                    for (range, belongs) in self.sorter.runs(&rows, self.mark) {
                        let Belongs::To(round) = belongs else { continue };
                        let Some(plan) = wanted(&round) else { continue };
                        let (digest, count) = open.entry(round).or_insert_with(|| (RowDigest::new(), 0));
                        *count += range.len() as u64;
                        digest.update_rows(&rows.batch, &self.columns, range);
                        if *count == plan.rows
                            && let Some((digest, rows)) = open.remove(&round)
                        {
                            found.push((round, Found { rows, sha256: Some(digest.finish()) }));
                        }
                    }
                    Ok(true)
                });
                for (round, found) in found {
                    // All of its rows have been read, those before the end of a place that breaks off among them.
                    if self.unread.get(&round).is_some_and(|place| layouts[*place].error.is_none()) {
                        self.unread.remove(&round);
                    }
                    self.found.insert(round, found);
                }
                if let Err(error) = outcome {
                    report.damaged(damaged(self.name, place, error.chain()));
                    self.suspects.insert(*index);
                    // Rounds of another pass are read again then, and may be found before what cannot be read.
                    for segment in layouts[*index].segments.iter().filter(|segment| wanted(&segment.round).is_some()) {
                        if !self.found.contains_key(&segment.round) {
                            self.unread.insert(segment.round, *index);
                        }
                    }
                }
            }
            if let Place::File(file) = place {
                bytes += file.size_bytes;
                progress(VerifyProgress { table: self.name, bytes, bytes_total: self.bytes_total });
            }
        }
    }

    /// Holds what was found against the receipts.
    fn compare(
        &mut self,
        layouts: &[Layout],
        plans: &HashMap<i64, Plan>,
        unordered: &BTreeSet<i64>,
        report: &mut VerifyReport,
    ) -> Result<()> {
        let nothing = Found { rows: 0, sha256: Some(RowDigest::new().finish()) };
        let receipts: &Receipts = self.sorter.receipts;
        let expired = self.snapshot.with(|connection| expected::expired(connection, self.table))?;
        let (mut gone, mut deleted, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
        for (place, expected) in receipts.list.iter().enumerate() {
            if unordered.contains(&expected.round) || receipts.by_round.get(&expected.round) != Some(&(place as u32)) {
                continue;
            }
            if expected.snapshot < self.since {
                dropped.push(*expected);
                continue;
            }
            let found = self.found.get(&expected.round);
            let is_unread = self.unread.contains_key(&expected.round);
            let found = if is_unread { None } else { Some(found.unwrap_or(&nothing)) };
            let right = match (expected.digest, found) {
                (Digest::None, Some(found)) => found.rows == 0,
                (Digest::Sha256(_), Some(found)) => {
                    let is_same =
                        found.sha256.as_ref().is_none_or(|sha256| expected.digest.text().as_ref() == Some(sha256));
                    is_same && expected.rows == found.rows
                }
                (Digest::Unreadable, _) | (_, None) => false,
            };
            let beside = found
                .filter(|found| right && found.rows > 0)
                .and_then(|found| plans.get(&expected.round)?.problem(found.rows));
            if right && beside.is_none() {
                if expected.digest != Digest::None {
                    self.verified.rounds += 1;
                    self.verified.rows += expected.rows;
                }
                continue;
            }
            let missing = found.and_then(|found| expected.rows.checked_sub(found.rows)).filter(|rows| *rows > 0);
            if missing.is_some() && missing == expired.get(&expected.snapshot).copied() {
                deleted.push(*expected);
                continue;
            }
            // Where rows are missing that a damaged file may hold, the finding is that of the file.
            let is_short = found.is_none_or(|found| found.rows < expected.rows);
            if is_short && expected.digest != Digest::Unreadable && self.hide(expected.round, report) {
                continue;
            }
            if found.is_some_and(|found| found.rows == 0) && !matches!(expected.digest, Digest::Unreadable) {
                gone.push(*expected);
                continue;
            }
            let places =
                if report.mismatches.len() < NAMED_MAX { self.places_of(expected.round, layouts) } else { Vec::new() };
            let mut mismatch = self.mismatch(expected, found, places, is_unread);
            if let Some(problem) = beside {
                problem.clone_into(&mut mismatch.detail);
            }
            report.mismatch(mismatch);
        }
        unproved(
            report,
            self.name,
            &dropped,
            "another program has dropped the table, and a later round has made it anew",
        );
        let reason = "another program has deleted some of its rows, and the snapshots that showed them have expired";
        unproved(report, self.name, &deleted, reason);
        self.tell_gone(&gone, report)?;
        for round in &receipts.doubled {
            report.mismatch(Mismatch {
                round: *round,
                table: self.name.to_owned(),
                detail: "the round has more than one receipt of the source".to_owned(),
                ..Mismatch::default()
            });
        }
        Ok(())
    }

    pub(super) fn mismatch(
        &self,
        expected: &Expected,
        found: Option<&Found>,
        places: Vec<String>,
        is_unread: bool,
    ) -> Mismatch {
        let found_rows = found.map_or(0, |found| found.rows);
        let detail = if is_unread {
            "where its rows lie cannot be read".to_owned()
        } else if expected.digest == Digest::Unreadable {
            "the receipt has no digest that can be compared: it was changed".to_owned()
        } else if found_rows == 0 {
            "its rows are not there".to_owned()
        } else if found_rows != expected.rows {
            format!("there are {found_rows} rows, the receipt says {}", expected.rows)
        } else {
            "a value of its rows, or the receipt, was changed".to_owned()
        };
        Mismatch {
            round: expected.round,
            table: self.name.to_owned(),
            places,
            expected_sha256: expected.digest.text(),
            found_sha256: found.and_then(|found| found.sha256.clone()),
            expected_rows: Some(expected.rows),
            found_rows: found.map(|found| found.rows),
            detail,
        }
    }

    fn places_of(&self, round: i64, layouts: &[Layout]) -> Vec<String> {
        let holds = |layout: &Layout| layout.segments.iter().any(|segment| segment.round == round);
        let mut places: BTreeSet<usize> =
            layouts.iter().enumerate().filter(|(_, layout)| holds(layout)).map(|(place, _)| place).collect();
        places.extend(self.unread.get(&round));
        if places.is_empty() {
            // Where it may have been: what cannot be read, or is another file, and whose bounds leave room for it.
            let suspect = |index: &usize| layouts[*index].error.is_some() && self.may_hold(&self.places[*index], round);
            places = (0..layouts.len()).filter(suspect).collect();
        }
        self.names(places)
    }

    /// Whether a place has room for rows of a round, as far as its bounds tell.
    pub(super) fn may_hold(&self, place: &Place, round: i64) -> bool {
        let mark = self.columns.get(self.mark).map_or(0, |column| column.id);
        match place {
            Place::File(file) => file.may_hold(mark, round, round),
            Place::Inlined(_) => true,
        }
    }

    pub(super) fn names(&self, places: BTreeSet<usize>) -> Vec<String> {
        let mut names: Vec<String> = places.into_iter().map(|place| self.places[place].name()).collect();
        names.dedup();
        names.truncate(PLACES_MAX);
        names
    }
}

fn files(places: &[Place]) -> impl Iterator<Item = &DataFile> {
    places.iter().filter_map(|place| match place {
        Place::File(file) => Some(file.as_ref()),
        Place::Inlined(_) => None,
    })
}

/// Adds rounds that cannot be proved, if there are any.
pub(super) fn unproved(report: &mut VerifyReport, table: &str, rounds: &[Expected], reason: &str) {
    let numbers = rounds.iter().filter(|expected| expected.digest != Digest::None).map(|expected| expected.round);
    let (Some(first_round), Some(last_round)) = (numbers.clone().min(), numbers.clone().max()) else { return };
    report.unproved.push(Unproved {
        table: table.to_owned(),
        rounds: numbers.count() as u64,
        first_round,
        last_round,
        reason: reason.to_owned(),
    });
}
