//! The structural check of a lake: is the catalog right, are its files there and what it says of them?
//!
//! Promise: nothing is changed, no lock is taken, and what is found names its place and what to do next. Values of rows are
//! `verify`'s to prove.

mod catalog;
mod files;
mod own;

use std::path::Path;

use portolan_model::clock::Clock;
use portolan_model::{ErrorKind, Result};
use rusqlite::Connection;

use crate::error::sqlite;
use crate::lock;
use crate::reader::LakeReader;
use crate::spec::{Layout, open_reader};

const OPERATION: &str = "check lake";
/// Findings that are named; more are counted.
const NAMED_MAX: usize = 1_000;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing to worry about.
    Note,
    /// Something is not as it should be; no row is lost.
    Warning,
    /// Rows are lost or wrong, or the lake cannot be read in part.
    Error,
}

impl Severity {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Its stable short name, such as `file_missing`.
    pub code: &'static str,
    /// Where it is: a file, a table of the catalog, a row of it.
    pub place: String,
    /// What is wrong, for people.
    pub message: String,
    /// What to do next.
    pub next: String,
}

/// What a check found and what it looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// The findings, the worst first.
    pub findings: Vec<Finding>,
    /// All of them, named or not.
    pub findings_total: u64,
    /// Of them, those of [`Severity::Error`].
    pub errors_total: u64,
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Tables looked at.
    pub tables: u64,
    /// Files looked at.
    pub files: u64,
    /// Rows inside the catalog looked at.
    pub inlined_rows: u64,
    /// The version of DuckLake that the catalog names.
    pub ducklake_version: Option<String>,
    /// The process that collects into the lake, if one does.
    pub collector: Option<u32>,
}

impl FsckReport {
    /// Whether nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.errors_total == 0
    }

    fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        place: impl Into<String>,
        message: impl Into<String>,
        next: impl Into<String>,
    ) {
        self.findings_total += 1;
        self.errors_total += u64::from(severity == Severity::Error);
        if self.findings.len() < NAMED_MAX {
            let (place, message, next) = (place.into(), message.into(), next.into());
            self.findings.push(Finding { severity, code, place, message, next });
        }
    }
}

/// What to do about a catalog that is not right.
const RESTORE: &str = "restore the lake from a copy; `portolan verify` says which rounds are whole in this one";

/// Checks the lake in `folder`; `progress` is told what is looked at.
///
/// # Errors
/// `NotFound` if there is no lake, `Storage` if it cannot be read at all.
pub fn fsck(folder: &Path, clock: &dyn Clock, progress: &mut dyn FnMut(&str)) -> Result<FsckReport> {
    let mut report = FsckReport::default();
    let reader = match LakeReader::open(folder) {
        Ok(reader) => reader,
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            let place = folder.join("catalog.sqlite").display().to_string();
            let next = error.hint().unwrap_or(RESTORE).to_owned();
            report.add(Severity::Error, "catalog_unreadable", place, error.chain(), next);
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    let layout = Layout::new(reader.folder())?;
    report.collector = lock::holder(&layout.lock())?;
    let connection = open_reader(&layout)?;
    let mut check = Check { connection, layout, report, clock, progress };
    check.connection.execute_batch("BEGIN").map_err(|error| sqlite(OPERATION, error))?;
    for part in [Check::integrity, Check::catalog, Check::files, Check::own] {
        if let Err(error) = part(&mut check) {
            let place = check.layout.catalog().display().to_string();
            check.report.add(Severity::Error, "catalog_unreadable", place, error.chain(), RESTORE);
        }
    }
    let mut report = check.report;
    report.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(report)
}

/// A check under way, over one state of the catalog.
struct Check<'a> {
    connection: Connection,
    layout: Layout,
    report: FsckReport,
    clock: &'a dyn Clock,
    progress: &'a mut dyn FnMut(&str),
}

impl Check<'_> {
    fn error(&mut self, code: &'static str, place: impl Into<String>, message: impl Into<String>) {
        self.report.add(Severity::Error, code, place, message, RESTORE);
    }

    fn integrity(&mut self) -> Result<()> {
        (self.progress)("the database");
        let lines = {
            let mut statement =
                self.connection.prepare("PRAGMA integrity_check(100)").map_err(|error| sqlite(OPERATION, error))?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0));
            // Where the check itself cannot go on, that is what it has found.
            rows.and_then(Iterator::collect::<rusqlite::Result<Vec<String>>>)
                .unwrap_or_else(|error| vec![sqlite(OPERATION, error).chain()])
        };
        for line in lines.into_iter().filter(|line| line != "ok") {
            self.error("database_damaged", self.layout.catalog().display().to_string(), line);
        }
        Ok(())
    }

    /// The rows of a query whose columns are integers or NULL.
    fn integers<const COLUMNS: usize>(&self, sql: &str) -> Result<Vec<[Option<i64>; COLUMNS]>> {
        let mut statement = self.connection.prepare(sql).map_err(|error| sqlite(OPERATION, error))?;
        let rows = statement.query_map([], |row| {
            let mut values = [None; COLUMNS];
            for (place, value) in values.iter_mut().enumerate() {
                *value = row.get(place)?;
            }
            Ok(values)
        });
        rows.and_then(Iterator::collect).map_err(|error| sqlite(OPERATION, error))
    }

    /// One integer.
    fn integer(&self, sql: &str) -> Result<Option<i64>> {
        Ok(self.integers::<1>(sql)?.first().and_then(|row| row[0]))
    }

    /// One text, or that there is none.
    fn text(&self, sql: &str) -> Result<Option<String>> {
        use rusqlite::OptionalExtension;
        let found = self.connection.query_row(sql, [], |row| row.get(0)).optional();
        found.map_err(|error| sqlite(OPERATION, error))
    }
}
