//! The rows of the lake's own tables, round by round: what the manifests speak of.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use portolan_model::{Error, Result};

use super::{DamagedFile, Mismatch, VerifyReport, VerifyScope};
use crate::digest::RowDigest;
use crate::reader::{
    DataFile, InlinedFilter, Snapshot, TableView, columns_ever, inlined_tables, stored_files, tables_at,
};
use crate::scan::{INSIDE, Rows, scan_file};
use crate::system;
use crate::types::Column;

/// The place of rows that are in no file.
const INLINED: u32 = u32::MAX;

/// One of the lake's own tables.
pub(super) struct OwnTable {
    pub(super) name: &'static str,
    pub(super) view: TableView,
    /// Every file that the catalog names of it.
    pub(super) stored: Vec<DataFile>,
    /// Its columns, those that are digested first.
    columns: Vec<Column>,
    digested: usize,
    /// Where the number of the round stands among them.
    mark: usize,
    /// Places that cannot be read, or not to their end.
    unreadable: RefCell<BTreeSet<u32>>,
}

/// What a round's row says of its place in the chain.
#[derive(Clone, Debug, Default)]
pub(super) struct Link {
    pub(super) snapshot: Option<i64>,
    pub(super) previous: Option<i64>,
    pub(super) manifest: String,
    pub(super) chain: String,
    /// What the digest should be.
    pub(super) computed: Option<String>,
}

/// What is stored of one round.
pub(super) struct Round {
    /// Rows of `rounds` that say they are it.
    pub(super) rows: u64,
    pub(super) link: Option<Link>,
    parts: Vec<Option<Part>>,
}

/// Its rows in one table.
struct Part {
    digest: RowDigest,
    places: Vec<u32>,
}

/// A table that a manifest names: its digest there, the digest of what is stored.
pub(super) type Difference = (String, Option<String>, Option<String>);

impl Round {
    pub(super) fn new(tables: usize) -> Self {
        Self { rows: 0, link: None, parts: (0..tables).map(|_| None).collect() }
    }

    /// Where the manifest and what is stored differ.
    pub(super) fn differences(&self, tables: &[OwnTable]) -> Vec<Difference> {
        let manifest = self.link.as_ref().map_or("", |link| link.manifest.as_str());
        let lines = manifest.lines().map(|line| line.rsplit_once(' ').unwrap_or((line, "")));
        let stored: BTreeMap<&str, &str> = lines.collect();
        let found: BTreeMap<&str, String> = tables
            .iter()
            .zip(&self.parts)
            .filter_map(|(table, part)| Some((table.name, part.as_ref()?)))
            .map(|(name, part)| (name, part.digest.clone().finish()))
            .collect();
        let names: BTreeSet<&str> = stored.keys().chain(found.keys()).copied().collect();
        let differs = |name: &&str| stored.get(name).copied() != found.get(name).map(String::as_str);
        let tell =
            |name: &str| (name.to_owned(), stored.get(name).map(|text| (*text).to_owned()), found.get(name).cloned());
        names.into_iter().filter(differs).map(tell).collect()
    }

    /// Where its rows in `table` are, or may have been.
    pub(super) fn places(&self, tables: &[OwnTable], table: &str, round: i64) -> Vec<String> {
        let Some((index, table)) = tables.iter().enumerate().find(|(_, own)| own.name == table) else {
            return Vec::new();
        };
        let places: BTreeSet<u32> = self.parts[index].iter().flat_map(|part| part.places.iter().copied()).collect();
        let mut names: Vec<String> = places.into_iter().map(|place| table.place(place)).collect();
        names.extend(table.hidden(round));
        names.dedup();
        names
    }
}

impl Round {
    /// Where its rows in `table` are, all or some of them, that cannot be read.
    pub(super) fn hidden(&self, tables: &[OwnTable], table: &str, round: i64) -> Option<String> {
        let (index, table) = tables.iter().enumerate().find(|(_, own)| own.name == table)?;
        let Some(part) = &self.parts[index] else { return table.hidden(round) };
        let unreadable = table.unreadable.borrow();
        part.places.iter().find(|place| unreadable.contains(place)).map(|place| table.place(*place))
    }
}

