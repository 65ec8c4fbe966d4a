//! Proves what is stored: the chain over the rounds, files byte by byte, rows against the digests in their receipts.
//!
//! Promise: each file is read once for its bytes and once for its rounds, and once more for its rows where its bytes prove
//! nothing or everything is asked for; memory is bounded by what is kept of a source's receipts and a few hundred open
//! digests; nothing is changed and no lock is taken.
//!
//! A round's rows are those that its own snapshot added. They are proved as they are stored, also where a later round has
//! replaced them or another program has deleted them since: as long as a snapshot sees them they are there.

mod bytes;
mod chain;
mod expected;
mod footer;
mod gone;
mod positions;
mod prove;
mod report;
mod rows;
mod scope;
mod segments;
mod unordered;

pub(crate) use expected::{columns, system_table};
pub use report::{DamagedFile, HeadFiles, Mismatch, Unproved, VerifiedChain, VerifiedTable, VerifyReport};

use jiff::Timestamp;
use portolan_model::{Error, ErrorKind, Result};
use rusqlite::OptionalExtension;

use self::expected::Unreadable;
use crate::chain::ChainHead;
use crate::error::sqlite;
use crate::reader::{At, LakeReader, Snapshot};
use crate::scan::Place;
use crate::spec::has_table;

const OPERATION: &str = "verify lake";
/// Mismatches and other findings that are named; more are counted.
pub(crate) const NAMED_MAX: usize = 1_000;
/// How often a table is begun anew because maintenance has moved its rows meanwhile.
const ATTEMPTS: usize = 4;

/// What to verify.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyScope {
    /// One table alone; all if `None`.
    pub table: Option<String>,
    /// The first round.
    pub first_round: Option<i64>,
    /// The last round.
    pub last_round: Option<i64>,
    /// Rounds that began at this instant or later.
    pub since: Option<Timestamp>,
    /// Decode every row and compute its round's digest anew, also where a file's bytes are proved.
    pub full: bool,
    /// Heads that were kept outside: each must be an ancestor of the lake's.
    pub heads: Vec<ChainHead>,
    /// A head up to which the lake has been verified before: what it knows is not read again.
    pub verified: Option<ChainHead>,
}

/// How far a verification is, in bytes of files.
#[derive(Clone, Copy, Debug)]
pub struct VerifyProgress<'a> {
    /// The table.
    pub table: &'a str,
    /// Bytes of its files that have been read.
    pub bytes: u64,
    /// All of them.
    pub bytes_total: u64,
}