impl OwnTable {
    /// The table, if the lake has it.
    pub(super) fn open(snapshot: &Snapshot, name: &'static str) -> Result<Option<Self>> {
        let Some(view) = snapshot.table(system::SCHEMA, name)? else { return Ok(None) };
        view.readable()?;
        let (stored, columns) = snapshot.with(|connection| {
            let tables = tables_at(connection, snapshot.layout(), snapshot.id())?;
            let folder = tables.into_iter().find(|table| table.id == view.id).map(|table| table.folder);
            let stored = stored_files(connection, view.id, &folder.unwrap_or_default(), snapshot.id())?;
            Ok((stored, columns_ever(connection, view.id, snapshot.id())?))
        })?;
        let is_sealed =
            |column: &Column| name == system::ROUNDS && system::SEALED_COLUMNS.contains(&column.name.as_str());
        let (sealed, mut columns): (Vec<Column>, Vec<Column>) = columns.into_iter().partition(is_sealed);
        let digested = columns.len();
        columns.extend(sealed);
        let Some(mark) = columns.iter().position(|column| column.name == "round") else { return Ok(None) };
        Ok(Some(Self { name, view, stored, columns, digested, mark, unreadable: RefCell::default() }))
    }

    pub(super) fn is_rounds(&self) -> bool {
        self.name == system::ROUNDS
    }

    /// For people.
    pub(super) fn title(&self) -> String {
        format!("{}.{}", system::SCHEMA, self.name)
    }

    /// Whether a file is among those to be read.
    pub(super) fn is_asked_for(&self, file: &DataFile, scope: &VerifyScope) -> bool {
        let (low, high) = scope.rounds();
        scope.verified.as_ref().is_none_or(|head| file.id >= head.next_file) && self.may_hold(file, low, high)
    }

    /// The files that are not there.
    pub(super) fn missing(&self) -> impl Iterator<Item = i64> {
        self.stored.iter().filter(|file| !file.path.exists()).map(|file| file.id)
    }

    fn place(&self, place: u32) -> String {
        self.view.files.get(place as usize).map_or_else(|| INSIDE.to_owned(), |file| file.path.display().to_string())
    }

    /// Whether some of it cannot be read.
    pub(super) fn is_cut(&self) -> bool {
        !self.unreadable.borrow().is_empty()
    }

    /// Where rows of a round may be that cannot be read.
    pub(super) fn hidden(&self, round: i64) -> Option<String> {
        let unreadable = self.unreadable.borrow();
        let may_hold =
            |place: &&u32| self.view.files.get(**place as usize).is_none_or(|file| self.may_hold(file, round, round));
        unreadable.iter().find(may_hold).map(|place| self.place(*place))
    }

    /// Whether a file's bounds leave room for rounds `low` to `high`.
    fn may_hold(&self, file: &DataFile, low: i64, high: i64) -> bool {
        file.may_hold(self.columns[self.mark].id, low, high)
    }

    /// The snapshot and number of each round that has a row that can be read, each round once.
    pub(super) fn rounds(&self, snapshot: &Snapshot, report: &mut VerifyReport) -> Vec<(i64, i64)> {
        let mut found: HashMap<i64, i64> = HashMap::new();
        let columns = std::slice::from_ref(&self.columns[self.mark]);
        self.each(snapshot, columns, i64::MIN, i64::MAX, report, &mut |rows, _| {
            let Some(rounds) = rows.batch.column(0).as_primitive_opt::<Int64Type>() else { return };
            for row in (0..rounds.len()).filter(|row| rounds.is_valid(*row)) {
                found.entry(rounds.value(row)).or_insert(rows.begins.value(row));
            }
        });
        found.into_iter().map(|(round, snapshot)| (snapshot, round)).collect()
    }

    /// Takes in the rows of `rounds`; those of rounds that are not known go to `strays`, with this table's number.
    pub(super) fn digest(
        &self,
        snapshot: &Snapshot,
        index: usize,
        rounds: &mut HashMap<i64, Round>,
        known: &HashSet<i64>,
        strays: &mut BTreeSet<(usize, Option<i64>)>,
        report: &mut VerifyReport,
    ) {
        let low = rounds.keys().copied().min().unwrap_or(i64::MAX);
        let high = rounds.keys().copied().max().unwrap_or(i64::MIN);
        self.each(snapshot, &self.columns, low, high, report, &mut |rows, place| {
            let Some(marks) = rows.batch.column(self.mark).as_primitive_opt::<Int64Type>() else { return };
            let mark = |row: usize| marks.is_valid(row).then(|| marks.value(row));
            let mut start = 0;
            for row in 1..=marks.len() {
                if row < marks.len() && mark(row) == mark(start) {
                    continue;
                }
                let range = std::mem::replace(&mut start, row)..row;
                let Some(round) = mark(range.start) else {
                    strays.insert((index, None));
                    continue;
                };
                let Some(entry) = rounds.get_mut(&round) else {
                    if !known.contains(&round) {
                        strays.insert((index, Some(round)));
                    }
                    continue;
                };
                if self.is_rounds() {
                    entry.rows += range.len() as u64;
                    entry.link = self.link(&rows.batch, range.start);
                }
                let part =
                    entry.parts[index].get_or_insert_with(|| Part { digest: RowDigest::new(), places: Vec::new() });
                part.digest.update_rows(&rows.batch, &self.columns[..self.digested], range);
                part.digest.settle();
                if part.places.last() != Some(&place) {
                    part.places.push(place);
                }
            }
        });
    }

    fn link(&self, batch: &RecordBatch, row: usize) -> Option<Link> {
        let place = |name: &str| self.columns.iter().position(|column| column.name == name);
        let number = |name: &str| {
            let values = batch.column(place(name)?).as_primitive_opt::<Int64Type>()?;
            values.is_valid(row).then(|| values.value(row))
        };
        let text = |name: &str| {
            let values = batch.column(place(name)?).as_string_opt::<i32>()?;
            values.is_valid(row).then(|| values.value(row).to_owned())
        };
        let (previous, manifest, chain) =
            (number(system::PREVIOUS_COLUMN), text(system::MANIFEST_COLUMN), text(system::CHAIN_COLUMN));
        if previous.is_none() && manifest.is_none() && chain.is_none() {
            return None;
        }
        let (manifest, chain) = (manifest.unwrap_or_default(), chain.unwrap_or_default());
        Some(Link { snapshot: number(system::SNAPSHOT_COLUMN), previous, manifest, chain, computed: None })
    }

    /// Hands the rows that `snapshot` sees, of files that may hold rounds `low` to `high` and inside the catalog, to `take`
    /// with their place. What cannot be read is reported as damage and left out.
    fn each(
        &self,
        snapshot: &Snapshot,
        columns: &[Column],
        low: i64,
        high: i64,
        report: &mut VerifyReport,
        take: &mut dyn FnMut(&Rows, u32),
    ) {
        let damaged = |path: String, error: Error| DamagedFile::new(&self.title(), path, None, error.chain());
        for (place, file) in (0..).zip(&self.view.files).filter(|(_, file)| self.may_hold(file, low, high)) {
            let outcome = scan_file(file, columns, snapshot.id(), &mut |rows| {
                take(&rows, place);
                Ok(true)
            });
            if let Err(error) = outcome {
                self.unreadable.borrow_mut().insert(place);
                report.damaged(damaged(file.path.display().to_string(), error));
            }
        }
        let mut inlined = || {
            for source in snapshot.with(|connection| inlined_tables(connection, self.view.id))? {
                let filter = InlinedFilter::VisibleAt(snapshot.id());
                snapshot.scan_inlined(self.view.id, &source, columns, filter, &mut |rows| {
                    take(&rows, INLINED);
                    Ok(true)
                })?;
            }
            Ok(())
        };
        if let Err(error) = inlined() {
            self.unreadable.borrow_mut().insert(INLINED);
            report.damaged(damaged(INSIDE.to_owned(), error));
        }
    }
}

/// Rows of a round that is not there, or that name none.
pub(super) fn stray(table: &OwnTable, round: Option<i64>) -> Mismatch {
    let title = table.title();
    let detail = match round {
        Some(_) => format!("there are rows of {title} of the round, and the round is not there"),
        None => format!("a row of {title} names no round"),
    };
    Mismatch { detail, ..Mismatch::of(round.unwrap_or(0), title) }
}