impl LakeReader {
    /// Verifies what is stored. A collector may run meanwhile; what it stores after its table was begun is left out.
    ///
    /// # Errors
    /// `NotFound` for a table that neither exists nor has receipts and for rounds that are not there, `Corrupt` where the
    /// catalog itself cannot be read; what is damaged beyond that is in the report.
    pub fn verify(&self, scope: &VerifyScope, progress: &mut dyn FnMut(VerifyProgress<'_>)) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        match self.verify_into(scope, &mut report, progress) {
            // What has been found is the reason why the rest cannot be read.
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Storage) && !report.is_sound() => {
                report
                    .left_out
                    .push(format!("the rows of sources were not held against their receipts: {}", error.chain()));
                // Files need no receipts to be proved byte by byte.
                self.verify_files(scope, &mut report)?;
            }
            outcome => outcome?,
        }
        Ok(report)
    }

    fn verify_into(
        &self,
        scope: &VerifyScope,
        report: &mut VerifyReport,
        progress: &mut dyn FnMut(VerifyProgress<'_>),
    ) -> Result<()> {
        let (asked, mut scope) = (scope, scope.clone());
        let mut unreadable = Vec::new();
        if let Some(since) = scope.since {
            let first;
            (first, unreadable) =
                self.readable(|snapshot, unreadable| expected::first_round_since(snapshot, since, unreadable))?;
            scope.first_round = scope.first_round.max(Some(first));
        }
        let outcome = match scope.table {
            None => self.verify_chain(&scope, report, progress),
            Some(_) => Ok(()),
        };
        // What the chain says of the same file is nearer to the cause.
        for file in unreadable {
            report.left_out.push(format!(
                "when the rounds in {} began cannot be read: whichever may have begun since were verified, earlier ones \
                 among them",
                file.path
            ));
            report.damaged(file);
        }
        outcome?;
        let (mut names, unreadable) = self.readable(|snapshot, unreadable| {
            let mut names = expected::sources(snapshot, unreadable)?;
            let tables = snapshot.tables()?.into_iter().filter(|table| table.schema == "main");
            names.extend(tables.map(|table| table.name));
            Ok(names)
        })?;
        let are_all_known = unreadable.is_empty();
        unreadable.into_iter().for_each(|file| report.damaged(file));
        if let Some(name) = &scope.table {
            if !names.contains(name) && are_all_known {
                let known: Vec<&str> = names.iter().map(String::as_str).collect();
                let message = format!("there is no table `{name}`");
                return Err(Error::new(ErrorKind::NotFound, OPERATION, message)
                    .with_hint(format!("tables with receipts: {}", known.join(", "))));
            }
            if !names.contains(name) {
                report
                    .left_out
                    .push(format!("there is no table `{name}`, and receipts that may name it cannot be read"));
            }
            names.retain(|known| known == name);
        }
        for name in names {
            self.verify_table(&name, &scope, report, progress)?;
        }
        self.refuse_nothing(asked, report)
    }

    fn verify_chain(
        &self,
        scope: &VerifyScope,
        report: &mut VerifyReport,
        progress: &mut dyn FnMut(VerifyProgress<'_>),
    ) -> Result<()> {
        self.find(report, |snapshot, found| {
            let mut missing = chain::prove(snapshot, scope, found, progress)?;
            match positions::prove(snapshot, found) {
                // What has been found is the reason.
                Err(error) if !found.is_sound() => {
                    found.left_out.push(format!("{}: {}", positions::LEFT_OUT, error.chain()));
                }
                unreadable => missing.extend(unreadable?),
            }
            Ok(missing)
        })
    }

    /// Proves the bytes of the files of sources' tables alone.
    fn verify_files(&self, scope: &VerifyScope, report: &mut VerifyReport) -> Result<()> {
        self.find(report, |snapshot, found| {
            let mut missing = Vec::new();
            for table in snapshot.tables()?.into_iter().filter(|table| table.schema == "main") {
                let is_left_out = scope.table.as_ref().is_some_and(|name| *name != table.name);
                // What another program has made of a table is not for the digests to judge.
                let Ok(Known::Here { id, places, .. }) = look_up(snapshot, &table.name) else { continue };
                if is_left_out {
                    continue;
                }
                let digests = snapshot.with(|connection| bytes::Digests::of(connection, id))?;
                let files = places.iter().filter_map(|place| match place {
                    Place::File(file) => Some(file.as_ref()),
                    Place::Inlined(_) => None,
                });
                let files: Vec<_> = files.collect();
                bytes::prove(&table.name, &files, &digests, found, &mut |_| {});
                missing.extend(files.iter().filter(|file| !file.path.exists()).map(|file| file.id));
            }
            Ok(missing)
        })
    }

    /// Takes what `action` finds in the latest state into `report`; again, if files that it names as missing have been moved
    /// by maintenance meanwhile.
    fn find(
        &self,
        report: &mut VerifyReport,
        mut action: impl FnMut(&Snapshot, &mut VerifyReport) -> Result<Vec<i64>>,
    ) -> Result<()> {
        let mut attempt = 1;
        loop {
            let (found, missing) = self.steady(|snapshot| {
                let mut found = VerifyReport::default();
                let missing = action(snapshot, &mut found)?;
                Ok((found, missing))
            })?;
            if attempt < ATTEMPTS && !missing.is_empty() && self.was_moved(&missing)? {
                attempt += 1;
                continue;
            }
            report.absorb(found);
            return Ok(());
        }
    }

    /// Does `action` with the latest state; again with the one after, if it fails and maintenance may be why: it removes
    /// files that only older states need.
    fn steady<T>(&self, mut action: impl FnMut(&Snapshot) -> Result<T>) -> Result<T> {
        let mut attempt = 1;
        loop {
            let snapshot = self.snapshot(At::Head)?;
            match action(&snapshot) {
                Err(_) if attempt < ATTEMPTS && self.snapshot(At::Head)?.id() != snapshot.id() => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    /// Does `action` with the latest state, and hands on what cannot be read; again, if maintenance has moved it meanwhile.
    fn readable<T>(
        &self,
        mut action: impl FnMut(&Snapshot, &mut Unreadable) -> Result<T>,
    ) -> Result<(T, Vec<DamagedFile>)> {
        let mut attempt = 1;
        loop {
            let (found, unreadable) = self.steady(|snapshot| {
                let mut unreadable = Unreadable::new();
                Ok((action(snapshot, &mut unreadable)?, unreadable))
            })?;
            let files: Vec<i64> = unreadable.iter().filter_map(|(id, _)| *id).collect();
            if attempt < ATTEMPTS && self.was_moved(&files)? {
                attempt += 1;
                continue;
            }
            return Ok((found, unreadable.into_iter().map(|(_, file)| file).collect()));
        }
    }

    fn verify_table(
        &self,
        name: &str,
        scope: &VerifyScope,
        report: &mut VerifyReport,
        progress: &mut dyn FnMut(VerifyProgress<'_>),
    ) -> Result<()> {
        self.find(report, |snapshot, found| prove::table(snapshot, name, scope, found, progress))
    }

    /// Whether the catalog no longer names one of these files: maintenance has moved its rows since.
    fn was_moved(&self, files: &[i64]) -> Result<bool> {
        let connection = self.connection()?;
        let sql = "SELECT 1 FROM ducklake_data_file WHERE data_file_id = ?1";
        for file in files {
            let known = connection.query_row(sql, [file], |_| Ok(())).optional();
            if known.map_err(|error| sqlite(OPERATION, error))?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The table called `name` in schema `main`, or that it was dropped.
enum Known {
    Here {
        id: i64,
        places: Vec<Place>,
        columns: Vec<crate::types::Column>,
        /// The snapshot that made it, where it stands in the place of one that was dropped.
        since: Option<i64>,
    },
    Dropped,
    Never,
}

fn look_up(snapshot: &Snapshot, name: &str) -> Result<Known> {
    snapshot.with(|connection| {
        let error = |error| sqlite(OPERATION, error);
        let tables = crate::reader::tables_at(connection, snapshot.layout(), snapshot.id())?;
        let Some(table) = tables.into_iter().find(|table| table.schema == "main" && table.name == name) else {
            let sql = "SELECT 1 FROM ducklake_table WHERE table_name = ?1 LIMIT 1";
            let dropped = connection.query_row(sql, [name], |_| Ok(())).optional().map_err(error)?.is_some();
            return Ok(if dropped { Known::Dropped } else { Known::Never });
        };
        let columns = crate::reader::columns_ever(connection, table.id, snapshot.id())?;
        let mut places: Vec<Place> = Vec::new();
        for file in crate::reader::stored_files(connection, table.id, &table.folder, snapshot.id())? {
            places.push(Place::File(Box::new(file)));
        }
        for source in crate::reader::inlined_tables(connection, table.id)? {
            // A table that the catalog names and that is not there is the structural check's to find.
            if has_table(connection, &source.name)? {
                places.push(Place::Inlined(source));
            }
        }
        let sql = "SELECT min(t.begin_snapshot) FROM ducklake_table t WHERE t.table_id = ?1 AND EXISTS (SELECT 1 \
                   FROM ducklake_table o JOIN ducklake_schema s USING (schema_id) WHERE o.table_id <> t.table_id \
                   AND o.table_name = ?2 AND o.end_snapshot <= t.begin_snapshot AND s.schema_name = 'main')";
        let since = connection.query_row(sql, rusqlite::params![table.id, name], |row| row.get(0)).map_err(error)?;
        Ok(Known::Here { id: table.id, places, columns, since })
    })
}
